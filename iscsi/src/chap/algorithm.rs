//! The hash functions.

use digest::Digest;
use std::fmt;
use std::str::FromStr;

/// A hash function of CHAP, with its number in CHAP_A (the PPP Authentication Algorithms of IANA).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// MD5, which all sides have (RFC 7143 12.1.3), and which is broken as a hash.
    Md5 = 5,
    /// SHA-1.
    Sha1 = 6,
    /// SHA-256.
    Sha256 = 7,
    /// SHA3-256.
    Sha3_256 = 8,
}

impl Algorithm {
    /// All, the strongest first.
    pub const ALL: [Self; 4] = [Self::Sha3_256, Self::Sha256, Self::Sha1, Self::Md5];

    /// The number in CHAP_A.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// As configurations and logs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha3_256 => "sha3-256",
        }
    }

    /// The first of `accepted` that is in `offer`: the target may take whichever it likes of those that the initiator proposes
    /// (RFC 7143 12.1.3).
    pub(super) fn choose(offer: &str, accepted: &[Self]) -> Option<Self> {
        let offers = |algorithm: &Self| {
            offer.split(',').any(|number| crate::text::number(number) == Some(algorithm.number().into()))
        };
        accepted.iter().copied().find(offers)
    }

    /// The proof (RFC 1994 4.1): the hash of identifier, secret and challenge.
    pub(super) fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut hash = D::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        }
        let parts = [&[identifier][..], secret, challenge];
        match self {
            Self::Md5 => hash::<md5::Md5>(parts),
            Self::Sha1 => hash::<sha1::Sha1>(parts),
            Self::Sha256 => hash::<sha2::Sha256>(parts),
            Self::Sha3_256 => hash::<sha3::Sha3_256>(parts),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

/// There is no such hash function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("CHAP has the algorithms sha3-256, sha256, sha1 and md5")]
pub struct UnknownAlgorithm;
