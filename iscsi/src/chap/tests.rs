use super::*;
use crate::initiator::{self, Initiator};
use crate::pdu::{LoginStatus, Stage};
use crate::target::{
    Admission, Directory, Identity, Login, Refusal, SecurityMethod, SecurityStep, SessionInfo, Settings,
    TargetRecord,
};
use crate::{Error, Outbox, Piece};
use std::ops::ControlFlow;
use std::sync::Arc;

const NAMES: [&str; 2] = ["iqn.2024-01.example:me", "iqn.2024-01.example:disk"];

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: Secret::new(secret.as_bytes().to_vec()).unwrap() }
}

fn own() -> Credentials {
    credentials("0xme", "what the initiator knows")
}

fn targets() -> Credentials {
    credentials("0bdisk", "what the target knows")
}

struct One(Credentials);

impl Accounts for One {
    fn secret(&self, name: &str) -> Option<&Secret> {
        (name == self.0.name).then_some(&self.0.secret)
    }
}

fn challenge(byte: u8) -> Challenge {
    Challenge { identifier: byte, bytes: [byte; Challenge::LENGTH] }
}

fn method(accepted: &[Algorithm], own_of_target: Option<Credentials>) -> TargetChap {
    TargetChap::new(accepted.to_vec(), Arc::new(One(own())), own_of_target, challenge(3))
}

/// Asks for CHAP with what it is given.
struct Asks(Option<TargetChap>);

impl Directory for Asks {
    fn admit(&mut self, _: Identity<'_>) -> Result<Admission, Refusal> {
        let methods = self.0.take().into_iter().map(|method| Box::new(method) as Box<dyn SecurityMethod>);
        Ok(Admission { methods: methods.collect(), ..Admission::default() })
    }

    fn open(&mut self, _: Identity<'_>) -> Result<u16, Refusal> {
        Ok(1)
    }

    fn targets(
        &self,
        _: &SessionInfo,
        _: Option<&str>,
        _: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
    ) {
    }
}

fn send(out: &mut Outbox) -> Vec<u8> {
    let mut wire = Vec::new();
    for piece in out.pieces() {
        let Piece::Bytes(bytes) = piece else { unreachable!() };
        wire.extend(bytes);
    }
    out.clear(|_| {});
    wire
}

/// How a login ends: under which name, or with which errors of the target, with its reason, and of the initiator.
type End = Result<Option<String>, (Option<Error>, Option<String>, Option<Error>)>;

fn log_in(target: Option<TargetChap>, chap: Option<InitiatorChap>) -> End {
    let settings = initiator::Settings {
        initiator_name: NAMES[0].into(),
        target_name: NAMES[1].into(),
        chap,
        ..initiator::Settings::default()
    };
    let (mut up, mut down) = (Outbox::default(), Outbox::default());
    let mut initiator = Initiator::new(settings, &mut up);
    let (mut login, mut asks) = (Login::new(Settings::default()), Asks(target));
    loop {
        let wire = send(&mut up);
        assert!(!wire.is_empty(), "somebody has something to say");
        let received = login.receive(&mut asks, &wire, &mut down);
        let answer = send(&mut down);
        let answered = initiator.receive(&answer, &mut up);
        match (received, answered) {
            (Ok(progress), Ok(_)) => {
                if let Some(accepted) = progress.accepted {
                    return Ok(accepted.session.info().authenticated.clone());
                }
            }
            (received, answered) => {
                return Err((received.err(), login.reason().map(str::to_owned), answered.err()));
            }
        }
    }
}

#[test]
fn each_proves_to_the_other_with_every_algorithm() {
    for algorithm in Algorithm::ALL {
        for mutual in [false, true] {
            let expected = mutual.then(|| (targets(), challenge(9)));
            let chap = InitiatorChap::new(Algorithm::ALL.to_vec(), own(), expected);
            let end = log_in(Some(method(&[algorithm], Some(targets()))), Some(chap));
            assert_eq!(end, Ok(Some("0xme".into())), "{algorithm}, mutual: {mutual}");
        }
    }
}

#[test]
fn chap_has_keys_of_its_own() {
    let chap = method(&Algorithm::ALL, None);
    assert!([key::ALGORITHM, key::NAME, key::RESPONSE, "CHAP_X"].iter().all(|key| chap.has_key(key)));
    assert!(["InitialR2T", "X-CHAP_A", "chap_a"].iter().all(|key| !chap.has_key(key)));
}

#[test]
fn who_proves_nothing_or_too_little_is_refused() {
    let all = || Algorithm::ALL.to_vec();
    let offer = |algorithm| InitiatorChap::new(vec![algorithm], own(), None);
    let as_ = |name: &str, secret: &str| InitiatorChap::new(all(), credentials(name, secret), None);
    let mutual = || InitiatorChap::new(all(), own(), Some((targets(), challenge(9))));
    let reflects = InitiatorChap::new(all(), own(), Some((targets(), challenge(3))));
    let strong = [Algorithm::Sha3_256, Algorithm::Sha256];
    for (chap, target_proves, reason) in [
        (None, true, "the initiator has none of the methods that are asked for"),
        (Some(offer(Algorithm::Md5)), true, "none of the initiator's CHAP algorithms is accepted"),
        (Some(as_("0xme", "what nobody knows")), true, "the secret is wrong"),
        (Some(as_("0xyou", "what the initiator knows")), true, "there is no account of this name"),
        (Some(mutual()), false, "the target has no secret to prove itself with"),
        (Some(reflects), true, "the initiator has sent our own challenge back"),
    ] {
        let refused = Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE);
        let end = log_in(Some(method(&strong, target_proves.then(targets))), chap);
        assert_eq!(end, Err((Some(refused), Some(reason.to_owned()), Some(refused))));
    }
}

#[test]
fn a_target_that_proves_nothing_is_left() {
    let asks = |name: &str, secret: &str| {
        InitiatorChap::new(vec![Algorithm::Sha256], own(), Some((credentials(name, secret), challenge(9))))
    };
    for (name, secret) in [("0bdisk", "what nobody knows"), ("other", "what the target knows")] {
        let end = log_in(Some(method(&[Algorithm::Sha256], Some(targets()))), Some(asks(name, secret)));
        assert_eq!(
            end,
            Err((None, None, Some(Error::NotAuthenticated("the target has not proved who it is"))))
        );
    }
    // One that asks for nothing cannot be made to.
    let end = log_in(None, Some(asks("0bdisk", "what the target knows")));
    let refused = Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE);
    assert_eq!(
        end,
        Err((
            Some(refused),
            Some("the initiator wants a proof where none is asked for".into()),
            Some(refused)
        ))
    );
}

fn step(method: &mut TargetChap, keys: &[(&str, &str)]) -> (SecurityStep, String) {
    let mut out = Vec::new();
    let step = method.step(keys, &mut out);
    (step, String::from_utf8(out).unwrap().replace('\0', " "))
}

#[test]
fn the_target_says_what_the_standard_says() {
    let mut chap = method(&[Algorithm::Sha3_256, Algorithm::Sha256, Algorithm::Md5], Some(targets()));
    assert_eq!(step(&mut chap, &[]), (SecurityStep::Continue, String::new()));
    let challenge = format!("CHAP_A=7 CHAP_I=3 CHAP_C=0x{} ", "03".repeat(32));
    // The order of the target counts; the initiator may know more algorithms, or fewer.
    assert_eq!(step(&mut chap, &[("CHAP_A", "128,5,0x7")]), (SecurityStep::Continue, challenge));
    let response = Algorithm::Sha256.response(3, b"what the initiator knows", &[3; 32]);
    let response = value::encode(&response);
    let keys = [("CHAP_N", "0xme"), ("CHAP_R", &response), ("CHAP_I", "0xff"), ("CHAP_C", "0bAQID")];
    let own = value::encode(&Algorithm::Sha256.response(255, b"what the target knows", &[1, 2, 3]));
    let passed = SecurityStep::Passed { name: "0xme".into() };
    assert_eq!(step(&mut chap, &keys), (passed, format!("CHAP_N=0bdisk CHAP_R={own} ")));
}

#[test]
fn keys_that_do_not_belong_there_are_refused() {
    let right = value::encode(&Algorithm::Md5.response(3, b"what the initiator knows", &[3; 32]));
    let long = format!("0x{}", "00".repeat(1025));
    let proof = |more: &[(&'static str, &str)]| {
        let mut keys = vec![("CHAP_N", "0xme".to_owned()), ("CHAP_R", right.clone())];
        keys.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        keys
    };
    let owned = |keys: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        keys.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
    };
    for first in
        [&[("CHAP_A", "")][..], &[("CHAP_A", "5"), ("CHAP_A", "5")], &[("CHAP_N", "0xme")], &[("X", "")]]
    {
        let mut chap = method(&Algorithm::ALL, None);
        assert!(
            matches!(step(&mut chap, first), (SecurityStep::Failed(_), said) if said.is_empty()),
            "{first:?}"
        );
        assert!(matches!(step(&mut chap, &[("CHAP_A", "5")]).0, SecurityStep::Failed(_)), "it is over");
    }
    for second in [
        owned(&[]),
        owned(&[("CHAP_N", "0xme")]),
        owned(&[("CHAP_N", "0xme"), ("CHAP_R", "0x")]),
        owned(&[("CHAP_N", "0xme"), ("CHAP_R", &right[..right.len() - 2])]),
        owned(&[("CHAP_N", "0xme"), ("CHAP_R", &format!("{right}00"))]),
        owned(&[("CHAP_N", "0xme"), ("CHAP_R", "what the initiator knows")]),
        owned(&[("CHAP_R", &right)]),
        proof(&[("CHAP_R", &right)]),
        proof(&[("CHAP_A", "5")]),
        proof(&[("CHAP_I", "1")]),
        proof(&[("CHAP_C", "0x01")]),
        proof(&[("CHAP_I", "256"), ("CHAP_C", "0x01")]),
        proof(&[("CHAP_I", "1"), ("CHAP_C", "0x")]),
        proof(&[("CHAP_I", "1"), ("CHAP_C", &long)]),
    ] {
        let mut chap = method(&Algorithm::ALL, Some(targets()));
        step(&mut chap, &[("CHAP_A", "5")]);
        let keys: Vec<_> = second.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert!(
            matches!(step(&mut chap, &keys), (SecurityStep::Failed(_), said) if said.is_empty()),
            "{keys:?}"
        );
    }
}

/// Computed by another program.
#[test]
fn responses_are_those_of_the_algorithms() {
    let challenge: Vec<u8> = (0..16).collect();
    for (algorithm, hash) in [
        (Algorithm::Md5, "0x555baef40ad16e8bc355638494df12ff"),
        (Algorithm::Sha1, "0x8d3b1ccc576e0aee7675c9d08bc0e425d03daa16"),
        (Algorithm::Sha256, "0x33809fcb5749eaa7c55d42bfbf5cb55bc2e69d05908a0639f9a51fa7424d5654"),
        (Algorithm::Sha3_256, "0x9cd788d49bc8e45acd6689bf9383324841af2572d3fd3d37f55d3db16b2fa1f3"),
    ] {
        assert_eq!(value::encode(&algorithm.response(7, b"a secret of some length", &challenge)), hash);
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
    }
    assert!("md4".parse::<Algorithm>().is_err());
}

#[test]
fn secrets_are_not_shown_and_not_too_short() {
    let chap = InitiatorChap::new(vec![Algorithm::Sha256], own(), Some((targets(), challenge(9))));
    let settings = initiator::Settings { chap: Some(chap), ..initiator::Settings::default() };
    let shown = format!("{:?} {settings:?} {:?}", own(), method(&Algorithm::ALL, Some(targets())));
    assert!(!shown.contains("knows") && shown.contains("Secret(…)"), "{shown}");
    assert_eq!(Secret::new(b"short".to_vec()).unwrap_err(), SecretError::Short(5));
    assert_eq!(Secret::new(vec![]).unwrap_err(), SecretError::Empty);
    assert_eq!(Secret::weak(vec![]).unwrap_err(), SecretError::Empty);
    assert_eq!(Secret::new(vec![0; 256]).unwrap_err(), SecretError::Long);
    assert!(Secret::weak(b"short".to_vec()).unwrap().is_same(&Secret::weak(b"short".to_vec()).unwrap()));
    assert!(!own().secret.is_same(&targets().secret));
}

#[test]
fn an_initiator_that_leaves_the_security_stage_out_has_to_come_back_with_it() {
    let settings = initiator::Settings {
        initiator_name: NAMES[0].into(),
        target_name: NAMES[1].into(),
        first_stage: Stage::OPERATIONAL,
        ..initiator::Settings::default()
    };
    let (mut up, mut down) = (Outbox::default(), Outbox::default());
    Initiator::new(settings, &mut up);
    let mut login = Login::new(Settings::default());
    let error = login.receive(&mut Asks(Some(method(&Algorithm::ALL, None))), &send(&mut up), &mut down);
    assert_eq!(error.unwrap_err(), Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE));
}
