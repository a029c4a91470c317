//! A session that goes on in another process.

mod common;

use common::{Pair, cdb, pattern, plain::*, wire};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{NopOut, Opcode};
use lunette_iscsi::target::{Accepted, SessionState};

/// What is handed over, once nothing is under way.
fn state(pair: &Pair) -> Option<SessionState> {
    let Accepted { connection, session } = pair.target.accepted.as_deref().unwrap();
    let state = connection.hand_over(session)?;
    Some(serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap())
}

/// Another process takes the place of the target.
fn move_target(pair: &mut Pair) {
    let (connection, session, begun) = state(pair).expect("nothing is under way").resume().unwrap();
    pair.target.accepted = Some(Box::new(Accepted { connection, session }));
    let Accepted { connection, session } = pair.target.accepted.as_deref_mut().unwrap();
    connection.tell_window(session, &mut pair.target.out);
    pair.target.receive(&begun);
}

fn freeze(pair: &mut Pair) {
    pair.target.accepted.as_deref_mut().unwrap().session.freeze();
}

#[test]
fn an_initiator_notices_nothing() {
    for digests in [false, true] {
        let wanted = Parameters { header_digest: digests, data_digest: digests, ..Parameters::PREFERRED };
        let mut pair = Pair::logged_in(wanted, wanted);
        for round in 0..20 {
            let written = pattern(round, 20_000);
            let write = pair.command(&cdb(round, 20_000, 0), 0, Some(written.clone())).unwrap();
            let read = pair.command(&cdb(round, 9_000, 0), 9_000, None).unwrap();
            pair.run();
            assert_eq!(pair.target.written[&write], written);
            assert_eq!(pair.ended[&read].data, pattern(round, 9_000));
            pair.initiator.ping(b"there", &mut pair.out).unwrap();
            pair.run();
            freeze(&mut pair);
            move_target(&mut pair);
            pair.run();
        }
        assert_eq!((pair.error, pair.target.error, pair.pongs.len()), (None, None, 20));
    }
}

#[test]
fn a_frozen_session_takes_what_was_promised_and_no_more() {
    let mut pair = plain();
    freeze(&mut pair);
    let mut sent = 0;
    while pair.command(&cdb(1, 100, 0), 100, None).is_some() {
        sent += 1;
        pair.run();
        assert!(sent <= 128, "the window stays open");
    }
    assert_eq!((sent, pair.ended.len()), (128, 128));
    move_target(&mut pair);
    pair.run();
    assert!(pair.command(&cdb(1, 100, 0), 100, None).is_some(), "it was told that it is open again");
    pair.run();
    assert_eq!((pair.ended.len(), pair.error, pair.target.error), (129, None, None));
}

#[test]
fn nothing_is_handed_over_that_is_under_way() {
    let mut pair = plain();
    pair.target.lazy = true;
    let ping = wire(NopOut { task_tag: 9.into(), opcode: Opcode(0x40), ..Default::default() }, b"data");
    pair.target.receive(&ping[..50]);
    assert_eq!(state(&pair), None, "data of a PDU is to come");
    pair.target.receive(&ping[50..]);
    assert!(state(&pair).is_some());
    pair.inject(&wire(command(5, 1, FINAL, 0), b""));
    assert_eq!(state(&pair), None, "a task is open");
}

#[test]
fn nothing_is_handed_over_before_what_is_missing_has_come() {
    let mut pair = plain();
    let ping = |tag: u32, cmd_sn: u32| {
        wire(
            NopOut { task_tag: tag.into(), cmd_sn: cmd_sn.into(), opcode: Opcode(0), ..Default::default() },
            b"",
        )
    };
    pair.inject(&ping(6, 2));
    assert_eq!(state(&pair), None, "the one before it would be taken, and then nothing more");
    pair.inject(&ping(5, 1));
    assert!(state(&pair).is_some());
}

#[test]
fn half_a_header_goes_along() {
    let mut pair = plain();
    let ping = wire(NopOut { task_tag: 9.into(), opcode: Opcode(0x40), ..Default::default() }, b"data");
    pair.target.receive(&ping[..30]);
    move_target(&mut pair);
    let answer = pair.inject(&ping[30..]);
    assert!(answer.ends_with(b"data"), "{answer:?}");
    assert_alive(&mut pair);
}

fn is_refused(state: serde_json::Value) -> bool {
    serde_json::from_value::<SessionState>(state).unwrap().resume().is_err()
}

#[test]
fn what_is_no_session_is_refused() {
    let state = serde_json::to_value(state(&plain()).unwrap()).unwrap();
    let wrong = [("window", 0), ("window", 40_000), ("told", 0xf000_0000_u32), ("told", 1 << 20)];
    for (field, value) in wrong {
        let mut state = state.clone();
        state[field] = value.into();
        assert!(is_refused(state), "{field} {value}");
    }
    for (part, field) in [("agreed", "max_burst_length"), ("agreed", "max_recv_data_segment_length")] {
        for owner in ["", "/negotiation"] {
            let mut state = state.clone();
            state.pointer_mut(&format!("{owner}/{part}")).unwrap()[field] = 0.into();
            assert!(is_refused(state), "{owner} {field}");
        }
    }
    let mut state = state.clone();
    state["info"]["initiator_name"] = "x".repeat(1 << 20).into();
    assert!(is_refused(state), "a name that is none");
}
