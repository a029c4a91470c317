//! Units and nexuses that go on in another process.

use super::reservations::{REGISTER, RESERVE_6, reserve};
use super::*;
use crate::{NexusState, UnitState};
use lunette_scsi::{AdditionalSense, ReservationType as Type, Status};
use std::time::Duration;

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// By the clock of the machine.
const WALL: Duration = Duration::from_secs(1_800_000_000);

/// The way to another process.
fn carried<T: serde::Serialize + serde::de::DeserializeOwned>(state: T) -> T {
    serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap()
}

impl Rig {
    /// Goes on from `before`, where the same is configured, with a unit of this size.
    fn after(before: &Rig, size: u64) -> Self {
        let state = carried(before.unit.hand_over(Duration::from_secs(100), WALL));
        let rig = Self::with_unit(before.reactors as u16, size);
        rig.unit.take_over(state, Duration::from_secs(1), WALL + Duration::from_secs(2)).unwrap();
        rig
    }

    /// A nexus goes on that was another rig's.
    fn goes_on(&mut self, before: &Initiator) -> Initiator {
        let before = before.session.nexus();
        let nexus = Nexus::new(before.initiator.clone(), self.port.clone());
        nexus.take_over(&carried(before.hand_over())).unwrap();
        let mut initiator = self.session(&nexus, 0);
        initiator.memory = Memory::zeroed(255);
        initiator
    }
}

const SIZE: u64 = 1 << 20;

#[test]
fn reservations_stay_also_those_that_no_power_loss_survives() {
    let mut before = Rig::new(2);
    let (a, b) = (before.named("a", 0), before.named("b", 1));
    before.good(&a, REGISTER, 0, 7);
    before.good(&a, reserve(Type::EXCLUSIVE_ACCESS), 7, 0);
    let generation = before.unit.reservations().generation();
    let mut after = Rig::after(&before, SIZE);
    let (a, b) = (after.goes_on(&a), after.goes_on(&b));
    assert!(after.reads(&a) && !after.reads(&b));
    assert_eq!((after.keys(&b), after.reservation(&b)), (vec![7], Some((7, Type::EXCLUSIVE_ACCESS))));
    assert_eq!((after.unit.reservations().generation(), generation), (1, 1));
    assert!(!after.unit.reservations().persist());
}

#[test]
fn a_reserve_is_that_of_its_nexus_and_ends_with_it() {
    let mut before = Rig::new(1);
    let (a, b) = (before.named("a", 0), before.named("b", 0));
    assert_eq!(before.run(&a, &RESERVE_6, &[]).status, Status::GOOD);
    let mut after = Rig::after(&before, SIZE);
    // In whatever order they come.
    let b = after.goes_on(&b);
    let a = after.goes_on(&a);
    assert!(after.reads(&a) && !after.reads(&b));
    after.close(&a);
    assert!(after.reads(&b));
}

#[test]
fn who_goes_on_is_told_what_was_pending_and_others_that_they_are_new() {
    let mut before = Rig::new(1);
    let (a, b) = (before.named("a", 0), before.named("b", 0));
    before.unit.establish_attention(AdditionalSense::MODE_PARAMETERS_CHANGED, None);
    assert!(before.told(&b).is_some());
    let mut after = Rig::after(&before, SIZE);
    let (a, b, c) = (after.goes_on(&a), after.goes_on(&b), Nexus::new("c", after.port.clone()));
    let c = after.session(&c, 0);
    assert_eq!(after.told(&a), Some(AdditionalSense::MODE_PARAMETERS_CHANGED));
    assert_eq!((after.told(&a), after.told(&b)), (None, None));
    assert_eq!(after.told(&c), Some(AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED));
}

#[test]
fn who_has_not_met_the_unit_is_new_to_it() {
    let before = Rig::new(1);
    let nexus = Nexus::new("a", before.port.clone());
    let mut after = Rig::after(&before, SIZE);
    let again = Nexus::new("a", after.port.clone());
    again.take_over(&carried(nexus.hand_over())).unwrap();
    let a = after.session(&again, 0);
    assert_eq!(after.told(&a), Some(AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED));
    // Of a state that says nothing, too.
    let nobody: NexusState = serde_json::from_str("{}").unwrap();
    let b = Nexus::new("b", after.port.clone());
    b.take_over(&nobody).unwrap();
    after.unit.take_over(serde_json::from_str::<UnitState>("{}").unwrap(), WALL, WALL).unwrap();
}

#[test]
fn what_is_otherwise_than_before_is_told() {
    let mut before = Rig::new(1);
    let a = before.named("a", 0);
    let mut after = Rig::after(&before, 2 * SIZE);
    let a = after.goes_on(&a);
    assert_eq!(after.told(&a), Some(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
    assert_eq!(after.told(&a), None);
    // The unit at another number.
    let port = TargetPort::new(
        "toy,t,0x0001",
        1,
        Protocol::ISCSI,
        [(0, after.unit.clone()), (5, after.unit.clone())].into(),
    );
    let nexus = Nexus::new("a", port);
    nexus.take_over(&carried(a.session.nexus().hand_over())).unwrap();
    let moved = after.session(&nexus, 0);
    // That there is another port was pending.
    assert_eq!(after.told(&moved), Some(AdditionalSense::INQUIRY_DATA_HAS_CHANGED));
    assert_eq!(after.told(&moved), Some(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
    assert_eq!(after.told(&moved), Some(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED));
}

#[test]
fn mode_pages_that_are_not_saved_stay_in_force() {
    let mut before = Rig::new(1);
    let a = before.named("a", 0);
    // D_SENSE.
    before.select_control_page(&a, 0x10, |page| page[2] |= 4);
    assert!(before.unit.descriptor_sense());
    let after = Rig::after(&before, SIZE);
    assert!(after.unit.descriptor_sense());
}

#[test]
fn an_allegiance_stays_that_of_its_nexus() {
    let mut before = Rig::new(2);
    let (a, b) = before.with_allegiance();
    let mut after = Rig::after(&before, SIZE);
    let (a, b) = (after.goes_on(&a), after.goes_on(&b));
    assert_eq!((after.status(&a, 0), after.status(&b, 0)), (Some(Status::ACA_ACTIVE), Some(Status::BUSY)));
    after.close(&a);
    assert_eq!(after.try_run(&b, 1, &READ, &[]), None, "it ends with the nexus");
    after.complete_all();
}

#[test]
fn the_timestamp_goes_on() {
    let before = Rig::new(1);
    before.unit.set_clock(5);
    let program = Rig::after(&before, SIZE);
    let origin = |rig: &Rig, now| rig.unit.clock().read(now);
    assert_eq!(
        origin(&program, Duration::ZERO),
        (crate::clock::Origin::Start, 0),
        "the program sets its own"
    );
    before.unit.clock().set(crate::clock::Origin::Command, 77_000, Duration::from_secs(100));
    let after = Rig::after(&before, SIZE);
    assert_eq!(origin(&after, Duration::from_secs(1)), (crate::clock::Origin::Command, 79_000));
}
