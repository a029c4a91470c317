//! What must not be told.

use std::fmt;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of the shortest secret that is not weak: 96 bits (RFC 7143 9.2.1).
pub const MIN_SECRET: usize = 12;

/// A secret of CHAP: any bytes. It is wiped when it is dropped, and `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why bytes are no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SecretError {
    /// There are none.
    #[error("the secret is empty")]
    Empty,
    /// There are too few of them.
    #[error("the secret has {0} bytes; it takes {MIN_SECRET} for one that cannot be guessed")]
    Short(usize),
    /// There are too many of them.
    #[error("the secret has more than {} bytes", crate::limits::MAX_SECRET)]
    Long,
}

impl Secret {
    /// A secret that is long enough not to be guessed.
    ///
    /// # Errors
    /// When it is not, or is longer than [`MAX_SECRET`](crate::limits::MAX_SECRET).
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretError> {
        let secret = Self::weak(bytes)?;
        match secret.bytes().len() {
            length @ ..MIN_SECRET => Err(SecretError::Short(length)),
            _ => Ok(secret),
        }
    }

    /// The same, but it may be short.
    ///
    /// # Errors
    /// When it is empty, or longer than [`MAX_SECRET`](crate::limits::MAX_SECRET).
    pub fn weak(bytes: Vec<u8>) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            0 => Err(SecretError::Empty),
            length if length > crate::limits::MAX_SECRET => Err(SecretError::Long),
            _ => Ok(Self(bytes)),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether both are the same, in a time that tells their lengths at most. Both sides of a login must not have the same
    /// one (RFC 7143 9.2.1): each could have the other answer its own challenge.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Who one is, and what proves it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// CHAP_N.
    pub name: String,
    /// What the response is made with.
    pub secret: Secret,
}
