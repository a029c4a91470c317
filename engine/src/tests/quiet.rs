use super::*;
use crate::ChangeError;
use TaskManagementFunction as Function;
use lunette_scsi::Status;

/// What `quiesce` has come to.
type Quiet = Arc<Mutex<Option<Result<(), ChangeError>>>>;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];
const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0];
const REQUEST_SENSE: [u8; 6] = [3, 0, 0, 0, 18, 0];
const MODE_SENSE: [u8; 6] = [0x1a, 0, 0x0a, 0, 255, 0];

impl Rig {
    fn quiesce(&mut self) -> Quiet {
        let quiet = Quiet::default();
        let told = quiet.clone();
        let poster = self.sim.cx(0).poster();
        self.unit.quiesce(&*poster, move |result| *told.lock().unwrap() = Some(result));
        quiet
    }

    pub(super) fn go_on(&mut self) {
        let poster = self.sim.cx(0).poster();
        self.unit.resume_commands(&*poster);
    }

    /// The same when nothing has begun; ends the flush.
    pub(super) fn quiesced(&mut self) {
        let quiet = self.quiesce();
        assert_eq!(self.at_store(), 1, "a flush");
        self.complete_one(Ok(0));
        assert_eq!(*quiet.lock().unwrap(), Some(Ok(())));
    }

    fn ask(&mut self, from: &Initiator, attribute: TaskAttribute, cdb: &[u8]) -> Option<Status> {
        let cdb = Cdb::new(cdb).unwrap();
        let lun = Lun::from_index(0);
        let frame = CommandFrame { tag: 99, attribute, cookie: 99, ..CommandFrame::new(lun, &cdb) };
        let cx = self.sim.cx(from.reactor);
        match from.session.execute(&frame, Sg::empty(), Sg::new(&[from.memory.seg()]), cx) {
            Started::Ended(outcome) => Some(outcome.status),
            Started::Pending => None,
        }
    }
}

#[test]
fn a_section_is_saved_or_is_as_it_was() {
    let mut rig = Rig::new(1);
    let keeper = Arc::new(crate::RamKeeper::default());
    let save = |rig: &mut Rig, value: u8| {
        let saved = Arc::new(Mutex::new(None));
        let (told, poster) = (saved.clone(), rig.sim.cx(0).poster());
        let done = move |result| *told.lock().unwrap() = Some(result);
        rig.unit.save_section("mine", move |_| value, &*poster, done);
        rig.sim.settle();
        saved.lock().unwrap().take().expect("it has ended")
    };
    assert_eq!(save(&mut rig, 1), Err(ChangeError::NotSaved), "nothing is kept");
    assert!(rig.unit.save_at_once("mine", &1).is_err());
    rig.unit.keep_state(keeper.clone()).unwrap();
    let kept = |rig: &Rig| rig.unit.saved().get::<u8>("mine").unwrap();
    let written = || crate::Saved::parse(&keeper.state().unwrap()).unwrap().get::<u8>("mine").unwrap();
    rig.unit.save_at_once("mine", &2).unwrap();
    assert_eq!((kept(&rig), written()), (2, 2));
    rig.quiesced();
    assert_eq!((save(&mut rig, 3), kept(&rig), written()), (Ok(()), 3, 3));
    keeper.limit(0);
    assert_eq!((save(&mut rig, 4), kept(&rig), written()), (Err(ChangeError::NotSaved), 3, 3));
    assert!(rig.unit.save_at_once("mine", &5).is_err());
    assert_eq!((kept(&rig), written()), (3, 3));
}

#[test]
fn a_unit_is_quiet_when_what_had_begun_has_ended_and_the_cache_is_written() {
    let mut rig = Rig::new(3);
    let (a, b) = (rig.initiator(1), rig.initiator(2));
    rig.read(&a, 1, "simple");
    assert_eq!(rig.send(&b, 2, "simple", &TWO_STEPS.spec), None);
    let quiet = rig.quiesce();
    for tag in 10..13 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!((rig.at_store(), rig.unit.is_quiesced()), (2, true));
    rig.complete_one(Ok(1));
    rig.complete_one(Ok(1));
    assert_eq!((rig.held(), *quiet.lock().unwrap()), (vec![0, 0, 1], None), "the second step");
    rig.complete_one(Ok(1));
    assert_eq!((a.good(), b.good()), (vec![1], vec![2]));
    assert_eq!((rig.held(), *quiet.lock().unwrap()), (vec![1, 0, 0], None), "the flush");
    rig.complete_one(Ok(0));
    assert_eq!(*quiet.lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.at_store(), 0);
    rig.go_on();
    assert_eq!((rig.at_store(), rig.unit.is_quiesced()), (3, false));
    rig.complete_all();
    assert_eq!(a.good(), [10, 11, 12], "in their order");
    rig.read(&b, 3, "simple");
    assert_eq!(rig.at_store(), 1, "and nothing is held any more");
}

#[test]
fn who_only_asks_is_answered_meanwhile() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.quiesced();
    for attribute in [TaskAttribute::Ordered, TaskAttribute::Simple, TaskAttribute::HeadOfQueue] {
        assert_eq!(rig.ask(&a, attribute, READ.spec.usage), None);
        for cdb in [&TEST_UNIT_READY[..], &INQUIRY, &REPORT_LUNS, &REQUEST_SENSE] {
            assert_eq!(rig.ask(&a, attribute, cdb), Some(Status::GOOD));
        }
    }
    let nexus = Nexus::new("late", rig.port.clone());
    let late = rig.session(&nexus, 0);
    assert_eq!(rig.ask(&late, TaskAttribute::Simple, &TEST_UNIT_READY), Some(Status::CHECK_CONDITION));
    assert_eq!(rig.ask(&late, TaskAttribute::Simple, &MODE_SENSE), None, "behind an ORDERED command");
    rig.go_on();
    rig.complete_all();
    assert_eq!((a.good().len(), late.good().len()), (3, 1));
}

#[test]
fn other_commands_go_on_in_the_order_of_the_task_set() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.quiesced();
    for (from, tag, attribute) in [
        (&a, 1, "simple"),
        (&a, 2, "ordered"),
        (&b, 3, "simple"),
        (&b, 4, "head of queue"),
        (&a, 5, "simple"),
    ] {
        rig.read(from, tag, attribute);
    }
    assert_eq!(rig.at_store(), 0);
    rig.go_on();
    let mut order = Vec::new();
    while rig.at_store() > 0 {
        assert!(rig.at_store() <= 2);
        rig.complete_the_last();
        order.extend(a.good().into_iter().chain(b.good()));
    }
    assert_eq!(order, [4, 1, 2, 3, 5]);
}

#[test]
fn no_more_wait_than_may() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.initiator(0), rig.initiator(0));
    rig.unit.limit_waiting(2);
    rig.quiesced();
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "simple");
    let status = |outcome: Option<Outcome>| outcome.map(|outcome| outcome.status);
    assert_eq!(status(rig.send(&a, 3, "simple", &READ.spec)), Some(Status::TASK_SET_FULL));
    assert_eq!(status(rig.send(&b, 4, "simple", &TWO_STEPS.spec)), Some(Status::BUSY));
    rig.go_on();
    rig.complete_all();
    assert_eq!(a.good(), [1, 2]);
    for tag in 10..20 {
        rig.read(&a, tag, "simple");
    }
    rig.complete_all();
    assert_eq!(a.good().len(), 10, "who goes on waits no more");
}

#[test]
fn what_waits_can_be_aborted_and_ends_with_its_nexus() {
    let mut rig = Rig::new(2);
    let nexus = Nexus::new("guest", rig.port.clone());
    let (control, queue) = (rig.open(&nexus, 0), rig.open(&nexus, 1));
    let other = rig.initiator(1);
    rig.quiesced();
    for (tag, command) in [(1, &READ.spec), (2, &TWO_STEPS.spec), (3, &READ.spec)] {
        assert_eq!(rig.send(&queue, tag, "simple", command), None);
    }
    rig.read(&other, 4, "simple");
    rig.manage(&control, Function::AbortTask, 2);
    rig.sim.settle();
    let aborted = |tag| Event::Ended(tag, Completion::Aborted(crate::Aborted::ByItsNexus));
    assert_eq!(queue.events(), [aborted(2)]);
    control.events();
    control.session.close(1000, rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(queue.events().len(), 2);
    assert_eq!(control.events(), [Event::Managed(1000, ServiceResponse::FunctionComplete)]);
    rig.go_on();
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!(other.good(), [4]);
}

#[test]
fn a_command_whose_data_comes_late_waits_as_well() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let cdb = Cdb::new(READ.spec.usage).unwrap();
    let frame = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, .. } = a.session.admit(&frame, rig.sim.cx(0)) else { panic!() };
    rig.quiesced();
    let memory = Memory::zeroed(1);
    let started = a.session.start(task, Sg::empty(), Sg::new(&[memory.seg()]), rig.sim.cx(0));
    assert!(matches!(started, Started::Pending));
    assert_eq!(rig.at_store(), 0);
    rig.go_on();
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!(a.good(), [1]);
}

#[test]
fn a_unit_that_is_let_go_on_too_early_was_not_quiet() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    let first = rig.quiesce();
    rig.go_on();
    rig.read(&a, 2, "simple");
    let second = rig.quiesce();
    rig.read(&a, 3, "simple");
    assert_eq!(rig.at_store(), 2);
    while second.lock().unwrap().is_none() {
        rig.complete_one(Ok(1));
    }
    assert_eq!(*first.lock().unwrap(), Some(Err(ChangeError::LetGoOn)));
    assert_eq!((*second.lock().unwrap(), rig.unit.is_quiesced()), (Some(Ok(())), true));
    assert_eq!(a.good(), [1, 2]);
}

#[test]
fn a_cache_that_cannot_be_written_leaves_the_unit_at_work() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let quiet = rig.quiesce();
    rig.read(&a, 1, "simple");
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Err(lunette_store::IoError::Os(5)));
    let failed = ChangeError::Store(lunette_store::IoError::Os(5));
    assert_eq!(*quiet.lock().unwrap(), Some(Err(failed)));
    assert_eq!((rig.at_store(), rig.unit.is_quiesced()), (1, false));
    rig.complete_all();
    assert_eq!(a.good(), [1]);
}

#[test]
fn a_reactor_that_comes_later_holds_its_commands() {
    let mut rig = Rig::new(2);
    let a = rig.initiator(0);
    rig.quiesced();
    let nexus = Nexus::new("late", rig.port.clone());
    let late = rig.session(&nexus, 1);
    assert_eq!(rig.ask(&late, TaskAttribute::Simple, &TEST_UNIT_READY), Some(Status::CHECK_CONDITION));
    rig.read(&late, 1, "simple");
    assert_eq!(rig.at_store(), 0);
    rig.go_on();
    rig.complete_all();
    assert_eq!((a.events(), late.good()), (vec![], vec![1]));
}

#[test]
fn what_waits_for_room_when_the_unit_becomes_quiet_waits_on() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 + 3 {
        rig.read(&a, tag, "simple");
    }
    let quiet = rig.quiesce();
    assert_eq!(rig.at_store(), ROOM);
    for _ in 0..ROOM {
        rig.complete_one(Ok(1));
    }
    assert_eq!((a.good().len(), rig.at_store()), (ROOM, 1), "the flush");
    rig.complete_one(Ok(0));
    assert_eq!(*quiet.lock().unwrap(), Some(Ok(())));
    rig.go_on();
    rig.complete_all();
    assert_eq!(a.good(), [ROOM as u64, ROOM as u64 + 1, ROOM as u64 + 2]);
}

#[test]
fn a_command_of_several_steps_finds_room_while_others_are_held() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(rig.send(&a, 100, "simple", &TWO_STEPS.spec), None);
    let quiet = rig.quiesce();
    rig.read(&a, 101, "simple");
    assert_eq!(rig.at_store(), ROOM);
    while quiet.lock().unwrap().is_none() {
        rig.complete_one(Ok(1));
        rig.pass(std::time::Duration::from_millis(1));
    }
    let good = a.good();
    assert!(good.contains(&100) && !good.contains(&101));
    rig.go_on();
    rig.complete_all();
    assert_eq!(a.good(), [101]);
}

#[test]
fn who_wants_something_of_a_unit_that_has_gone_is_told_so() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    let before = rig.quiesce();
    rig.read(&a, 2, "simple");
    rig.sim.settle();
    let poster = rig.sim.cx(0).poster();
    rig.unit.retire(&*poster, || ());
    let after = rig.quiesce();
    rig.complete_all();
    assert!(before.lock().unwrap().is_some());
    assert_eq!(*after.lock().unwrap(), Some(Err(ChangeError::Gone)));
    assert_eq!(a.events().len(), 2, "what waited has ended");
}
