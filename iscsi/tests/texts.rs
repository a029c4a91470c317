//! Texts in full-feature phase, and discovery sessions, which have little else.

mod common;

use common::plain::{FINAL, PLAIN, assert_alive, command, header, plain, reject_reason};
use common::{OTHER, Pair, TARGET, cdb, initiator_settings, pattern, split, wire};
use lunette_iscsi::initiator;
use lunette_iscsi::pdu::{self, NO_TAG, Opcode, RejectReason, TextRequest};
use lunette_iscsi::target::{Connection, SessionType, Settings};

fn ask(pair: &mut Pair, text: &str) -> String {
    pair.initiator.text(text.replace(' ', "\0").as_bytes(), &mut pair.out).unwrap();
    pair.run();
    assert_eq!((pair.error, pair.target.error), (None, None));
    pair.texts.pop().expect("an answer").replace('\0', " ")
}

fn discovery() -> Pair {
    let settings = initiator::Settings {
        session_type: SessionType::Discovery,
        target_name: String::new(),
        ..initiator_settings(PLAIN)
    };
    let mut pair = Pair::new(Settings::default(), settings, 11);
    pair.run();
    assert!(pair.logged_in);
    pair
}

#[test]
fn send_targets() {
    let disk = format!("TargetName={TARGET} TargetAddress=10.0.0.1:3260,1 TargetAddress=[fd00::1]:3260,1 ");
    let tape = format!("TargetName={OTHER} TargetAddress=10.0.0.1:3260,1 ");
    let mut pair = plain();
    for own in ["", "All", TARGET] {
        assert_eq!(ask(&mut pair, &format!("SendTargets={own}")), disk);
    }
    for refused in [OTHER, "junk", "iqn."] {
        assert_eq!(ask(&mut pair, &format!("SendTargets={refused}")), "SendTargets=Reject ");
    }
    let mut pair = discovery();
    assert_eq!(ask(&mut pair, "SendTargets=All"), disk.clone() + &tape);
    assert_eq!(ask(&mut pair, &format!("SendTargets={OTHER}")), tape);
    assert_eq!(ask(&mut pair, "SendTargets=iqn.unknown"), "");
    assert_eq!(ask(&mut pair, "SendTargets="), "SendTargets=Reject ");
}

#[test]
fn what_is_asked_for_twice_in_one_negotiation_is_rejected() {
    let length = "MaxRecvDataSegmentLength=512";
    for text in ["SendTargets=All SendTargets=All".to_owned(), format!("{length} X-a=1 {length}")] {
        let mut pair = discovery();
        pair.initiator.text(text.replace(' ', "\0").as_bytes(), &mut pair.out).unwrap();
        pair.run();
        assert_eq!(pair.rejects.pop().unwrap().0, RejectReason::PROTOCOL, "{text}");
        assert_eq!((pair.texts.pop(), pair.error), (None, None));
    }
    let mut pair = discovery();
    for _ in 0..2 {
        assert_eq!(ask(&mut pair, length), "", "each text is a negotiation of its own");
    }
}

#[test]
fn no_more_targets_are_looked_at_than_are_told() {
    let mut pair = discovery();
    pair.target.targets.extra = 50_000;
    ask(&mut pair, &format!("SendTargets={OTHER}"));
    assert_eq!(pair.target.targets.shown.take(), 1);
    let told = ask(&mut pair, "SendTargets=All").matches("TargetName=").count();
    assert_eq!(pair.target.targets.shown.take(), told + 1, "the last did not fit");
}

#[test]
fn long_lists_take_several_responses_and_have_an_end() {
    let mut pair = discovery();
    pair.target.targets.extra = 5000;
    let answer = ask(&mut pair, "SendTargets=All");
    assert_eq!(answer.matches("TargetName=").count(), 5002);
    pair.target.targets.extra = 50_000;
    let answer = ask(&mut pair, "SendTargets=All");
    assert!(answer.len() <= 1 << 20 && answer.ends_with("3260,1 "), "cut at a whole target");
}

#[test]
fn other_keys_in_texts() {
    let mut pair = plain();
    assert_eq!(ask(&mut pair, ""), "");
    assert_eq!(ask(&mut pair, "X-a=1 MaxBurstLength=512"), "X-a=NotUnderstood MaxBurstLength=Reject ");
    assert_eq!(ask(&mut pair, "MaxRecvDataSegmentLength=512"), "");
    let tag = pair.command(&cdb(1, 2000, 0), 2000, None).unwrap();
    pair.run();
    assert_eq!(pair.ended[&tag].data, pattern(1, 2000), "in segments of 512 bytes");
}

#[test]
fn junk_texts_are_rejected_and_the_session_goes_on() {
    let mut pair = plain();
    let text = |transfer_tag: u32, flags, data: &[u8]| {
        let header = TextRequest {
            opcode: Opcode(0x44),
            flags,
            task_tag: 3.into(),
            transfer_tag: transfer_tag.into(),
            ..Default::default()
        };
        wire(header, data)
    };
    for (pdu, reason) in [
        (text(NO_TAG, FINAL, b"junk"), RejectReason::PROTOCOL),
        (text(NO_TAG, FINAL, b"\xff=\xff\0"), RejectReason::PROTOCOL),
        (text(NO_TAG, FINAL | 0x40, b"A=1"), RejectReason::INVALID_FIELD),
        (text(17, FINAL, b"A=1"), RejectReason::INVALID_FIELD),
        (text(NO_TAG, FINAL, &[b'a'; 65 * 1024]), RejectReason::OUT_OF_RESOURCES),
    ] {
        assert_eq!(reject_reason(&pair.inject(&pdu)), reason);
    }
    // A rejected piece ends the exchange.
    let pdus = split(&pair.inject(&text(NO_TAG, 0x40, b"Send")));
    let transfer_tag = header::<pdu::TextResponse>(&pdus[0]).transfer_tag.get();
    assert_eq!(
        reject_reason(&pair.inject(&text(transfer_tag, 0x40, &[b'a'; 65 * 1024]))),
        RejectReason::OUT_OF_RESOURCES
    );
    assert_eq!(reject_reason(&pair.inject(&text(transfer_tag, FINAL, b"=1"))), RejectReason::INVALID_FIELD);
    // A text in pieces.
    let pdus = split(&pair.inject(&text(NO_TAG, 0x40, b"Send")));
    let response: pdu::TextResponse = header(&pdus[0]);
    assert_eq!((response.flags, pdus[0].1.len()), (0, 0));
    let pdus = split(&pair.inject(&text(response.transfer_tag.get(), FINAL, b"Targets=\0")));
    assert!(pdus[0].1.starts_with(b"TargetName="));
    // Keys that are for logins, or for targets.
    let pdus =
        split(&pair.inject(&text(NO_TAG, FINAL, b"TargetAlias=a\0TargetName=b\0AuthMethod=None\0X-y=1\0")));
    assert_eq!(pdus[0].1, b"TargetAlias=Reject\0TargetName=Reject\0AuthMethod=Reject\0X-y=NotUnderstood\0");
    assert_alive(&mut pair);
}

#[test]
fn an_idle_connection_gives_memory_back() {
    let text = |transfer_tag: u32, flags, data: &[u8]| {
        let (opcode, task_tag) = (Opcode(0x44), 3.into());
        let transfer_tag = transfer_tag.into();
        wire(TextRequest { opcode, flags, task_tag, transfer_tag, ..Default::default() }, data)
    };
    let mut pair = plain();
    fn connection(pair: &mut Pair) -> &mut Connection {
        &mut pair.target.accepted.as_mut().unwrap().connection
    }
    let pdus = split(&pair.inject(&text(NO_TAG, 0x40, &[b'a'; 60 << 10])));
    let transfer_tag = header::<pdu::TextResponse>(&pdus[0]).transfer_tag.get();
    assert!(connection(&mut pair).footprint() >= 120 << 10);
    connection(&mut pair).shrink();
    assert_eq!(connection(&mut pair).footprint(), 0);
    // The text that was begun is forgotten.
    assert_eq!(reject_reason(&pair.inject(&text(transfer_tag, FINAL, b"=1\0"))), RejectReason::INVALID_FIELD);
    // But not what is on its way.
    let (head, tail) = (text(NO_TAG, FINAL, b"SendTargets=\0"), 52);
    assert!(pair.inject(&head[..tail]).is_empty());
    connection(&mut pair).shrink();
    assert!(split(&pair.inject(&head[tail..]))[0].1.starts_with(b"TargetName="));
    assert_alive(&mut pair);
    assert!(pair.inject(&head[..tail]).is_empty());
    connection(&mut pair).drop_buffers();
    assert_eq!(connection(&mut pair).footprint(), 0, "unless it is over");
}

#[test]
fn discovery_sessions_take_no_commands() {
    let mut pair = discovery();
    assert_eq!(reject_reason(&pair.inject(&wire(command(1, 1, FINAL, 0), b""))), RejectReason::PROTOCOL);
    assert_alive(&mut pair);
}
