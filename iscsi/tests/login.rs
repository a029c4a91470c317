//! Logins: the ways through the stages, and every way to be refused.

mod common;

use common::{INITIATOR, Pair, TARGET, TargetEnd, initiator_settings, split, wire};
use lunette_iscsi::digest::Digests;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{LoginRequest, LoginResponse, LoginStatus, NopOut, Opcode, Stage};
use lunette_iscsi::target::{
    Accepted, Admission, Refusal, SecurityMethod, SecurityStep, SessionType, Settings,
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
        assert!(target.login.as_ref().unwrap().reason().is_some_and(|reason| !reason.is_empty()));
        if !matches!(target.error, Some(Error::Unexpected(_))) {
            assert_eq!(target.error, Some(Error::LoginRefused(status)));
        }
    }
}

#[test]
fn a_target_may_have_settings_of_its_own() {
    let own = Settings {
        parameters: Parameters { max_burst_length: 8192, immediate_data: false, ..Parameters::PREFERRED },
        command_window: 3,
        ..Settings::default()
    };
    let mut target = TargetEnd::new(Settings::default());
    target.targets.admission = Some(Admission { settings: Some(own), ..Admission::default() });
    let (names, rest) = (names(), "MaxBurstLength=65536 ImmediateData=Yes ");
    let (head, tail) = names.split_at(20);
    let requests =
        [request(1 << 2 | CONTINUE, head), request(OPERATIONAL_TO_FULL, &(tail.to_owned() + rest))];
    let responses = exchange(&mut target, &requests);
    assert!(responses[1].1.starts_with("MaxBurstLength=8192 ImmediateData=No "), "{}", responses[1].1);
    let windows: Vec<_> = responses.iter().map(|(header, _)| header.max_cmd_sn.get()).collect();
    assert_eq!(windows, [5, 7], "the window never shrinks");
    assert!(!target.accepted.unwrap().session.parameters().immediate_data);
}

#[test]
fn digests_may_be_required() {
    for (header, data, offer, good) in [
        (true, true, "HeaderDigest=None,CRC32C DataDigest=CRC32C ", true),
        (true, true, "HeaderDigest=None DataDigest=CRC32C ", false),
        (true, true, "HeaderDigest=CRC32C,None DataDigest=CRC32C,None ", true),
        (true, false, "HeaderDigest=CRC32C ", true),
        (true, false, "HeaderDigest=CRC32C DataDigest=CRC32C ", true),
        (false, true, "HeaderDigest=CRC32C ", false),
        (true, false, "", false),
    ] {
        let settings = Settings {
            parameters: Parameters { header_digest: false, ..Parameters::PREFERRED },
            required_digests: Digests { header, data },
            ..Settings::default()
        };
        let mut target = TargetEnd::new(settings);
        exchange(&mut target, &[request(OPERATIONAL_TO_FULL, &(names() + offer))]);
        let error = (!good).then_some(Error::LoginRefused(LoginStatus::INITIATOR_ERROR));
        assert_eq!((target.error, target.accepted.is_some()), (error, good), "{offer}");
        if let Some(accepted) = &target.accepted {
            let agreed = accepted.session.parameters();
            assert!((agreed.header_digest || !header) && (agreed.data_digest || !data), "{offer}");
        }
        assert_eq!(target.targets.sessions, u16::from(good));
    }
}

#[test]
fn a_connection_may_take_the_place_of_a_lost_one() {
    let session = Parameters {
        max_burst_length: 4096,
        first_burst_length: 4096,
        immediate_data: false,
        ..Parameters::PREFERRED
    };
    for (tsih, cid, status) in [
        (7u16, 1u16, LoginStatus::SUCCESS),
        (7, 2, LoginStatus::TOO_MANY_CONNECTIONS),
        (8, 1, LoginStatus::NO_SUCH_SESSION),
    ] {
        let mut target = TargetEnd::new(Settings::default());
        target.targets.open = Some((7, 1, session));
        let header = LoginRequest {
            flags: OPERATIONAL_TO_FULL,
            tsih: tsih.into(),
            cid: cid.into(),
            ..Default::default()
        };
        let text = names() + "MaxBurstLength=65536 DataDigest=CRC32C MaxRecvDataSegmentLength=512 ";
        let responses = exchange(&mut target, &[wire(header, text.replace(' ', "\0").as_bytes())]);
        let (header, answers) = &responses[0];
        assert_eq!((header.status.get(), header.tsih.get()), (status.0, tsih));
        if status == LoginStatus::SUCCESS {
            assert!(answers.starts_with("MaxBurstLength=Irrelevant DataDigest=CRC32C "), "{answers}");
            let Accepted { connection, session: joined } = &**target.accepted.as_ref().unwrap();
            let agreed = Parameters {
                header_digest: false,
                data_digest: true,
                max_recv_data_segment_length: 512,
                ..session
            };
            assert_eq!((connection.cid(), joined.parameters(), joined.info().tsih), (1, &agreed, 7));
        }
        assert_eq!(target.targets.sessions, 0, "none is opened");
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
    let address = "[fd00::2]:860".parse().unwrap();
    let moved = "TargetAddress=[fd00::2]:860 ";
    for (refusal, status, text) in [
        (Refusal::new(LoginStatus::NOT_AUTHORIZED, "it is closed"), LoginStatus::NOT_AUTHORIZED, ""),
        (Refusal::moved(address, false), LoginStatus::MOVED_TEMPORARILY, moved),
        (Refusal::moved(address, true), LoginStatus::MOVED_PERMANENTLY, moved),
    ] {
        let reason = refusal.reason.clone();
        let mut target = TargetEnd::new(Settings::default());
        target.targets.refuse = Some(refusal);
        let responses = exchange(&mut target, &[request(OPERATIONAL_TO_FULL, &names())]);
        assert_eq!((responses[0].0.status.get(), responses[0].1.as_str()), (status.0, text));
        assert_eq!(target.login.unwrap().reason(), Some(&*reason));
    }
}

/// Asks for a word in a second request.
struct PassWord;

impl SecurityMethod for PassWord {
    fn name(&self) -> &'static str {
        "X-word"
    }

    fn has_key(&self, key: &str) -> bool {
        key == "X-say"
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
fn other_keys_go_on_while_a_security_method_runs() {
    let mut target = TargetEnd::new(Settings::default());
    target.targets.admission = Some(Admission { methods: vec![Box::new(PassWord)], ..Admission::default() });
    let requests = [
        request(TRANSIT | 1, &(names() + "AuthMethod=X-word MaxBurstLength=4096 X-other=1")),
        request(TRANSIT | 1, "X-say=please FirstBurstLength=1024 X-more=1"),
        request(OPERATIONAL_TO_FULL, "InitialR2T=Yes"),
    ];
    let responses = exchange(&mut target, &requests);
    let answers = |number: usize| responses[number].1.as_str();
    assert!(
        answers(0).starts_with("AuthMethod=X-word MaxBurstLength=4096 X-other=NotUnderstood X-ask=word ")
    );
    assert_eq!(answers(1), "X-more=NotUnderstood FirstBurstLength=1024 ");
    let accepted = target.accepted.expect("it is let in");
    assert_eq!(accepted.session.info().authenticated.as_deref(), Some("polite"));
    assert_eq!(accepted.session.parameters().max_burst_length, 4096);
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
