//! The initiator's side.

use super::{
    Algorithm, Challenge, Credentials, Secret, challenge_of, key, nothing_but, only, push_challenge, value,
};
use crate::text;
use subtle::ConstantTimeEq;

/// Proves who an initiator is, and may have the target do the same.
#[derive(Clone)]
pub struct InitiatorChap {
    offer: Vec<Algorithm>,
    own: Credentials,
    /// Who the target has to be.
    expected: Option<(Credentials, Challenge)>,
    state: State,
}

#[derive(Clone)]
enum State {
    /// The target's choice and challenge are to come.
    Challenge,
    /// The target's proof is.
    Proof(Algorithm),
    Over,
}

impl InitiatorChap {
    /// Offers these algorithms, the best first. With `expected` the target has to prove that it has these credentials (mutual
    /// CHAP); the challenge must be new and random.
    pub fn new(offer: Vec<Algorithm>, own: Credentials, expected: Option<(Credentials, Challenge)>) -> Self {
        Self { offer, own, expected, state: State::Challenge }
    }

    /// Appends what begins it.
    pub(crate) fn begin(&self, out: &mut Vec<u8>) {
        let offer: Vec<_> = self.offer.iter().map(|algorithm| algorithm.number().to_string()).collect();
        text::push(out, key::ALGORITHM, &offer.join(","));
    }

    /// Whether all is proved.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Takes the keys of one login response, and appends what there is to say to them.
    pub(crate) fn step(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), &'static str> {
        match self.state {
            State::Challenge => self.answer(keys, out),
            State::Proof(algorithm) => self.check(algorithm, keys),
            State::Over if keys.is_empty() => Ok(()),
            State::Over => Err("CHAP is over"),
        }
    }

    fn answer(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), &'static str> {
        nothing_but(keys, &[key::ALGORITHM, key::IDENTIFIER, key::CHALLENGE])?;
        let choice = only(keys, key::ALGORITHM)?.ok_or("CHAP_A is missing")?;
        let algorithm = Algorithm::choose(choice, &self.offer)
            .filter(|_| !choice.contains(','))
            .ok_or("CHAP_A was not offered")?;
        let (identifier, challenge) = challenge_of(keys)?.ok_or("there is no challenge")?;
        let response = algorithm.response(identifier, self.own.secret.bytes(), &challenge);
        text::push(out, key::NAME, &self.own.name);
        text::push(out, key::RESPONSE, &value::encode(&response));
        self.state = State::Over;
        if let Some((_, challenge)) = &self.expected {
            push_challenge(challenge, out);
            self.state = State::Proof(algorithm);
        }
        Ok(())
    }

    fn check(&mut self, algorithm: Algorithm, keys: &[(&str, &str)]) -> Result<(), &'static str> {
        nothing_but(keys, &[key::NAME, key::RESPONSE])?;
        let Some((Credentials { name, secret }, challenge)) = &self.expected else { return Ok(()) };
        let wanted = algorithm.response(challenge.identifier, Secret::bytes(secret), &challenge.bytes);
        let given = only(keys, key::RESPONSE)?.and_then(|response| value::decode(response, wanted.len()));
        let is_right = given.is_some_and(|given| bool::from(given.ct_eq(&wanted)));
        if only(keys, key::NAME)? != Some(name) || !is_right {
            return Err("the target has not proved who it is");
        }
        self.state = State::Over;
        Ok(())
    }
}

impl std::fmt::Debug for InitiatorChap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitiatorChap").field("offer", &self.offer).finish_non_exhaustive()
    }
}
