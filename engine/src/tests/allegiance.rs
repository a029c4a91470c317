use super::*;
use crate::Aborted;
use TaskManagementFunction as Function;
use lunette_scsi::{AdditionalSense, Status};
use lunette_store::IoError;
use std::time::Duration;

const NACA: u8 = 4;
const COMPLETE: Event = Event::Managed(1000, ServiceResponse::FunctionComplete);

impl Rig {
    /// Sends READ(10) with a CONTROL byte.
    fn controlled(
        &mut self,
        from: &Initiator,
        tag: u64,
        attribute: TaskAttribute,
        control: u8,
    ) -> Option<Outcome> {
        let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, control]).unwrap();
        let frame =
            CommandFrame { tag, attribute, cookie: tag, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let cx = self.sim.cx(from.reactor);
        match from.session.execute(&frame, Sg::empty(), Sg::new(&[from.memory.seg()]), cx) {
            Started::Ended(outcome) => Some(outcome),
            Started::Pending => None,
        }
    }

    pub(super) fn status(&mut self, from: &Initiator, control: u8) -> Option<Status> {
        self.controlled(from, 99, TaskAttribute::Simple, control).map(|outcome| outcome.status)
    }

    /// Two nexuses, of which the first has an auto contingent allegiance.
    pub(super) fn with_allegiance(&mut self) -> (Initiator, Initiator) {
        let (a, b) = (self.initiator(0), self.initiator(1));
        assert_eq!(self.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
        assert_eq!(self.at_store(), 1);
        self.complete_one(Err(IoError::Os(5)));
        assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
        (a, b)
    }

    /// Has a nexus learn what it is to be told.
    fn learn(&mut self, from: &Initiator) {
        self.send(from, 0, "simple", &crate::spc::REQUEST_SENSE.spec);
        self.sim.settle();
        assert_eq!(from.session.nexus().itl(&self.unit).unwrap().attention(), None);
    }

    /// Changes bytes of the Control mode page.
    fn control_page(&mut self, from: &Initiator, change: impl FnOnce(&mut [u8])) -> Status {
        self.select_control_page(from, 0x10, change).status
    }

    /// The same with byte 1 of MODE SELECT.
    pub(super) fn select_control_page(
        &mut self,
        from: &Initiator,
        flags: u8,
        change: impl FnOnce(&mut [u8]),
    ) -> Outcome {
        let page = lunette_scsi::mode::ModePageCode::page(0x0a);
        let mut list = vec![0; 4];
        list.extend(self.unit.mode_page(page, crate::PageControl::Current).unwrap());
        list[4] &= 0x3f;
        change(&mut list[4..]);
        let memory = Memory::from_bytes(&list);
        let cdb = Cdb::new(&[0x15, flags, 0, 0, list.len() as u8, 0]).unwrap();
        let data_out = list.len() as u64;
        let frame =
            CommandFrame { tag: 98, cookie: 98, data_out, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let cx = self.sim.cx(from.reactor);
        match from.session.execute(&frame, Sg::new(&[memory.seg()]), Sg::empty(), cx) {
            Started::Ended(outcome) => outcome,
            Started::Pending => {
                self.sim.settle();
                let events = from.events();
                let [Event::Ended(98, Completion::Ended(outcome))] = &events[..] else {
                    panic!("{events:?}")
                };
                outcome.clone()
            }
        }
    }
}

/// The sense code with which the only command that has ended did so.
fn failed(from: &Initiator, tag: u64) -> AdditionalSense {
    let events = from.events();
    let [Event::Ended(ended, Completion::Ended(outcome))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*ended, tag);
    outcome.sense.as_ref().unwrap().additional
}

#[test]
fn an_allegiance_keeps_all_but_one_out_until_it_is_cleared() {
    let mut rig = Rig::new(2);
    let (a, b) = rig.with_allegiance();
    assert_eq!(rig.status(&a, 0), Some(Status::ACA_ACTIVE));
    assert_eq!(rig.status(&b, NACA), Some(Status::ACA_ACTIVE));
    assert_eq!(rig.status(&b, 0), Some(Status::BUSY));
    for control in [0, NACA] {
        let other = rig.controlled(&b, 2, TaskAttribute::Aca, control).unwrap();
        assert_eq!(other.status, Status::ACA_ACTIVE);
    }
    assert_eq!(rig.controlled(&a, 3, TaskAttribute::Aca, NACA), None);
    let second = rig.controlled(&a, 4, TaskAttribute::Aca, NACA).unwrap();
    assert_eq!(second.status, Status::ACA_ACTIVE, "one at a time");
    rig.complete_all();
    assert_eq!(a.good(), [3]);
    rig.manage(&b, Function::ClearAca, 0);
    rig.sim.settle();
    assert_eq!(b.events(), [COMPLETE]);
    assert_eq!(rig.status(&a, 0), Some(Status::ACA_ACTIVE), "it is not theirs");
    assert_eq!(rig.controlled(&a, 5, TaskAttribute::Aca, 0), None);
    rig.manage(&a, Function::ClearAca, 0);
    rig.complete_all();
    assert_eq!(a.events(), [Event::Ended(5, Completion::Aborted(Aborted::ByItsNexus)), COMPLETE]);
    rig.read(&a, 6, "simple");
    rig.read(&b, 7, "simple");
    rig.complete_all();
    let refused = rig.controlled(&a, 8, TaskAttribute::Aca, 0).unwrap();
    assert_eq!(refused.sense.unwrap().additional, AdditionalSense::INVALID_MESSAGE_ERROR);
}

#[test]
fn what_runs_ends_before_the_error_is_told_and_the_rest_is_suspended() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    rig.read(&b, 2, "simple");
    rig.read(&b, 3, "ordered");
    let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame { tag: 4, cookie: 4, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, .. } = a.session.admit(&frame, rig.sim.cx(0)) else { panic!() };
    assert_eq!(rig.at_store(), 2);
    rig.complete_one(Err(IoError::Os(5)));
    let started = a.session.start(task, Sg::empty(), Sg::new(&[a.memory.seg()]), rig.sim.cx(0));
    assert!(matches!(started, Started::Pending));
    assert_eq!((a.events(), rig.at_store()), (vec![], 1));
    rig.complete_one(Ok(1));
    assert_eq!(b.good(), [2]);
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
    assert_eq!(rig.at_store(), 0);
    rig.manage(&a, Function::ClearAca, 0);
    rig.complete_all();
    assert_eq!((a.events().remove(0), b.good()), (COMPLETE, vec![3]));
}

#[test]
fn what_was_suspended_goes_on_in_portions() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let cdb = Cdb::new(&[0x3c, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let admit = |rig: &mut Rig, tag| {
        let frame = CommandFrame { tag, cookie: tag, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        match a.session.admit(&frame, rig.sim.cx(0)) {
            Admission::Admitted { task, .. } => task,
            Admission::Ended(outcome) => panic!("{outcome:?}"),
        }
    };
    let tasks: Vec<_> = (1..=200).map(|tag| admit(&mut rig, tag)).collect();
    assert_eq!(rig.controlled(&a, 0, TaskAttribute::Simple, NACA), None);
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(failed(&a, 0), AdditionalSense::UNRECOVERED_READ_ERROR);
    for task in tasks {
        let started = a.session.start(task, Sg::empty(), Sg::empty(), rig.sim.cx(0));
        assert!(matches!(started, Started::Pending));
    }
    rig.manage(&a, Function::ClearAca, 0);
    let mut steps = Vec::new();
    while rig.sim.step(0) {
        steps.push(a.events().len());
    }
    assert_eq!(steps.iter().sum::<usize>(), 201, "with the answer of the function");
    assert!(steps.iter().all(|ended| *ended <= crate::order::TURNS_AT_A_TIME), "{steps:?}");
}

#[test]
fn what_waited_for_room_when_it_was_suspended_waits_for_it_again() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.initiator(0), rig.initiator(0));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    for tag in 2..=ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    rig.read(&b, 100, "simple");
    assert_eq!(rig.at_store(), ROOM);
    rig.complete_one(Err(IoError::Os(5)));
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.at_store(), ROOM - 1, "the one that waits is suspended");
    rig.complete_all();
    for _ in 0..ROOM {
        let poster = rig.sim.cx(0).poster();
        rig.unit.begin(&*poster, async |steps| {
            steps.flush().await.unwrap();
            Ok(())
        });
    }
    assert_eq!(rig.at_store(), ROOM);
    rig.manage(&a, Function::ClearAca, 0);
    assert_eq!(rig.at_store(), ROOM);
    rig.complete_all();
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!(b.good(), [100]);
}

#[test]
fn what_goes_on_after_an_allegiance_waits_for_room_no_more() {
    let mut rig = Rig::new(1);
    rig.unit.limit_waiting(1);
    let (a, b) = (rig.initiator(0), rig.initiator(0));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    for tag in 2..=ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    rig.read(&b, 100, "simple");
    assert_eq!(rig.at_store(), ROOM);
    rig.complete_one(Err(IoError::Os(5)));
    rig.pass(Duration::from_millis(1));
    rig.complete_all();
    rig.manage(&a, Function::ClearAca, 0);
    assert_eq!(rig.at_store(), 1);
    for tag in 2..=ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    rig.read(&a, 50, "simple");
}

#[test]
fn what_is_suspended_does_not_begin_to_be_aborted() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    rig.read(&b, 2, "ordered");
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(rig.at_store(), 0, "it is suspended");
    rig.manage(&a, Function::LogicalUnitReset, 0);
    assert_eq!(rig.at_store(), 0);
    assert_eq!(b.events(), [Event::Ended(2, Completion::Aborted(Aborted::ByReset))]);
}

#[test]
fn an_error_and_a_first_claim_do_not_wait_for_each_other() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    assert_eq!(rig.send(&b, 2, "simple", &ranges::CLAIM.spec), None);
    assert_eq!(rig.at_store(), 1, "the claim waits for what was begun before");
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!((a.events(), rig.at_store()), (vec![], 1), "the error waits for the claim");
    rig.complete_one(Ok(1));
    assert_eq!(b.good(), [2]);
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
}

#[test]
fn a_command_without_a_place_leaves_that_of_the_allegiance() {
    let mut rig = Rig::new(1);
    let [a, c] = ["a", "c"].map(|name| Nexus::new(name, rig.port.clone()));
    let (a, c) = (rig.open(&a, 0), rig.open(&c, 0));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    room::admit_all(&mut rig, &a);
    room::admit_all(&mut rig, &c);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
    let crowded = rig.controlled(&a, 2, TaskAttribute::Aca, NACA).unwrap();
    assert_eq!(crowded.status, Status::TASK_SET_FULL);
    c.session.close(1000, rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(rig.controlled(&a, 3, TaskAttribute::Aca, NACA), None);
}

#[test]
fn an_error_that_finds_no_place_is_not_told() {
    let mut rig = Rig::new(1);
    let [a, c] = ["a", "c"].map(|name| Nexus::new(name, rig.port.clone()));
    let (a, c) = (rig.open(&a, 0), rig.open(&c, 0));
    room::admit_all(&mut rig, &a);
    room::admit_all(&mut rig, &c);
    let condition = AdditionalSense::MODE_PARAMETERS_CHANGED;
    a.session.nexus().itl(&rig.unit).unwrap().establish(condition);
    assert_eq!(rig.status(&a, NACA), Some(Status::TASK_SET_FULL));
    assert!(!rig.unit.has_allegiance());
    assert_eq!(
        a.session.nexus().itl(&rig.unit).unwrap().attention(),
        Some(condition),
        "it is still to be told"
    );
}

/// A transport has to come to rest while others hold back what it has sent.
#[test]
fn what_has_not_begun_is_turned_back() {
    let mut rig = Rig::new(2);
    let (a, nexus) = (rig.initiator(0), Nexus::new("b", rig.port.clone()));
    let (here, there) = (rig.open(&nexus, 0), rig.session(&nexus, 1));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    rig.read(&here, 2, "simple");
    rig.read(&here, 3, "ordered");
    rig.read(&there, 4, "simple");
    rig.read(&a, 5, "simple");
    assert_eq!(rig.at_store(), 2);
    rig.complete_one(Err(IoError::Os(5)));
    here.session.turn_back(rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(there.events(), []);
    there.session.turn_back(rig.sim.cx(1));
    rig.sim.settle();
    let turned_back = |tag| Event::Ended(tag, Completion::Ended(Outcome::status(Status::BUSY)));
    assert_eq!(here.events(), [turned_back(3)]);
    assert_eq!(there.events(), [turned_back(4)]);
    rig.complete_one(Ok(1));
    assert_eq!(here.good(), [2]);
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
    rig.manage(&a, Function::ClearAca, 0);
    rig.complete_all();
    assert_eq!(a.events().remove(0), COMPLETE);
    rig.read(&there, 6, "ordered");
    rig.complete_all();
    assert_eq!(there.good(), [6]);
}

#[test]
fn what_waits_for_room_is_turned_back() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 + 3 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(rig.at_store(), ROOM);
    a.session.turn_back(rig.sim.cx(0));
    rig.sim.settle();
    let busy = |event: &Event| matches!(event, Event::Ended(_, Completion::Ended(outcome)) if outcome.status == Status::BUSY);
    assert_eq!(a.events().iter().filter(|event| busy(event)).count(), 3);
    rig.complete_all();
    assert_eq!(a.good().len(), ROOM);
}

#[test]
fn a_command_that_asks_no_more_ends_the_allegiance_by_failing() {
    for (control, status) in [(NACA, Some(Status::ACA_ACTIVE)), (0, None)] {
        let mut rig = Rig::new(2);
        let (a, _) = rig.with_allegiance();
        assert_eq!(rig.controlled(&a, 2, TaskAttribute::Aca, control), None);
        assert_eq!(rig.at_store(), 1);
        rig.complete_one(Err(IoError::Os(5)));
        assert_eq!(failed(&a, 2), AdditionalSense::UNRECOVERED_READ_ERROR);
        assert_eq!(rig.status(&a, 0), status);
    }
}

#[test]
fn the_end_of_a_command_of_one_allegiance_leaves_the_next_alone() {
    let mut rig = Rig::new(2);
    let (a, _) = rig.with_allegiance();
    let b = rig.session(&Nexus::new("b", rig.port.clone()), 1);
    assert_eq!(rig.controlled(&a, 2, TaskAttribute::Aca, 0), None);
    assert_eq!(rig.at_store(), 1);
    rig.complete(0, Err(IoError::Os(5)));
    while rig.unit.has_allegiance() {
        rig.sim.step(0);
    }
    assert_eq!(a.events(), [], "it has cleared its allegiance and has not ended");
    assert_eq!(rig.controlled(&b, 3, TaskAttribute::Simple, NACA), None);
    assert_eq!(rig.controlled(&b, 4, TaskAttribute::Aca, NACA), None);
    rig.sim.settle();
    assert_eq!(failed(&a, 2), AdditionalSense::UNRECOVERED_READ_ERROR);
    let second = rig.controlled(&b, 5, TaskAttribute::Aca, NACA).unwrap();
    assert_eq!(second.status, Status::ACA_ACTIVE);
}

#[test]
fn resets_and_the_loss_of_its_nexus_end_an_allegiance() {
    for function in [Function::LogicalUnitReset, Function::TargetWarmReset, Function::ITNexusReset] {
        let mut rig = Rig::new(2);
        let (a, b) = rig.with_allegiance();
        rig.manage(&b, function, 0);
        rig.sim.settle();
        let ended = rig.status(&a, 0) != Some(Status::ACA_ACTIVE);
        assert_eq!(ended, function != Function::ITNexusReset, "{function}");
        rig.manage(&a, function, 0);
        rig.sim.settle();
        assert_ne!(rig.status(&a, 0), Some(Status::ACA_ACTIVE));
    }
    let mut rig = Rig::new(2);
    let (a, b) = rig.with_allegiance();
    a.session.close(1000, rig.sim.cx(0));
    rig.sim.settle();
    rig.read(&b, 2, "simple");
}

#[test]
fn a_command_refused_on_arrival_establishes_an_allegiance_too() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("new", rig.port.clone());
    let (a, b) = (rig.session(&nexus, 0), rig.initiator(1));
    rig.read(&b, 1, "simple");
    assert_eq!(rig.controlled(&a, 2, TaskAttribute::Simple, NACA), None);
    assert_eq!(rig.status(&b, NACA), Some(Status::ACA_ACTIVE));
    rig.complete_all();
    assert_eq!(failed(&a, 2), AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED);
}

#[test]
fn a_unit_attention_that_could_not_be_told_is_told_later() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("new", rig.port.clone());
    let (a, b) = (rig.session(&nexus, 0), rig.initiator(1));
    rig.read(&b, 1, "simple");
    assert_eq!(rig.controlled(&a, 2, TaskAttribute::Simple, NACA), None);
    rig.manage(&a, Function::AbortTask, 2);
    rig.sim.settle();
    assert_eq!(a.events(), [Event::Ended(2, Completion::Aborted(Aborted::ByItsNexus)), COMPLETE]);
    rig.manage(&a, Function::ClearAca, 0);
    let told = rig.controlled(&a, 3, TaskAttribute::Simple, 0).unwrap();
    let power_on = AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
    assert_eq!(told.sense.unwrap().additional, power_on);
}

#[test]
fn a_command_that_has_failed_meets_no_reservation() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("new", rig.port.clone());
    let (a, b) = (rig.session(&nexus, 0), rig.initiator(1));
    let reserve = CommandSpec::new(Opcode::RESERVE_10, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::None);
    assert_eq!(rig.send(&b, 1, "simple", &reserve).unwrap().status, Status::GOOD);
    assert_eq!(rig.controlled(&a, 2, TaskAttribute::Simple, NACA), None);
    rig.sim.settle();
    assert_eq!(failed(&a, 2), AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED);
}

#[test]
fn what_an_error_does_not_abort_ends_before_the_allegiance_is_told() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.control_page(&a, |page| page[3] |= 0b11 << 1);
    rig.learn(&b);
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    rig.read(&b, 2, "simple");
    assert_eq!(rig.at_store(), 2);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(a.events(), []);
    rig.complete_one(Ok(1));
    assert_eq!(b.good(), [2]);
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
}

#[test]
fn an_error_aborts_what_the_control_page_says() {
    for (qerr, own, other) in [(0b00, false, false), (0b01, true, true), (0b11, true, false)] {
        for told in [false, true] {
            let mut rig = Rig::new(2);
            let (a, b) = (rig.initiator(0), rig.initiator(1));
            let set = |page: &mut [u8]| (page[3], page[5]) = (page[3] | qerr << 1, u8::from(told) << 6);
            assert_eq!(rig.control_page(&a, set), Status::GOOD);
            rig.learn(&b);
            for (from, tag) in [(&a, 1), (&a, 2), (&b, 3)] {
                rig.read(from, tag, "simple");
            }
            assert_eq!(rig.at_store(), 3);
            rig.complete_one(Err(IoError::Os(5)));
            assert_eq!(a.log.0.borrow().is_empty(), own || other, "told when the others have ended");
            rig.complete_all();
            let ended = |from: &Initiator, tag| {
                let mut events = from.log.0.borrow_mut();
                let at = events.iter().position(|event| matches!(event, Event::Ended(t, _) if *t == tag));
                match events.remove(at.unwrap()) {
                    Event::Ended(_, completion) => completion,
                    other => panic!("{other:?}"),
                }
            };
            let status = |completion: Completion| match completion {
                Completion::Ended(outcome) => Ok(outcome.status),
                Completion::Aborted(why) => Err(why),
            };
            assert_eq!(status(ended(&a, 1)), Ok(Status::CHECK_CONDITION));
            let expected = if own { Err(Aborted::ByItsNexus) } else { Ok(Status::GOOD) };
            assert_eq!(status(ended(&a, 2)), expected);
            let aborted = if told { Ok(Status::TASK_ABORTED) } else { Err(Aborted::ByAnotherNexus) };
            assert_eq!(status(ended(&b, 3)), if other { aborted } else { Ok(Status::GOOD) });
            let cleared = AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR;
            assert_eq!(
                b.session.nexus().itl(&rig.unit).unwrap().attention(),
                (other && !told).then_some(cleared)
            );
        }
    }
}

#[test]
fn an_error_does_not_wait_for_what_waits_for_the_background() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    assert_eq!(rig.controlled(&a, 1, TaskAttribute::Simple, NACA), None);
    assert_eq!(rig.send(&b, 2, "simple", &steps::APART.spec), None);
    assert_eq!(rig.at_store(), 2);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(a.events(), [], "it still reads");
    rig.complete_one(Ok(1));
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
    rig.manage(&a, Function::ClearAca, 0);
    rig.sim.settle();
    assert_eq!(a.events(), [COMPLETE]);
    assert_eq!(rig.controlled(&a, 3, TaskAttribute::Simple, NACA), None);
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Err(IoError::Os(5)));
    assert_eq!(failed(&a, 3), AdditionalSense::UNRECOVERED_READ_ERROR, "it waits already");
    assert_eq!(b.events(), []);
}

#[test]
fn two_errors_do_not_wait_for_each_other() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.control_page(&a, |page| page[3] |= 0b01 << 1);
    rig.learn(&b);
    for (from, tag) in [(&a, 1), (&b, 2), (&b, 3)] {
        rig.read(from, tag, "simple");
    }
    assert_eq!(rig.at_store(), 3);
    // Both have failed before either knows of the other.
    for _ in 0..2 {
        rig.complete(0, Err(IoError::Os(5)));
    }
    rig.sim.step(0);
    rig.sim.step(1);
    rig.complete_all();
    assert_eq!(failed(&a, 1), AdditionalSense::UNRECOVERED_READ_ERROR);
    assert_eq!(b.events().len(), 2);
}

#[test]
fn the_reserved_value_of_qerr_is_refused() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    assert_eq!(rig.control_page(&a, |page| page[3] |= 0b10 << 1), Status::CHECK_CONDITION);
}

#[test]
fn a_reset_by_another_nexus_is_told_as_the_control_page_says() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.control_page(&a, |page| page[5] |= 0x40);
    rig.learn(&b);
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "simple");
    rig.manage(&a, Function::LogicalUnitReset, 0);
    rig.complete_all();
    assert_eq!(a.events(), [Event::Ended(1, Completion::Aborted(Aborted::ByReset)), COMPLETE]);
    let events = b.events();
    let [Event::Ended(2, Completion::Ended(outcome))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(outcome.status, Status::TASK_ABORTED);
}

#[test]
fn the_functions_that_there_are_can_be_asked_for() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for (flags, expected) in
        [(0, vec![0xfc, 0x07, 0, 0]), (0x80, vec![0xfc, 0x07, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]
    {
        let memory = Memory::zeroed(64);
        let cdb = Cdb::new(&[0xa3, 0x0d, flags, 0, 0, 0, 0, 0, 0, 64, 0, 0]).unwrap();
        let frame = CommandFrame::new(Lun::from_index(0), &cdb);
        let cx = rig.sim.cx(0);
        let started = a.session.execute(&frame, Sg::empty(), Sg::new(&[memory.seg()]), cx);
        let Started::Ended(outcome) = started else { panic!() };
        assert_eq!(memory.to_vec()[..outcome.moved_in as usize], expected[..]);
    }
}
