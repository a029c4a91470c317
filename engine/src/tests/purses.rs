use super::limits::{SAME, SECOND, limit_unit, rate};
use super::*;
use crate::{Limit, Rates};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);

/// As many commands as bytes, one in a millisecond.
fn limit(burst: u64) -> Arc<Limit> {
    Limit::new(Rates { commands: rate(1000, burst), bytes: rate(1000, burst) })
}

impl Rig {
    fn read_often(&mut self, from: &Initiator, times: u64) {
        (0..times).for_each(|tag| self.read(from, tag, "simple"));
    }

    /// For how many commands has been paid.
    fn paid(&mut self, limit: &Limit) -> u32 {
        let now = self.sim.cx(0).now();
        (0..1000).find(|count| limit.has_rested(now + MILLISECOND * *count)).expect("fewer")
    }
}

/// As many commands as find room in the store.
const MANY: u64 = ROOM as u64;

/// An initiator whose last turn has had many commands, and the limit of the unit.
fn busy(rig: &mut Rig, burst: u64) -> (Initiator, Arc<Limit>) {
    let limit = limit(burst);
    limit_unit(rig, &limit);
    let nexus = Nexus::new("a", rig.port.clone());
    let a = rig.open(&nexus, 0);
    rig.pass(SECOND);
    rig.read_often(&a, MANY);
    rig.complete_all();
    assert_eq!((a.good().len(), rig.paid(&limit)), (ROOM, MANY as u32));
    rig.pass(SECOND);
    (a, limit)
}

#[test]
fn what_is_paid_ahead_is_given_back_when_the_turn_is_over() {
    let mut rig = Rig::new(1);
    let (a, limit) = busy(&mut rig, 10_000);
    rig.read_often(&a, 1);
    assert_eq!(rig.paid(&limit), MANY as u32, "for as many as the last turn has had");
    rig.complete_all();
    assert_eq!(rig.paid(&limit), 1);
    rig.pass(SECOND);
    rig.read_often(&a, MANY / 2);
    rig.complete_all();
    assert_eq!(rig.paid(&limit), MANY as u32 / 2);
}

#[test]
fn nothing_is_paid_ahead_where_others_may_need_it() {
    let mut rig = Rig::new(2);
    let (a, limit) = busy(&mut rig, 20);
    let nexus = Nexus::new("b", rig.port.clone());
    let b = rig.open(&nexus, 1);
    rig.pass(SECOND);
    rig.read_often(&a, 1);
    rig.read_often(&b, 19);
    rig.complete_all();
    assert_eq!((a.good().len(), b.good().len(), rig.paid(&limit)), (1, 19, 20));
}

#[test]
fn what_is_paid_ahead_is_given_back_when_limits_change() {
    let mut rig = Rig::new(1);
    let (a, before) = busy(&mut rig, 10_000);
    rig.read_often(&a, 2);
    let after = limit(10_000);
    limit_unit(&mut rig, &after);
    rig.read_often(&a, 3);
    assert_eq!(rig.paid(&before), 2);
    rig.complete_all();
    assert_eq!((rig.paid(&before), rig.paid(&after)), (2, 3));
}

#[test]
fn who_stands_in_a_line_has_paid_nothing_ahead() {
    let mut rig = Rig::new(1);
    let (a, limit) = busy(&mut rig, 10_000);
    rig.read_often(&a, 1);
    // It costs so much that it pays in turns, and stands there until the next one.
    assert_eq!(rig.send(&a, 1, "simple", &SAME.spec), None);
    assert_eq!(rig.paid(&limit), 1);
}
