use super::*;
use crate::engine::{Engine, Token};
use lunette_scsi::Status;
use lunette_store::{Backing, Caps, IoId, Op, Sink, SinkId, Store, Submit};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(super) fn prioritized(rig: &mut Rig, from: &Initiator, tag: u64, priority: u8) -> Option<Status> {
    let cdb = Cdb::new(&[READ.spec.opcode.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame { tag, cookie: tag, priority, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let cx = rig.sim.cx(from.reactor);
    match from.session.execute(&frame, Sg::empty(), Sg::new(&[from.memory.seg()]), cx) {
        Started::Ended(outcome) => Some(outcome.status),
        Started::Pending => None,
    }
}

#[test]
fn what_waits_for_room_goes_by_priority_and_then_by_turns() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.initiator(0), rig.initiator(0));
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    for (from, tag, priority) in
        [(&a, 100, 0), (&a, 101, 0), (&a, 102, 15), (&b, 200, 0), (&b, 201, 8), (&b, 202, 1)]
    {
        assert_eq!(prioritized(&mut rig, from, tag, priority), None);
    }
    assert_eq!(rig.at_store(), ROOM);
    for _ in 0..ROOM {
        rig.complete_one(Ok(1));
    }
    assert_eq!(a.good().len(), ROOM);
    let mut order = Vec::new();
    for _ in 0..6 {
        rig.complete_one(Ok(1));
        order.extend(a.good().into_iter().chain(b.good()));
    }
    assert_eq!(order, [202, 100, 200, 101, 201, 102]);
}

#[test]
fn only_so_many_wait_for_room() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.initiator(0), rig.initiator(0));
    rig.unit.limit_waiting(2);
    for tag in 0..ROOM as u64 + 2 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(prioritized(&mut rig, &a, 100, 0), Some(Status::TASK_SET_FULL));
    assert_eq!(prioritized(&mut rig, &b, 100, 0), Some(Status::BUSY));
    rig.manage(&a, TaskManagementFunction::AbortTask, ROOM as u64);
    rig.sim.settle();
    assert_eq!(a.events().len(), 2, "it was not at the store");
    rig.read(&b, 101, "simple");
    rig.complete_all();
    assert_eq!((a.good().len(), b.good()), (ROOM + 1, vec![101]));
}

#[test]
fn the_steps_of_a_command_wait_by_priority_like_commands() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.initiator(0), rig.initiator(0));
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(prioritized(&mut rig, &b, 200, 0), None);
    assert_eq!(rig.send(&a, 100, "simple", &TWO_STEPS.spec), None);
    assert_eq!(rig.send(&a, 101, "head of queue", &steps::TAKE_TURN.spec), None);
    rig.pass(Duration::from_millis(1));
    let mut order = Vec::new();
    while rig.at_store() > 0 {
        rig.complete_one(Ok(1));
        order.extend(a.good().into_iter().chain(b.good()));
    }
    assert_eq!(order[ROOM..], [101, 200, 100], "without waiting for any time");
}

/// A store that has no room at first, and then answers at once.
struct Inline(Held, Arc<AtomicUsize>);

const REFUSALS: usize = 4;

impl Backing for Inline {
    fn caps(&self) -> &Caps {
        Backing::caps(&self.0)
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(Self(self.0.clone(), self.1.clone()))
    }
}

impl Store for Inline {
    fn caps(&self) -> &Caps {
        Backing::caps(&self.0)
    }

    fn submit(&self, op: Op<'_>, _: IoId, _: &mut dyn Cx) -> Submit {
        let full = self.1.fetch_add(1, Ordering::Relaxed) < REFUSALS;
        if full { Submit::Full } else { Submit::Done(Ok(op.range().1)) }
    }
}

/// Comes up again whenever all that was to be done has been: what lies between is done in one go.
struct Beat {
    sink: Cell<SinkId>,
    asked: Arc<AtomicUsize>,
    last: Cell<usize>,
    /// How often a store was asked at most between two of them.
    most: Cell<usize>,
}

impl Sink for Beat {
    fn complete(&self, _: u64, _: IoResult, cx: &mut dyn Cx) {
        let asked = self.asked.load(Ordering::Relaxed);
        self.most.set(self.most.get().max(asked - self.last.replace(asked)));
        cx.complete(IoId { sink: self.sink.get(), token: 0 }, Ok(0));
    }
}

#[test]
fn work_that_never_waits_for_its_store_leaves_others_their_turn() {
    const STEPS: usize = 2000;
    let asked = Arc::<AtomicUsize>::default();
    let store = Inline(Held::new(1 << 20, ROOM), asked.clone());
    let identity = Identity::new("1", Naa::locally_assigned(1));
    let unit = LogicalUnit::new("toy", identity, Box::new(Toy), Some(Arc::new(store)));
    let mut sim = Sim::new(1);
    for _ in 0..2 {
        unit.begin(&*sim.cx(0).poster(), async |steps| {
            let memory = Rc::new(Memory::zeroed(1));
            for _ in 0..STEPS {
                steps.read(0, &memory, 1).await.unwrap();
            }
            Ok(())
        });
    }
    let (sink, last, most) = (Cell::new(SinkId(0)), Cell::default(), Cell::default());
    let beat = Rc::new(Beat { sink, asked: asked.clone(), last, most });
    beat.sink.set(sim.cx(0).register(beat.clone()));
    // Timers wait for completions.
    while asked.load(Ordering::Relaxed) <= REFUSALS {
        sim.step(0);
        sim.advance(Duration::from_millis(1));
    }
    beat.complete(0, Ok(0), sim.cx(0));
    // Commands that end meanwhile have room looked for as well.
    let mut ended = 100;
    while asked.load(Ordering::Relaxed) < 2 * STEPS {
        assert!(sim.step(0));
        if ended > 0 && asked.load(Ordering::Relaxed) > 100 {
            ended -= 1;
            Engine::on(sim.cx(0)).tell(Token::Advance(unit.number()), Ok(0), sim.cx(0));
        }
    }
    beat.complete(0, Ok(0), sim.cx(0));
    let most = beat.most.get();
    assert!(most <= 2 * crate::order::TURNS_AT_A_TIME, "{most} steps without a pause");
}

#[test]
fn a_command_that_waits_for_room_can_be_aborted() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    for tag in 0..ROOM as u64 {
        rig.read(&a, tag, "simple");
    }
    assert_eq!(rig.send(&a, 100, "simple", &TWO_STEPS.spec), None);
    rig.manage(&a, TaskManagementFunction::AbortTask, 100);
    rig.sim.advance(Duration::from_millis(1));
    assert_eq!(rig.at_store(), ROOM);
    let aborted = Event::Ended(100, Completion::Aborted(crate::Aborted::ByItsNexus));
    assert_eq!(a.events(), [aborted, Event::Managed(1000, ServiceResponse::FunctionComplete)]);
}

/// Admits commands until there is no room. How many there were.
pub(super) fn admit_all(rig: &mut Rig, from: &Initiator) -> usize {
    let cdb = Cdb::new(&[READ.spec.opcode.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame::new(Lun::from_index(0), &cdb);
    let cx = rig.sim.cx(from.reactor);
    let admitted = |admission| matches!(admission, Admission::Admitted { .. });
    (0..).take_while(|_| admitted(from.session.admit(&frame, cx))).count()
}

#[test]
fn no_port_takes_the_last_task() {
    let mut rig = Rig::new(2);
    let nexuses = ["one", "other", "one"].map(|name| Nexus::new(name, rig.port.clone()));
    let [one, other, same_port] = nexuses.map(|nexus| rig.open(&nexus, 0));
    assert_eq!(admit_all(&mut rig, &one), 1 << 14, "half of all");
    assert_eq!(admit_all(&mut rig, &other), 1 << 13, "half of the rest");
    assert_eq!(prioritized(&mut rig, &one, 0, 0), Some(Status::TASK_SET_FULL));
    assert_eq!(prioritized(&mut rig, &same_port, 0, 0), Some(Status::BUSY), "another nexus of the same port");
    one.session.close(1000, rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(admit_all(&mut rig, &other), (1 << 14) - (1 << 13), "as many as are left");
}
