use super::*;
use crate::{Activity, Class, Counted};
use lunette_scsi::{SenseKey, Status};
use lunette_store::IoError;
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn nexus(rig: &Rig, initiator: &str) -> Arc<Nexus> {
    Nexus::new(initiator, rig.port.clone())
}

/// What was done for the only nexus.
fn only(rig: &Rig) -> Activity {
    let [nexus] = <[_; 1]>::try_from(rig.unit.activity().nexuses).unwrap();
    nexus.activity
}

#[test]
fn commands_bytes_and_times_are_counted_by_nexus_on_every_reactor() {
    let mut rig = Rig::new(2);
    let (one, other) = (nexus(&rig, "one"), nexus(&rig, "other"));
    let (a, b) = (rig.open(&one, 0), rig.open(&one, 1));
    let c = rig.open(&other, 1);
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "ordered");
    rig.pass(ms(1));
    rig.read(&c, 3, "simple");
    rig.pass(ms(1));
    let under_way =
        |rig: &Rig| rig.unit.activity().nexuses.iter().map(|nexus| nexus.activity.under_way).sum::<u32>();
    assert_eq!(under_way(&rig), 3);
    rig.complete_all();
    assert_eq!(under_way(&rig), 0);
    assert!(rig.send(&a, 4, "simple", &ECHO.spec).is_some());
    rig.sim.settle();
    let activity = rig.unit.activity();
    let of = |name: &str| {
        let mut found = activity.nexuses.iter().filter(|nexus| nexus.initiator == name);
        let (found, None) = (found.next().unwrap(), found.next()) else { panic!() };
        assert_eq!(found.port, "toy,t,0x0001");
        &found.activity
    };
    // The first command of each session, of which the nexus's first learnt of the power-on, and its own.
    assert_eq!(of("one").commands, [("READ(10)", 4), ("READ BUFFER(10)", 1)].into());
    assert_eq!((of("one").bytes_read, of("other").bytes_read), (3, 1));
    let [reads, writes, others] = &of("one").times;
    assert_eq!((reads.count(), writes.count(), others.count()), (4, 0, 1));
    assert_eq!(reads.sum(), ms(4), "two reads of two milliseconds");
    assert_eq!(of("other").times[Class::Read as usize].sum(), ms(1));
    assert_eq!(activity.total.commands["READ(10)"], 6);
}

#[test]
fn failures_are_counted_by_status_and_sense_key() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    assert_eq!(only(&rig).sense_keys, [(SenseKey::UNIT_ATTENTION, 1)].into());
    rig.read(&a, 1, "simple");
    rig.at_store();
    rig.complete_one(Err(IoError::Os(5)));
    rig.unit.limit_waiting(0);
    (0..=ROOM as u64).for_each(|tag| drop(rig.send(&a, 10 + tag, "simple", &READ.spec)));
    rig.manage(&a, TaskManagementFunction::AbortTask, 10);
    rig.complete_all();
    let unknown = Cdb::new(&[0xff; 6]).unwrap();
    let frame = CommandFrame::new(Lun::from_index(0), &unknown);
    a.session.execute(&frame, Sg::empty(), Sg::empty(), rig.sim.cx(0));
    rig.sim.settle();
    let done = only(&rig);
    assert_eq!(done.unknown_commands, 1);
    assert_eq!(done.statuses, [(Status::CHECK_CONDITION, 3), (Status::TASK_SET_FULL, 1)].into());
    assert_eq!(done.sense_keys[&SenseKey::ILLEGAL_REQUEST], 1);
    assert_eq!(done.sense_keys.len(), 3);
    assert_eq!((done.aborted, done.under_way), (1, 0));
    let all: u64 = done.times.iter().map(|times| times.count()).sum();
    assert_eq!(all, done.commands.values().sum::<u64>() + 1, "each command has ended once");
}

/// Sends a CDB of six bytes that ends at once.
fn ask(rig: &mut Rig, from: &Initiator, opcode: u8) {
    let cdb = Cdb::new(&[opcode, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame::new(Lun::from_index(0), &cdb);
    from.session.execute(&frame, Sg::empty(), Sg::empty(), rig.sim.cx(from.reactor));
    rig.sim.settle();
}

#[test]
fn who_only_looks_at_a_unit_takes_little() {
    let mut rig = Rig::new(1);
    let one = nexus(&rig, "one");
    let a = rig.session(&one, 0);
    for opcode in [0x00, 0x12, 0x00, 0x00, 0xff] {
        ask(&mut rig, &a, opcode);
    }
    assert!(rig.unit.statistics().is_small());
    let done = only(&rig);
    assert_eq!(done.commands, [("TEST UNIT READY", 3), ("INQUIRY", 1)].into());
    assert_eq!(done.unknown_commands, 1);
    assert_eq!(done.sense_keys, [(SenseKey::UNIT_ATTENTION, 1), (SenseKey::ILLEGAL_REQUEST, 1)].into());
    assert_eq!(done.statuses, [(Status::CHECK_CONDITION, 2)].into());
    assert_eq!(done.times.map(|times| times.count()), [0, 0, 5]);
    // What was counted until then stays.
    rig.read(&a, 1, "simple");
    rig.complete_all();
    ask(&mut rig, &a, 0x00);
    assert!(!rig.unit.statistics().is_small());
    let done = only(&rig);
    assert_eq!(done.commands, [("READ(10)", 1), ("TEST UNIT READY", 4), ("INQUIRY", 1)].into());
    assert_eq!((done.unknown_commands, done.bytes_read), (1, 1));
    assert_eq!(done.times.map(|times| times.count()), [1, 0, 6]);
}

#[test]
fn very_many_commands_are_counted_exactly() {
    let mut rig = Rig::new(1);
    let one = nexus(&rig, "one");
    let a = rig.session(&one, 0);
    const MANY: u64 = 70_000;
    (0..MANY).for_each(|_| ask(&mut rig, &a, 0x00));
    let done = only(&rig);
    assert_eq!(done.commands, [("TEST UNIT READY", MANY)].into());
    assert_eq!(done.times[Class::Other as usize].count(), MANY);
}

#[test]
fn what_a_nexus_has_done_remains_when_it_has_gone() {
    let mut rig = Rig::new(2);
    let gone = nexus(&rig, "gone");
    let sessions = [rig.open(&gone, 0), rig.open(&gone, 1)];
    let before = rig.unit.activity();
    let totals = rig.unit.statistics().totals(Counted::Read);
    assert_eq!((before.nexuses.len(), totals.commands), (1, 1));
    drop((sessions, gone));
    let after = rig.unit.activity();
    assert!(after.nexuses.is_empty());
    assert_eq!(after.total, before.total);
    assert_eq!(rig.unit.statistics().totals(Counted::Read), totals);
}
