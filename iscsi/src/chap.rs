//! CHAP, by which each side can prove that it knows a secret without telling it (RFC 7143 12.1.3, RFC 1994).
//!
//! The target goes first: it sends a challenge, and the initiator answers with a hash of it and its secret. In the same request
//! the initiator may challenge the target in turn, which then answers with a secret of its own.
//!
//! Random bytes and secrets come from the owner. Secrets are never shown, not even by `Debug`, are wiped when they are dropped,
//! and are compared in a time that does not depend on them.

mod algorithm;
mod initiator;
mod secret;
mod target;
#[cfg(test)]
mod tests;
mod value;

pub use algorithm::Algorithm;
pub use initiator::InitiatorChap;
pub use secret::{Credentials, MIN_SECRET, Secret, SecretError};
pub use target::{Accounts, TargetChap};

/// What a side needs anew for each proof that it asks for, so that no answer can be used twice.
#[derive(Clone, Copy)]
pub struct Challenge {
    /// CHAP_I.
    pub identifier: u8,
    /// CHAP_C: random bytes.
    pub bytes: [u8; Self::LENGTH],
}

impl Challenge {
    /// Bytes of a challenge of ours: as many as the longest hash has.
    pub const LENGTH: usize = 32;
}

/// The keys.
mod key {
    pub(super) const ALGORITHM: &str = "CHAP_A";
    pub(super) const IDENTIFIER: &str = "CHAP_I";
    pub(super) const CHALLENGE: &str = "CHAP_C";
    pub(super) const NAME: &str = "CHAP_N";
    pub(super) const RESPONSE: &str = "CHAP_R";
}

/// The value of a key that may come once.
fn only<'a>(keys: &[(&str, &'a str)], wanted: &str) -> Result<Option<&'a str>, &'static str> {
    let mut values = keys.iter().filter(|(key, _)| *key == wanted).map(|(_, value)| *value);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err("a key of CHAP was sent twice"),
    }
}

/// Fails if there are other keys than these.
fn nothing_but(keys: &[(&str, &str)], known: &[&str]) -> Result<(), &'static str> {
    match keys.iter().all(|(key, _)| known.contains(key)) {
        true => Ok(()),
        false => Err("a key that does not belong to this step of CHAP"),
    }
}

/// The peer's challenge: CHAP_I and CHAP_C, both or neither.
fn challenge_of(keys: &[(&str, &str)]) -> Result<Option<(u8, Vec<u8>)>, &'static str> {
    let (identifier, challenge) = match (only(keys, key::IDENTIFIER)?, only(keys, key::CHALLENGE)?) {
        (None, None) => return Ok(None),
        (Some(identifier), Some(challenge)) => (identifier, challenge),
        _ => return Err("CHAP_I and CHAP_C belong together"),
    };
    let identifier = crate::text::number(identifier).and_then(|number| u8::try_from(number).ok());
    let identifier = identifier.ok_or("CHAP_I is not a number from 0 to 255")?;
    let challenge = value::decode(challenge, crate::limits::MAX_CHALLENGE).ok_or("CHAP_C is malformed")?;
    if challenge.is_empty() {
        return Err("CHAP_C is empty");
    }
    Ok(Some((identifier, challenge)))
}

/// Appends a challenge of ours.
fn push_challenge(challenge: &Challenge, out: &mut Vec<u8>) {
    crate::text::push(out, key::IDENTIFIER, &challenge.identifier.to_string());
    crate::text::push(out, key::CHALLENGE, &value::encode(&challenge.bytes));
}
