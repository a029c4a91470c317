//! A driver that shares its memory and rings with a device.

mod guest;

use crate::disks;
use crate::input::Input;
use guest::{Buffer, Guest, Ring};
use lunette_device_disk::Options;
use lunette_engine::{CommandSpec, Completion, Direction, Nexus, Responder, Session};
use lunette_scsi::{Lun, ServiceResponse};
use lunette_store::Cx;
use lunette_store::sim::Sim;
use lunette_transport_vhost_user::fuzzing::Queues;
use std::rc::Rc;
use std::time::Duration;

const CONTROL: usize = 0;
const REQUESTS: usize = 2;
/// Bytes of a command before its CDB, and of its response before the sense data (VIRTIO 1.2 5.6.6.1).
const COMMAND: usize = 19;
const RESPONSE: u32 = 12;

/// Requests in chains of any form. Half of the drivers keep the rules; the others also write where and what they please.
///
/// The device never writes outside the memory that it was given. To a driver that keeps the rules it returns each chain
/// once, with a response that fits, and writes to nothing but the used rings and writable buffers.
pub fn virtqueue(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.step(&mut input);
    }
    rig.finish();
}

/// The owner of the nexus, as a connection is.
struct Owner;

impl Responder for Owner {
    fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {
        panic!("it sends no commands");
    }

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}

struct Rig {
    sim: Sim,
    session: Session,
    _owner: Rc<dyn Responder>,
    queues: Queues,
    guest: Guest,
    rings: [Ring; 3],
    commands: Vec<&'static CommandSpec>,
    /// The driver does not keep the rules.
    wild: bool,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let port = disks::port([
            disks::disk(&Options::default(), None, false),
            disks::disk(&Options::default(), Some("delay:1"), false),
            disks::disk(&Options::default(), Some("delay:2+eio:8192+short:20480"), false),
        ]);
        let commands = disks::commands(port.resolve(Lun::from_index(0)));
        let mut sim = Sim::new(1);
        let nexus = Nexus::new("guest", port);
        let owner: Rc<dyn Responder> = Rc::new(Owner);
        let session = Session::open(nexus.clone(), Rc::downgrade(&owner), sim.cx(0));
        let mut guest = Guest::new();
        let mut queues = Queues::new(&nexus, &guest.table(), sim.cx(0)).expect("memory that can be mapped");
        let rings = std::array::from_fn(|queue| Ring::new(queue, input));
        for (queue, ring) in rings.iter().enumerate() {
            ring.prepare(&mut guest);
            queues.start(queue, &ring.setup, sim.cx(0));
        }
        Self { sim, session, _owner: owner, queues, guest, rings, commands, wild: input.flag() }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(32) {
            0..14 => self.command(input),
            14..17 => self.control(input),
            17..27 => self.pass_time(1 + input.below(3)),
            27 => {
                let table = self.guest.table();
                assert!(self.queues.remap(&table, self.sim.cx(0)));
            }
            _ if self.wild => self.scribble(input),
            _ => {}
        }
    }

    /// Some ticks of the queues' clock.
    fn pass_time(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.sim.advance(Duration::from_micros(400));
            self.sim.settle();
        }
        self.collect();
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let (cdb, direction) = disks::cdb(&self.commands, input);
        let setup = self.rings[REQUESTS].setup;
        let [cdb_size, sense_size] = setup.sizes;
        let mut header = vec![0; COMMAND + usize::from(cdb_size)];
        header[..8].copy_from_slice(&address(input));
        header[8] = input.u8() & 7;
        header[16] = input.pick(&[0, 0, 0, 1, 2, 3]);
        let cdb = &cdb.as_bytes()[..cdb.len().min(cdb_size.into())];
        header[COMMAND..][..cdb.len()].copy_from_slice(cdb);
        let length = input.pick(&[0, 8, 24, 36, 255, 512, 1024]);
        let (sent, room) = match direction {
            Some(Direction::In) => (0, 4 * length),
            Some(Direction::Out) => (length, 0),
            Some(Direction::Both) => (length, length),
            _ if input.flag() => (0, length),
            _ => (length, 8),
        };
        header.extend(input.pattern(sent));
        self.send(REQUESTS, &header, RESPONSE + u32::from(sense_size) + room as u32, input);
    }

    fn control(&mut self, input: &mut Input<'_>) {
        let kind = input.pick(&[0u8, 0, 0, 0, 1, 2]);
        let mut request = vec![kind, 0, 0, 0];
        if kind == 0 {
            request.extend([input.u8() % 9, 0, 0, 0]);
        }
        request.extend(address(input));
        request.extend([input.u8() & 7, 0, 0, 0, 0, 0, 0, 0]);
        self.send(CONTROL, &request, if kind == 0 { 1 } else { 5 }, input);
    }

    /// Makes a chain available that has `readable` bytes and room for `writable`.
    fn send(&mut self, queue: usize, readable: &[u8], writable: u32, input: &mut Input<'_>) {
        let to = Buffer { address: self.guest.writable(writable, input), length: writable };
        let (ring, guest) = (&mut self.rings[queue], &mut self.guest);
        ring.send(guest, readable, to, input);
    }

    /// Anything anywhere.
    fn scribble(&mut self, input: &mut Input<'_>) {
        let queue = input.pick(&[CONTROL, REQUESTS, REQUESTS]);
        let guest = &mut self.guest;
        match input.below(8) {
            0..3 => self.rings[queue].scribble_descriptor(guest, input),
            3 => self.rings[queue].offer(guest, input.u8().into()),
            4 => self.rings[queue].scribble_index(guest, input),
            5 => guest.scribble(input),
            6 => self.queues.stop(queue, self.sim.cx(0)),
            _ => {
                let ring = &mut self.rings[queue];
                ring.setup.base = input.pick(&[0, 1, 0xffff, ring.setup.base]);
                ring.setup.sizes = [input.pick(&[1, 16, 32, 256]), input.pick(&[0, 96, 256, 600])];
                if input.one_in(4) {
                    ring.setup.parts[input.below(3)] ^= 1 << input.below(16);
                }
                if input.one_in(4) {
                    ring.setup.size = input.pick(&[0, 1, 3, 8, 1024, 2048]);
                }
                self.queues.start(queue, &ring.setup, self.sim.cx(0));
            }
        }
    }

    /// Takes back what the device has returned.
    fn collect(&mut self) {
        if self.wild {
            return;
        }
        for (queue, ring) in self.rings.iter_mut().enumerate() {
            assert!(self.queues.is_running(queue), "queue {queue} is called broken");
            let least = match queue {
                REQUESTS => RESPONSE + u32::from(ring.setup.sizes[1]),
                _ => 1,
            };
            ring.collect(&self.guest, least);
        }
    }

    fn finish(mut self) {
        self.pass_time(40);
        if !self.wild {
            assert!(self.rings.iter().all(Ring::is_idle), "a chain is never returned");
        }
        self.session.close(0, self.sim.cx(0));
        (0..3).for_each(|queue| self.queues.stop(queue, self.sim.cx(0)));
        for _ in 0..8 {
            self.sim.advance(Duration::from_secs(1));
            self.sim.settle();
        }
        assert!((0..3).all(|queue| !self.queues.is_running(queue)), "a queue never stops");
        self.guest.check(!self.wild);
    }
}

/// The address of a logical unit, mostly of one that is there.
fn address(input: &mut Input<'_>) -> [u8; 8] {
    match input.below(32) {
        0 => input.array(),
        1 => Lun::REPORT_LUNS_WLUN.to_bytes(),
        2 => [1, 1, 0, 0, 0, 0, 0, 0],
        n => [1, 0, 0x40, n as u8 % 4, 0, 0, 0, 0],
    }
}
