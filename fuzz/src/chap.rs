//! Logins with CHAP, whose texts are spoilt on the way or are no texts at all.

use crate::input::Input;
use lunette_iscsi::chap::{Accounts, Algorithm, Challenge, Credentials, InitiatorChap, Secret, TargetChap};
use lunette_iscsi::initiator::{Event, Initiator, Settings};
use lunette_iscsi::pdu::BHS;
use lunette_iscsi::target::{
    Admission, Directory, Identity, Login, Refusal, SecurityMethod, SecurityStep, SessionInfo, TargetRecord,
};
use lunette_iscsi::{Outbox, Piece, target, text};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What keys of CHAP might say.
const TEXTS: [&[u8]; 20] = [
    b"CHAP_A=5\0",
    b"CHAP_A=8,7,6,5\0",
    b"CHAP_A=0x5,\0",
    b"CHAP_A=9999999999\0",
    b"CHAP_A=\0",
    b"CHAP_N=me\0",
    b"CHAP_N=0x6d65\0",
    b"CHAP_N=\0",
    b"CHAP_R=0x00112233445566778899aabbccddeeff\0",
    b"CHAP_R=0bABEiM0RVZneImaq7zN3u/w==\0",
    b"CHAP_R=0x\0",
    b"CHAP_R=0b=\0",
    b"CHAP_R=1\0",
    b"CHAP_I=0\0",
    b"CHAP_I=255\0",
    b"CHAP_I=0x100\0",
    b"CHAP_C=0x0\0",
    b"CHAP_C=0bAAAA\0",
    b"CHAP_C=0x0303030303030303030303030303030303030303030303030303030303030303\0",
    b"CHAP_X=1\0",
];

/// Nobody passes without the secret, and nothing keeps out those who know it but what is spoilt.
pub fn chap(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        guess(&mut input);
    } else {
        log_in(&mut input);
    }
}

fn credentials(name: &str, secret: &[u8]) -> Credentials {
    Credentials { name: name.into(), secret: Secret::new(secret.to_vec()).expect("a secret") }
}

fn challenge(byte: u8) -> Challenge {
    Challenge { identifier: byte, bytes: [byte; Challenge::LENGTH] }
}

fn initiators() -> Credentials {
    credentials("me", b"what the initiator knows")
}

fn targets() -> Credentials {
    credentials("disk", b"what the target knows")
}

/// The account of the initiator.
struct One(Credentials);

impl Accounts for One {
    fn secret(&self, name: &str) -> Option<&Secret> {
        (name == self.0.name).then_some(&self.0.secret)
    }
}

/// What a target has to prove itself with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Right,
    Wrong,
    Nothing,
}

fn method(accepted: &[Algorithm], own: Own) -> TargetChap {
    let own = match own {
        Own::Right => Some(targets()),
        Own::Wrong => Some(credentials("disk", b"something else altogether")),
        Own::Nothing => None,
    };
    TargetChap::new(accepted.to_vec(), Arc::new(One(initiators())), own, challenge(3))
}

/// Some of the algorithms.
fn some(input: &mut Input<'_>) -> Vec<Algorithm> {
    let mask = input.u8();
    Algorithm::ALL.into_iter().filter(|algorithm| mask >> (algorithm.number() - 5) & 1 != 0).collect()
}

/// Keys without knowledge of the secret.
fn guess(input: &mut Input<'_>) {
    let mut method = method(&some(input), input.pick(&[Own::Right, Own::Nothing]));
    for _ in 0..4 {
        let mut said = Vec::new();
        for _ in 0..input.below(5) {
            said.extend(input.pick(&TEXTS));
        }
        if input.one_in(4) {
            let length = input.below(2100);
            said.extend(input.bytes(length));
        }
        let Ok(pairs) = text::parse(&said) else { continue };
        let mut answers = Vec::new();
        let step = method.step(&pairs.collect::<Vec<_>>(), &mut answers);
        assert!(!matches!(step, SecurityStep::Passed { .. }), "{}", String::from_utf8_lossy(&said));
        assert!(text::parse(&answers).is_ok() && answers.len() < 4096);
        let shown = String::from_utf8_lossy(&answers);
        assert!(!shown.contains("knows"), "a secret is never told");
    }
}

/// Asks for CHAP.
struct Asks(Option<TargetChap>);

impl Directory for Asks {
    fn admit(&mut self, _: Identity<'_>) -> Result<Admission, Refusal> {
        let methods = self.0.take().map(|method| Box::new(method) as Box<dyn SecurityMethod>);
        Ok(Admission { methods: methods.into_iter().collect(), ..Admission::default() })
    }

    fn open(&mut self, identity: Identity<'_>) -> Result<u16, Refusal> {
        assert_eq!(identity.info.authenticated.as_deref(), Some("me"), "a proof comes first");
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

/// A login by somebody who knows the secret, or another one, over a line that may spoil texts.
fn log_in(input: &mut Input<'_>) {
    let (offered, accepted) = (some(input), some(input));
    let (knows, mutual, spoils) = (!input.one_in(4), input.flag(), input.flag());
    let own_of_target = input.pick(&[Own::Right, Own::Right, Own::Wrong, Own::Nothing]);
    let own = if knows { initiators() } else { credentials("me", b"something else altogether") };
    let expected = mutual.then(|| (targets(), challenge(9)));
    let settings = Settings {
        initiator_name: "iqn.2026-11.example:me".into(),
        target_name: "iqn.2026-11.example:disk".into(),
        chap: Some(InitiatorChap::new(offered.clone(), own, expected)),
        ..Settings::default()
    };
    let (mut up, mut down) = (Outbox::default(), Outbox::default());
    let mut initiator = Initiator::new(settings, &mut up);
    let mut login = Login::new(target::Settings::default());
    let mut asks = Asks(Some(method(&accepted, own_of_target)));
    let (mut spoilt, mut accepts, mut logged_in) = (false, false, false);
    for _ in 0..10 {
        let mut request = take(&mut up);
        spoilt |= spoils && spoil(&mut request, input);
        let progress = login.receive(&mut asks, &request, &mut down);
        let mut answer = take(&mut down);
        spoilt |= spoils && spoil(&mut answer, input);
        if matches!(&progress, Ok(progress) if progress.accepted.is_some()) {
            accepts = true;
        }
        match initiator.receive(&answer, &mut up) {
            Ok(received) => logged_in |= matches!(received.event, Some(Event::LoggedIn)),
            Err(_) => break,
        }
        if progress.is_err() || accepts {
            break;
        }
    }
    let common = offered.iter().any(|algorithm| accepted.contains(algorithm));
    let may = knows && common && (!mutual || own_of_target == Own::Right);
    assert!(spoilt || (accepts, logged_in) == (may, may), "{accepts} {logged_in} {may}");
    // What is spoilt is not what makes a proof.
    assert!(knows || !accepts);
    assert!(own_of_target == Own::Right || !mutual || !logged_in);
}

fn take(out: &mut Outbox) -> Vec<u8> {
    let mut wire = Vec::new();
    for piece in out.pieces() {
        let Piece::Bytes(bytes) = piece else { panic!("payload in a login") };
        wire.extend(bytes);
    }
    out.clear(|_| {});
    wire
}

/// Changes some bytes of a text, but no lengths.
fn spoil(wire: &mut [u8], input: &mut Input<'_>) -> bool {
    let Some(text) = wire.get_mut(BHS..).filter(|text| !text.is_empty()) else { return false };
    let mut spoilt = false;
    for _ in 0..input.below(4) {
        let (place, with) = (input.below(text.len()), input.u8());
        text[place] ^= with;
        spoilt |= with != 0;
    }
    spoilt
}
