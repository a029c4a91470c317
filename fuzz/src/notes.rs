//! The memory in which a queue notes what it has in flight, and daemons that are killed.

use crate::disks;
use crate::input::Input;
use lunette_device_disk::{Disk, Options};
use lunette_engine::{Identity, LogicalUnit, Nexus};
use lunette_guest::ring::{Element, Form, Format, Ring, Setup};
use lunette_guest::{GuestMemory, View};
use lunette_scsi::Naa;
use lunette_store::held::{self, Held};
use lunette_store::sim::Sim;
use lunette_store::{Backing, Cx};
use lunette_transport_vhost_user::fuzzing::{self, Queues, RingSetup};
use lunette_vhost_user::SharedRegion;
use rustix::fs::ftruncate;
use std::sync::Arc;
use std::time::Duration;

/// Descriptors of the ring.
const SIZE: u16 = 16;
/// Queues that the memory for notes is for, and the one that is used: one of requests.
const QUEUES: usize = 3;
const QUEUE: usize = 2;
/// Bytes for the notes of each queue, and of all before the one that is used.
const PART: usize = 1024;
const BEFORE: usize = QUEUE * PART;
/// Where the version is in a queue's part, before the number of descriptors.
const VERSION: usize = 8;
/// What each request may use: a header, a response and a block.
const ROOM: u64 = 2048;
const HEADER: u64 = 51;
const RESPONSE: u64 = 108;
const BLOCK: u64 = 512;

/// One request queue after the other, each of another daemon than the one before it, which was killed in mid-flight: its
/// notes are all that the next one has. A driver that keeps the rules sends reads, writes and commands that must not be
/// carried out twice. With half of the guests somebody writes into the notes at any time, or takes their memory away.
///
/// Where nobody does, every request comes back once. In any case a queue writes no notes but its own, and to no memory that
/// is not the guest's, and nothing panics.
pub fn notes(data: &[u8]) {
    fuzzing::fence_guest_memory();
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.step(&mut input);
    }
    rig.finish();
}

struct Rig {
    memory: GuestMemory,
    ring: Ring,
    buffers: View,
    notes: Notes,
    form: Form,
    /// Which requests the device has.
    sent: [bool; SIZE as usize],
    /// Somebody writes into the notes.
    hostile: bool,
    daemon: Daemon,
}

/// The memory for notes.
struct Notes {
    memory: GuestMemory,
    view: View,
}

impl Notes {
    fn new() -> Self {
        let mut memory = GuestMemory::with_size(QUEUES * PART).expect("guest memory");
        let view = memory.allocate(QUEUES * PART, PART).expect("the whole of it");
        Self { memory, view }
    }

    /// As the front end hands it over.
    fn share(&self) -> SharedRegion {
        let (region, fd) = self.memory.regions().expect("descriptors").remove(0);
        SharedRegion { region: lunette_vhost_user::MemoryRegion { user_address: 0, ..region }, fd }
    }

    /// Anything, in the part of the queue. What says that there are notes stays now and then.
    fn scribble(&self, input: &mut Input<'_>) {
        let at = input.below(600);
        let length = 1 + input.below(8);
        let bytes = input.pattern(length);
        self.view.write(BEFORE + at, &bytes);
        if !input.one_in(4) {
            self.view.write(BEFORE + VERSION, &[1, 0, SIZE as u8, 0]);
        }
    }

    fn check(&self) {
        assert_eq!(self.view.bytes(0, BEFORE), [0; BEFORE], "the notes of other queues");
    }
}

struct Daemon {
    sim: Sim,
    queues: Queues,
}

impl Daemon {
    fn start(memory: &GuestMemory, notes: &Notes, ring: &Ring, base: u32) -> Self {
        let mut sim = Sim::new(1);
        let held = Held::new(1 << 20, 24);
        let disk = Disk::new(&Options::default(), &held.caps().clone()).expect("suits any memory");
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let unit = LogicalUnit::new("disk", identity, Box::new(disk), Some(Arc::new(held)));
        let nexus = Nexus::new("guest", disks::port([unit]));
        let regions = memory.regions().expect("descriptors").into_iter();
        let table: Vec<_> = regions.map(|(region, fd)| SharedRegion { region, fd }).collect();
        let mut queues = Queues::new(&nexus, &table, sim.cx(0)).expect("memory that can be mapped");
        assert!(queues.keep_notes(notes.share(), SIZE), "memory that can be mapped");
        let areas = ring.areas();
        let setup = RingSetup {
            size: SIZE,
            parts: [&areas.descriptors, &areas.driver, &areas.device].map(View::user_address),
            packed: ring.setup().format == Format::Packed,
            base,
            event_index: ring.setup().event_idx,
            indirect: true,
            sizes: [32, 96],
            bidirectional: false,
        };
        queues.start(QUEUE, &setup, sim.cx(0));
        Self { sim, queues }
    }

    /// Lets one event happen, or all.
    fn run(&mut self, all: bool) {
        match all {
            true => self.sim.settle(),
            false => drop(self.sim.step(0)),
        }
    }

    /// Ends one of the operations that are held.
    fn release(&mut self, which: usize) {
        let cx = self.sim.cx(0);
        let Some(index) = which.checked_rem(held::count(cx)) else { return };
        if let Some(operation) = held::take(index, cx) {
            let moved = operation.memory.as_sg().len();
            cx.complete(operation.id, Ok(moved));
        }
    }
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let format = if input.flag() { Format::Packed } else { Format::Split };
        let form = if input.flag() { Form::Indirect } else { Form::Chained };
        let mut memory = GuestMemory::with_size(1 << 17).expect("guest memory");
        let setup = Setup { format, size: SIZE, event_idx: input.flag(), table: 4 };
        let ring = Ring::new(&mut memory, setup).expect("a ring");
        let buffers = memory.allocate(usize::from(SIZE) * ROOM as usize, 64).expect("buffers");
        let notes = Notes::new();
        let daemon = Daemon::start(&memory, &notes, &ring, ring.base());
        let hostile = input.flag();
        Self { memory, ring, buffers, notes, form, sent: [false; SIZE as usize], hostile, daemon }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(32) {
            0..12 => self.send(input),
            12..18 => drop(self.daemon.queues.poll(QUEUE, self.daemon.sim.cx(0))),
            18..22 => self.daemon.release(input.below(24)),
            22..25 => self.daemon.run(input.flag()),
            25 => self.daemon.sim.advance(Duration::from_millis(10)),
            26..28 => self.kill(),
            28 => self.stop(),
            29 if self.hostile && input.one_in(8) => self.take_notes_away(),
            _ if self.hostile => self.notes.scribble(input),
            _ => {}
        }
        self.collect();
    }

    fn send(&mut self, input: &mut Input<'_>) {
        const COMMANDS: [u8; 5] = [0x00, 0x28, 0x2a, 0x35, 0x89];
        let token = input.below(SIZE.into());
        if self.sent[token] {
            return;
        }
        let opcode = input.pick(&COMMANDS);
        let (readable, writable) = match opcode {
            0x28 => (0, BLOCK),
            0x2a => (BLOCK, 0),
            0x89 => (2 * BLOCK, 0),
            _ => (0, 0),
        };
        let at = token as u64 * ROOM;
        let mut header = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
        header.resize(19, 0);
        header.extend([opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, u8::from(opcode == 0x89), 0, 0]);
        header.resize(HEADER as usize, 0);
        self.buffers.write(at as usize, &header);
        let element = |offset, length, writable| Element {
            address: self.buffers.address() + at + offset,
            length: length as u32,
            writable,
        };
        let elements = [
            element(0, HEADER, false),
            element(512, readable, false),
            element(64, RESPONSE, true),
            element(512, writable, true),
        ];
        let elements: Vec<_> = elements.into_iter().filter(|element| element.length > 0).collect();
        if self.ring.push(token as u16, &elements, self.form).is_ok() {
            self.sent[token] = true;
            let published = self.ring.publish();
            assert!(published.is_ok() || self.hostile, "{published:?}");
        }
    }

    /// Takes what has come back. Who is lied to about what is in flight may be told anything.
    fn collect(&mut self) {
        loop {
            match self.ring.pop() {
                Ok(Some(used)) => {
                    let sent = std::mem::take(&mut self.sent[usize::from(used.token)]);
                    assert!(sent, "a request that was not sent");
                    assert!(self.hostile || u64::from(used.length) >= RESPONSE, "{used:?}");
                }
                Ok(None) => break,
                Err(violation) => {
                    assert!(self.hostile, "{violation:?}");
                    return self.begin_anew();
                }
            }
        }
        if !self.daemon.queues.is_running(QUEUE) {
            assert!(self.hostile, "the ring is broken");
            self.begin_anew();
        }
    }

    /// The daemon does nothing more, and another one goes on with its notes.
    fn kill(&mut self) {
        self.daemon = Daemon::start(&self.memory, &self.notes, &self.ring, self.ring.base());
    }

    /// The driver sets its ring up again, and nothing is in flight.
    fn begin_anew(&mut self) {
        self.notes = Notes::new();
        self.ring.reset(0);
        self.sent.fill(false);
        self.kill();
    }

    /// The queue stops when all has ended, and is started again.
    fn stop(&mut self) {
        let Daemon { sim, queues } = &mut self.daemon;
        queues.stop(QUEUE, sim.cx(0));
        self.end_all();
        self.collect_stopped();
        self.kill();
    }

    fn end_all(&mut self) {
        loop {
            self.daemon.run(true);
            if held::count(self.daemon.sim.cx(0)) == 0 {
                break;
            }
            self.daemon.release(0);
        }
    }

    fn collect_stopped(&mut self) {
        while let Ok(Some(used)) = self.ring.pop() {
            self.sent[usize::from(used.token)] = false;
        }
    }

    /// The front end truncates it.
    fn take_notes_away(&mut self) {
        ftruncate(&self.notes.share().fd, 0).expect("a memory file");
        self.daemon.queues.poll(QUEUE, self.daemon.sim.cx(0));
        self.end_all();
        self.begin_anew();
    }

    fn finish(mut self) {
        self.kill();
        for _ in 0..usize::from(SIZE) {
            self.daemon.sim.advance(Duration::from_millis(10));
            self.daemon.queues.poll(QUEUE, self.daemon.sim.cx(0));
            self.end_all();
            self.collect();
        }
        self.notes.check();
        assert!(self.hostile || self.sent == [false; SIZE as usize], "a request never comes back");
    }
}
