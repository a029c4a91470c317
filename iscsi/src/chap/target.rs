//! The target's side.

use super::{
    Algorithm, Challenge, Credentials, Secret, challenge_of, key, nothing_but, only, push_challenge, value,
};
use crate::target::{SecurityMethod, SecurityStep};
use crate::text;
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The secrets of those who may log in.
pub trait Accounts: Send + Sync {
    /// The secret that belongs to a CHAP_N.
    fn secret(&self, name: &str) -> Option<&Secret>;
}

/// Has an initiator prove who it is; and proves to it, if it asks for that, who the target is.
pub struct TargetChap {
    accepted: Vec<Algorithm>,
    accounts: Arc<dyn Accounts>,
    own: Option<Credentials>,
    challenge: Challenge,
    state: State,
}

enum State {
    /// CHAP_A is to come.
    Offer,
    /// CHAP_N and CHAP_R are.
    Proof(Algorithm),
    /// Nothing more.
    Over,
}

impl TargetChap {
    /// Takes initiators with `accounts` that know one of the `accepted` algorithms, of which the first counts. `own` is what
    /// the target proves itself with; without, it does not to those who ask. The challenge must be new and random.
    pub fn new(
        accepted: Vec<Algorithm>,
        accounts: Arc<dyn Accounts>,
        own: Option<Credentials>,
        challenge: Challenge,
    ) -> Self {
        Self { accepted, accounts, own, challenge, state: State::Offer }
    }

    fn advance(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> Result<SecurityStep, &'static str> {
        match std::mem::replace(&mut self.state, State::Over) {
            // AuthMethod has been answered, and that is all so far.
            State::Offer if keys.is_empty() => {
                self.state = State::Offer;
                Ok(SecurityStep::Continue)
            }
            State::Offer => {
                nothing_but(keys, &[key::ALGORITHM])?;
                let offer = only(keys, key::ALGORITHM)?.unwrap_or_default();
                let algorithm = Algorithm::choose(offer, &self.accepted)
                    .ok_or("none of the initiator's CHAP algorithms is accepted")?;
                text::push(out, key::ALGORITHM, &algorithm.number().to_string());
                push_challenge(&self.challenge, out);
                self.state = State::Proof(algorithm);
                Ok(SecurityStep::Continue)
            }
            State::Proof(algorithm) => {
                nothing_but(keys, &[key::NAME, key::RESPONSE, key::IDENTIFIER, key::CHALLENGE])?;
                let name = self.check(algorithm, keys)?;
                if let Some((identifier, challenge)) = challenge_of(keys)? {
                    self.prove(algorithm, identifier, &challenge, out)?;
                }
                Ok(SecurityStep::Passed { name })
            }
            State::Over => Err("CHAP is over"),
        }
    }

    /// Checks the initiator's proof; returns its CHAP_N.
    fn check(&self, algorithm: Algorithm, keys: &[(&str, &str)]) -> Result<String, &'static str> {
        let name = only(keys, key::NAME)?.ok_or("CHAP_N is missing")?;
        let response = only(keys, key::RESPONSE)?.ok_or("CHAP_R is missing")?;
        let secret = self.accounts.secret(name);
        // Who has no account waits as long as who has one, and is told the same.
        let known = secret.map_or(&[0u8; super::MIN_SECRET][..], Secret::bytes);
        let wanted = algorithm.response(self.challenge.identifier, known, &self.challenge.bytes);
        let given = value::decode(response, wanted.len()).ok_or("CHAP_R is malformed")?;
        let is_right = bool::from(given.ct_eq(&wanted));
        match secret {
            None => Err("there is no account of this name"),
            Some(_) if !is_right => Err("the secret is wrong"),
            Some(_) => Ok(name.to_owned()),
        }
    }

    /// Answers the initiator's challenge.
    fn prove(
        &self,
        algorithm: Algorithm,
        identifier: u8,
        challenge: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        if challenge == self.challenge.bytes {
            return Err("the initiator has sent our own challenge back");
        }
        let own = self.own.as_ref().ok_or("the target has no secret to prove itself with")?;
        text::push(out, key::NAME, &own.name);
        let response = algorithm.response(identifier, own.secret.bytes(), challenge);
        text::push(out, key::RESPONSE, &value::encode(&response));
        Ok(())
    }
}

impl SecurityMethod for TargetChap {
    fn name(&self) -> &'static str {
        "CHAP"
    }

    fn has_key(&self, key: &str) -> bool {
        key.starts_with("CHAP_")
    }

    fn step(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> SecurityStep {
        self.advance(keys, out).unwrap_or_else(SecurityStep::Failed)
    }
}

impl fmt::Debug for TargetChap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetChap").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}
