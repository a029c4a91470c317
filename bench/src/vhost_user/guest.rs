//! A guest's virtio-scsi driver as far as a load needs it (VIRTIO 1.2, 5.6): one request queue, fixed slots.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lunette_vhost_user::{Features, Frontend, MemoryRegion, ProtocolFeatures, Reply, VringAddress};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{dup, read, write};
use rustix::time::Timespec;

use super::memory::GuestMemory;
use super::ring::{DESCRIPTOR, Descriptor, Ring};
use super::session::Session;
use crate::load::workload::Direction;
use crate::load::{Command, Completion, Initiator, PATIENCE};

/// How the guest learns of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It sleeps until the call eventfd fires.
    Interrupt,
    /// It spins on the used index.
    Poll,
}

/// Entries of each queue: what QEMU takes by default, and the most that vhost-device-scsi takes.
const QUEUE_SIZE: u16 = 128;
/// Control, event and one request queue.
const QUEUES: usize = 3;
const REQUESTS: usize = 2;

/// Offsets in a slot's header area.
const REQUEST: usize = 0;
const RESPONSE: usize = 64;
const TABLE: usize = 192;
const HEADERS: usize = 256;
/// Bytes of a request and a response header with the default CDB and sense sizes (VIRTIO 1.2, 5.6.6.1).
const REQUEST_BYTES: usize = 51;
const RESPONSE_BYTES: usize = 108;
const LUN_0: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

/// The guest.
pub(crate) struct Guest {
    session: Session,
    memory: Rc<GuestMemory>,
    ring: Ring,
    kick: OwnedFd,
    call: OwnedFd,
    waiting: Waiting,
    indirect: bool,
    headers: usize,
    data: usize,
    /// Bytes of data per slot.
    room: usize,
}

impl Guest {
    /// Connects and starts the queues. `indirect` puts each request into a table of its own, as Linux does.
    pub(crate) fn connect(
        socket: &Path,
        slots: usize,
        room: usize,
        indirect: bool,
        waiting: Waiting,
    ) -> Result<Self> {
        ensure!(
            slots <= usize::from(QUEUE_SIZE) / if indirect { 1 } else { 3 },
            "{slots} requests do not fit in a queue of {QUEUE_SIZE}"
        );
        let ring_bytes = Ring::bytes(QUEUE_SIZE).next_multiple_of(4096);
        let headers = QUEUES * ring_bytes;
        let data = (headers + slots * HEADERS).next_multiple_of(4096);
        let room = room.next_multiple_of(4096);
        let memory = Rc::new(GuestMemory::new(data + slots * room)?);

        let mut session = Session::connect(socket)?;
        let features = negotiate(&mut session, indirect)?;
        let event_idx = features.contains(Features::EVENT_IDX);
        share(&mut session, &memory)?;
        let rings = [0, 1, 2].map(|i| Ring::new(Rc::clone(&memory), i * ring_bytes, QUEUE_SIZE, event_idx));
        let mut events = Vec::new();
        for (index, ring) in rings.iter().enumerate() {
            events.push(start_ring(&mut session, &memory, index as u8, ring)?);
        }
        // Its reply comes after all that was sent before has been carried out.
        session.send(Frontend::get_features)?;

        let (kick, call) = events.remove(REQUESTS);
        let [_, _, ring] = rings;
        let guest = Self { session, memory, ring, kick, call, waiting, indirect, headers, data, room };
        if waiting == Waiting::Poll {
            guest.ring.want_no_calls();
        }
        Ok(guest)
    }

    fn header(&self, slot: usize) -> usize {
        self.headers + slot * HEADERS
    }

    fn buffer(&self, slot: usize) -> usize {
        self.data + slot * self.room
    }

    /// Lays out the descriptors of a request: header, data-out, response, data-in. Returns the head.
    fn describe(&self, slot: usize, command: &Command) -> u16 {
        let header = self.header(slot);
        let data = (self.buffer(slot), command.length);
        let request = (header + REQUEST, REQUEST_BYTES);
        let response = (header + RESPONSE, RESPONSE_BYTES);
        let (parts, readable) = match command.direction {
            Direction::Write => ([request, data, response], 2),
            Direction::Read => ([request, response, data], 1),
        };
        let count = if command.length == 0 { 2 } else { 3 };
        // A chain in the ring takes three descriptors from `first` on.
        let (table, first) = match self.indirect {
            true => (header + TABLE, 0),
            false => (self.ring.descriptors + 3 * slot * DESCRIPTOR, 3 * slot),
        };
        for (index, (address, length)) in parts.into_iter().take(count).enumerate() {
            let mut flags = if index < readable { 0 } else { Descriptor::WRITE };
            if index + 1 < count {
                flags |= Descriptor::NEXT;
            }
            let next = (first + index + 1) as u16;
            Descriptor { address, length, flags, next }.store(&self.memory, table + index * DESCRIPTOR);
        }
        if self.indirect {
            let length = count * DESCRIPTOR;
            let descriptor = Descriptor { address: table, length, flags: Descriptor::INDIRECT, next: 0 };
            self.ring.set_descriptor(slot as u16, descriptor);
            return slot as u16;
        }
        first as u16
    }

    fn take_used(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        while let Some(head) = self.ring.pop() {
            let slot = head as usize / if self.indirect { 1 } else { 3 };
            ensure!(
                slot < usize::from(self.ring.size()),
                "the device used a chain {head} that does not exist"
            );
            let response = self.header(slot) + RESPONSE;
            // Status qualifier, status, response.
            let [_, _, status, service] = self.memory.u32(response + 8).load(Relaxed).to_ne_bytes();
            let status = if service == 0 { status } else { Completion::FAILED };
            let residual = self.memory.u32(response + 4).load(Relaxed).to_le();
            // A response that the device does not write must not look like the last one.
            self.memory.u32(response + 8).store(u32::MAX, Relaxed);
            done.push(Completion { slot, status, residual });
        }
        Ok(())
    }

    fn sleep(&mut self) -> Result<()> {
        self.ring.want_call();
        if self.ring.has_used() {
            return Ok(());
        }
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.call, PollFlags::IN), PollFd::new(&self.session, PollFlags::RDHUP)];
        let ready = poll(&mut fds, Some(&patience))?;
        ensure!(ready > 0, "the device has not ended a command for {PATIENCE:?}");
        ensure!(fds[1].revents().is_empty(), "the daemon has closed the connection");
        read(&self.call, &mut [0; 8])?;
        Ok(())
    }

    fn spin(&self) -> Result<()> {
        let mut begin = None;
        let mut spins = 0u32;
        while !self.ring.has_used() {
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1 << 16) {
                let begin = *begin.get_or_insert_with(Instant::now);
                ensure!(begin.elapsed() < PATIENCE, "the device has not ended a command for {PATIENCE:?}");
            }
        }
        Ok(())
    }
}

impl Initiator for Guest {
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()> {
        ensure!(command.length <= self.room, "the command is larger than its slot");
        let request = self.header(slot) + REQUEST;
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..8].copy_from_slice(&LUN_0);
        bytes[8..16].copy_from_slice(&(slot as u64).to_le_bytes());
        bytes[19..35].copy_from_slice(&command.cdb);
        self.memory.write(request, &bytes);
        let head = self.describe(slot, command);
        self.ring.push(head);
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        if self.ring.publish() {
            write(&self.kick, &1u64.to_ne_bytes())?;
        }
        loop {
            self.take_used(done)?;
            if !done.is_empty() {
                return Ok(());
            }
            match self.waiting {
                Waiting::Interrupt => self.sleep()?,
                Waiting::Poll => self.spin()?,
            }
        }
    }

    fn word(&self, slot: usize, index: usize) -> u64 {
        self.memory.u64(self.buffer(slot) + 8 * index).load(Relaxed).to_le()
    }

    fn set_word(&mut self, slot: usize, index: usize, value: u64) {
        self.memory.u64(self.buffer(slot) + 8 * index).store(value.to_le(), Relaxed);
    }
}

fn negotiate(session: &mut Session, indirect: bool) -> Result<Features> {
    session.send(Frontend::set_owner)?;
    let Some(Reply::Features(offered)) = session.send(Frontend::get_features)? else {
        bail!("GET_FEATURES has another reply")
    };
    let needed = Features::VERSION_1 | Features::PROTOCOL_FEATURES;
    ensure!(offered.contains(needed), "the daemon offers {offered:?} only");
    ensure!(!indirect || offered.contains(Features::INDIRECT_DESC), "the daemon has no indirect descriptors");
    let mut wanted = needed | Features::EVENT_IDX;
    wanted.set(Features::INDIRECT_DESC, indirect);
    let features = offered & wanted;

    let Some(Reply::ProtocolFeatures(protocol)) = session.send(Frontend::get_protocol_features)? else {
        bail!("GET_PROTOCOL_FEATURES has another reply")
    };
    session.send(|frontend| {
        frontend.set_protocol_features(protocol & (ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK))
    })?;
    session.send(|frontend| frontend.set_features(features))?;
    Ok(features)
}

fn share(session: &mut Session, memory: &GuestMemory) -> Result<()> {
    let region = MemoryRegion {
        guest_address: 0,
        size: memory.size() as u64,
        user_address: memory.address() as u64,
        mmap_offset: 0,
    };
    let file = memory.file()?;
    session.send(|frontend| frontend.set_mem_table([(region, file)])).context("cannot share guest memory")?;
    Ok(())
}

/// Starts a ring; its kick and call eventfds.
fn start_ring(
    session: &mut Session,
    memory: &GuestMemory,
    index: u8,
    ring: &Ring,
) -> Result<(OwnedFd, OwnedFd)> {
    let [kick, call] = [(); 2].map(|()| eventfd(0, EventfdFlags::CLOEXEC));
    let (kick, call) = (kick?, call?);
    let (theirs_kick, theirs_call) = (dup(&kick)?, dup(&call)?);
    let user = |offset| (memory.address() + offset) as u64;
    let address = VringAddress {
        index: index.into(),
        flags: 0,
        descriptor: user(ring.descriptors),
        used: user(ring.used),
        available: user(ring.available),
        log: 0,
    };
    session.send(|frontend| frontend.set_vring_num(index.into(), ring.size().into()))?;
    session.send(|frontend| frontend.set_vring_base(index.into(), 0))?;
    session.send(|frontend| frontend.set_vring_addr(address))?;
    session.send(|frontend| frontend.set_vring_call(index, Some(theirs_call)))?;
    session.send(|frontend| frontend.set_vring_kick(index, Some(theirs_kick)))?;
    session.send(|frontend| frontend.set_vring_enable(index.into(), true))?;
    Ok((kick, call))
}
