use super::*;

fn ours() -> Parameters {
    Parameters {
        initial_r2t: false,
        max_burst_length: 1 << 20,
        first_burst_length: 1 << 18,
        ..Parameters::PREFERRED
    }
}

fn answer_of(ours: Parameters, phase: Phase, key: &str, value: &str) -> (String, Parameters) {
    let mut negotiation = Negotiation::new(ours);
    let mut out = Vec::new();
    negotiation.answer(phase, key, value, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), negotiation.agreed())
}

#[test]
fn result_functions() {
    for (offer, result) in [
        ("HeaderDigest=CRC32C,None", "CRC32C"),
        ("HeaderDigest=None,CRC32C", "None"),
        ("HeaderDigest=X-MD5,CRC32C", "CRC32C"),
        ("DataDigest=X-MD5", "Reject"),
        ("MaxConnections=8", "1"),
        ("MaxConnections=0", "Reject"),
        ("InitialR2T=Yes", "Yes"),
        ("InitialR2T=No", "No"),
        ("InitialR2T=Maybe", "Reject"),
        ("ImmediateData=Yes", "Yes"),
        ("ImmediateData=No", "No"),
        ("MaxBurstLength=16776192", "1048576"),
        ("MaxBurstLength=0x10000", "65536"),
        ("MaxBurstLength=511", "Reject"),
        ("MaxBurstLength=16777216", "Reject"),
        ("FirstBurstLength=262145", "262144"),
        ("DefaultTime2Wait=0", "2"),
        ("DefaultTime2Wait=7", "7"),
        ("DefaultTime2Wait=3601", "Reject"),
        ("DefaultTime2Retain=60", "0"),
        ("MaxOutstandingR2T=1", "1"),
        ("MaxOutstandingR2T=65535", "4"),
        ("DataPDUInOrder=No", "Yes"),
        ("DataSequenceInOrder=No", "Yes"),
        ("ErrorRecoveryLevel=2", "0"),
        ("ErrorRecoveryLevel=3", "Reject"),
        ("TaskReporting=FastAbort,RFC3720", "RFC3720"),
        ("TaskReporting=FastAbort", "Reject"),
        ("iSCSIProtocolLevel=31", "2"),
        ("X-com.example=1", "NotUnderstood"),
        ("IFMarker=No", "Reject"),
        ("OFMarkInt=1~2048", "Reject"),
        ("TargetAddress=1.2.3.4", "NotUnderstood"),
    ] {
        let (key, value) = offer.split_once('=').unwrap();
        let (answer, _) = answer_of(ours(), Phase::Login, key, value);
        assert_eq!(answer, format!("{key}={result}\0"), "{offer}");
    }
}

#[test]
fn declarations_and_reserved_values_have_no_answer() {
    let (answer, agreed) = answer_of(ours(), Phase::Login, "MaxRecvDataSegmentLength", "65536");
    assert_eq!((answer.as_str(), agreed.max_recv_data_segment_length), ("", 65536));
    let (answer, agreed) = answer_of(ours(), Phase::Login, "MaxRecvDataSegmentLength", "17");
    assert_eq!(
        (answer.as_str(), agreed.max_recv_data_segment_length),
        ("MaxRecvDataSegmentLength=Reject\0", 8192)
    );
    for value in ["Reject", "Irrelevant", "NotUnderstood"] {
        assert_eq!(answer_of(ours(), Phase::Login, "MaxBurstLength", value).0, "");
        assert_eq!(answer_of(ours(), Phase::Login, "X-y", value).0, "");
    }
}

#[test]
fn phases() {
    for key in ["MaxBurstLength", "InitialR2T", "TaskReporting", "iSCSIProtocolLevel"] {
        assert_eq!(answer_of(ours(), Phase::DiscoveryLogin, key, "junk").0, format!("{key}=Irrelevant\0"));
        assert_eq!(answer_of(ours(), Phase::FullFeature, key, "junk").0, format!("{key}=Reject\0"));
    }
    assert_eq!(answer_of(ours(), Phase::DiscoveryLogin, "HeaderDigest", "CRC32C").0, "HeaderDigest=CRC32C\0");
    let (answer, agreed) = answer_of(ours(), Phase::FullFeature, "MaxRecvDataSegmentLength", "512");
    assert_eq!((answer.as_str(), agreed.max_recv_data_segment_length), ("", 512));
}

#[test]
fn a_key_may_come_once_in_a_negotiation() {
    let mut negotiation = Negotiation::new(ours());
    let mut out = Vec::new();
    assert_eq!(negotiation.answer(Phase::Login, "ImmediateData", "Yes", &mut out), Ok(()));
    assert_eq!(negotiation.answer(Phase::Login, "ImmediateData", "Yes", &mut out), Err(Repeated));
    let declare = |n: &mut Negotiation| {
        n.answer(Phase::FullFeature, "MaxRecvDataSegmentLength", "512", &mut Vec::new())
    };
    for _ in 0..2 {
        negotiation.begin();
        assert_eq!(declare(&mut negotiation), Ok(()));
        assert_eq!(declare(&mut negotiation), Err(Repeated));
    }
}

#[test]
fn first_burst_never_exceeds_the_burst() {
    let mut negotiation = Negotiation::new(Parameters { first_burst_length: 1 << 24, ..ours() });
    let mut out = Vec::new();
    negotiation.answer(Phase::Login, "MaxBurstLength", "4096", &mut out).unwrap();
    assert_eq!(negotiation.agreed().first_burst_length, 4096);
}

#[test]
fn an_initiator_refuses_impossible_answers() {
    for (answer, possible) in [
        ("HeaderDigest=CRC32C", true),
        ("HeaderDigest=X-MD5", false),
        ("ImmediateData=No", true),
        ("InitialR2T=Yes", true),
        ("InitialR2T=No", true),
        ("MaxBurstLength=512", true),
        ("MaxBurstLength=1048577", false),
        ("DefaultTime2Wait=1", false),
        ("DefaultTime2Wait=3", true),
        ("MaxOutstandingR2T=Irrelevant", true),
        ("MaxRecvDataSegmentLength=16777215", true),
        ("MaxRecvDataSegmentLength=Reject", false),
        ("DataPDUInOrder=No", false),
        ("Unknown=1", true),
    ] {
        let (key, value) = answer.split_once('=').unwrap();
        assert_eq!(Negotiation::new(ours()).accept(key, value), possible, "{answer}");
    }
    let mut off = Negotiation::new(Parameters { header_digest: false, immediate_data: false, ..ours() });
    assert!(!off.accept("HeaderDigest", "CRC32C"));
    assert!(!off.accept("ImmediateData", "Yes"));
}

#[test]
fn offer_and_answer_agree() {
    let mut initiator = Negotiation::new(Parameters { max_burst_length: 70_000, ..ours() });
    let mut target = Negotiation::new(Parameters { data_digest: false, ..ours() });
    let (mut offer, mut answers) = (Vec::new(), Vec::new());
    initiator.offer(Phase::Login, &mut offer);
    for (key, value) in text::parse(&offer).unwrap() {
        target.answer(Phase::Login, key, value, &mut answers).unwrap();
    }
    target.declare(&mut answers);
    for (key, value) in text::parse(&answers).unwrap() {
        assert!(initiator.accept(key, value), "{key}={value}");
    }
    assert_eq!(initiator.agreed(), target.agreed());
    assert_eq!(target.agreed().max_burst_length, 70_000);
    assert_eq!(target.agreed().first_burst_length, 70_000);
    assert!(target.agreed().header_digest && !target.agreed().data_digest);
}
