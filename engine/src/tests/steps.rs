use super::*;
use crate::run::{RunCell, Step};
use crate::{Aborted, NexusId, NotReady, RamKeeper, Run};
use TaskManagementFunction as Function;
use lunette_scsi::{AdditionalSense, Sense, SenseKey, Status};
use lunette_store::IoError;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

thread_local! {
    static VICTIM: Cell<Option<NexusId>> = const { Cell::new(None) };
}

macro_rules! command {
    ($opcode:expr, $run:ident) => {
        Command {
            spec: CommandSpec::new($opcode, &[$opcode.0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::None)
                .when_ready(),
            decode: |_, _| Ok(Plan::run(0, $run)),
        }
    };
}

/// Reads one byte while it has the turn.
pub(super) static TAKE_TURN: Command<Toy> = command!(Opcode::WRITE_AND_VERIFY_10, take_turn);
pub(super) static SLEEP: Command<Toy> = command!(Opcode::SYNCHRONIZE_CACHE_10, sleep);
pub(super) static ABORT_OTHERS: Command<Toy> = command!(Opcode::WRITE_10, abort_others);
pub(super) static SETTLE: Command<Toy> = command!(Opcode::UNMAP, settle);
pub(super) static SAVE: Command<Toy> = command!(Opcode::WRITE_SAME_10, save);

fn failed(_: IoError) -> Sense {
    Sense::aborted_command(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION)
}

async fn take_turn(run: Run) -> Result<(), Sense> {
    let _turn = run.turn().await?;
    let memory = Rc::new(Memory::zeroed(1));
    run.read(0, &memory, 1).await.map(drop).map_err(failed)
}

async fn sleep(run: Run) -> Result<(), Sense> {
    run.sleep(Duration::from_secs(5)).await.map(drop).map_err(failed)
}

async fn abort_others(run: Run) -> Result<(), Sense> {
    let victim = VICTIM.get().unwrap();
    run.abort_commands_of(&[victim]).await.map(drop).map_err(failed)
}

async fn settle(run: Run) -> Result<(), Sense> {
    run.settle().await.map(drop).map_err(failed)
}

async fn save(run: Run) -> Result<(), Sense> {
    let turn = run.turn().await?;
    let apply =
        |unit: &LogicalUnit| unit.establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    run.save(&turn, "answer", 42, apply).await
}

/// Reads one byte twice, whatever becomes of the command, which ends after the first if it is aborted.
pub(super) static DETACH: Command<Toy> = command!(Opcode::WRITE_ATOMIC_16, detach);

async fn detach(run: Run) -> Result<(), Sense> {
    run.detach(async |steps, hold| {
        let memory = Rc::new(Memory::zeroed(1));
        steps.read(0, &memory, 1).await.map_err(failed)?;
        drop(hold);
        steps.read(0, &memory, 1).await.map(drop).map_err(failed)
    })
    .await
}

/// Reads one byte, and waits for nobody.
pub(super) static APART: Command<Toy> = command!(Opcode::FORMAT_UNIT, apart);

async fn apart(run: Run) -> Result<(), Sense> {
    let memory = Rc::new(Memory::zeroed(1));
    run.read(0, &memory, 1).await.map_err(failed)?;
    run.wait_apart().await.map(drop).map_err(failed)
}

fn pending(rig: &mut Rig, from: &Initiator, tag: u64, command: &Command<Toy>) {
    assert_eq!(rig.send(from, tag, "simple", &command.spec), None);
}

#[test]
fn turns_come_one_after_the_other_across_reactors() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    for (from, tag) in [(&a, 1), (&b, 2), (&a, 3)] {
        pending(&mut rig, from, tag, &TAKE_TURN);
    }
    for done in [(vec![1], vec![]), (vec![], vec![2]), (vec![3], vec![])] {
        assert_eq!(rig.at_store(), 1);
        rig.complete_one(Ok(1));
        assert_eq!((a.good(), b.good()), done);
    }
}

#[test]
fn one_who_is_aborted_gives_up_its_place() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    for (from, tag) in [(&a, 1), (&b, 2), (&a, 3)] {
        pending(&mut rig, from, tag, &TAKE_TURN);
    }
    rig.manage(&b, Function::AbortTask, 2);
    assert_eq!(rig.at_store(), 1);
    let complete = Event::Managed(1000, ServiceResponse::FunctionComplete);
    let aborted = Event::Ended(2, Completion::Aborted(Aborted::ByItsNexus));
    assert_eq!(b.events(), [aborted, complete], "it has nothing to wait for");
    rig.manage(&a, Function::AbortTask, 1);
    assert_eq!(rig.at_store(), 1);
    assert_eq!(a.events(), [], "the store has its memory");
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!(a.events().len(), 3);
}

#[test]
fn a_sleeper_wakes_up_in_time_or_when_it_is_aborted() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    pending(&mut rig, &a, 1, &SLEEP);
    pending(&mut rig, &a, 2, &SLEEP);
    rig.manage(&a, Function::AbortTask, 1);
    rig.sim.settle();
    assert_eq!(a.events().len(), 2);
    rig.pass(Duration::from_secs(4));
    assert!(a.good().is_empty());
    rig.pass(Duration::from_secs(1));
    assert_eq!(a.good(), [2]);
}

#[test]
fn commands_of_another_nexus_have_ended_when_it_is_said_so() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    VICTIM.set(Some(b.session.nexus().id()));
    rig.read(&b, 1, "simple");
    rig.read(&a, 2, "simple");
    pending(&mut rig, &a, 3, &ABORT_OTHERS);
    assert_eq!(rig.at_store(), 2);
    assert_eq!(a.events(), []);
    rig.complete_the_last();
    assert_eq!(b.events(), [Event::Ended(1, Completion::Aborted(Aborted::ByAnotherNexus))]);
    assert_eq!(a.good(), [3]);
    rig.complete_all();
    assert_eq!(a.good(), [2], "its own commands go on");
    // Its own nexus, but not itself.
    VICTIM.set(Some(a.session.nexus().id()));
    pending(&mut rig, &a, 4, &ABORT_OTHERS);
    rig.sim.settle();
    assert_eq!(a.good(), [4]);
}

#[test]
fn work_in_the_background_goes_on_by_itself() {
    let mut rig = Rig::new(3);
    rig.unit.live_on([ReactorId(2)]);
    let done = Arc::<Mutex<u32>>::default();
    let poster = rig.sim.cx(0).poster();
    let count = done.clone();
    rig.unit.begin(&*poster, async move |steps| {
        let memory = Rc::new(Memory::zeroed(1));
        for _ in 0..2 {
            steps.read(0, &memory, 1).await.map_err(failed)?;
            steps.sleep(Duration::from_secs(1)).await.map_err(failed)?;
            *count.lock().unwrap() += 1;
        }
        Ok(())
    });
    for expected in 1..3 {
        assert_eq!(rig.at_store(), 1);
        assert_eq!(rig.held(), [0, 0, 1]);
        rig.complete_one(Ok(1));
        rig.pass(Duration::from_secs(1));
        assert_eq!(*done.lock().unwrap(), expected);
    }
    assert_eq!(rig.at_store(), 0);
}

#[test]
fn what_is_detached_goes_on_when_its_command_is_aborted() {
    let mut rig = Rig::new(2);
    let a = rig.initiator(1);
    pending(&mut rig, &a, 1, &DETACH);
    for ended in [vec![], vec![1]] {
        assert_eq!(rig.at_store(), 1);
        rig.complete_one(Ok(1));
        assert_eq!(a.good(), ended);
    }
    pending(&mut rig, &a, 2, &DETACH);
    assert_eq!(rig.at_store(), 1);
    rig.manage(&a, Function::AbortTask, 2);
    assert_eq!((rig.at_store(), a.events().len()), (1, 0), "what holds it has not ended");
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 1);
    assert_eq!(a.events().len(), 2, "the command and the function have ended");
    rig.complete_one(Ok(1));
    assert_eq!((rig.at_store(), a.events().len()), (0, 0));
}

#[test]
fn what_is_saved_comes_back() {
    let keeper = Arc::new(RamKeeper::default());
    let mut rig = Rig::new(1);
    rig.unit.keep_state(keeper.clone()).unwrap();
    let a = rig.initiator(0);
    pending(&mut rig, &a, 1, &SAVE);
    rig.sim.settle();
    assert_eq!(a.good(), [1]);
    let attention = rig.send(&a, 2, "simple", &READ.spec).unwrap();
    assert_eq!(attention.sense.unwrap().additional, AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
    let rig = Rig::new(1);
    rig.unit.keep_state(keeper).unwrap();
    assert_eq!(rig.unit.saved().get("answer"), Ok(42));
    assert_eq!(rig.unit.saved().get("question"), Ok(0));
    assert!(rig.unit.saved().get::<String>("answer").is_err());
}

#[test]
fn what_cannot_be_saved_is_not_applied() {
    let mut rig = Rig::new(1);
    rig.unit.keep_state(Arc::new(RamKeeper::limited(0))).unwrap();
    let a = rig.initiator(0);
    pending(&mut rig, &a, 1, &SAVE);
    rig.sim.settle();
    let [Event::Ended(1, Completion::Ended(outcome))] = &a.events()[..] else { panic!() };
    assert_eq!(outcome.sense.as_ref().unwrap().additional, AdditionalSense::INTERNAL_TARGET_FAILURE);
    rig.read(&a, 2, "simple");
    rig.complete_all();
    assert_eq!(a.good(), [2], "no unit attention");
}

#[test]
fn a_unit_that_is_not_ready_refuses_what_needs_that() {
    let mut rig = Rig::new(2);
    let a = rig.initiator(0);
    let damaged = RamKeeper::holding(*b"{");
    rig.unit.keep_state(Arc::new(damaged)).unwrap_err();
    let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
    let b = rig.session(&Nexus::new("b", rig.port.clone()), 1);
    let test_unit_ready = &crate::spc::TEST_UNIT_READY.spec;
    assert_eq!(rig.send(&b, 0, "simple", test_unit_ready).unwrap().status, Status::CHECK_CONDITION);
    for from in [&a, &b] {
        for command in [&SLEEP.spec, test_unit_ready] {
            let outcome = rig.send(from, 1, "simple", command).unwrap();
            assert_eq!(outcome.sense.as_deref(), Some(&Sense::not_ready(why)));
        }
        assert_eq!(rig.send(from, 1, "simple", &ECHO.spec).unwrap().status, Status::GOOD);
    }
    let unsaved = rig.select_control_page(&a, 0x11, |page| page[5] |= 0x40);
    assert_eq!(unsaved.sense.as_deref(), Some(&Sense::not_ready(why)), "it saves nothing");
    rig.unit.set_not_ready(None);
    assert!(rig.unit.ready().is_err(), "nothing but an operator repairs it");
}

#[test]
fn what_has_begun_goes_on_when_the_unit_is_not_ready_any_more() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    pending(&mut rig, &a, 2, &SLEEP);
    rig.unit.set_not_ready(Some(NotReady::because(AdditionalSense::MEDIUM_NOT_PRESENT)));
    rig.pass(Duration::from_secs(5));
    assert_eq!(a.good(), [2]);
    assert_eq!(rig.send(&a, 1, "simple", &SLEEP.spec).unwrap().status, Status::CHECK_CONDITION);
    rig.unit.set_not_ready(None);
    pending(&mut rig, &a, 3, &SLEEP);
}

#[test]
fn a_rest_ends_when_the_medium_is_needed() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.unit.rest(Some(AdditionalSense::IDLE_CONDITION_ACTIVATED_BY_COMMAND));
    let resting = Sense::new(SenseKey::NO_SENSE, AdditionalSense::IDLE_CONDITION_ACTIVATED_BY_COMMAND);
    for command in [&crate::spc::TEST_UNIT_READY.spec, &ECHO.spec] {
        assert_eq!(rig.send(&a, 1, "simple", command).unwrap().status, Status::GOOD);
        assert_eq!(rig.unit.pollable_sense(), resting);
    }
    pending(&mut rig, &a, 2, &SLEEP);
    assert_eq!(rig.unit.pollable_sense(), Sense::NO_SENSE);
}

#[test]
fn one_that_settles_waits_for_what_has_begun_but_not_for_others_that_settle() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "simple");
    pending(&mut rig, &a, 3, &SETTLE);
    pending(&mut rig, &b, 4, &SETTLE);
    rig.sim.settle();
    rig.read(&a, 5, "simple");
    assert_eq!(rig.at_store(), 3);
    rig.complete_one(Ok(1));
    assert_eq!((a.good(), b.good()), (vec![1], vec![]));
    rig.complete_the_last();
    let (of_a, of_b) = (a.good(), b.good());
    assert_eq!((of_a, of_b), (vec![3], vec![2, 4]), "what came later may go on");
}

/// Counts how often it is encoded.
struct Watched(AtomicUsize);

static WATCHED: Watched = Watched(AtomicUsize::new(0));

impl serde::Serialize for Watched {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        to.serialize_u8(42)
    }
}

#[test]
fn what_is_saved_is_encoded_where_it_may_take_long() {
    let mut rig = Rig::new(1);
    rig.unit.keep_state(Arc::new(RamKeeper::default())).unwrap();
    let id = lunette_store::IoId { sink: lunette_store::SinkId(0), token: 0 };
    let alarm = crate::alarm::Alarm::new(id, rig.sim.cx(0));
    let cell = RunCell::new(Sg::empty(), Sg::empty(), alarm, rig.unit.statistics().join());
    let steps = crate::Steps::new(rig.unit.clone(), cell.clone());
    let mut saving = Box::pin(async move {
        let turn = steps.turn().await?;
        steps.save(&turn, "answer", &WATCHED, |_| ()).await
    });
    let mut context = Context::from_waker(Waker::noop());
    assert!(saving.as_mut().poll(&mut context).is_pending());
    assert_eq!(WATCHED.0.load(Ordering::Relaxed), 0);
    let Some(Step::Call(work)) = cell.take_step() else { panic!() };
    cell.answer(Some(work()));
    assert_eq!(saving.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    assert_eq!((WATCHED.0.load(Ordering::Relaxed), rig.unit.saved().get("answer")), (1, Ok(42)));
}

#[test]
fn who_observes_readiness_is_told_each_reason_once() {
    let rig = Rig::new(1);
    let (tell, told) = std::sync::mpsc::channel();
    rig.unit.observe_readiness(move |why| tell.send(why.map(|why| why.additional)).unwrap());
    let absent = || Some(NotReady::because(AdditionalSense::MEDIUM_NOT_PRESENT));
    for why in [absent(), absent(), Some(NotReady::failed(AdditionalSense::MEDIUM_NOT_PRESENT)), None, None] {
        rig.unit.set_not_ready(why);
    }
    let absent = Some(AdditionalSense::MEDIUM_NOT_PRESENT);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [absent, absent, None]);
}
