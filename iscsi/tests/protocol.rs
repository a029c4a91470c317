//! The rest of full-feature phase: order, task management, pings, logout, and what wrong PDUs do.

mod common;

use common::plain::*;
use common::{Pair, cdb, split, wire};
use lunette_iscsi::initiator::TaskManagementRequest as Management;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{
    self, AsyncEvent, DataIn, DataOut, LogoutReason, LogoutRequest, LogoutResult, NO_TAG, NopOut, Opcode,
    ReadyToTransfer, Reject, RejectReason, ScsiCommand, ScsiResponse, TaskManagementFunction,
    TaskManagementResult,
};
use lunette_iscsi::target::{Accepted, AsyncMessage, DataError, Event, Response, Session};
use lunette_iscsi::{Error, Piece};

#[test]
fn pings_of_both_sides() {
    let mut pair =
        Pair::logged_in(Parameters::PREFERRED, Parameters { max_recv_data_segment_length: 512, ..PLAIN });
    pair.initiator.ping(b"hello", &mut pair.out).unwrap();
    pair.initiator.ping(&[7; 600], &mut pair.out).unwrap();
    let accepted = pair.target.accepted.as_mut().unwrap();
    accepted.connection.ping(&accepted.session, 77, &mut pair.target.out);
    pair.run();
    assert_eq!(pair.pongs, [b"hello".to_vec(), vec![7; 512]], "no more than the initiator takes");
    assert_eq!(pair.target.pongs, [77]);
    assert_eq!((pair.error, pair.target.error), (None, None));
}

#[test]
fn commands_outside_the_window_are_ignored() {
    let mut pair = plain();
    for cmd_sn in [0, u32::MAX, 1 + 128, 0x8000_0001] {
        assert!(pair.inject(&wire(command(5, cmd_sn, FINAL, 0), b"")).is_empty(), "{cmd_sn}");
        assert!(
            pair.inject(&wire(
                NopOut { task_tag: 6.into(), cmd_sn: cmd_sn.into(), ..Default::default() },
                b""
            ))
            .is_empty()
        );
    }
    assert!(pair.target.delivered.is_empty());
    assert_alive(&mut pair);
    pair.inject(&wire(command(5, 1, FINAL, 0), b""));
    assert!(pair.inject(&wire(command(6, 1, FINAL, 0), b"")).is_empty(), "a duplicate");
    assert_eq!(pair.target.delivered, [5]);
}

#[test]
fn commands_are_delivered_in_order() {
    let mut pair = plain();
    for (tag, cmd_sn) in [(13, 3), (14, 4), (12, 2)] {
        assert!(pair.inject(&wire(command(tag, cmd_sn, FINAL, 0), b"")).is_empty());
    }
    let immediate = ScsiCommand { opcode: Opcode(0x41), ..command(20, 1, FINAL, 0) };
    pair.inject(&wire(immediate, b""));
    assert_eq!(pair.target.delivered, [20]);
    let answers = split(&pair.inject(&wire(command(11, 1, FINAL, 0), b"")));
    assert_eq!(pair.target.delivered, [20, 11, 12, 13, 14]);
    let last: ScsiResponse = header(answers.last().unwrap());
    assert_eq!((last.exp_cmd_sn.get(), last.max_cmd_sn.get()), (5, 5 + 127));
}

#[test]
fn early_data_of_held_commands_is_kept() {
    let both = Parameters { immediate_data: true, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    pair.inject(&wire(command(12, 2, FINAL | WRITE, 8), b"payload!"));
    assert!(pair.target.written.is_empty());
    pair.inject(&wire(command(11, 1, FINAL, 0), b""));
    assert_eq!(pair.target.written[&12], b"payload!");
}

#[test]
fn a_command_is_whole_if_its_data_comes_with_it_and_nothing_overtakes_it() {
    let both = Parameters { immediate_data: true, initial_r2t: false, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    pair.inject(&wire(command(1, 1, FINAL | READ, 8), b""));
    pair.inject(&wire(command(2, 2, FINAL | WRITE, 8), b"payload!"));
    assert_eq!(pair.target.whole, [1, 2]);
    pair.inject(&wire(command(3, 3, FINAL | WRITE, 8), b"half"));
    pair.inject(&wire(command(4, 4, WRITE, 8), b"half"));
    pair.inject(&wire(command(6, 6, FINAL | WRITE, 8), b"payload!"));
    pair.inject(&wire(command(5, 5, FINAL | WRITE, 8), b"payload!"));
    assert_eq!(pair.target.delivered, [1, 2, 3, 4, 5, 6]);
    assert_eq!(pair.target.whole, [1, 2], "6 is early, and delivered between the header of 5 and its data");
    pair.inject(&wire(command(7, 7, FINAL | WRITE, 8), b"payload!"));
    assert_eq!(pair.target.whole, [1, 2, 7]);
}

#[test]
fn malformed_commands_are_rejected() {
    let both = Parameters { immediate_data: true, initial_r2t: false, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    for (pdu, data) in [
        (command(2, 1, WRITE | FINAL, 4), &b"12345678"[..]),
        (command(2, 1, READ | FINAL, 8), b"12345678"),
        (command(2, 1, WRITE | FINAL, 9000), &[0; 2049]),
    ] {
        assert_eq!(reject_reason(&pair.inject(&wire(pdu, data))), RejectReason::INVALID_FIELD);
    }
    let mut bad_additional = wire(command(2, 1, FINAL, 0), b"");
    bad_additional[4] = 1;
    bad_additional.extend([0, 9, 1, 0]);
    assert_eq!(reject_reason(&pair.inject(&bad_additional)), RejectReason::INVALID_FIELD);
    assert!(pair.target.delivered.is_empty());
    assert_alive(&mut pair);
}

#[test]
fn immediate_commands_are_bounded() {
    let mut pair = plain();
    pair.target.lazy = true;
    for tag in 0..32 {
        let pdu = ScsiCommand { opcode: Opcode(0x41), ..command(tag, 1, FINAL, 0) };
        assert!(pair.inject(&wire(pdu, b"")).is_empty());
    }
    let pdu = ScsiCommand { opcode: Opcode(0x41), ..command(99, 1, FINAL, 0) };
    assert_eq!(reject_reason(&pair.inject(&wire(pdu, b""))), RejectReason::IMMEDIATE);
    for tag in 100..228 {
        assert!(pair.inject(&wire(command(tag, tag - 99, FINAL, 0), b"")).is_empty());
    }
    assert_eq!(pair.target.delivered.len(), 32 + 128, "the window is untouched");
    assert_eq!(pair.target.accepted.as_ref().unwrap().session.slots(), 160);
}

/// Starts a write of 6000 bytes and returns the target transfer tag of its first R2T.
fn begin_write(pair: &mut Pair, tag: u32, cmd_sn: u32) -> u32 {
    let pdus = split(&pair.inject(&wire(command(tag, cmd_sn, FINAL | WRITE, 6000), b"")));
    let request: ReadyToTransfer = header(&pdus[0]);
    assert_eq!((opcode(&pdus[0]), request.desired_length.get()), (Opcode::READY_TO_TRANSFER, 4096));
    request.transfer_tag.get()
}

fn data_out(
    tag: u32,
    transfer_tag: u32,
    (data_sn, offset, length): (u32, u32, usize),
    last: bool,
) -> Vec<u8> {
    let header = DataOut {
        flags: if last { FINAL } else { 0 },
        task_tag: tag.into(),
        transfer_tag: transfer_tag.into(),
        data_sn: data_sn.into(),
        buffer_offset: offset.into(),
        ..Default::default()
    };
    wire(header, &vec![5; length])
}

#[test]
fn wrong_data_out_fails_its_command_only() {
    let mut pair = plain();
    let mut cmd_sn = 1;
    let mut check = |fields, last, change_tag: u32, error: DataError| {
        let tag = 100 + cmd_sn;
        let transfer_tag = begin_write(&mut pair, tag, cmd_sn) ^ change_tag;
        cmd_sn += 1;
        let pdus = split(&pair.inject(&data_out(tag, transfer_tag, fields, last)));
        let response: ScsiResponse = header(&pdus[0]);
        assert_eq!((opcode(&pdus[0]), response.status), (Opcode::SCSI_RESPONSE, 2), "{fields:?}");
        let (key, code, qualifier) = error.sense();
        assert_eq!((pdus[0].1[4], pdus[0].1[14], pdus[0].1[15]), (key, code, qualifier));
        assert_eq!(pair.target.failures.pop(), Some(error), "{fields:?}");
        assert!(
            pair.inject(&data_out(tag, transfer_tag, (0, 0, 4096), true)).is_empty(),
            "late data is dropped"
        );
        assert_alive(&mut pair);
    };
    check((1, 0, 4096), true, 0, DataError::DataSn);
    check((27, 0, 4096), true, 0, DataError::DataSn);
    check((u32::MAX, 0, 4096), true, 0, DataError::DataSn);
    check((0, 512, 4096), true, 0, DataError::Offset);
    check((0, 0, 4096), false, 0, DataError::Length);
    check((0, 0, 4095), true, 0, DataError::Length);
    check((0, 0, 4097), true, 0, DataError::Length);
    check((0, 0, 4096), true, 1, DataError::TransferTag);
    check((0, 0, 4096), true, 0x1_0000, DataError::TransferTag);
    check((0, 0, 4096), true, 0x8000_0000, DataError::TransferTag);
    let transfer_tag = begin_write(&mut pair, 1, cmd_sn);
    let mut other_unit = data_out(1, transfer_tag, (0, 0, 4096), true);
    other_unit[9] = 1;
    pair.inject(&other_unit);
    assert_eq!(pair.target.failures, [DataError::Lun]);
}

#[test]
fn repeated_and_unsolicited_data_fail_too() {
    let mut pair = plain();
    let transfer_tag = begin_write(&mut pair, 1, 1);
    assert!(pair.inject(&data_out(1, transfer_tag, (0, 0, 2048), false)).is_empty());
    pair.inject(&data_out(1, transfer_tag, (0, 2048, 2048), true));
    begin_write(&mut pair, 2, 2);
    pair.inject(&data_out(2, NO_TAG, (0, 0, 2048), true));
    assert_eq!(pair.target.failures, [DataError::DataSn, DataError::Unsolicited]);
    assert_eq!(DataError::Unsolicited.sense(), (0x0b, 0x0c, 0x0c));
    assert!(pair.target.written.is_empty());
    // The same session still takes a write in the right order.
    let transfer_tag = begin_write(&mut pair, 3, 3);
    pair.inject(&data_out(3, transfer_tag, (0, 0, 2048), false));
    pair.inject(&data_out(3, transfer_tag, (1, 2048, 2048), true));
    pair.inject(&data_out(3, transfer_tag + 0x1_0000, (0, 4096, 1904), true));
    assert_eq!(pair.target.written[&3], [5; 6000]);
}

/// Sends bytes to the machines without the test device.
fn raw(pair: &mut Pair, mut input: &[u8], mut see: impl FnMut(&mut Session, Event<'_>)) {
    let Accepted { connection, session } = &mut **pair.target.accepted.as_mut().unwrap();
    loop {
        let received =
            connection.receive(session, &pair.target.targets, input, &mut pair.target.out).unwrap();
        input = &input[received.used..];
        let Some(event) = received.event else { return };
        see(session, event);
    }
}

#[test]
fn data_for_tasks_that_are_over_is_dropped() {
    let both = Parameters { immediate_data: true, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    let pdu = wire(command(1, 1, FINAL | WRITE, 1000), &[5; 1000]);
    let mut bytes_seen = 0;
    for (input, discard) in [(&pdu[..300], true), (&pdu[300..], false)] {
        raw(&mut pair, input, |session, event| match event {
            Event::Command(_) => {}
            Event::Payload { task, bytes, .. } => {
                bytes_seen += bytes.len();
                assert_eq!(session.discard(task), discard);
            }
            event => panic!("{event:?}"),
        });
        let Accepted { connection, session } = &**pair.target.accepted.as_ref().unwrap();
        assert_eq!(connection.expected_payload(session), None);
    }
    assert_eq!(bytes_seen, 300 - 48);
    assert_alive(&mut pair);
}

#[test]
fn data_after_the_last_is_dropped() {
    let both = Parameters { initial_r2t: false, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    let mut task = None;
    raw(&mut pair, &wire(command(1, 1, WRITE, 512), b""), |_, event| {
        let Event::Command(command) = event else { panic!("{event:?}") };
        task = Some(command.task);
    });
    let Accepted { connection, session } = &mut **pair.target.accepted.as_mut().unwrap();
    assert!(!connection.request_data(session, task.unwrap(), 512, &mut pair.target.out));
    let data = data_out(1, NO_TAG, (0, 0, 512), true);
    let mut events = Vec::new();
    raw(&mut pair, &data.repeat(2), |_, event| events.push(format!("{event:?}")));
    assert_eq!(events.len(), 2, "payload and completion, once: {events:?}");
    assert!(pair.target.out.is_empty());
}

#[test]
fn reads_are_cut_into_sequences_of_segments() {
    let short = Parameters { max_recv_data_segment_length: 1500, ..PLAIN };
    let mut pair = Pair::logged_in(PLAIN, short);
    let pdus = split(&pair.inject(&wire(command(1, 1, FINAL | READ, 6000), b"")));
    let cuts: Vec<_> = pdus.iter().map(|pdu| (pdu.1.len(), header::<DataIn>(pdu).flags)).collect();
    assert_eq!(cuts, [(1500, 0), (1500, 0), (1096, FINAL), (1500, 0), (404, FINAL | 1)]);
}

#[test]
fn the_response_counts_data_in_and_r2t_together() {
    let mut pair = plain();
    let pdu = ScsiCommand { cdb: cdb(0, 600, 0x18), ..command(1, 1, FINAL | READ | WRITE, 600) };
    let mut bidirectional = wire(pdu, b"");
    bidirectional[4] = 2;
    bidirectional.extend([0, 5, 2, 0, 0, 0, 2, 88]);
    let request: ReadyToTransfer = header(&split(&pair.inject(&bidirectional))[0]);
    let pdus = split(&pair.inject(&data_out(1, request.transfer_tag.get(), (0, 0, 600), true)));
    let (data, response): (DataIn, ScsiResponse) = (header(&pdus[0]), header(pdus.last().unwrap()));
    assert_eq!((opcode(&pdus[0]), data.data_sn.get()), (Opcode::DATA_IN, 1), "the R2T was 0");
    assert_eq!((response.status, response.exp_data_sn.get() as usize), (0x18, pdus.len()));
}

#[test]
fn unsolicited_data_must_fill_the_first_burst() {
    let both = Parameters { initial_r2t: false, ..PLAIN };
    for (length, last, good) in
        [(2048, true, true), (2048, false, false), (1000, true, false), (2049, true, false)]
    {
        let mut pair = Pair::logged_in(both, both);
        pair.inject(&wire(command(1, 1, WRITE, 2048), b""));
        pair.inject(&data_out(1, NO_TAG, (0, 0, length), last));
        assert_eq!(pair.target.written.contains_key(&1), good, "{length} {last}");
        assert_eq!(pair.target.failures.is_empty(), good);
    }
}

#[test]
fn data_digest_errors_fail_the_command() {
    let both =
        Parameters { data_digest: true, immediate_data: true, max_recv_data_segment_length: 4096, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    let mut bad = wire(command(1, 1, FINAL | WRITE, 8), b"payload!");
    bad.extend([1, 2, 3, 4]);
    let answer = pair.inject(&bad);
    assert_eq!(
        header::<Reject>(&(answer[..48].try_into().unwrap(), Vec::new())).reason,
        RejectReason::DATA_DIGEST
    );
    assert_eq!(pair.target.failures, [DataError::Digest]);
    assert!(pair.target.written.is_empty());
    // A ping with a bad digest is rejected, and not echoed.
    let mut bad = wire(NopOut { task_tag: 9.into(), opcode: Opcode(0x40), ..Default::default() }, b"ping");
    bad.extend([1, 2, 3, 4]);
    let answer = pair.inject(&bad);
    assert_eq!((answer[0], answer.len()), (0x3f, 48 + 48 + 4));
    assert_eq!(pair.target.error, None);
    // Nor does such a ping, or text, use up its CmdSN.
    for (opcode, cmd_sn) in [(Opcode::NOP_OUT, 2u8), (Opcode::TEXT_REQUEST, 3)] {
        let pdu = NopOut {
            opcode,
            task_tag: 9.into(),
            transfer_tag: NO_TAG.into(),
            cmd_sn: u32::from(cmd_sn).into(),
            ..Default::default()
        };
        let mut bad = wire(pdu, b"SendTargets=");
        bad.extend([1, 2, 3, 4]);
        let answer = pair.inject(&bad);
        assert_eq!((answer[0], &answer[28..32]), (0x3f, &[0, 0, 0, cmd_sn][..]), "{opcode}");
        let mut good = wire(pdu, b"SendTargets=");
        good.extend(lunette_iscsi::digest::crc32c(b"SendTargets="));
        let answer = pair.inject(&good);
        assert_eq!((answer[0], &answer[28..32]), (opcode.0 | 0x20, &[0, 0, 0, cmd_sn + 1][..]), "{opcode}");
    }
}

#[test]
fn header_digest_errors_end_the_connection() {
    let both = Parameters { header_digest: true, ..PLAIN };
    let mut pair = Pair::logged_in(both, both);
    let mut bad = wire(command(1, 1, FINAL, 0), b"");
    bad.extend([0; 4]);
    assert!(pair.inject(&bad).is_empty());
    assert_eq!(pair.target.error, Some(Error::HeaderDigest));
}

fn manage(
    pair: &mut Pair,
    function: TaskManagementFunction,
    task: u32,
    ref_cmd_sn: u32,
) -> TaskManagementResult {
    let request =
        Management { function, lun: [0; 8], referenced_task_tag: task, ref_cmd_sn, immediate: true };
    let tag = pair.initiator.task_management(&request, &mut pair.out).unwrap();
    pair.run();
    let (answered, result) = pair.management.pop().expect("an answer");
    assert_eq!((answered, pair.error), (tag, None));
    result
}

#[test]
fn task_management() {
    let mut pair = plain();
    pair.target.lazy = true;
    pair.inject(&wire(command(500, 1, FINAL | READ, 512), b""));
    // Its CmdSN was used by the command sent past the initiator: ignored.
    pair.initiator.ping(b"", &mut pair.out);
    let abort = TaskManagementFunction::ABORT_TASK;
    assert_eq!(manage(&mut pair, abort, 501, 0), TaskManagementResult::NO_TASK);
    assert_eq!(pair.target.accepted.as_ref().unwrap().session.tasks().count(), 1);
    assert_eq!(manage(&mut pair, abort, 500, 1), TaskManagementResult::COMPLETE);
    assert_eq!(pair.target.accepted.as_ref().unwrap().session.tasks().count(), 0);
    pair.inject(&wire(
        ScsiCommand { lun: [0, 9, 0, 0, 0, 0, 0, 0], ..command(500, 2, FINAL | READ, 512) },
        b"",
    ));
    assert_eq!(manage(&mut pair, abort, 500, 2), TaskManagementResult::NO_TASK, "another logical unit");
    let reassign = TaskManagementFunction::TASK_REASSIGN;
    assert_eq!(manage(&mut pair, reassign, 500, 1), TaskManagementResult::NO_REASSIGNMENT);
    let query = TaskManagementFunction::QUERY_TASK;
    assert_eq!(manage(&mut pair, query, 500, 1), TaskManagementResult::COMPLETE);
    let reset = TaskManagementFunction::TARGET_WARM_RESET;
    assert_eq!(manage(&mut pair, reset, NO_TAG, 0), TaskManagementResult::COMPLETE);
    assert_eq!(pair.target.delivered, [500, 500]);
}

#[test]
fn the_protocol_level_brings_functions_priorities_and_qualifiers() {
    for (target, initiator, agreed) in [(2, 2, 2), (1, 2, 1), (2, 1, 1), (2, 31, 2), (0, 2, 0)] {
        let level = |protocol_level| Parameters { protocol_level, ..PLAIN };
        let mut pair = Pair::logged_in(level(target), level(initiator));
        assert_eq!(pair.initiator.parameters().protocol_level, agreed);
        pair.command(&cdb(0, 0, 0), 0, None);
        let mut sent = Vec::<u8>::new();
        for piece in pair.out.pieces() {
            let Piece::Bytes(bytes) = piece else { unreachable!() };
            sent.extend(bytes);
        }
        assert_eq!(sent[2], if agreed == 2 { 0x90 } else { 0 }, "the initiator keeps to it");
        let mut seen = None;
        raw(&mut pair, &wire(ScsiCommand { priority: 0x70, ..command(1, 1, FINAL, 0) }, b""), |_, event| {
            let Event::Command(command) = event else { panic!("{event:?}") };
            seen = Some((command.task, command.priority));
        });
        let (task, priority) = seen.unwrap();
        assert_eq!(priority, if agreed == 2 { 7 } else { 0 });
        let Accepted { connection, session } = &mut **pair.target.accepted.as_mut().unwrap();
        let response = Response { status_qualifier: 0x1234, ..Response::default() };
        assert!(connection.respond(session, task, &response, None, &mut pair.target.out));
        let answer = split(&pair.inject(&[]));
        let qualifier = header::<ScsiResponse>(&answer[0]).status_qualifier.get();
        assert_eq!(qualifier, if agreed == 2 { 0x1234 } else { 0 });
        for function in 1..=13 {
            let request = pdu::TaskManagementRequest {
                opcode: Opcode(0x42),
                flags: FINAL | function,
                task_tag: 9.into(),
                referenced_task_tag: NO_TAG.into(),
                cmd_sn: 2.into(),
                ..Default::default()
            };
            let answer = split(&pair.inject(&wire(request, b"")));
            let response: pdu::TaskManagementResponse = header(&answer[0]);
            let refused = response.result == TaskManagementResult::NOT_SUPPORTED;
            assert_eq!(refused, agreed < 2 && (9..=12).contains(&function), "{function} at level {agreed}");
            assert!(function != 12 || refused || response.additional == [1, 2, 3]);
        }
    }
}

#[test]
fn abort_of_a_command_that_is_still_to_come() {
    let mut pair = plain();
    let abort = pdu::TaskManagementRequest {
        opcode: Opcode(0x42),
        flags: FINAL | TaskManagementFunction::ABORT_TASK.0,
        task_tag: 9.into(),
        referenced_task_tag: 1.into(),
        cmd_sn: 2.into(),
        ref_cmd_sn: 1.into(),
        ..Default::default()
    };
    let pdus = split(&pair.inject(&wire(abort, b"")));
    let response: pdu::TaskManagementResponse = header(&pdus[0]);
    assert_eq!((response.result, response.exp_cmd_sn.get()), (TaskManagementResult::COMPLETE, 2));
    assert!(pair.inject(&wire(command(1, 1, FINAL, 0), b"")).is_empty(), "it counts as received");
    pair.inject(&wire(command(2, 2, FINAL, 0), b""));
    assert_eq!(pair.target.delivered, [2]);
}

#[test]
fn logout() {
    let mut pair = plain();
    let logout = |reason: LogoutReason, cid: u16| {
        let header = LogoutRequest {
            opcode: Opcode(0x46),
            flags: FINAL | reason.0,
            task_tag: 3.into(),
            cid: cid.into(),
            ..Default::default()
        };
        wire(header, b"")
    };
    let result = |answer: &[u8]| header::<pdu::LogoutResponse>(&split(answer)[0]).result;
    let answer = pair.inject(&logout(LogoutReason::CLOSE_CONNECTION, 9));
    assert_eq!(result(&answer), LogoutResult::NO_CONNECTION);
    let answer = pair.inject(&logout(LogoutReason::REMOVE_FOR_RECOVERY, 0));
    assert_eq!(result(&answer), LogoutResult::NO_RECOVERY);
    assert_eq!(reject_reason(&pair.inject(&logout(LogoutReason(7), 0))), RejectReason::INVALID_FIELD);
    assert!(!pair.target.logged_out);
    for reason in [LogoutReason::CLOSE_CONNECTION, LogoutReason::CLOSE_SESSION] {
        let mut pair = plain();
        pair.target.lazy = true;
        pair.command(&cdb(0, 512, 0), 512, None).unwrap();
        pair.initiator.logout(reason, &mut pair.out).unwrap();
        pair.run();
        assert_eq!((pair.target.logged_out, pair.logged_out), (true, Some(LogoutResult::CLOSED)));
    }
}

#[test]
fn asynchronous_messages() {
    let mut pair = plain();
    let accepted = pair.target.accepted.as_mut().unwrap();
    let message =
        AsyncMessage { event: AsyncEvent::SCSI, lun: [0; 8], parameters: [0; 3], sense: &[1, 2, 3] };
    accepted.connection.notify(&accepted.session, &message, &mut pair.target.out);
    pair.run();
    assert_eq!((pair.messages, pair.error), (vec![(AsyncEvent::SCSI, vec![0, 3, 1, 2, 3])], None));
}

#[test]
fn too_long_segments_end_the_connection() {
    let mut pair = plain();
    let mut long = wire(NopOut::default(), b"");
    long[5..8].copy_from_slice(&[4, 0, 1]);
    pair.inject(&long);
    assert_eq!(pair.target.error, Some(Error::DataSegmentTooLong { length: 262_145, limit: 262_144 }));
}
