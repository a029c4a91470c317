//! One schedule: what is sent and what happens, as its random numbers say.

use super::disk::{BLOCK, BLOCKS, Disk};
use super::random::Random;
use super::transport::{Transport, frame, told};
use super::world::{self, Kind, Medium, Settings, Shared, Wish, World, lock};
use super::{EXCLUSIVE_ACCESS, QUEUES, REACTORS, WRITE_EXCLUSIVE, model};
use crate::{
    Admission, CommandFrame, Completion, Identity, LogicalUnit, Management, Nexus, Outcome, PageControl,
    Responder, Session, Started, TargetPort, TaskId,
};
use lunette_scsi::mode::{ModePageCode, ModePageEntry};
use lunette_scsi::{
    AdditionalSense, Cdb, Lun, Naa, Protocol, TaskAttribute, TaskManagementFunction, service_action,
};
use lunette_store::sim::Sim;
use lunette_store::{Cx, Memory, Sg};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a schedule does more and less of.
struct Mix {
    ordered: usize,
    heads: usize,
    writes: usize,
    comparisons: usize,
    background: usize,
    reservations: usize,
    locks: usize,
    nacas: usize,
    priorities: usize,
    functions: usize,
    gathers: usize,
    store: usize,
    sights: usize,
    changes: usize,
}

/// What is sent.
#[derive(Clone, Copy)]
struct Order {
    kind: Kind,
    attribute: TaskAttribute,
    naca: bool,
    priority: u8,
    /// Its data comes later.
    gathers: bool,
}

pub(super) struct Schedule {
    unit: Arc<LogicalUnit>,
    sim: Sim,
    pub(super) world: Shared,
    random: Random,
    nexuses: Vec<Arc<Nexus>>,
    /// Whether each of them sees the unit.
    sees: [bool; QUEUES.len()],
    /// `None` while the end of the nexus has not been answered.
    sessions: Vec<Option<Vec<Session>>>,
    responder: Rc<Transport>,
    memories: Vec<Memory>,
    /// Commands that were admitted and not started.
    admitted: Vec<(usize, usize, TaskId)>,
    mix: Mix,
    tells: bool,
}

impl Schedule {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let mut random = Random(seed);
        let settings = Settings {
            on_error: random.pick(&[0, 0, 0b01, 0b11]),
            tells_aborted: random.chance(50),
            limit: random.pick(&[1, 2, 4, 256]),
        };
        let world = Shared::new(Mutex::new(World::new(settings, Random(random.next()))));
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let medium = Arc::new(Medium::new(world.clone()));
        let unit = LogicalUnit::new("disk", identity, Box::new(Disk::new()), Some(medium));
        let port =
            TargetPort::new("iqn.2026-11.dev.lunette:sim,t,0x0001", 1, Protocol::ISCSI, BTreeMap::new());
        unit.limit_waiting(settings.limit);
        // Each sees it at a place of its own.
        let nexus = |number: u32| {
            let luns = port.map(BTreeMap::from([(number, unit.clone())]));
            Nexus::mapped(format!("naa.300000000000000{}", number + 1), port.clone(), luns, None)
        };
        let nexuses = (0..QUEUES.len() as u32).map(nexus).collect();
        let mut mix = |percents: &[usize]| random.pick(percents);
        let mix = Mix {
            ordered: mix(&[0, 5, 30]),
            heads: mix(&[0, 0, 10]),
            writes: mix(&[20, 50, 80]),
            comparisons: mix(&[0, 10]),
            background: mix(&[0, 0, 10]),
            reservations: mix(&[0, 0, 15]),
            locks: mix(&[0, 0, 10]),
            nacas: mix(&[0, 0, 10, 40]),
            priorities: mix(&[0, 50]),
            functions: mix(&[0, 3, 10]),
            gathers: mix(&[0, 20]),
            store: mix(&[10, 30]),
            sights: mix(&[0, 0, 3]),
            changes: mix(&[0, 0, 3, 8]),
        };
        let mut this = Self {
            unit,
            sim: Sim::new(REACTORS as u16),
            nexuses,
            sees: [true; QUEUES.len()],
            responder: Rc::new(Transport { world: world.clone(), tells }),
            world,
            random,
            sessions: Vec::new(),
            memories: Vec::new(),
            admitted: Vec::new(),
            mix,
            tells,
        };
        // One kind of reservation shuts the other out.
        if this.mix.reservations > 0 {
            this.mix.locks = 0;
        }
        this.set_control_page(settings);
        this.sessions = (0..QUEUES.len()).map(|nexus| Some(this.open(nexus))).collect();
        this
    }

    /// Before anybody has met the unit, and as if it had been saved: resets do not change it.
    fn set_control_page(&mut self, settings: Settings) {
        let code = ModePageCode::page(0x0a);
        let mut bytes = self.unit.mode_page(code, PageControl::Current).unwrap();
        bytes[0] &= 0x3f;
        bytes[3] |= settings.on_error << 1;
        bytes[5] |= u8::from(settings.tells_aborted) << 6;
        let selection = self.unit.select_modes(&[ModePageEntry { code, bytes: &bytes, offset: 0 }]).unwrap();
        self.unit.keep_modes(&self.unit.modes_to_save(&selection));
        self.unit.set_modes(&selection, &self.nexuses[0]);
    }

    fn open(&mut self, nexus: usize) -> Vec<Session> {
        let responder: Rc<dyn Responder> = self.responder.clone();
        let nexus_of = &self.nexuses[nexus];
        let open = |reactor: &usize| {
            Session::open(nexus_of.clone(), Rc::downgrade(&responder), self.sim.cx(*reactor))
        };
        QUEUES[nexus].iter().map(open).collect()
    }

    pub(super) fn run(&mut self) {
        for _ in 0..20 + self.random.below(130) {
            self.act();
        }
        self.drain();
        self.undo_changes();
        self.drain();
        // What is on the medium in the end is what somebody reads.
        lock(&self.world).faults = false;
        self.clear_allegiance();
        for nexus in 0..QUEUES.len() {
            if !self.sees[nexus] {
                self.mask(nexus);
            }
        }
        for block in 0..BLOCKS {
            for _ in 0..5 {
                let read = Kind::Read { first: block, count: 1, in_steps: false };
                let attribute = TaskAttribute::Simple;
                self.send(2, Order { kind: read, attribute, naca: false, priority: 0, gathers: false });
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
        drop(world);
        self.retire();
    }

    /// The unit ends in the middle of commands and functions, with or without being taken out of the maps before.
    fn retire(&mut self) {
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..self.random.below(20) {
            self.act();
        }
        let (note, before) = (done.clone(), self.random.chance(50));
        let take_out = |this: &mut Self| {
            for nexus in &this.nexuses {
                nexus.luns().change(&*this.sim.cx(0).poster(), |units| units.clear());
            }
        };
        if before {
            take_out(self);
        }
        let poster = self.sim.cx(0).poster();
        self.unit.retire(&*poster, move || {
            note.fetch_add(1, Ordering::Relaxed);
        });
        self.sees = [false; QUEUES.len()];
        for _ in 0..self.random.below(50) {
            self.act();
        }
        self.drain();
        // Work in the background may still have had the store.
        while !lock(&self.world).is_idle() {
            self.complete();
            self.sim.settle();
        }
        if !before {
            take_out(self);
        }
        assert_eq!((done.load(Ordering::Relaxed), Arc::strong_count(&self.unit)), (1, 1));
    }

    /// An initiator sees the unit no more, or again.
    fn mask(&mut self, nexus: usize) {
        let poster = self.sim.cx(0).poster();
        let sees = !self.sees[nexus];
        self.sees[nexus] = sees;
        if self.tells {
            eprintln!("nexus {nexus} sees the unit: {sees}");
        }
        let number = nexus as u32;
        self.nexuses[nexus].luns().change(&*poster, |units| match sees {
            true => drop(units.insert(number, self.unit.clone())),
            false => drop(units.remove(&number)),
        });
        let mut world = lock(&self.world);
        let time = world.tick();
        world.sights.push((nexus, time));
    }

    /// What an initiator sends does not reach the unit that it does not see.
    fn miss(&mut self, nexus: usize) {
        let Some(sessions) = &self.sessions[nexus] else { return };
        let queue = self.random.below(QUEUES[nexus].len());
        let cdb = Cdb::new(&[0; 6]).unwrap();
        let frame = CommandFrame::new(Lun::from_index(nexus as u32), &cdb);
        let cx = self.sim.cx(QUEUES[nexus][queue]);
        match sessions[queue].execute(&frame, Sg::empty(), Sg::empty(), cx) {
            Started::Ended(Outcome { sense: Some(sense), .. }) => {
                assert_eq!(sense.additional, AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
            }
            other => panic!("{other:?}"),
        }
    }

    fn act(&mut self) {
        let roll = self.random.below(100);
        let (functions, store) = (self.mix.functions, self.mix.store);
        if self.random.chance(self.mix.changes) {
            self.change();
        } else if self.random.chance(self.mix.sights) && !self.unit.is_retired() {
            let nexus = self.random.below(QUEUES.len());
            self.mask(nexus);
        } else if roll < 2 {
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

    /// The operator wants something.
    fn change(&mut self) {
        if self.unit.is_quiesced() && self.random.chance(60) {
            return self.go_on();
        }
        let wish = match self.random.below(3) {
            0 => Wish::Quiesce,
            1 => Wish::ReadOnly(!self.unit.is_read_only()),
            _ => Wish::Resize(1 + self.random.below(BLOCKS)),
        };
        self.wish(wish);
    }

    fn wish(&mut self, wish: Wish) {
        let change = lock(&self.world).ask(wish);
        let (world, tells, poster) = (self.world.clone(), self.tells, self.sim.cx(0).poster());
        if tells {
            eprintln!("the operator wants change {change}: {wish:?}");
        }
        let changed = move |succeeded: bool| {
            if tells {
                eprintln!("  change {change} is done: {succeeded}");
            }
            lock(&world).changed(change, succeeded);
        };
        match wish {
            Wish::Quiesce => _ = self.unit.quiesce(&*poster, move |result| changed(result.is_ok())),
            Wish::ReadOnly(on) => {
                self.unit.set_read_only(on, &*poster, move |result| changed(result.is_ok()));
            }
            Wish::Resize(blocks) => {
                let size = (blocks * BLOCK) as u64;
                self.unit.resize(size, &*poster, move |result| changed(result == Ok(size)));
            }
        }
    }

    fn go_on(&mut self) {
        if self.tells {
            eprintln!("the operator lets commands go on");
        }
        lock(&self.world).is_quiet = false;
        let poster = self.sim.cx(0).poster();
        self.unit.resume_commands(&*poster);
    }

    /// Everything is as it was before the operator came.
    fn undo_changes(&mut self) {
        if !lock(&self.world).changes.is_empty() {
            self.go_on();
            self.wish(Wish::ReadOnly(false));
            self.wish(Wish::Resize(BLOCKS));
        }
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
                    && world.changes.iter().all(|change| change.done.is_some())
                {
                    return;
                }
                drop(world);
                self.go_on();
                self.clear_allegiance();
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

    /// Whoever has an allegiance clears it.
    fn clear_allegiance(&mut self) {
        if self.unit.has_allegiance() {
            (0..QUEUES.len()).for_each(|nexus| self.ask(nexus, Some(TaskManagementFunction::ClearAca)));
            self.sim.settle();
        }
    }

    fn send_any(&mut self) {
        let Mix { ordered, heads, writes, comparisons, background, reservations, locks, nacas, .. } =
            self.mix;
        let nexus = self.random.below(QUEUES.len());
        if self.sessions[nexus].is_none() {
            return;
        }
        if !self.sees[nexus] {
            return self.miss(nexus);
        }
        let first = self.random.below(BLOCKS);
        let count = 1 + self.random.below(BLOCKS - first);
        let number = (self.memories.len() as u64 + 1) << 8;
        let kind = if self.random.chance(reservations) {
            self.reserve()
        } else if self.random.chance(locks) {
            self.random.pick(&[Kind::Lock, Kind::Unlock])
        } else if self.random.chance(background) {
            Kind::WriteAtomic { block: first, number }
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
            roll if roll < ordered + heads + nacas / 2 => TaskAttribute::Aca,
            _ => TaskAttribute::Simple,
        };
        let (naca, gathers) = (self.random.chance(nacas), self.random.chance(self.mix.gathers));
        let priority = if self.random.chance(self.mix.priorities) { self.random.below(16) as u8 } else { 0 };
        self.send(nexus, Order { kind, attribute, naca, priority, gathers });
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

    fn send(&mut self, nexus: usize, order: Order) {
        let Order { kind, attribute, naca, priority, gathers } = order;
        let number = self.memories.len();
        let (cdb, bytes) = frame(nexus, kind, naca);
        let is_out = !matches!(kind, Kind::Read { .. });
        let memory = Memory::from_bytes(&bytes);
        let queue = self.random.below(QUEUES[nexus].len());
        let reactor = QUEUES[nexus][queue];
        if self.tells {
            eprintln!(
                "nexus {nexus} sends command {number} to reactor {reactor}: {attribute:?} {kind:?} (NACA {naca}, priority {priority})"
            );
        }
        let mut world = lock(&self.world);
        let arrived = world.tick();
        let sight = world.sights.iter().filter(|(of, _)| *of == nexus).count();
        let command = world::Command {
            nexus,
            sight,
            reactor,
            attribute,
            naca,
            priority,
            kind,
            arrived,
            refused: None,
            begun: None,
            ended: None,
            data: Vec::new(),
        };
        world.commands.push(command);
        world.memories.insert(memory.seg().address() as usize, (bytes.len().max(1), number));
        drop(world);
        self.memories.push(memory);
        let cdb = Cdb::new(&cdb).unwrap();
        let data_out = if is_out { bytes.len() as u64 } else { 0 };
        let (tag, cookie) = (number as u64, number as u64);
        let frame = CommandFrame {
            tag,
            attribute,
            priority,
            cookie,
            data_out,
            ..CommandFrame::new(Lun::from_index(nexus as u32), &cdb)
        };
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
        if self.random.chance(self.mix.nacas) {
            return self.ask(nexus, Some(Function::ClearAca));
        }
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
        self.ask(nexus, function);
    }

    fn ask(&mut self, nexus: usize, function: Option<TaskManagementFunction>) {
        let Some(sessions) = &self.sessions[nexus] else { return };
        // Others would name a unit that is not there.
        if !self.sees[nexus] && !matches!(function, Some(TaskManagementFunction::ITNexusReset) | None) {
            return;
        }
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
        let management = Management { function, lun: Lun::from_index(nexus as u32), tag: command as u64 };
        sessions[queue].manage(&management, cookie, cx);
    }
}
