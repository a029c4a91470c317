//! Logins: the ways through the stages, and every way to be refused.

mod common;

use common::{INITIATOR, Pair, TARGET, TargetEnd, initiator_settings, split, wire};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{LoginRequest, LoginResponse, LoginStatus, NopOut, Opcode, Stage};
use lunette_iscsi::target::{
    Admission, Portal, Refusal, SecurityMethod, SecurityStep, SessionType, Settings,
};
use lunette_iscsi::{Error, initiator, text};

const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;
const OPERATIONAL_TO_FULL: u8 = TRANSIT | 1 << 2 | 3;

fn request(flags: u8, text: &str) -> Vec<u8> {
    let header = LoginRequest { flags, cmd_sn: 5.into(), exp_stat_sn: 9.into(), ..Default::default() };
    wire(header, text.replace(' ', "\0").as_bytes())
}

fn names() -> String {
    format!("InitiatorName={INITIATOR} TargetName={TARGET} ")
}

/// Sends requests one after the other; returns the responses.
fn exchange(target: &mut TargetEnd, requests: &[Vec<u8>]) -> Vec<(LoginResponse, String)> {
    let mut responses = Vec::new();
    for request in requests {
        target.receive(request);
        let mut answer = Vec::new();
        while !target.out.is_empty() {
            answer.extend(target.send(&mut common::Random(1)));
        }
        for (header, data) in split(&answer) {
            let header: &LoginResponse = header.as_ref();
            responses.push((*header, String::from_utf8(data).unwrap().replace('\0', " ")));
        }
    }
    responses
}

fn login(requests: &[Vec<u8>]) -> (TargetEnd, Vec<(LoginResponse, String)>) {
    let mut target = TargetEnd::new(Settings::default());
    let responses = exchange(&mut target, requests);
    (target, responses)
}

#[test]
fn both_ends_find_every_way_in() {
    for (first_stage, negotiate) in [
        (Stage::SECURITY, true),
        (Stage::SECURITY, false),
        (Stage::OPERATIONAL, true),
        (Stage::OPERATIONAL, false),
    ] {
        for session_type in [SessionType::Normal, SessionType::Discovery] {
            let settings = initiator::Settings {
                first_stage,
                negotiate,
                session_type,
                ..initiator_settings(Parameters::PREFERRED)
            };
            let mut pair = Pair::new(Settings::default(), settings, 3);
            pair.run();
            assert_eq!((pair.logged_in, pair.error, pair.target.error), (true, None, None));
            let agreed = pair.initiator.parameters();
            assert_eq!(agreed.header_digest, negotiate);
            let bursts = negotiate && session_type == SessionType::Normal;
            assert_eq!(agreed.max_burst_length, if bursts { 1 << 20 } else { 1 << 18 });
            assert_eq!(pair.initiator.tsih(), 1);
            let session = &pair.target.accepted.as_ref().unwrap().session;
            assert_eq!((session.info().session_type, session.info().tsih), (session_type, 1));
            assert_eq!(session.info().initiator_name, INITIATOR);
        }
    }
}

#[test]
fn answers_of_the_target() {
    let text = names() + "HeaderDigest=CRC32C,None MaxRecvDataSegmentLength=8192 X-y=1 SendTargets=All ";
    let (target, responses) = login(&[request(OPERATIONAL_TO_FULL, &text)]);
    let [(header, answers)] = responses.as_slice() else { panic!("one response") };
    assert_eq!((header.flags, header.status.get(), header.tsih.get()), (OPERATIONAL_TO_FULL, 0, 1));
    assert_eq!((header.stat_sn.get(), header.exp_cmd_sn.get(), header.max_cmd_sn.get()), (9, 5, 5 + 127));
    assert_eq!(
        answers,
        "HeaderDigest=CRC32C X-y=NotUnderstood SendTargets=Reject TargetPortalGroupTag=1 \
         MaxRecvDataSegmentLength=262144 "
    );
    assert!(target.accepted.is_some());
}

#[test]
fn the_first_burst_is_no_longer_than_any() {
    for offer in
        ["FirstBurstLength=65536 MaxBurstLength=4096 ", "MaxBurstLength=4096 FirstBurstLength=65536 "]
    {
        let (target, responses) = login(&[request(OPERATIONAL_TO_FULL, &(names() + offer))]);
        assert!(responses[0].1.contains("FirstBurstLength=4096 "), "{}", responses[0].1);
        assert_eq!(target.accepted.unwrap().session.parameters().first_burst_length, 4096);
    }
}

#[test]
fn a_text_may_be_spread_over_requests() {
    let (head, tail) = (names(), "MaxBurstLength=4096 ");
    let whole = head + tail;
    let (first, second) = whole.split_at(40);
    let (target, responses) =
        login(&[request(1 << 2 | CONTINUE, first), request(OPERATIONAL_TO_FULL, second)]);
    assert_eq!((responses[0].0.flags, responses[0].1.as_str()), (1 << 2, ""));
    assert!(responses[1].1.contains("MaxBurstLength=4096"));
    assert_eq!(target.accepted.unwrap().session.parameters().max_burst_length, 4096);
}

#[test]
fn names_are_folded_to_lower_case() {
    let text = format!("InitiatorName={} TargetName={}", INITIATOR.to_uppercase(), TARGET.to_uppercase());
    let (target, _) = login(&[request(OPERATIONAL_TO_FULL, &text)]);
    let session = target.accepted.unwrap().session;
    assert_eq!(
        (session.info().initiator_name.as_str(), session.info().target_name.as_str()),
        (INITIATOR, TARGET)
    );
}

#[test]
fn every_refusal_has_its_status() {
    let good = names();
    let long = names() + &"Key=1 ".repeat(600);
    let header = |change: fn(&mut LoginRequest)| {
        let mut header = LoginRequest { flags: OPERATIONAL_TO_FULL, ..Default::default() };
        change(&mut header);
        vec![wire(header, names().replace(' ', "\0").as_bytes())]
    };
    let unknown = good.replace("disk", "nothing");
    let cases = [
        (vec![request(OPERATIONAL_TO_FULL, &unknown)], LoginStatus::NOT_FOUND),
        (vec![request(OPERATIONAL_TO_FULL, "InitiatorName=iqn.a TargetName=junk")], LoginStatus::NOT_FOUND),
        (vec![request(OPERATIONAL_TO_FULL, "InitiatorName=iqn.a ")], LoginStatus::MISSING_PARAMETER),
        (vec![request(OPERATIONAL_TO_FULL, &format!("TargetName={TARGET}"))], LoginStatus::MISSING_PARAMETER),
        (vec![request(OPERATIONAL_TO_FULL, "")], LoginStatus::MISSING_PARAMETER),
        (
            vec![request(OPERATIONAL_TO_FULL, "InitiatorName=junk SessionType=Discovery")],
            LoginStatus::INITIATOR_ERROR,
        ),
        (
            vec![request(OPERATIONAL_TO_FULL, &(good.clone() + "SessionType=Odd"))],
            LoginStatus::SESSION_TYPE_NOT_SUPPORTED,
        ),
        (vec![request(OPERATIONAL_TO_FULL, "junk")], LoginStatus::INITIATOR_ERROR),
        (
            vec![request(OPERATIONAL_TO_FULL, &(good.clone() + "ImmediateData=No ImmediateData=No"))],
            LoginStatus::INITIATOR_ERROR,
        ),
        (vec![request(OPERATIONAL_TO_FULL, &long)], LoginStatus::INITIATOR_ERROR),
        (
            vec![request(TRANSIT | 1, &(good.clone() + "AuthMethod=CHAP"))],
            LoginStatus::AUTHENTICATION_FAILURE,
        ),
        (vec![request(TRANSIT | CONTINUE | 1, &good)], LoginStatus::INITIATOR_ERROR),
        (vec![request(TRANSIT, &good)], LoginStatus::INITIATOR_ERROR),
        (vec![request(TRANSIT | 2, &good)], LoginStatus::INITIATOR_ERROR),
        (vec![request(TRANSIT | 1 << 2 | 1, &good)], LoginStatus::INITIATOR_ERROR),
        (vec![request(TRANSIT | 2 << 2 | 3, &good)], LoginStatus::INITIATOR_ERROR),
        (vec![request(3 << 2, &good)], LoginStatus::INITIATOR_ERROR),
        (vec![request(1 << 2, &good), request(0, "")], LoginStatus::INITIATOR_ERROR),
        (vec![request(1 << 2 | CONTINUE, &"a".repeat(8000)); 9], LoginStatus::INITIATOR_ERROR),
        (header(|header| header.version_min = 1), LoginStatus::UNSUPPORTED_VERSION),
        (header(|header| header.tsih = 7.into()), LoginStatus::NO_SUCH_SESSION),
        (
            vec![request(1 << 2, &good), wire(LoginRequest { cid: 3.into(), ..Default::default() }, b"")],
            LoginStatus::INITIATOR_ERROR,
        ),
        (vec![request(1 << 2, &good), wire(NopOut::default(), b"")], LoginStatus::INVALID_DURING_LOGIN),
    ];
    for (requests, status) in cases {
        let (target, responses) = login(&requests);
        let (last, _) = responses.last().expect("a response");
        assert_eq!(LoginStatus(last.status.get()), status, "{requests:?}");
        assert!(target.error.is_some() && target.accepted.is_none());
        if !matches!(target.error, Some(Error::Unexpected(_))) {
            assert_eq!(target.error, Some(Error::LoginRefused(status)));
        }
    }
}

#[test]
fn endless_logins_are_ended() {
    let mut requests = vec![request(1 << 2, &names())];
    requests.resize(100, request(1 << 2, ""));
    let (target, responses) = login(&requests);
    assert_eq!(responses.len(), 65);
    assert_eq!(target.error, Some(Error::LoginRefused(LoginStatus::INITIATOR_ERROR)));
}

#[test]
fn something_else_first_gets_no_answer() {
    let (target, responses) = login(&[wire(NopOut::default(), b"")]);
    assert!(responses.is_empty());
    assert_eq!(target.error, Some(Error::Unexpected(Opcode::NOP_OUT)));
}

#[test]
fn the_directory_refuses_and_redirects() {
    let portal = Portal { address: "[fd00::2]:860".parse().unwrap(), group_tag: 4 };
    for (refusal, status, text) in [
        (Refusal::Status(LoginStatus::NOT_AUTHORIZED), LoginStatus::NOT_AUTHORIZED, ""),
        (
            Refusal::Moved { portal, permanent: false },
            LoginStatus::MOVED_TEMPORARILY,
            "TargetAddress=[fd00::2]:860 ",
        ),
        (
            Refusal::Moved { portal, permanent: true },
            LoginStatus::MOVED_PERMANENTLY,
            "TargetAddress=[fd00::2]:860 ",
        ),
    ] {
        let mut target = TargetEnd::new(Settings::default());
        target.targets.refuse = Some(refusal);
        let responses = exchange(&mut target, &[request(OPERATIONAL_TO_FULL, &names())]);
        assert_eq!((responses[0].0.status.get(), responses[0].1.as_str()), (status.0, text));
    }
}

/// Asks for a word in a second request.
struct PassWord;

impl SecurityMethod for PassWord {
    fn name(&self) -> &'static str {
        "X-word"
    }

    fn step(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> SecurityStep {
        match keys {
            [] => {
                text::push(out, "X-ask", "word");
                SecurityStep::Continue
            }
            [("X-say", "please")] => SecurityStep::Passed { name: "polite".into() },
            _ => SecurityStep::Failed("another word"),
        }
    }
}

#[test]
fn security_methods() {
    let offer = |offer: &str| names() + "AuthMethod=" + offer;
    let cases = [
        (vec![request(TRANSIT | 1, &offer("CHAP,X-word")), request(TRANSIT | 1, "X-say=please")], None),
        (vec![request(TRANSIT | 1, &offer("X-word")), request(TRANSIT | 1, "X-say=now")], Some(())),
        (vec![request(TRANSIT | 1, &offer("None"))], Some(())),
        (vec![request(TRANSIT | 1, &names())], Some(())),
        (vec![request(OPERATIONAL_TO_FULL, &names())], Some(())),
        (vec![request(TRANSIT | 3, &names())], Some(())),
    ];
    for (requests, failure) in cases {
        let mut target = TargetEnd::new(Settings::default());
        target.targets.admission =
            Some(Admission { methods: vec![Box::new(PassWord)], ..Admission::default() });
        let responses = exchange(&mut target, &requests);
        let expected = failure.map(|()| Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE));
        assert_eq!(target.error, expected, "{requests:?}");
        assert!(target.accepted.is_none() && target.targets.sessions == 0);
        if failure.is_none() {
            assert_eq!(responses[0].0.flags, 0, "no transit before the proof");
            assert_eq!(responses[0].1, "AuthMethod=X-word X-ask=word TargetPortalGroupTag=0 ");
            assert_eq!(responses[1].0.flags, TRANSIT | 1);
        }
    }
}
