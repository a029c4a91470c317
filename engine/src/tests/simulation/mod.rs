//! Seeded schedules: several nexuses on several reactors throw commands, task management functions and resets at one unit
//! whose store delays, reorders, refuses and fails, and a plain model says what may be seen of it.
//!
//! A failure names its seed; `LUNETTE_SEED=… cargo test -p lunette-engine simulation -- --nocapture` runs that schedule alone
//! and tells it, `LUNETTE_SCHEDULES=…` runs so many.

mod disk;
mod model;
mod random;
mod world;

use super::*;
use disk::{BLOCK, BLOCKS, Disk};
use lunette_scsi::service_action;
use random::Random;
use std::cell::Cell;
use std::time::Duration;
use world::{Kind, Medium, Shared, World, lock};

const REACTORS: usize = 3;
/// The reactors on which each nexus has sessions.
const QUEUES: [&[usize]; 3] = [&[0, 1], &[1, 2], &[2]];
const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE_ACCESS: u8 = 3;

fn key(nexus: usize) -> u64 {
    0x10 + nexus as u64
}

/// What a schedule does more and less of.
struct Mix {
    ordered: usize,
    heads: usize,
    writes: usize,
    comparisons: usize,
    reservations: usize,
    functions: usize,
    gathers: usize,
    store: usize,
}

struct Schedule {
    sim: Sim,
    world: Shared,
    random: Random,
    nexuses: Vec<Arc<Nexus>>,
    /// `None` while the end of the nexus has not been answered.
    sessions: Vec<Option<Vec<Session>>>,
    responder: Rc<Transport>,
    memories: Vec<Memory>,
    /// Commands that were admitted and not started.
    admitted: Vec<(usize, usize, crate::TaskId)>,
    mix: Mix,
    tells: bool,
}

/// Cookies are numbers of commands and of functions.
struct Transport(Shared, Cell<bool>);

impl Responder for Transport {
    fn command_ended(&self, cookie: u64, completion: Completion, _: &mut dyn Cx) {
        if self.1.get() {
            eprintln!("  command {cookie} ends: {}", told(&completion));
        }
        lock(&self.0).end(cookie as usize, completion);
    }

    fn management_ended(&self, cookie: u64, response: ServiceResponse, _: &mut dyn Cx) {
        let mut world = lock(&self.0);
        let now = world.tick();
        let function = &mut world.functions[cookie as usize];
        if self.1.get() {
            eprintln!("  function {cookie} ends: {response:?}");
        }
        assert!(function.answered.is_none(), "a function is answered twice");
        function.answered = Some((now, response));
    }
}

fn told(completion: &Completion) -> String {
    match completion {
        Completion::Ended(outcome) => match &outcome.sense {
            Some(sense) => format!("{:?} {:?}", outcome.status, sense.additional),
            None => format!("{:?}", outcome.status),
        },
        Completion::Aborted(why) => format!("{why:?}"),
    }
}

impl World {
    fn end(&mut self, command: usize, completion: Completion) {
        let now = self.tick();
        let command = &mut self.commands[command];
        assert!(command.ended.is_none(), "a command ends twice: {:?}", command.kind);
        command.ended = Some((now, completion));
    }
}

impl Schedule {
    fn new(seed: u64, tells: bool) -> Self {
        let mut random = Random(seed);
        let world = Shared::new(Mutex::new(World::new(Random(random.next()))));
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let medium = Arc::new(Medium::new(world.clone()));
        let unit = LogicalUnit::new("disk", identity, Box::new(Disk), Some(medium));
        let port = TargetPort::new(
            "iqn.2026-11.dev.lunette:sim,t,0x0001",
            1,
            Protocol::ISCSI,
            BTreeMap::from([(0, unit)]),
        );
        let nexuses = ["naa.3000000000000001", "naa.3000000000000002", "naa.3000000000000003"];
        let mut mix = |percents: &[usize]| random.pick(percents);
        let mix = Mix {
            ordered: mix(&[0, 5, 30]),
            heads: mix(&[0, 0, 10]),
            writes: mix(&[20, 50, 80]),
            comparisons: mix(&[0, 10]),
            reservations: mix(&[0, 0, 15]),
            functions: mix(&[0, 3, 10]),
            gathers: mix(&[0, 20]),
            store: mix(&[10, 30]),
        };
        let mut this = Self {
            sim: Sim::new(REACTORS as u16),
            nexuses: nexuses.map(|name| Nexus::new(name, port.clone())).into(),
            responder: Rc::new(Transport(world.clone(), Cell::new(tells))),
            world,
            random,
            sessions: Vec::new(),
            memories: Vec::new(),
            admitted: Vec::new(),
            mix,
            tells,
        };
        this.sessions = (0..QUEUES.len()).map(|nexus| Some(this.open(nexus))).collect();
        this
    }

    fn open(&mut self, nexus: usize) -> Vec<Session> {
        let responder: Rc<dyn Responder> = self.responder.clone();
        let nexus_of = &self.nexuses[nexus];
        let open = |reactor: &usize| {
            Session::open(nexus_of.clone(), Rc::downgrade(&responder), self.sim.cx(*reactor))
        };
        QUEUES[nexus].iter().map(open).collect()
    }

    fn run(&mut self) {
        for _ in 0..20 + self.random.below(130) {
            self.act();
        }
        self.drain();
        // What is on the medium in the end is what somebody reads.
        lock(&self.world).faults = false;
        for block in 0..BLOCKS {
            for _ in 0..3 {
                let read = Kind::Read { first: block, count: 1, in_steps: false };
                self.send(2, read, TaskAttribute::Simple, false);
                self.drain();
            }
        }
        let mut world = lock(&self.world);
        for (command, memory) in world.commands.iter_mut().zip(&self.memories) {
            let numbers = memory.to_vec();
            let numbers =
                numbers.chunks_exact(BLOCK).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
            command.data = numbers.collect();
        }
        model::check(&world);
    }

    fn act(&mut self) {
        let roll = self.random.below(100);
        let (functions, store) = (self.mix.functions, self.mix.store);
        if roll < 2 {
            self.sim.advance(Duration::from_millis(1));
        } else if roll < 2 + functions {
            self.manage();
        } else if roll < 2 + functions + store {
            self.complete();
        } else if roll < 60 {
            let reactor = self.random.below(REACTORS);
            self.sim.step(reactor);
        } else if roll < 65 && !self.admitted.is_empty() {
            let which = self.random.below(self.admitted.len());
            self.start(which);
        } else {
            self.send_any();
        }
        self.reopen();
    }

    /// The store goes on with an operation.
    fn complete(&mut self) {
        let completed = lock(&self.world).go_on();
        if let Some((reactor, id, result)) = completed {
            self.sim.cx(usize::from(reactor.0)).complete(id, result);
        }
    }

    /// Nexuses whose end has been answered come again.
    fn reopen(&mut self) {
        for nexus in 0..QUEUES.len() {
            if self.sessions[nexus].is_none() {
                let world = lock(&self.world);
                let mut ends = world.functions.iter().filter(|f| f.nexus == nexus && f.function.is_none());
                let answered = ends.all(|function| function.answered.is_some());
                drop(ends);
                drop(world);
                if answered {
                    self.sessions[nexus] = Some(self.open(nexus));
                }
            }
        }
    }

    /// Lets everything come to its end.
    fn drain(&mut self) {
        for _ in 0..2000 {
            while !self.admitted.is_empty() {
                self.start(0);
            }
            self.sim.settle();
            self.reopen();
            if lock(&self.world).is_idle() {
                let world = lock(&self.world);
                if world.commands.iter().all(|command| command.ended.is_some())
                    && world.functions.iter().all(|function| function.answered.is_some())
                {
                    return;
                }
                drop(world);
                self.sim.advance(Duration::from_millis(1));
            }
            self.complete();
        }
        let world = lock(&self.world);
        let lost: Vec<_> = world.commands.iter().enumerate().filter(|(_, c)| c.ended.is_none()).collect();
        for (number, command) in lost {
            eprintln!("command {number} of nexus {} has not ended: {:?}", command.nexus, command.kind);
        }
        panic!("not everything ends");
    }

    fn send_any(&mut self) {
        let Mix { ordered, heads, writes, comparisons, reservations, gathers, .. } = self.mix;
        let nexus = self.random.below(QUEUES.len());
        if self.sessions[nexus].is_none() {
            return;
        }
        let first = self.random.below(BLOCKS);
        let count = 1 + self.random.below(BLOCKS - first);
        let number = (self.memories.len() as u64 + 1) << 8;
        let kind = if self.random.chance(reservations) {
            self.reserve()
        } else if self.random.chance(5) {
            Kind::TestUnitReady
        } else if self.random.chance(comparisons) {
            let expected = lock(&self.world).blocks[first];
            Kind::CompareAndWrite { block: first, expected, number }
        } else if self.random.chance(writes) {
            Kind::Write { first, count, number }
        } else {
            Kind::Read { first, count, in_steps: self.random.chance(20) }
        };
        let attribute = match self.random.below(100) {
            roll if roll < ordered => TaskAttribute::Ordered,
            roll if roll < ordered + heads => TaskAttribute::HeadOfQueue,
            _ => TaskAttribute::Simple,
        };
        let gathers = self.random.chance(gathers);
        self.send(nexus, kind, attribute, gathers);
    }

    fn reserve(&mut self) -> Kind {
        let action = self.random.pick(&[
            service_action::REGISTER_AND_IGNORE_EXISTING_KEY,
            service_action::REGISTER_AND_IGNORE_EXISTING_KEY,
            service_action::RESERVE,
            service_action::RESERVE,
            service_action::RELEASE,
            service_action::CLEAR,
            service_action::PREEMPT,
            service_action::PREEMPT_AND_ABORT,
        ]);
        let reservation_type = self.random.pick(&[WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS]);
        Kind::Reserve { action, reservation_type, victim: self.random.below(QUEUES.len()) }
    }

    fn send(&mut self, nexus: usize, kind: Kind, attribute: TaskAttribute, gathers: bool) {
        let number = self.memories.len();
        let (cdb, bytes) = frame(nexus, kind);
        let is_out = !matches!(kind, Kind::Read { .. });
        let memory = Memory::from_bytes(&bytes);
        let queue = self.random.below(QUEUES[nexus].len());
        let reactor = QUEUES[nexus][queue];
        if self.tells {
            eprintln!("nexus {nexus} sends command {number} to reactor {reactor}: {attribute:?} {kind:?}");
        }
        let mut world = lock(&self.world);
        let arrived = world.tick();
        let command =
            world::Command { nexus, attribute, kind, arrived, begun: None, ended: None, data: Vec::new() };
        world.commands.push(command);
        world.memories.insert(memory.seg().address() as usize, (bytes.len().max(1), number));
        drop(world);
        self.memories.push(memory);
        let cdb = Cdb::new(&cdb).unwrap();
        let data_out = if is_out { bytes.len() as u64 } else { 0 };
        let (tag, cookie) = (number as u64, number as u64);
        let frame =
            CommandFrame { tag, attribute, cookie, data_out, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let Some(sessions) = &self.sessions[nexus] else { return };
        let cx = self.sim.cx(reactor);
        if gathers {
            match sessions[queue].admit(&frame, cx) {
                Admission::Admitted { task, .. } => self.admitted.push((number, queue, task)),
                Admission::Ended(outcome) => self.ended(number, Started::Ended(outcome)),
            }
        } else {
            let segs = [self.memories[number].seg()];
            let (out, into) =
                if is_out { (Sg::new(&segs), Sg::empty()) } else { (Sg::empty(), Sg::new(&segs)) };
            let started = sessions[queue].execute(&frame, out, into, cx);
            self.ended(number, started);
        }
    }

    /// The data of an admitted command is there.
    fn start(&mut self, which: usize) {
        let (number, queue, task) = self.admitted.swap_remove(which);
        let (nexus, kind) = {
            let command = &lock(&self.world).commands[number];
            (command.nexus, command.kind)
        };
        let Some(sessions) = &self.sessions[nexus] else { return };
        let segs = [self.memories[number].seg()];
        let (out, into) = match kind {
            Kind::Read { .. } => (Sg::empty(), Sg::new(&segs)),
            _ => (Sg::new(&segs), Sg::empty()),
        };
        let started = sessions[queue].start(task, out, into, self.sim.cx(QUEUES[nexus][queue]));
        self.ended(number, started);
    }

    fn ended(&mut self, number: usize, started: Started) {
        if let Started::Ended(outcome) = started {
            let completion = Completion::Ended(outcome);
            if self.tells {
                eprintln!("  command {number} ends at once: {}", told(&completion));
            }
            lock(&self.world).end(number, completion);
        }
    }

    fn manage(&mut self) {
        use TaskManagementFunction as Function;
        let nexus = self.random.below(QUEUES.len());
        let Some(sessions) = &self.sessions[nexus] else { return };
        let function = self.random.pick(&[
            Some(Function::AbortTask),
            Some(Function::AbortTask),
            Some(Function::AbortTask),
            Some(Function::AbortTaskSet),
            Some(Function::ClearTaskSet),
            Some(Function::LogicalUnitReset),
            Some(Function::TargetWarmReset),
            Some(Function::ITNexusReset),
            Some(Function::QueryTask),
            Some(Function::QueryTaskSet),
            Some(Function::QueryAsynchronousEvent),
            None,
        ]);
        let mut world = lock(&self.world);
        let own = |number: &usize| world.commands[*number].nexus == nexus;
        let recent: Vec<_> = (0..world.commands.len()).rev().filter(own).take(8).collect();
        let command = if recent.is_empty() { 0 } else { self.random.pick(&recent) };
        let (cookie, sent) = (world.functions.len() as u64, world.tick());
        world.functions.push(world::Function { nexus, function, command, sent, answered: None });
        drop(world);
        let queue = self.random.below(QUEUES[nexus].len());
        if self.tells {
            eprintln!("nexus {nexus} asks for function {cookie}: {function:?} (command {command})");
        }
        let cx = self.sim.cx(QUEUES[nexus][queue]);
        let Some(function) = function else {
            sessions[queue].close(cookie, cx);
            self.sessions[nexus] = None;
            let world = lock(&self.world);
            return self.admitted.retain(|(number, ..)| world.commands[*number].nexus != nexus);
        };
        let management = Management { function, lun: Lun::from_index(0), tag: command as u64 };
        sessions[queue].manage(&management, cookie, cx);
    }
}

/// The CDB and the data of a command.
fn frame(nexus: usize, kind: Kind) -> (Vec<u8>, Vec<u8>) {
    let cdb = |opcode: Opcode, first: usize, count: usize| {
        vec![opcode.0, 0, 0, 0, 0, first as u8, 0, 0, count as u8, 0]
    };
    match kind {
        Kind::Read { first, count, in_steps } => {
            let opcode = if in_steps { Opcode::READ_12 } else { Opcode::READ_10 };
            (cdb(opcode, first, count), vec![0; count * BLOCK])
        }
        Kind::Write { first, count, number } => {
            let blocks = (0..count as u64).flat_map(|block| (number + block).to_be_bytes());
            (cdb(Opcode::WRITE_10, first, count), blocks.collect())
        }
        Kind::CompareAndWrite { block, expected, number } => {
            let data = [expected.to_be_bytes(), number.to_be_bytes()].concat();
            (cdb(Opcode::COMPARE_AND_WRITE, block, 1), data)
        }
        Kind::Reserve { action, reservation_type, victim } => {
            let register = action == service_action::REGISTER_AND_IGNORE_EXISTING_KEY;
            let action_key = if register { key(nexus) } else { key(victim) };
            let mut list = [key(nexus).to_be_bytes(), action_key.to_be_bytes()].concat();
            list.resize(24, 0);
            let opcode = Opcode::PERSISTENT_RESERVE_OUT.0;
            (vec![opcode, action as u8, reservation_type, 0, 0, 0, 0, 0, 24, 0], list)
        }
        Kind::TestUnitReady => (vec![0; 6], Vec::new()),
    }
}

/// Names the seed when a check fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was LUNETTE_SEED={}", self.0);
        }
    }
}

fn run(seed: u64, tells: bool) -> usize {
    let _naming = Naming(seed);
    let mut schedule = Schedule::new(seed, tells);
    schedule.run();
    schedule.memories.len()
}

#[test]
fn schedules_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("LUNETTE_SEED") {
        run(seed, true);
        return;
    }
    let schedules = number("LUNETTE_SCHEDULES").unwrap_or(2000);
    let commands: usize = (0..schedules).map(|seed| run(seed, false)).sum();
    assert!(commands as u64 >= 20 * schedules.min(1), "they do something");
}
