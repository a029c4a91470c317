//! Which PDU is rejected for which reason, in which state (RFC 7143 11.17.1).

mod common;

use common::plain::*;
use common::{Pair, initiator_settings, split, wire};
use lunette_iscsi::initiator;
use lunette_iscsi::pdu::{
    AsyncEvent, DataOut, LogoutRequest, NO_TAG, NopOut, Opcode, Reject, RejectReason, ScsiCommand,
    TaskManagementRequest, TextRequest,
};
use lunette_iscsi::target::{AsyncMessage, SessionType, Settings};

/// States of a connection in full-feature phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// With a command under task tag 1.
    Normal,
    Discovery,
    /// The same as `Normal`, after the target has asked for a logout.
    Leaving,
}

const STATES: [State; 3] = [State::Normal, State::Discovery, State::Leaving];

fn enter(state: State) -> Pair {
    let session_type = if state == State::Discovery { SessionType::Discovery } else { SessionType::Normal };
    let settings = initiator::Settings { session_type, ..initiator_settings(PLAIN) };
    let mut pair = Pair::new(Settings { parameters: PLAIN, ..Settings::default() }, settings, 5);
    pair.run();
    assert!(pair.logged_in);
    pair.target.lazy = true;
    if state != State::Discovery {
        assert!(pair.inject(&wire(command(1, 1, FINAL | READ, 512), b"")).is_empty());
    }
    if state == State::Leaving {
        let accepted = pair.target.accepted.as_mut().unwrap();
        let message = AsyncMessage {
            event: AsyncEvent::REQUEST_LOGOUT,
            lun: [0; 8],
            parameters: [0, 0, 3],
            sense: &[],
        };
        accepted.connection.notify(&accepted.session, &message, &mut pair.target.out);
        pair.inject(&[]);
    }
    pair
}

/// The next CmdSN.
fn due(pair: &Pair) -> u32 {
    if pair.target.delivered.is_empty() { 1 } else { 2 }
}

fn scsi(change: impl Fn(&mut ScsiCommand), data: &'static [u8]) -> Box<dyn Fn(u32) -> Vec<u8>> {
    let mut header = command(9, 0, FINAL, 0);
    change(&mut header);
    Box::new(move |cmd_sn| wire(ScsiCommand { cmd_sn: cmd_sn.into(), ..header }, data))
}

fn nop(change: impl Fn(&mut NopOut), data: &'static [u8]) -> Box<dyn Fn(u32) -> Vec<u8>> {
    let mut header = NopOut { task_tag: 9.into(), transfer_tag: NO_TAG.into(), ..Default::default() };
    change(&mut header);
    Box::new(move |cmd_sn| wire(NopOut { cmd_sn: cmd_sn.into(), ..header }, data))
}

fn text(change: impl Fn(&mut TextRequest), data: &'static [u8]) -> Box<dyn Fn(u32) -> Vec<u8>> {
    let mut header = TextRequest { task_tag: 9.into(), transfer_tag: NO_TAG.into(), ..Default::default() };
    change(&mut header);
    Box::new(move |cmd_sn| wire(TextRequest { cmd_sn: cmd_sn.into(), ..header }, data))
}

fn manage(change: impl Fn(&mut TaskManagementRequest)) -> Box<dyn Fn(u32) -> Vec<u8>> {
    let mut header = TaskManagementRequest { flags: FINAL | 6, task_tag: 9.into(), ..Default::default() };
    change(&mut header);
    Box::new(move |cmd_sn| wire(TaskManagementRequest { cmd_sn: cmd_sn.into(), ..header }, b""))
}

fn logout(change: impl Fn(&mut LogoutRequest)) -> Box<dyn Fn(u32) -> Vec<u8>> {
    let mut header = LogoutRequest { task_tag: 9.into(), ..Default::default() };
    change(&mut header);
    Box::new(move |cmd_sn| wire(LogoutRequest { cmd_sn: cmd_sn.into(), ..header }, b""))
}

static LONG: [u8; 65 * 1024] = [b'a'; 65 * 1024];

#[test]
fn every_pdu_in_every_state() {
    type Cases = Vec<(&'static str, Box<dyn Fn(u32) -> Vec<u8>>, [Option<RejectReason>; 3])>;
    let none = [None; 3];
    let all = |reason| [Some(reason); 3];
    /// What is for normal sessions only.
    fn scsi_only(reason: Option<RejectReason>) -> [Option<RejectReason>; 3] {
        [reason, Some(RejectReason::PROTOCOL), reason]
    }
    let busy_tag =
        |other| [Some(RejectReason::TASK_IN_PROGRESS), other, Some(RejectReason::TASK_IN_PROGRESS)];
    let field = Some(RejectReason::INVALID_FIELD);
    let protocol = Some(RejectReason::PROTOCOL);
    let cases: Cases = vec![
        ("a command", scsi(|_| {}, b""), scsi_only(None)),
        ("an immediate command", scsi(|pdu| pdu.opcode = Opcode(0x41), b""), scsi_only(None)),
        ("no tag", scsi(|pdu| pdu.task_tag = NO_TAG.into(), b""), scsi_only(field)),
        (
            "a tag in use",
            scsi(|pdu| pdu.task_tag = 1.into(), b""),
            scsi_only(Some(RejectReason::TASK_IN_PROGRESS)),
        ),
        ("a reserved attribute", scsi(|pdu| pdu.flags |= 5, b""), scsi_only(protocol)),
        ("data that is not agreed on", scsi(|pdu| pdu.flags |= WRITE, b"data"), scsi_only(protocol)),
        ("unsolicited data that is not agreed on", scsi(|pdu| pdu.flags = WRITE, b""), scsi_only(field)),
        ("unsolicited data without a write", scsi(|pdu| pdu.flags = 0, b""), scsi_only(field)),
        (
            "an early acknowledgement",
            scsi(|pdu| pdu.exp_stat_sn = 99.into(), b""),
            all(RejectReason::PROTOCOL),
        ),
        ("a ping", nop(|_| {}, b"hello"), none),
        ("a ping with a tag in use", nop(|pdu| pdu.task_tag = 1.into(), b""), busy_tag(None)),
        (
            "an answer that is not immediate",
            nop(|pdu| pdu.task_tag = NO_TAG.into(), b""),
            all(RejectReason::INVALID_FIELD),
        ),
        (
            "a ping that is too early",
            nop(|pdu| pdu.exp_stat_sn = 99.into(), b""),
            all(RejectReason::PROTOCOL),
        ),
        ("a text", text(|_| {}, b"SendTargets="), none),
        ("a text with a tag in use", text(|pdu| pdu.task_tag = 1.into(), b""), busy_tag(None)),
        (
            "a text without a tag",
            text(|pdu| pdu.task_tag = NO_TAG.into(), b""),
            all(RejectReason::INVALID_FIELD),
        ),
        ("a last text that goes on", text(|pdu| pdu.flags |= 0x40, b""), all(RejectReason::INVALID_FIELD)),
        (
            "the rest of nothing",
            text(|pdu| pdu.transfer_tag = 7.into(), b""),
            all(RejectReason::INVALID_FIELD),
        ),
        ("no text", text(|_| {}, b"junk"), all(RejectReason::PROTOCOL)),
        ("a long text", text(|_| {}, &LONG), all(RejectReason::OUT_OF_RESOURCES)),
        ("a reset", manage(|_| {}), scsi_only(None)),
        (
            "a reset with a tag in use",
            manage(|pdu| pdu.task_tag = 1.into()),
            scsi_only(Some(RejectReason::TASK_IN_PROGRESS)),
        ),
        ("a reset without a tag", manage(|pdu| pdu.task_tag = NO_TAG.into()), scsi_only(field)),
        ("a logout", logout(|_| {}), none),
        ("a logout for no reason", logout(|pdu| pdu.flags = FINAL | 9), all(RejectReason::INVALID_FIELD)),
        (
            "a logout without a tag",
            logout(|pdu| pdu.task_tag = NO_TAG.into()),
            all(RejectReason::INVALID_FIELD),
        ),
        ("data for no one", Box::new(|_| wire(DataOut::default(), b"data")), scsi_only(None)),
        ("a SNACK", nop(|pdu| pdu.opcode = Opcode(0x10), b""), all(RejectReason::SNACK)),
        (
            "a vendor's request",
            nop(|pdu| pdu.opcode = Opcode(0x1c), b"data"),
            all(RejectReason::NOT_SUPPORTED),
        ),
        ("an answer", nop(|pdu| pdu.opcode = Opcode(0x21), b""), all(RejectReason::NOT_SUPPORTED)),
        ("a login", nop(|pdu| pdu.opcode = Opcode(0x43), b""), all(RejectReason::PROTOCOL)),
    ];
    for (name, make, expected) in &cases {
        for (state, expected) in STATES.into_iter().zip(expected) {
            let mut pair = enter(state);
            let cmd_sn = due(&pair);
            let pdu = make(cmd_sn);
            let answer = split(&pair.inject(&pdu));
            let reason = answer.first().filter(|answer| opcode(answer) == Opcode::REJECT).map(|answer| {
                assert_eq!(answer.1, pdu[..48], "the header comes back");
                header::<Reject>(answer).reason
            });
            assert_eq!(reason, *expected, "{name}, {state:?}");
            if pdu[0] & 0x3f == 3 {
                assert!(pair.target.error.is_some());
                continue;
            }
            if reason.is_some() {
                assert_eq!(answer.len(), 1, "{name}, {state:?}: nothing but the Reject");
                let expected = header::<Reject>(&answer[0]).exp_cmd_sn.get();
                assert_eq!(expected, cmd_sn, "{name}, {state:?}: it does not count as received");
            }
            if !pair.target.logged_out {
                assert_alive(&mut pair);
            }
        }
    }
}

#[test]
fn a_number_that_was_rejected_may_be_used_again() {
    let mut pair = enter(State::Normal);
    pair.target.lazy = false;
    assert_eq!(
        reject_reason(&pair.inject(&wire(command(1, 2, FINAL, 0), b""))),
        RejectReason::TASK_IN_PROGRESS
    );
    assert!(pair.inject(&wire(command(3, 3, FINAL, 0), b"")).is_empty(), "it waits for the one before");
    pair.inject(&wire(command(2, 2, FINAL, 0), b""));
    assert_eq!(pair.target.delivered, [1, 2, 3]);
}
