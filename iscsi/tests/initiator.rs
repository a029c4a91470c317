//! What an initiator makes of targets that break the rules, redirect it, abort its commands and say much.

mod common;

use common::plain::*;
use common::{OTHER, Pair, TARGET, cdb, initiator_settings, pattern, split, wire};
use lunette_iscsi::discovery::{FoundAddress, targets};
use lunette_iscsi::initiator::{self, Event, Initiator, TaskManagementRequest as Management};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{
    DataIn, LoginResponse, LoginStatus, NO_TAG, NopIn, NopOut, Opcode, ReadyToTransfer, ScsiResponse,
    TaskManagementFunction, TaskManagementResponse, TaskManagementResult, TextResponse,
};
use lunette_iscsi::target::{Refusal, SessionType, Settings};
use lunette_iscsi::{Error, Outbox};

const UNDERFLOW: u8 = 0x02;
const STATUS: u8 = 0x01;

/// A session in which the target does nothing by itself, and the StatSN that is due.
fn begin(both: Parameters) -> (Pair, u32) {
    let mut pair = Pair::logged_in(both, both);
    pair.target.lazy = true;
    let ping = NopOut { opcode: Opcode(0x40), task_tag: 0xabc.into(), ..Default::default() };
    let stat_sn = header::<NopIn>(&split(&pair.inject(&wire(ping, b"")))[0]).stat_sn.get();
    (pair, stat_sn)
}

/// Shows PDUs to the initiator; its error, if it has one.
fn show(pair: &mut Pair, pdus: &[Vec<u8>]) -> Option<Error> {
    let wire = pdus.concat();
    let mut input = wire.as_slice();
    loop {
        match pair.initiator.receive(input, &mut pair.out) {
            Ok(received) if received.event.is_none() => return None,
            Ok(received) => input = &input[received.used..],
            Err(error) => return Some(error),
        }
    }
}

fn data_in(tag: u32, (data_sn, offset, length): (u32, u32, usize), flags: u8, stat_sn: u32) -> Vec<u8> {
    let header = DataIn {
        flags,
        task_tag: tag.into(),
        transfer_tag: NO_TAG.into(),
        stat_sn: stat_sn.into(),
        data_sn: data_sn.into(),
        buffer_offset: offset.into(),
        ..Default::default()
    };
    wire(header, &vec![5; length])
}

fn request(tag: u32, r2t_sn: u32, offset: u32, length: u32) -> Vec<u8> {
    let header = ReadyToTransfer {
        task_tag: tag.into(),
        transfer_tag: 3.into(),
        r2t_sn: r2t_sn.into(),
        buffer_offset: offset.into(),
        desired_length: length.into(),
        ..Default::default()
    };
    wire(header, b"")
}

fn response(tag: u32, stat_sn: u32, change: impl Fn(&mut ScsiResponse)) -> Vec<u8> {
    let mut header = ScsiResponse { task_tag: tag.into(), stat_sn: stat_sn.into(), ..Default::default() };
    change(&mut header);
    wire(header, b"")
}

#[test]
fn data_in_must_be_as_agreed() {
    let any_order = Parameters { data_pdu_in_order: false, data_sequence_in_order: false, ..PLAIN };
    let end = FINAL | STATUS;
    for (name, both, pdus, fails) in [
        ("as it should be", PLAIN, vec![((0, 0, 4096), FINAL), ((1, 4096, 1904), end)], false),
        ("a DataSN twice", PLAIN, vec![((0, 0, 4096), FINAL), ((0, 4096, 1904), end)], true),
        ("a gap", PLAIN, vec![((0, 512, 4096), FINAL)], true),
        ("the wrong order", PLAIN, vec![((0, 4096, 1904), FINAL), ((1, 0, 4096), end)], true),
        ("any order", any_order, vec![((0, 4096, 1904), FINAL), ((1, 0, 4096), end)], false),
        (
            "an overlap",
            any_order,
            vec![((0, 4096, 1904), FINAL), ((1, 0, 4096), FINAL), ((2, 100, 1), end)],
            true,
        ),
        ("too much", PLAIN, vec![((0, 0, 4096), FINAL), ((1, 4096, 1905), end)], true),
        ("a wild offset", PLAIN, vec![((0, u32::MAX, 512), FINAL)], true),
        ("a long sequence", PLAIN, vec![((0, 0, 4097), FINAL)], true),
        ("a sequence without an end", PLAIN, vec![((0, 0, 4096), 0), ((1, 4096, 1904), end)], true),
        ("a status before the end", PLAIN, vec![((0, 0, 4096), STATUS)], true),
        ("too little", PLAIN, vec![((0, 0, 4096), FINAL), ((1, 4096, 1903), end)], true),
        ("a gap that is left", any_order, vec![((0, 4096, 1904), end)], true),
        (
            "an underflow that is told",
            PLAIN,
            vec![((0, 0, 4096), FINAL), ((1, 4096, 904), end | UNDERFLOW)],
            false,
        ),
        ("one that is wrong", PLAIN, vec![((0, 0, 4096), FINAL), ((1, 4096, 905), end | UNDERFLOW)], true),
    ] {
        let (mut pair, stat_sn) = begin(both);
        let tag = pair.command(&cdb(0, 6000, 0), 6000, None).unwrap();
        let pdus: Vec<_> = pdus
            .into_iter()
            .map(|(fields, flags)| {
                let mut pdu = data_in(tag, fields, flags, stat_sn);
                if flags & UNDERFLOW != 0 {
                    pdu[44..48].copy_from_slice(&1000u32.to_be_bytes());
                }
                pdu
            })
            .collect();
        let error = show(&mut pair, &pdus);
        assert_eq!(matches!(error, Some(Error::Transfer(_))), fails, "{name}: {error:?}");
        assert_eq!(error.is_some(), fails, "{name}: {error:?}");
        assert!(fails || !pair.initiator.is_open(tag));
    }
}

#[test]
fn requests_must_be_as_agreed() {
    let any_order = Parameters { data_sequence_in_order: false, ..PLAIN };
    for (name, both, requests, fails) in [
        ("as they should be", PLAIN, vec![(0, 0, 4096), (1, 4096, 1904)], false),
        ("an R2TSN twice", PLAIN, vec![(0, 0, 4096), (0, 4096, 1904)], true),
        ("a gap", PLAIN, vec![(0, 512, 512)], true),
        ("any order", any_order, vec![(0, 4096, 1904), (1, 0, 4096)], false),
        ("an overlap", any_order, vec![(0, 4096, 1904), (1, 1, 4096)], true),
        ("the same twice", PLAIN, vec![(0, 0, 4096), (1, 0, 4096)], true),
        ("nothing", PLAIN, vec![(0, 0, 0)], true),
        ("more than a burst", PLAIN, vec![(0, 0, 4097)], true),
        ("more than there is", PLAIN, vec![(0, 0, 4096), (1, 4096, 1905)], true),
    ] {
        let (mut pair, _) = begin(both);
        let tag = pair.command(&cdb(0, 6000, 0), 0, Some(pattern(1, 6000))).unwrap();
        let pdus: Vec<_> =
            requests.iter().map(|&(sn, offset, length)| request(tag, sn, offset, length)).collect();
        let error = show(&mut pair, &pdus);
        assert_eq!(matches!(error, Some(Error::Transfer(_))), fails, "{name}: {error:?}");
    }
}

#[test]
fn responses_must_fit_their_requests() {
    for (name, answer, error) in [
        ("a good one", 0, None),
        ("a StatSN ahead", 1, Some(Error::StatSn { received: 3, expected: 2 })),
        ("no such task", 2, Some(Error::NoSuchTask(Opcode::SCSI_RESPONSE))),
        ("an answer to something else", 3, Some(Error::NoSuchTask(Opcode::TASK_MANAGEMENT_RESPONSE))),
        ("data for a write", 4, Some(Error::Transfer("data is past the end of what the command expects"))),
        ("data is missing", 5, Some(Error::Transfer("ExpDataSN is wrong: Data-In or R2Ts are missing"))),
        ("a failure of which nothing is counted", 6, None),
    ] {
        let (mut pair, stat_sn) = begin(PLAIN);
        let tag = pair.command(&cdb(0, 600, 0), 0, Some(pattern(1, 600))).unwrap();
        let read = pair.command(&cdb(0, 600, 0), 600, None).unwrap();
        let pdu = match answer {
            0 => response(tag, stat_sn, |_| {}),
            1 => response(tag, stat_sn + 1, |_| {}),
            2 => response(77, stat_sn, |_| {}),
            3 => {
                let header = TaskManagementResponse {
                    task_tag: tag.into(),
                    stat_sn: stat_sn.into(),
                    ..Default::default()
                };
                wire(header, b"")
            }
            4 => data_in(tag, (0, 0, 10), FINAL, 0),
            5 => response(tag, stat_sn, |pdu| pdu.exp_data_sn = 1.into()),
            _ => response(read, stat_sn, |pdu| pdu.status = 2),
        };
        let expected = match error {
            Some(Error::StatSn { .. }) => Some(Error::StatSn { received: stat_sn + 1, expected: stat_sn }),
            other => other,
        };
        assert_eq!(show(&mut pair, &[pdu]), expected, "{name}");
    }
}

/// Changes the target's answer to a login.
fn answer_login(change: impl Fn(&mut LoginResponse)) -> Option<Error> {
    let mut out = Outbox::default();
    let settings = initiator::Settings {
        first_stage: lunette_iscsi::pdu::Stage::OPERATIONAL,
        ..initiator_settings(PLAIN)
    };
    let isid = settings.isid;
    let mut initiator = Initiator::new(settings, &mut out);
    let mut header = LoginResponse { flags: FINAL | 1 << 2 | 3, isid, tsih: 1.into(), ..Default::default() };
    change(&mut header);
    let answer = wire(header, b"MaxRecvDataSegmentLength=8192\0");
    let received = initiator.receive(&answer, &mut out);
    received.map(|received| assert!(matches!(received.event, Some(Event::LoggedIn)))).err()
}

#[test]
fn login_answers_are_checked() {
    assert_eq!(answer_login(|_| {}), None);
    let wrong: [fn(&mut LoginResponse); 8] = [
        |pdu| pdu.version_active = 1,
        |pdu| pdu.isid[5] = 9,
        |pdu| pdu.task_tag = 1.into(),
        |pdu| pdu.tsih = 0.into(),
        |pdu| pdu.flags = FINAL | 3,
        |pdu| pdu.flags = FINAL | 1 << 2 | 1,
        |pdu| pdu.flags |= 0x40,
        |pdu| pdu.flags = FINAL | 3 << 2 | 3,
    ];
    for change in wrong {
        assert_eq!(answer_login(change), Some(Error::Negotiation));
    }
}

#[test]
fn a_redirection_is_passed_on() {
    for permanent in [false, true] {
        let mut pair = Pair::new(Settings::default(), initiator_settings(PLAIN), 3);
        pair.target.targets.refuse = Some(Refusal::moved("[fd00::2]:860".parse().unwrap(), permanent));
        pair.run();
        let status = if permanent { LoginStatus::MOVED_PERMANENTLY } else { LoginStatus::MOVED_TEMPORARILY };
        assert_eq!(pair.error, Some(Error::LoginRefused(status)));
        let address = FoundAddress::parse(pair.initiator.moved_to().unwrap());
        assert_eq!(address, Some(FoundAddress { host: "fd00::2", port: 860, group_tag: None }));
    }
}

#[test]
fn texts_take_as_many_pdus_as_they_need() {
    let short = Parameters { max_recv_data_segment_length: 512, ..PLAIN };
    let mut pair = Pair::logged_in(short, short);
    let mut text = b"X-k=1\0".repeat(400);
    text.extend(b"SendTargets=\0");
    assert!(pair.initiator.text(&text, &mut pair.out).is_some());
    assert!(pair.initiator.text(b"", &mut pair.out).is_none(), "one at a time");
    pair.run();
    assert_eq!((pair.error, pair.target.error), (None, None));
    let answer = pair.texts.pop().unwrap();
    assert_eq!(answer.matches("X-k=NotUnderstood\0").count(), 400);
    assert!(answer.ends_with(":3260,1\0"));
    assert!(pair.initiator.text(&[b'a'; 65 * 1024], &mut pair.out).is_none());
}

#[test]
fn texts_end_when_all_is_said() {
    let short = Parameters { max_recv_data_segment_length: 512, ..PLAIN };
    for (flags, transfer_tag, good) in
        [(0, 5, true), (FINAL, NO_TAG, false), (0, NO_TAG, false), (FINAL, 5, false)]
    {
        let (mut pair, stat_sn) = begin(short);
        let tag = pair.initiator.text(&[b'a'; 600], &mut pair.out).unwrap();
        let header = TextResponse {
            flags,
            task_tag: tag.into(),
            transfer_tag: transfer_tag.into(),
            stat_sn: stat_sn.into(),
            ..Default::default()
        };
        let error = (!good).then_some(Error::Negotiation);
        assert_eq!(show(&mut pair, &[wire(header, b"")]), error, "{flags} {transfer_tag}");
    }
}

#[test]
fn discovered_targets_are_read() {
    let settings = initiator::Settings { session_type: SessionType::Discovery, ..initiator_settings(PLAIN) };
    let mut pair = Pair::new(Settings::default(), settings, 11);
    pair.run();
    pair.initiator.text(b"SendTargets=All\0", &mut pair.out).unwrap();
    pair.run();
    let answer = pair.texts.pop().unwrap();
    let found = targets(answer.as_bytes()).unwrap();
    let names: Vec<_> = found.iter().map(|target| (target.name, target.addresses.len())).collect();
    assert_eq!(names, [(TARGET, 2), (OTHER, 1)]);
    let address = FoundAddress { host: "fd00::1", port: 3260, group_tag: Some(1) };
    assert_eq!(found[0].addresses[1], address);
}

#[test]
fn aborted_commands_are_forgotten_and_their_payloads_given_back() {
    use TaskManagementFunction as Function;
    let unit = [0, 1, 0, 0, 0, 0, 0, 0];
    for (function, lun, result, left) in [
        (Function::ABORT_TASK, unit, TaskManagementResult::COMPLETE, [false, true]),
        (Function::ABORT_TASK, unit, TaskManagementResult::NO_TASK, [true, true]),
        (Function::ABORT_TASK_SET, unit, TaskManagementResult::COMPLETE, [false, false]),
        (Function::LOGICAL_UNIT_RESET, [0; 8], TaskManagementResult::COMPLETE, [true, true]),
        (Function::TARGET_WARM_RESET, [0; 8], TaskManagementResult::COMPLETE, [false, false]),
        (Function::QUERY_TASK, unit, TaskManagementResult::COMPLETE, [true, true]),
    ] {
        let (mut pair, stat_sn) = begin(PLAIN);
        let write = pair.command(&cdb(0, 600, 0), 0, Some(pattern(1, 600))).unwrap();
        let read = pair.command(&cdb(0, 600, 0), 600, None).unwrap();
        let request =
            Management { function, lun, referenced_task_tag: write, ref_cmd_sn: 1, immediate: true };
        let tag = pair.initiator.task_management(&request, &mut pair.out).unwrap();
        let header = TaskManagementResponse {
            result,
            task_tag: tag.into(),
            stat_sn: stat_sn.into(),
            ..Default::default()
        };
        assert_eq!(show(&mut pair, &[wire(header, b"")]), None);
        let open = [write, read].map(|tag| pair.initiator.is_open(tag));
        assert_eq!((open, pair.initiator.is_open(tag)), (left, false), "{function} {result}");
        let mut released = Vec::new();
        pair.out.clear(|token| released.push(token));
        assert_eq!(released.is_empty(), left[0], "{function} {result}");
    }
}
