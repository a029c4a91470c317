//! Commands, aborts and resets of several initiators on several reactors.

use crate::disks::{self, check_outcome};
use crate::input::Input;
use lunette_device_disk::Options;
use lunette_engine::{
    Admission, CommandFrame, CommandSpec, Completion, Direction, LogicalUnit, Management, Nexus, NexusId,
    Outcome, Responder, Session, Started, TargetPort, TaskId,
};
use lunette_scsi::{Cdb, Lun, ServiceResponse, Status, TaskAttribute, TaskManagementFunction};
use lunette_store::sim::Sim;
use lunette_store::{Cx, Memory, Seg, Sg};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const REACTORS: usize = 2;
/// Nexus and reactor of each session: the first two belong to one nexus, like the queues of a virtual machine.
const SESSIONS: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 1), (2, 0)];
const UNITS: u32 = 4;
/// What buffers hold before a command.
const FRESH: u8 = 0xa5;

/// Random commands with random buffers and task attributes, some of them slow or failing, with task management functions
/// and lost nexuses in between.
///
/// Every command ends exactly once, unless it is abandoned, and in an order that its task attribute allows. Its outcome
/// agrees with its buffers. A task management function ends after the tasks that it aborts, and nothing else aborts any.
pub fn decode(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.step(&mut input);
    }
    rig.finish();
}

#[derive(Default)]
struct Log(RefCell<Vec<Event>>);

enum Event {
    Ended(u64, Completion),
    Managed(u64),
}

impl Responder for Log {
    fn command_ended(&self, cookie: u64, completion: Completion, _: &mut dyn Cx) {
        self.0.borrow_mut().push(Event::Ended(cookie, completion));
    }

    fn management_ended(&self, cookie: u64, _: ServiceResponse, _: &mut dyn Cx) {
        self.0.borrow_mut().push(Event::Managed(cookie));
    }
}

/// A command that has not ended. Its cookie orders it by age.
struct Task {
    nexus: NexusId,
    unit: Arc<LogicalUnit>,
    reactor: usize,
    session: usize,
    tag: u64,
    attribute: TaskAttribute,
    /// In the task set, but not started.
    waiting: Option<TaskId>,
    /// Given up; may still be reported as aborted.
    abandoned: bool,
    /// A function that aborts it is or was on its way.
    abortable: bool,
    data_out: Memory,
    data_in: Memory,
}

/// What a task management function, or the loss of a nexus, is about.
struct Scope {
    /// `None`: all, what stands in for missing ones as well.
    units: Option<Vec<Arc<LogicalUnit>>>,
    nexus: Option<NexusId>,
    tag: Option<u64>,
    aborts: bool,
}

impl Scope {
    fn aborts(&self, task: &Task) -> bool {
        self.aborts
            && self.units.as_ref().is_none_or(|units| units.iter().any(|unit| Arc::ptr_eq(unit, &task.unit)))
            && self.nexus.is_none_or(|nexus| nexus == task.nexus)
            && self.tag.is_none_or(|tag| tag == task.tag)
    }
}

/// A function that has not ended, and the tasks that must end before it.
struct Function {
    scope: Scope,
    tasks: Vec<u64>,
}

struct Rig {
    sim: Sim,
    port: Arc<TargetPort>,
    log: Rc<Log>,
    sessions: Vec<Session>,
    tasks: BTreeMap<u64, Task>,
    functions: BTreeMap<u64, Function>,
    commands: Vec<&'static CommandSpec>,
    cookie: u64,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let small = Options { thin: input.flag(), ..Options::default() };
        let large = Options { block_length: 4096, ..Options::default() };
        let port = disks::port([
            disks::disk(&small, None, false),
            disks::disk(&small, Some("delay:1"), false),
            disks::disk(&large, Some("delay:2+eio:8192+short:20480+enospc:300000"), false),
            disks::disk(&large, Some("short:5000"), true),
        ]);
        let commands = disks::commands(port.luns().inventory().resolve(Lun::from_index(0)));
        let log = Rc::<Log>::default();
        let mut sim = Sim::new(REACTORS as u16);
        let nexuses = std::array::from_fn(|_| Nexus::new("initiator", port.clone()));
        let sessions = SESSIONS.map(|(nexus, reactor)| open(&nexuses, nexus, &log, sim.cx(reactor)));
        let mut rig = Self {
            sim,
            port,
            log,
            sessions: sessions.into(),
            tasks: BTreeMap::new(),
            functions: BTreeMap::new(),
            commands,
            cookie: 0,
        };
        if input.flag() {
            (0..SESSIONS.len()).for_each(|session| rig.clear_attentions(session));
        }
        rig
    }

    /// Has the unit attentions of a new nexus reported.
    fn clear_attentions(&mut self, session: usize) {
        let (session, cx) = (&self.sessions[session], self.sim.cx(SESSIONS[session].1));
        let cdb = Cdb::new(&[0; 6]).expect("TEST UNIT READY");
        for lun in (0..UNITS).map(Lun::from_index) {
            let attribute = TaskAttribute::HeadOfQueue;
            let frame = CommandFrame { attribute, ..CommandFrame::new(lun, &cdb) };
            let _ = session.execute(&frame, Sg::empty(), Sg::empty(), cx);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(64) {
            0..36 => self.send(input),
            36..40 => self.start(input),
            40 => self.abandon(input),
            41..44 => self.manage(input),
            44 => self.lose(input),
            45..56 => {
                let reactor = input.below(REACTORS);
                self.sim.step(reactor);
            }
            56 => self.sim.settle(),
            _ => self.sim.advance(Duration::from_millis(1)),
        }
        self.collect();
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let at = input.below(SESSIONS.len());
        let (session, reactor) = (&self.sessions[at], SESSIONS[at].1);
        let lun = lun(input);
        let attribute = input.pick(&[
            TaskAttribute::Simple,
            TaskAttribute::Simple,
            TaskAttribute::Simple,
            TaskAttribute::Simple,
            TaskAttribute::Simple,
            TaskAttribute::Ordered,
            TaskAttribute::Ordered,
            TaskAttribute::HeadOfQueue,
        ]);
        let attribute = if input.one_in(64) { TaskAttribute::Aca } else { attribute };
        let (cdb, direction) = disks::cdb(&self.commands, input);
        let (sent, room) = buffers(direction, input);
        let data_out = Memory::from_bytes(&input.pattern(sent));
        let data_in = Memory::from_bytes(&vec![FRESH; room]);
        self.cookie += 1;
        let mut task = Task {
            nexus: session.nexus().id(),
            unit: self.port.luns().inventory().resolve(lun).clone(),
            reactor,
            session: at,
            tag: input.below(8) as u64,
            attribute,
            waiting: None,
            abandoned: false,
            abortable: false,
            data_out,
            data_in,
        };
        task.abortable = self.functions.values().any(|function| function.scope.aborts(&task));
        let (cookie, tag, data_out) = (self.cookie, task.tag, sent as u64);
        let frame = CommandFrame { tag, attribute, data_out, cookie, ..CommandFrame::new(lun, &cdb) };
        match session.admit(&frame, self.sim.cx(reactor)) {
            // It has not been in the task set, so it may end whatever else is there.
            Admission::Ended(outcome) => {
                assert_eq!((outcome.moved_in, outcome.moved_out), (0, 0));
                assert_ne!(outcome.status, Status::GOOD);
                check_outcome(&outcome, sent as u64, room as u64);
            }
            Admission::Admitted { task: id, .. } => {
                task.waiting = Some(id);
                self.tasks.insert(cookie, task);
                let at_once = !input.one_in(8);
                if at_once {
                    self.start_task(cookie, input.u8());
                }
            }
        }
    }

    /// Starts a task with its buffers in pieces.
    fn start_task(&mut self, cookie: u64, cut: u8) {
        let task = self.tasks.get_mut(&cookie).expect("not ended");
        let Some(id) = task.waiting.take() else { return };
        let (data_out, data_in) = (pieces(&task.data_out, cut), pieces(&task.data_in, cut));
        let (session, cx) = (&self.sessions[task.session], self.sim.cx(task.reactor));
        match session.start(id, Sg::new(&data_out), Sg::new(&data_in), cx) {
            Started::Ended(outcome) => self.ended(cookie, &outcome),
            Started::Pending => {}
        }
        // A second start is none.
        let (session, cx) = (&self.sessions[0], self.sim.cx(0));
        if SESSIONS[0].1 == self.tasks.get(&cookie).map_or(usize::MAX, |task| task.reactor) {
            assert!(matches!(session.start(id, Sg::empty(), Sg::empty(), cx), Started::Pending));
        }
    }

    /// One of the tasks that are not started.
    fn waiting(&self, input: &mut Input<'_>) -> Option<u64> {
        let waiting: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.waiting.is_some()).map(|(cookie, _)| *cookie).collect();
        (!waiting.is_empty()).then(|| input.pick(&waiting))
    }

    fn start(&mut self, input: &mut Input<'_>) {
        if let Some(cookie) = self.waiting(input) {
            self.start_task(cookie, input.u8());
        }
    }

    fn abandon(&mut self, input: &mut Input<'_>) {
        let Some(cookie) = self.waiting(input) else { return };
        let Some(task) = self.tasks.get_mut(&cookie) else { return };
        let Some(id) = task.waiting.take() else { return };
        task.abandoned = true;
        self.sessions[task.session].abandon(id, self.sim.cx(task.reactor));
    }

    fn manage(&mut self, input: &mut Input<'_>) {
        use TaskManagementFunction as F;
        let at = input.below(SESSIONS.len());
        let session = &self.sessions[at];
        let lun = lun(input);
        let function = input.pick(&[
            F::AbortTask,
            F::AbortTask,
            F::AbortTask,
            F::AbortTaskSet,
            F::AbortTaskSet,
            F::ClearAca,
            F::ClearTaskSet,
            F::ITNexusReset,
            F::LogicalUnitReset,
            F::QueryTask,
            F::QueryTaskSet,
            F::QueryAsynchronousEvent,
            F::TargetWarmReset,
            F::TargetColdReset,
        ]);
        let tag = input.below(8) as u64;
        let of_a_unit =
            matches!(function, F::AbortTask | F::AbortTaskSet | F::ClearTaskSet | F::LogicalUnitReset);
        let of_a_nexus = matches!(function, F::AbortTask | F::AbortTaskSet | F::ITNexusReset);
        let addressed = |unit: &&Arc<LogicalUnit>| {
            !of_a_unit || Arc::ptr_eq(unit, self.port.luns().inventory().resolve(lun))
        };
        let scope = Scope {
            units: Some(self.port.luns().inventory().units().values().filter(addressed).cloned().collect()),
            nexus: of_a_nexus.then(|| session.nexus().id()),
            tag: (function == F::AbortTask).then_some(tag),
            aborts: of_a_unit
                || matches!(function, F::ITNexusReset | F::TargetWarmReset | F::TargetColdReset),
        };
        self.cookie += 1;
        session.manage(&Management { function, lun, tag }, self.cookie, self.sim.cx(SESSIONS[at].1));
        self.expect(scope);
    }

    /// Notes a function that has been asked for, and which tasks must end before it.
    fn expect(&mut self, scope: Scope) {
        let mut tasks = Vec::new();
        for (cookie, task) in &mut self.tasks {
            if scope.aborts(task) {
                task.abortable = true;
                if !task.abandoned {
                    tasks.push(*cookie);
                }
            }
        }
        self.functions.insert(self.cookie, Function { scope, tasks });
    }

    /// A nexus is lost and comes back.
    fn lose(&mut self, input: &mut Input<'_>) {
        let lost = SESSIONS[input.below(SESSIONS.len())].0;
        self.close(lost);
        let nexus = Nexus::new("initiator", self.port.clone());
        let nexuses = std::array::from_fn(|_| nexus.clone());
        for (at, (nexus, reactor)) in SESSIONS.into_iter().enumerate() {
            if nexus == lost {
                self.sessions[at] = open(&nexuses, nexus, &self.log, self.sim.cx(reactor));
                if input.flag() {
                    self.clear_attentions(at);
                }
            }
        }
    }

    fn close(&mut self, nexus: usize) {
        for (at, (of, reactor)) in SESSIONS.into_iter().enumerate() {
            if of != nexus {
                continue;
            }
            let session = &self.sessions[at];
            let scope = Scope { units: None, nexus: Some(session.nexus().id()), tag: None, aborts: true };
            self.cookie += 1;
            session.close(self.cookie, self.sim.cx(reactor));
            self.expect(scope);
        }
        // Nobody starts them any more.
        let gone = self.tasks.values_mut().filter(|task| SESSIONS[task.session].0 == nexus);
        gone.for_each(|task| task.waiting = None);
    }

    /// Takes what the engine has reported.
    fn collect(&mut self) {
        for event in self.log.0.take() {
            match event {
                Event::Ended(cookie, Completion::Ended(outcome)) => self.ended(cookie, &outcome),
                Event::Ended(cookie, Completion::Aborted(_)) => {
                    let task = self.tasks.remove(&cookie).expect("ends once");
                    assert!(task.abortable, "nothing aborts it");
                }
                Event::Managed(cookie) => {
                    let function = self.functions.remove(&cookie).expect("ends once");
                    let alive = |task: &&u64| self.tasks.get(task).is_some_and(|task| !task.abandoned);
                    assert_eq!(function.tasks.iter().find(alive), None, "ends after what it aborts");
                }
            }
        }
    }

    fn ended(&mut self, cookie: u64, outcome: &Outcome) {
        let task = self.tasks.remove(&cookie).expect("ends once");
        assert!(task.waiting.is_none() && !task.abandoned);
        check_outcome(outcome, task.data_out.len() as u64, task.data_in.len() as u64);
        if outcome.status == Status::GOOD {
            let data_in = task.data_in.to_vec();
            assert!(data_in[outcome.moved_in as usize..].iter().all(|byte| *byte == FRESH));
        }
        let simple = |attribute| attribute == TaskAttribute::Simple;
        let ordered = |attribute| attribute == TaskAttribute::Ordered;
        let overtaken = self.tasks.range(..cookie).find(|(_, older)| {
            let same_set = older.reactor == task.reactor && Arc::ptr_eq(&older.unit, &task.unit);
            let waits = ordered(task.attribute) && (simple(older.attribute) || ordered(older.attribute))
                || simple(task.attribute) && ordered(older.attribute);
            same_set && waits && !older.abandoned
        });
        assert!(
            overtaken.is_none(),
            "task {cookie} overtook task {}",
            overtaken.map_or(0, |(older, _)| *older)
        );
    }

    fn finish(mut self) {
        let waiting: Vec<u64> = self.tasks.keys().copied().collect();
        for cookie in waiting {
            if self.tasks.contains_key(&cookie) {
                self.start_task(cookie, 0);
                self.collect();
            }
        }
        self.wait("a task never ends", |rig| rig.tasks.values().all(|task| task.abandoned));
        (0..3).for_each(|nexus| self.close(nexus));
        self.wait("a function never ends", |rig| rig.functions.is_empty());
    }

    /// Lets time pass until `done`. A command of many steps takes a while for each.
    fn wait(&mut self, never: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            self.sim.settle();
            self.collect();
            if done(self) {
                return;
            }
            self.sim.advance(Duration::from_millis(2));
        }
        panic!("{never}");
    }
}

fn open(nexuses: &[Arc<Nexus>; 3], nexus: usize, log: &Rc<Log>, cx: &mut dyn Cx) -> Session {
    let responder: Rc<dyn Responder> = log.clone();
    Session::open(nexuses[nexus].clone(), Rc::downgrade(&responder), cx)
}

/// Mostly a unit that is there.
fn lun(input: &mut Input<'_>) -> Lun {
    match input.below(64) {
        0 => Lun::from_bytes(input.array()),
        1 => Lun::REPORT_LUNS_WLUN,
        2 => Lun::from_index(UNITS),
        n => Lun::from_index(n as u32 % UNITS),
    }
}

/// Bytes of data-out and of the room for data-in.
fn buffers(direction: Option<Direction>, input: &mut Input<'_>) -> (usize, usize) {
    let length = |input: &mut Input<'_>| match input.below(10) {
        0 => 0,
        1 => input.below(256),
        2 => input.below(1 << 16),
        n => [8, 16, 24, 512, 4096, 8192, 512 * 3][n - 3],
    };
    match direction {
        Some(Direction::In) => (0, length(input)),
        Some(Direction::Out) => (length(input), 0),
        Some(Direction::Both | Direction::None) | None => (length(input), length(input)),
    }
}

/// The memory in one segment, or cut at two places.
fn pieces(memory: &Memory, cut: u8) -> Vec<Seg> {
    let (seg, cut) = (memory.seg(), usize::from(cut));
    if cut.is_multiple_of(4) {
        return vec![seg];
    }
    let middle = seg.len() / 2;
    vec![seg.part(0, cut), seg.part(cut, middle), seg.part(cut + middle, usize::MAX)]
}
