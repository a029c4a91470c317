//! A monitor and a guest that do what they please, beside others that do not.

use super::daemon::{Address, Daemon};
use super::front_end::FrontEnd;
use super::guest::{Agreement, CONTROL, EVENTS, Guest, REQUESTS};
use super::memory::{FILE, ZONES};
use super::odd::{self, any_fd};
use super::requests;
use super::traces::Traces;
use super::victim::Victim;
use crate::input::Input;
use crate::{disks, vhost_user_messages};
use lunette_device_disk::Options;
use lunette_engine::{CommandSpec, LogicalUnit};
use lunette_scsi::Lun;
use lunette_store::IoError;
use lunette_transport_vhost_user::fuzzing;
use lunette_vhost_user::{Features, LogArea, MemoryRegion, Message, StateDirection, VringAddress};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Any messages, well-formed or not, with any descriptors, cut anywhere; memory that changes, goes away or is no memory;
/// queues that are started and stopped; requests that keep the rules of VIRTIO and others; operations that end when they
/// please; connections that end and begin in the midst of it.
///
/// The device never writes outside the memory that it was given, and reads nowhere else. Once it has said that all queues
/// have stopped, it writes nowhere. Another virtual machine, which shares a unit with this one, is served as if it were
/// alone. At the end no descriptor, mapping, connection, queue or task is left.
pub fn vhost_user_session(data: &[u8]) {
    fuzzing::fence_guest_memory();
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        rig.step(&mut input);
    }
    rig.finish();
}

/// Request queues of the device.
const QUEUES: u16 = 3;

/// States that a device may be given.
const STATES: [&str; 5] = [
    "",
    r#"{"version":1,"vhost-user-scsi":{}}"#,
    r#"{"version":2,"vhost-user-scsi":{}}"#,
    r#"{"version":1,"vhost-user-scsi":{"nexuses":{"0":{"luns":{"0":"x"}}},"sizes":[96,32]}}"#,
    r#"{"version":1,"vhost-user-scsi":{"events":{"features":6,"subscriptions":[[0,0,2]],"missed":true}}}"#,
];

struct Rig {
    daemon: Daemon,
    address: Address,
    guest: Guest,
    victim: Victim,
    commands: Vec<&'static CommandSpec>,
    units: Vec<Weak<LogicalUnit>>,
    traces: Traces,
    /// Connections and queues of the victim.
    residents: usize,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let units = super::disks();
        let own = disks::disk(&Options::default(), None, false);
        let port = disks::port(units.clone());
        let commands = disks::commands(port.luns().inventory().resolve(Lun::from_index(0)));
        let mut daemon = Daemon::new(2);
        let address = daemon.export([(0, port), (3, disks::port(units.clone()))].into(), QUEUES, 0);
        let victims = disks::port([own.clone(), units[0].clone()]);
        let victims = daemon.export([(0, victims)].into(), 1, 1);
        daemon.run();
        let mut victim = Victim::new(&victims, Arc::downgrade(&units[0]), &mut daemon);
        victim.check(&mut daemon);
        let residents = daemon.residents();
        let mut traces = Traces::default();
        let guest = connect(&address, &mut daemon, &mut traces, input);
        let units = units.iter().chain([&own]).map(Arc::downgrade).collect();
        Self { daemon, address, guest, victim, commands, units, traces, residents }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(64) {
            0..14 => self.request(input),
            14..18 => self.misbehave(input),
            18..24 => self.release(input),
            24..28 => self.pass_time(input),
            28..34 => self.run_a_little(input),
            34..38 => self.run(),
            38..41 => self.queue_message(input),
            41 => self.guest.front.stop(self.guest.drivers.len()),
            42..48 => self.memory_message(input),
            48..54 if self.guest.front.tidy => self.request(input),
            48..53 => self.any_message(input),
            53 => self.bytes(input),
            54..56 => self.other_message(input),
            56 => self.truncate(input),
            57 => self.guest.memory.restore(),
            58 => self.reconnect(input),
            59 => drop(self.address.connect()),
            60..62 => self.guest.memory.scribble(input),
            _ => {
                self.run();
                self.victim.check(&mut self.daemon);
            }
        }
    }

    /// A request, more often than not of a queue that was started.
    fn request(&mut self, input: &mut Input<'_>) {
        let sizes = self.guest.agreement.sizes;
        let queue = input.below(self.guest.drivers.len());
        let request = match queue {
            CONTROL => requests::control(input),
            EVENTS => requests::event(input),
            _ if input.flag() => requests::held_read(sizes, input),
            _ => requests::any_command(&self.commands, sizes, input),
        };
        if self.guest.push(queue, &request, input) {
            self.guest.drivers[queue].flush();
        }
    }

    fn misbehave(&mut self, input: &mut Input<'_>) {
        let queue = input.below(self.guest.drivers.len());
        if !self.guest.memory.truncated {
            self.guest.drivers[queue].misbehave(input);
        }
    }

    fn release(&mut self, input: &mut Input<'_>) {
        let failures = [IoError::Os(5), IoError::Memory, IoError::Gone, IoError::Short { moved: 512 }];
        let failure = (input.below(4) == 0).then(|| input.pick(&failures));
        let (reactor, which) = (input.below(2), input.below(24));
        let Self { daemon, guest, .. } = self;
        guest.watch(|| daemon.release(reactor, which, failure));
        if input.flag() {
            self.run();
        }
    }

    fn run(&mut self) {
        let Self { daemon, guest, .. } = self;
        guest.run(daemon);
        guest.front.take_replies();
        if !guest.memory.truncated {
            guest.drivers.iter_mut().for_each(|driver| drop(driver.collect(&mut Input::new(&[]))));
        }
    }

    fn run_a_little(&mut self, input: &mut Input<'_>) {
        let Self { daemon, guest, .. } = self;
        let events = input.below(10);
        guest.watch(|| daemon.run_a_little(events));
    }

    fn pass_time(&mut self, input: &mut Input<'_>) {
        self.daemon.advance(Duration::from_micros(400 << input.below(6)));
        self.run();
    }

    /// Sends a message that may have been changed.
    fn send(&mut self, message: Message, input: &mut Input<'_>) {
        let (mut bytes, mut fds) = message.into_parts();
        match if self.guest.front.tidy { 15 } else { input.below(16) } {
            0 => bytes.truncate(input.below(bytes.len())),
            1 => {
                let at = input.below(bytes.len());
                bytes[at] ^= input.u8();
                // It may name any part of the file now.
                self.guest.more.push(0..FILE as u64);
            }
            2 => drop(fds.pop()),
            3 => fds.push(any_fd(&self.guest.memory, input)),
            4 if !fds.is_empty() => fds[0] = any_fd(&self.guest.memory, input),
            _ => {}
        }
        self.send_bytes(&bytes, fds, input);
    }

    fn send_bytes(&mut self, bytes: &[u8], fds: Vec<OwnedFd>, input: &mut Input<'_>) {
        fds.iter().for_each(|fd| self.traces.note(fd));
        let cut = if input.one_in(8) { input.below(bytes.len() + 1) } else { bytes.len() };
        let (head, tail) = bytes.split_at(cut);
        let early = if input.one_in(8) { input.below(fds.len() + 1) } else { fds.len() };
        self.guest.front.send_bytes(head, &fds[..early]);
        if !tail.is_empty() {
            self.run_a_little(input);
            self.guest.front.send_bytes(tail, &fds[early..]);
        }
    }

    /// Starts, stops, enables a queue, or something on the way to that.
    fn queue_message(&mut self, input: &mut Input<'_>) {
        let queue = input.below(self.guest.drivers.len());
        let choice = input.below(12);
        if choice < 4 {
            if choice < 2 && !self.guest.memory.truncated {
                self.guest.drivers[queue].reset();
            }
            return self.guest.start(queue);
        }
        let driver = &self.guest.drivers[queue];
        let (index, byte, address, size) =
            (u32::from(driver.index), driver.index as u8, driver.address(), driver.size());
        let [kick, call, error] = driver.fds().map(|fd| (!input.one_in(4)).then_some(fd));
        let protocol = &mut self.guest.front.protocol;
        let message = match choice {
            4..6 => protocol.get_vring_base(index),
            6 => protocol.set_vring_enable(index, input.flag()),
            7 => protocol.set_vring_base(index, input.pick(&[0, 1, 0xffff, 0x8000_8000, 0x8003_8001])),
            8 => protocol.set_vring_num(index, input.pick(&[1, 7, 16, 64, 1024, size.into()])),
            9 => {
                let mut address = address;
                address.available ^= 1 << input.below(16);
                protocol.set_vring_addr(address)
            }
            10 => protocol.set_vring_kick(byte, kick),
            _ if input.flag() => protocol.set_vring_call(byte, call),
            _ => protocol.set_vring_err(byte, error),
        };
        self.send(message, input);
    }

    /// Changes the memory.
    fn memory_message(&mut self, input: &mut Input<'_>) {
        let guest = &mut self.guest;
        guest.memory.cuts = (0..input.below(4))
            .map(|_| {
                let zone = input.pick(&ZONES);
                zone.guest + input.below(zone.size as usize) as u64
            })
            .collect();
        let mut shared = guest.memory.shared();
        let fd = if input.one_in(4) { any_fd(&guest.memory, input) } else { guest.memory.fd() };
        let any = shared[input.below(shared.len())].0;
        let message = match input.below(8) {
            0..3 => guest.front.protocol.set_mem_table(shared),
            3 => {
                shared.truncate(input.below(shared.len()));
                guest.front.protocol.set_mem_table(shared)
            }
            4 => guest.front.protocol.rem_mem_reg(any),
            5 => guest.front.protocol.add_mem_reg(any, fd),
            _ => {
                // Elsewhere, or of a size that the file does not have.
                let at = 0x1000 * input.below(32) as u64;
                let size = 0x800 * input.below(64) as u64;
                let region = MemoryRegion {
                    guest_address: 0x10_0000 + at,
                    size,
                    user_address: 0x10_0000,
                    mmap_offset: at,
                };
                guest.more.push(at..at + size);
                guest.front.protocol.add_mem_reg(region, fd)
            }
        };
        self.send(message, input);
    }

    /// A message of any kind.
    fn any_message(&mut self, input: &mut Input<'_>) {
        let (bytes, fds) = vhost_user_messages::message(input);
        let fds = if input.one_in(16) { input.pick(&[0, 1, 2, 8, 9, 40]) } else { fds };
        let fds = (0..fds).map(|_| any_fd(&self.guest.memory, input)).collect();
        self.guest.more.push(0..FILE as u64);
        self.send_bytes(&bytes, fds, input);
    }

    /// Bytes that are no message.
    fn bytes(&mut self, input: &mut Input<'_>) {
        let bytes = input.bytes(40).to_vec();
        if !bytes.is_empty() {
            self.send_bytes(&bytes, Vec::new(), input);
        }
    }

    /// What concerns the device as a whole.
    fn other_message(&mut self, input: &mut Input<'_>) {
        let driver = &self.guest.drivers[input.below(self.guest.drivers.len())];
        let address = driver.address();
        let protocol = &mut self.guest.front.protocol;
        let message = match input.below(12) {
            6..8 => {
                let (size, offset) =
                    (input.pick(&[0, 1, 7, 8, 64, 0x1000]), input.pick(&[0, 8, 0xfff, 0x1000]));
                protocol.set_log_base(LogArea { size, offset }, odd::log())
            }
            8..10 => {
                let log = input.pick(&[0, 0x8000, 0x7_ffff, u64::MAX]);
                protocol.set_vring_addr(VringAddress { flags: VringAddress::LOG, log, ..address })
            }
            10 => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                match input.flag() {
                    true => protocol.set_device_state_fd(StateDirection::Save, writer.into()),
                    false => {
                        // All of it is there, and no more will come.
                        let text = input.pick(&STATES);
                        rustix::io::write(&writer, text.as_bytes()).expect("room in a pipe");
                        protocol.set_device_state_fd(StateDirection::Load, reader.into())
                    }
                }
            }
            11 => protocol.check_device_state(),
            0 => protocol.reset_device(),
            1 => protocol.reset_owner(),
            2 => {
                let log = if input.flag() { Features::LOG_ALL } else { Features::empty() };
                protocol
                    .set_features(Features::from_bits_retain(input.u32().into()) | Features::VERSION_1 | log)
            }
            3 => protocol.set_backend_req_fd(UnixStream::pair().expect("sockets").0.into()),
            4 => protocol.get_features(),
            _ => protocol.get_queue_num(),
        };
        self.send(message, input);
    }

    fn truncate(&mut self, input: &mut Input<'_>) {
        let length = 0x1000 * input.below(24) as u64;
        self.guest.memory.truncate(length);
    }

    /// Leaves in the middle of everything, and comes back.
    fn reconnect(&mut self, input: &mut Input<'_>) {
        if input.flag() {
            // The device finds the new connection only when it has noticed the end of the old one.
            self.guest.front = FrontEnd::new(self.address.connect());
            // What the old one has begun goes on in the same memory.
            self.guest.front.tidy = false;
        } else {
            let Self { daemon, address, guest, traces, .. } = self;
            *guest = connect(address, daemon, traces, input);
        }
    }

    fn finish(self) {
        let Self { mut daemon, guest, mut victim, units, traces, residents, .. } = self;
        drop(guest);
        daemon.wind_down(residents);
        victim.check(&mut daemon);
        drop(victim);
        daemon.run();
        assert_eq!(daemon.residents(), 0, "connections or queues are left");
        traces.check();
        daemon.stop();
        assert!(units.iter().all(|unit| unit.strong_count() == 0), "a unit is still in use");
    }
}

/// A new guest, often one that has introduced itself and started some queues.
fn connect(address: &Address, daemon: &mut Daemon, traces: &mut Traces, input: &mut Input<'_>) -> Guest {
    let mut guest = Guest::new(address, Agreement::any(input), QUEUES, input);
    traces.note(&guest.memory.fd());
    for driver in &mut guest.drivers {
        driver.rogue = true;
        driver.fds().iter().for_each(|fd| traces.note(fd));
    }
    guest.wild = true;
    guest.front.tidy = input.flag();
    if !input.one_in(8) {
        guest.introduce();
    }
    for queue in [REQUESTS, CONTROL, REQUESTS + 1, EVENTS] {
        if !input.one_in(4) {
            guest.start(queue);
        }
    }
    if input.flag() {
        guest.run(daemon);
    }
    guest
}
