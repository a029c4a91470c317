//! Stores that do not answer.

use super::masking::{send, sense};
use super::*;
use crate::{Aborted, NotReady};
use TaskManagementFunction as Function;
use lunette_scsi::AdditionalSense;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
const STUCK: AdditionalSense = AdditionalSense::LOGICAL_UNIT_COMMUNICATION_TIME_OUT;
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Rig {
    fn impatient(reactors: u16) -> Self {
        let rig = Self::new(reactors);
        rig.unit.set_stuck_after(Some(TIME));
        rig
    }

    /// As much time as it takes, look by look.
    fn wait(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            self.pass(LOOK.min(left));
            left = left.saturating_sub(LOOK);
        }
    }

    fn is_stuck(&self) -> bool {
        self.unit.not_ready().is_some_and(|why| why.additional == STUCK)
    }
}

/// The commands that ended because the store does not answer.
fn refused(of: &Initiator) -> Vec<u64> {
    let ended = of.events().into_iter().map(|event| match event {
        Event::Ended(tag, Completion::Ended(outcome)) if sense(&outcome) == Some(STUCK) => tag,
        other => panic!("{other:?}"),
    });
    ended.collect()
}

#[test]
fn what_is_new_and_what_waits_fails_at_once_and_what_has_begun_is_left_alone() {
    let mut rig = Rig::impatient(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    let told = Arc::<Mutex<Vec<Option<AdditionalSense>>>>::default();
    let events = told.clone();
    let note = move |why: Option<&NotReady>| events.lock().unwrap().push(why.map(|why| why.additional));
    rig.unit.observe_readiness(note);
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    rig.read(&a, 20, "simple");
    rig.wait(TIME - LOOK);
    assert!(!rig.is_stuck(), "it has some time left");
    rig.read(&b, 30, "simple");
    rig.complete_the_last();
    assert_eq!(b.good(), [30]);
    rig.read(&b, 31, "ordered");
    rig.read(&b, 32, "simple");
    rig.wait(LOOK + LOOK);
    assert!(rig.is_stuck());
    assert_eq!(refused(&a), [20], "it has waited for room");
    assert_eq!(refused(&b), [31, 32], "they have waited for their turn");
    for from in [&a, &b] {
        for cdb in [&READ[..], &TEST_UNIT_READY] {
            let (outcome, _) = send(&mut rig, from, 0, cdb, &[]).expect("an answer at once");
            assert_eq!(sense(&outcome), Some(STUCK));
        }
        assert_eq!(sense(&send(&mut rig, from, 0, &INQUIRY, &[]).unwrap().0), None);
    }
    assert_eq!(rig.at_store(), ROOM);
    rig.complete_all();
    rig.wait(LOOK);
    assert!(!rig.is_stuck());
    assert_eq!(a.good(), Vec::from_iter(0..ROOM as u64));
    assert_eq!(*told.lock().unwrap(), [Some(STUCK), None]);
    rig.read(&b, 50, "simple");
    rig.complete_all();
    assert_eq!(b.good(), [50]);
}

#[test]
fn no_function_is_complete_before_the_store_lets_go() {
    let mut rig = Rig::impatient(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&a, 1, "simple");
    rig.wait(TIME + LOOK);
    assert!(rig.is_stuck());
    rig.manage(&a, Function::AbortTask, 1);
    rig.manage(&b, Function::LogicalUnitReset, 0);
    rig.wait(TIME);
    assert!(rig.is_stuck());
    assert_eq!((a.events(), b.events()), (vec![], vec![]));
    rig.complete_all();
    rig.wait(LOOK);
    let complete = || Event::Managed(1000, ServiceResponse::FunctionComplete);
    let aborted = Event::Ended(1, Completion::Aborted(Aborted::ByItsNexus));
    assert_eq!((a.events(), b.events()), (vec![aborted, complete()], vec![complete()]));
    assert!(!rig.is_stuck());
}

#[test]
fn each_step_has_the_whole_time() {
    let mut rig = Rig::impatient(1);
    let a = rig.initiator(0);
    assert_eq!(rig.send(&a, 1, "simple", &TWO_STEPS.spec), None);
    for _ in 0..2 {
        rig.wait(TIME - LOOK);
        assert!(!rig.is_stuck());
        rig.complete_one(Ok(1));
    }
    assert_eq!(a.good(), [1]);
    assert_eq!(rig.send(&a, 2, "simple", &TWO_STEPS.spec), None);
    rig.complete_one(Ok(1));
    rig.wait(TIME + LOOK);
    assert!(rig.is_stuck());
}

#[test]
fn work_in_the_background_counts_and_a_time_may_be_given_later() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let poster = rig.sim.cx(0).poster();
    rig.unit.begin(&*poster, async |steps| {
        _ = steps.flush().await;
        Ok(())
    });
    rig.wait(TIME + LOOK);
    assert!(!rig.is_stuck(), "it has as long as it takes");
    rig.unit.set_stuck_after(Some(TIME));
    rig.unit.look_after_store(&*poster);
    rig.sim.settle();
    assert!(rig.is_stuck());
    rig.unit.set_stuck_after(None);
    rig.wait(LOOK);
    assert!(!rig.is_stuck());
    rig.complete_all();
    assert_eq!(a.events(), []);
}

#[test]
fn what_a_store_has_had_for_long_is_known_without_a_time_of_its_own() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let held = |rig: &mut Rig| crate::held_by_stores(TIME, rig.sim.cx(0));
    rig.read(&a, 1, "simple");
    rig.wait(TIME - LOOK);
    assert!(held(&mut rig).is_empty());
    rig.wait(LOOK);
    rig.read(&a, 2, "simple");
    let old = held(&mut rig);
    assert_eq!(old.iter().map(|held| &held.unit).collect::<Vec<_>>(), [&rig.unit.name]);
    rig.wait(TIME);
    assert_eq!(held(&mut rig).intersection(&old).count(), 1);
    assert_eq!(held(&mut rig).len(), 2);
    rig.complete_all();
    assert!(held(&mut rig).is_empty());
    assert_eq!(a.good(), [1, 2]);
}
