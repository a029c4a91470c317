use crate::Options;
use crate::testing::{Away, Code, INVALID_FIELD, Rig, SIZE, Seen, cdb, pattern};
use lunette_scsi::{Opcode, Status, TaskManagementFunction as Function};
use lunette_store::ram::Ram;
use std::sync::Arc;
use std::time::Duration;

const NO_MEDIUM: Code = (2, 0x3a, 2);
const STOPPED: Code = (2, 4, 2);
const PREVENTED: Code = (5, 0x53, 2);
const CHANGED: Code = (6, 0x28, 0);

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const EJECT: [u8; 6] = start_stop(0x02);
const LOAD: [u8; 6] = start_stop(0x03);
const STOP: [u8; 6] = start_stop(0x00);
const START: [u8; 6] = start_stop(0x01);
const PREVENT: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];
const ALLOW: [u8; 6] = [0x1e, 0, 0, 0, 0, 0];

const fn start_stop(bits: u8) -> [u8; 6] {
    [0x1b, 0, 0, 0, bits, 0]
}

fn removable() -> Rig {
    Rig::with(Options { removable: true, ..Options::default() }, |caps| caps.volatile_cache = true)
}

#[test]
fn what_needs_a_medium_is_refused_while_it_is_out() {
    let mut rig = removable();
    let other = rig.log_in();
    rig.write(0, &pattern(1));
    rig.seen();
    rig.ask(&EJECT, &[], 0).good();
    assert_eq!(rig.seen(), [Seen::Flush]);
    let needs_medium = [
        TEST_UNIT_READY.to_vec(),
        START.to_vec(),
        STOP.to_vec(),
        start_stop(0x20).to_vec(),
        cdb(Opcode::READ_10, 0, 1),
        cdb(Opcode::WRITE_16, 0, 1),
        cdb(Opcode::VERIFY_10, 0, 1),
        cdb(Opcode::SYNCHRONIZE_CACHE_10, 0, 1),
        cdb(Opcode::UNMAP, 0, 0),
        cdb(Opcode::READ_CAPACITY_10, 0, 0),
    ];
    for cdb in needs_medium {
        assert_eq!(rig.ask_from(other, &cdb, &[0; 512], 512).refused(), NO_MEDIUM, "{cdb:x?}");
    }
    rig.ask(&[0x12, 0, 0, 0, 36, 0], &[], 36).good();
    rig.ask(&EJECT, &[], 0).good();
    rig.ask(&LOAD, &[], 0).good();
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    assert_eq!(rig.read(0, 1), pattern(1));
    assert_eq!(rig.ask_from(other, &TEST_UNIT_READY, &[], 0).refused(), CHANGED);
    rig.ask(&LOAD, &[], 0).good();
    rig.ask_from(other, &TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn a_fixed_medium_cannot_be_ejected() {
    let mut rig = Rig::new();
    let answer = rig.ask(&EJECT, &[], 0);
    assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((4, Some(1)))));
    rig.ask(&LOAD, &[], 0).good();
}

#[test]
fn the_medium_stays_while_any_nexus_prevents_its_removal() {
    let mut rig = removable();
    let other = rig.log_in();
    rig.ask(&PREVENT, &[], 0).good();
    rig.ask_from(other, &PREVENT, &[], 0).good();
    rig.ask(&ALLOW, &[], 0).good();
    for from in [0, other] {
        assert_eq!(rig.ask_from(from, &EJECT, &[], 0).refused(), PREVENTED);
    }
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    rig.ask_from(other, &ALLOW, &[], 0).good();
    rig.ask(&EJECT, &[], 0).good();
    // Nor does it go in.
    rig.ask_from(other, &PREVENT, &[], 0).good();
    assert_eq!(rig.ask(&LOAD, &[], 0).refused(), PREVENTED);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), NO_MEDIUM);
    rig.ask_from(other, &ALLOW, &[], 0).good();
    rig.ask(&LOAD, &[], 0).good();
}

#[test]
fn prevention_ends_with_its_nexus_or_a_reset() {
    for function in [
        Function::LogicalUnitReset,
        Function::TargetWarmReset,
        Function::TargetColdReset,
        Function::ITNexusReset,
    ] {
        let mut rig = removable();
        rig.ask(&PREVENT, &[], 0).good();
        rig.manage(0, function);
        assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused().0, 6);
        rig.ask(&EJECT, &[], 0).good();
        rig.reset();
        assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), NO_MEDIUM, "a reset moves no medium");
    }
    let mut rig = removable();
    let (other, third) = (rig.log_in(), rig.log_in());
    rig.ask_from(other, &PREVENT, &[], 0).good();
    rig.ask_from(third, &PREVENT, &[], 0).good();
    rig.close(other);
    assert_eq!(rig.ask(&EJECT, &[], 0).refused(), PREVENTED, "by the third one");
    rig.close(third);
    rig.ask(&EJECT, &[], 0).good();
    let mut rig = removable();
    let other = rig.log_in();
    rig.ask_from(other, &PREVENT, &[], 0).good();
    rig.go_and_come();
    rig.ask(&TEST_UNIT_READY, &[], 0);
    rig.ask(&EJECT, &[], 0).good();
}

#[test]
fn the_condition_of_the_medium_goes_on_in_another_process() {
    let mut before = removable();
    let other = before.log_in();
    before.ask(&EJECT, &[], 0).good();
    before.ask_from(other, &PREVENT, &[], 0).good();
    let mut rig = removable();
    rig.log_in();
    rig.take_over(&before);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), NO_MEDIUM);
    assert_eq!(rig.ask(&LOAD, &[], 0).refused(), PREVENTED);
    rig.ask_from(other, &ALLOW, &[], 0).good();
    rig.ask(&LOAD, &[], 0).good();
    assert_eq!(rig.ask_from(other, &TEST_UNIT_READY, &[], 0).refused(), CHANGED);

    let mut before = Rig::new();
    before.log_in();
    before.ask_from(other, &STOP, &[], 0).good();
    let mut rig = Rig::new();
    rig.log_in();
    rig.take_over(&before);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), STOPPED);
    // It is the nexus's that went along.
    rig.close(other);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn prevention_ends_with_a_registration_that_is_preempted_and_aborted() {
    let mut rig = removable();
    let (other, third) = (rig.log_in(), rig.log_in());
    for (from, key) in [(0, 1), (other, 2), (third, 3)] {
        reserve_out(&mut rig, from, 0, 0, key);
        rig.ask_from(from, &PREVENT, &[], 0).good();
    }
    rig.ask(&ALLOW, &[], 0).good();
    const PREEMPT: u8 = 4;
    const PREEMPT_AND_ABORT: u8 = 5;
    reserve_out(&mut rig, 0, PREEMPT, 1, 2);
    reserve_out(&mut rig, 0, PREEMPT_AND_ABORT, 1, 3);
    assert_eq!(rig.ask(&EJECT, &[], 0).refused(), PREVENTED, "PREEMPT ends only registrations");
    assert_eq!(rig.ask_from(other, &TEST_UNIT_READY, &[], 0).refused().0, 6);
    rig.ask_from(other, &ALLOW, &[], 0).good();
    rig.ask(&EJECT, &[], 0).good();
}

fn reserve_out(rig: &mut Rig, from: usize, action: u8, key: u8, action_key: u8) {
    let mut list = [0; 24];
    (list[7], list[15]) = (key, action_key);
    rig.ask_from(from, &[0x5f, action, 0x01, 0, 0, 0, 0, 0, 24, 0], &list, 0).good();
}

#[test]
fn a_stopped_disk_waits_to_be_started() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    rig.ask(&STOP, &[], 0).good();
    assert_eq!(rig.seen(), [Seen::Flush]);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), STOPPED);
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 0, 1), &[], 512).refused(), STOPPED);
    rig.ask(&START, &[], 0).good();
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    const NO_FLUSH: u8 = 0x04;
    rig.ask(&start_stop(NO_FLUSH), &[], 0).good();
    assert_eq!(rig.seen(), []);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), STOPPED);
    rig.reset();
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn a_disk_runs_again_when_the_nexus_that_stopped_it_is_lost() {
    let mut rig = Rig::new();
    let (second, third) = (rig.log_in(), rig.log_in());
    rig.ask_from(second, &STOP, &[], 0).good();
    rig.close(third);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), STOPPED);
    rig.close(second);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    rig.ask(&STOP, &[], 0).good();
    rig.manage(0, Function::ITNexusReset);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused().0, 6);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn a_nexus_that_is_lost_already_stops_nothing() {
    let mut rig = Rig::new();
    rig.begin_when_lost(&STOP);
    let ready = rig.ask(&TEST_UNIT_READY, &[], 0);
    assert!(ready.at_once);
    ready.good();
    rig.skip(Duration::ZERO);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn a_stop_that_fails_changes_nothing() {
    let away = Away::new(Arc::new(Ram::new(SIZE).unwrap()));
    let mut rig = Rig::over(Options::default(), Arc::new(away.clone()), |caps| caps.volatile_cache = true);
    let second = rig.log_in();
    let stop_in_vain = |rig: &mut Rig, from| {
        away.set(true);
        assert_eq!(rig.ask_from(from, &STOP, &[], 0).outcome.status, Status::CHECK_CONDITION);
        away.set(false);
    };
    let cycles = |rig: &mut Rig| {
        let page = rig.ask(&[0x4d, 0, 0x4e, 0, 0, 0, 0, 0, 64, 0], &[], 64).good();
        page[page.len() - 4..].to_vec()
    };
    stop_in_vain(&mut rig, 0);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    assert_eq!(cycles(&mut rig), [0; 4], "it has not stopped");
    rig.ask_from(second, &STOP, &[], 0).good();
    stop_in_vain(&mut rig, 0);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), STOPPED, "by the second");
    stop_in_vain(&mut rig, second);
    assert_eq!(rig.ask(&TEST_UNIT_READY, &[], 0).refused(), STOPPED, "by the first time");
    rig.close(second);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    assert_eq!(cycles(&mut rig), [0, 0, 0, 1]);
}

/// libiscsi's suite wants that.
#[test]
fn a_removable_medium_does_not_stop() {
    let mut rig = removable();
    rig.ask(&STOP, &[], 0).good();
    assert_eq!(rig.seen(), [Seen::Flush]);
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
}

fn requested(rig: &mut Rig) -> Code {
    let data = rig.ask(&[0x03, 0, 0, 0, 18, 0], &[], 18).good();
    (data[2] & 0x0f, data[12], data[13])
}

#[test]
fn a_power_condition_is_told_until_the_medium_is_needed() {
    let conditions = [
        (0x20, 0, 0x03),
        (0x20, 1, 0x06),
        (0x20, 2, 0x08),
        (0x30, 0, 0x04),
        (0x30, 1, 0x0a),
        (0xa0, 0, 0x01),
        (0xa0, 1, 0x05),
        (0xa0, 2, 0x07),
        (0xb0, 0, 0x02),
        (0xb0, 1, 0x09),
    ];
    for (condition, modifier, qualifier) in conditions {
        let enter = [0x1b, 0, 0, modifier, condition, 0];
        let mut rig = Rig::new();
        let end: [fn(&mut Rig); 4] = [
            |rig| drop(rig.read(0, 1)),
            |rig| drop(rig.ask(&start_stop(0x10), &[], 0).good()),
            |rig| drop(rig.ask(&start_stop(0x70), &[], 0).good()),
            |rig| rig.reset(),
        ];
        for end in end {
            rig.ask(&enter, &[], 0).good();
            rig.ask(&TEST_UNIT_READY, &[], 0).good();
            assert_eq!(requested(&mut rig), (0, 0x5e, qualifier));
            end(&mut rig);
            assert_eq!(requested(&mut rig), (0, 0, 0));
        }
    }
}

#[test]
fn unknown_power_conditions_are_refused() {
    let (mut rig, mut removable) = (Rig::new(), removable());
    for condition in [0x4, 0x5, 0x6, 0x8, 0x9, 0xc, 0xd, 0xe, 0xf] {
        let answer = rig.ask(&start_stop(condition << 4), &[], 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((4, Some(7)))));
        // As libiscsi's suite wants it.
        removable.ask(&start_stop(condition << 4 | 0x02), &[], 0).good();
        removable.ask(&TEST_UNIT_READY, &[], 0).good();
        assert_eq!(requested(&mut removable), (0, 0, 0));
    }
    for (condition, modifier) in [(0x0, 1), (0x1, 1), (0x2, 3), (0x3, 2), (0x7, 1), (0xa, 3), (0xb, 2)] {
        let answer = rig.ask(&[0x1b, 0, 0, modifier, condition << 4, 0], &[], 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((3, Some(3)))));
    }
}

#[test]
fn a_stopped_disk_enters_a_power_condition() {
    let mut rig = Rig::new();
    rig.ask(&STOP, &[], 0).good();
    rig.ask(&start_stop(0x20), &[], 0).good();
    rig.ask(&TEST_UNIT_READY, &[], 0).good();
    assert_eq!(requested(&mut rig), (0, 0x5e, 3));
    rig.ask(&STOP, &[], 0).good();
    assert_eq!(requested(&mut rig), STOPPED);
}

/// SBC-4 4.17, persistent reservations of others.
#[test]
fn starting_and_allowing_are_allowed_to_everybody() {
    use lunette_engine::{Device, Reservation};
    let rig = Rig::new();
    let device = rig.unit.device();
    let of = |cdb: [u8; 6]| {
        let spec = Device::commands(device).find(|spec| spec.opcode.0 == cdb[0]).unwrap();
        spec.reservation_of(&lunette_scsi::Cdb::new(&cdb).unwrap())
    };
    assert_eq!(
        (of(START), of(LOAD), of(ALLOW)),
        (Reservation::Allowed, Reservation::Allowed, Reservation::Exempt)
    );
    for excluded in [STOP, EJECT, start_stop(0x11), PREVENT] {
        assert_eq!(of(excluded), Reservation::Write);
    }
}
