//! The virtual machine monitor: a session, the guest's memory and its queues.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use lunette_vhost_user::{Features, VringAddress};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, dup, read, write};

use crate::error::{Error, Violation};
use crate::memory::{Backing, GuestMemory};
use crate::ring::{Element, Form, Format, Ring, Setup, Used};
use crate::session::{Session, Wanted};

/// How a guest learns of used buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It sleeps until the call eventfd fires.
    Interrupt,
    /// It asks for no calls and spins on the ring.
    Poll,
}

/// A queue: a ring and its eventfds.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    ring: Ring,
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
    kicks: u64,
    sleeps: u64,
}

impl Queue {
    fn new(index: u16, ring: Ring) -> Result<Self, Error> {
        let event = || {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            eventfd(0, flags).map_err(Error::system("make an eventfd"))
        };
        Ok(Self { index, ring, kick: event()?, call: event()?, error: event()?, kicks: 0, sleeps: 0 })
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The ring.
    pub fn ring_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Kicks sent so far.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// How often the guest has slept for want of used buffers.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Puts a buffer into the ring; see [`Ring::push`].
    pub fn push(&mut self, token: u16, elements: &[Element], form: Form) -> Result<(), Error> {
        self.ring.push(token, elements, form)
    }

    /// Shows the device what was pushed, and kicks it if it wants that.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.ring.publish().map_err(|violation| self.violation(violation))? {
            self.kick()?;
        }
        Ok(())
    }

    /// Kicks the device.
    pub fn kick(&mut self) -> Result<(), Error> {
        self.kicks += 1;
        write(&self.kick, &1u64.to_ne_bytes()).map(drop).map_err(Error::system("kick the device"))
    }

    /// Takes the next used buffer.
    pub fn pop(&mut self) -> Result<Option<Used>, Error> {
        self.ring.pop().map_err(|violation| self.violation(violation))
    }

    /// Whether the device has called since the last time that the guest slept or asked.
    pub fn take_call(&self) -> bool {
        read(&self.call, &mut [0; 8]).is_ok()
    }

    /// Whether the device has said that the ring is broken.
    pub fn is_broken(&self) -> bool {
        let ready = poll(&mut [PollFd::new(&self.error, PollFlags::IN)], Some(&Timespec::default()));
        ready.is_ok_and(|ready| ready > 0)
    }

    /// Where the ring is, and whether what the device writes there is marked.
    pub(crate) fn address(&self, logging: bool) -> VringAddress {
        let areas = self.ring.areas();
        VringAddress {
            index: self.index.into(),
            flags: if logging { VringAddress::LOG } else { 0 },
            descriptor: areas.descriptors.user_address(),
            used: areas.device.user_address(),
            available: areas.driver.user_address(),
            log: if logging { areas.device.address() } else { 0 },
        }
    }

    pub(crate) fn violation(&self, violation: Violation) -> Error {
        Error::Violation { queue: self.index, violation }
    }
}

/// A virtual machine monitor with one vhost-user device.
#[derive(Debug)]
pub struct Monitor {
    /// The session. What is done to rings and memory behind the monitor's back, it does not know.
    pub session: Session,
    /// The guest's memory.
    pub memory: GuestMemory,
    queues: Vec<Queue>,
    /// The device marks what it writes.
    pub(crate) logging: bool,
}

impl Monitor {
    /// Connects, agrees on features and shares the memory.
    pub fn connect(socket: &Path, memory: GuestMemory, wanted: &Wanted) -> Result<Self, Error> {
        let mut session = Session::connect(socket)?;
        session.negotiate(wanted)?;
        let mut monitor = Self::new(session, memory);
        monitor.session.share(&monitor.memory)?;
        Ok(monitor)
    }

    /// Takes a session; features and memory are up to the caller.
    pub fn new(session: Session, memory: GuestMemory) -> Self {
        Self { session, memory, queues: Vec::new(), logging: false }
    }

    /// Makes the next queue, in the format negotiated. It is not started.
    pub fn add_queue(&mut self, size: u16, table: usize) -> Result<u16, Error> {
        let features = self.session.features();
        let format = match features.contains(Features::RING_PACKED) {
            true => Format::Packed,
            false => Format::Split,
        };
        let setup = Setup { format, size, event_idx: features.contains(Features::EVENT_IDX), table };
        let ring = Ring::new(&mut self.memory, setup)?;
        let index = self.queues.len() as u16;
        self.queues.push(Queue::new(index, ring)?);
        Ok(index)
    }

    /// A queue.
    pub fn queue(&self, index: u16) -> &Queue {
        &self.queues[usize::from(index)]
    }

    /// A queue.
    pub fn queue_mut(&mut self, index: u16) -> &mut Queue {
        &mut self.queues[usize::from(index)]
    }

    /// Number of queues.
    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Sets a queue up, and starts and enables it where its ring stands.
    pub fn start(&mut self, index: u16) -> Result<(), Error> {
        let base = self.queue(index).ring.base();
        self.start_at(index, base)
    }

    /// The same, at any place.
    pub fn start_at(&mut self, index: u16, base: u32) -> Result<(), Error> {
        let Self { session, queues, .. } = self;
        let queue = &queues[usize::from(index)];
        let size = queue.ring.setup().size;
        let copy = |fd: &OwnedFd| dup(fd).map(Some).map_err(Error::system("copy a descriptor"));
        let (kick, call, error) = (copy(&queue.kick)?, copy(&queue.call)?, copy(&queue.error)?);
        let (number, byte) = (u32::from(index), index as u8);
        let address = queue.address(self.logging);
        session.done(|frontend| frontend.set_vring_num(number, size.into()))?;
        session.done(|frontend| frontend.set_vring_base(number, base))?;
        session.done(|frontend| frontend.set_vring_addr(address))?;
        session.done(|frontend| frontend.set_vring_err(byte, error))?;
        session.done(|frontend| frontend.set_vring_call(byte, call))?;
        session.done(|frontend| frontend.set_vring_kick(byte, kick))?;
        session.done(|frontend| frontend.set_vring_enable(number, true))?;
        session.settle()
    }

    /// Enables or disables a queue.
    pub fn enable(&mut self, index: u16, enable: bool) -> Result<(), Error> {
        self.session.done(|frontend| frontend.set_vring_enable(index.into(), enable))
    }

    /// Stops a queue; where it stood. Used buffers are still in the ring.
    pub fn stop(&mut self, index: u16) -> Result<u32, Error> {
        self.session.stop_ring(index)
    }

    /// Adds memory under way. Needs CONFIGURE_MEM_SLOTS.
    pub fn plug(&mut self, address: u64, size: usize, backing: Backing<'_>) -> Result<(), Error> {
        self.memory.add(address, size, backing)?;
        let (region, fd) = self.memory.regions()?.pop().expect("one was added");
        self.session.done(|frontend| frontend.add_mem_reg(region, fd))
    }

    /// Takes the region at `address` away. Needs CONFIGURE_MEM_SLOTS.
    pub fn unplug(&mut self, address: u64) -> Result<(), Error> {
        let region = self.memory.remove(address)?;
        self.session.done(|frontend| frontend.rem_mem_reg(region))
    }

    /// Returns when one of some queues has a used buffer.
    pub fn wait(&mut self, queues: Range<u16>, waiting: Waiting) -> Result<(), Error> {
        match waiting {
            Waiting::Interrupt => self.sleep(queues),
            Waiting::Poll => self.spin(queues),
        }
    }

    fn some(&mut self, queues: Range<u16>) -> &mut [Queue] {
        &mut self.queues[usize::from(queues.start)..usize::from(queues.end)]
    }

    fn sleep(&mut self, asked: Range<u16>) -> Result<(), Error> {
        let patience = self.session.patience();
        let timeout = Timespec::try_from(patience).expect("patience has an end");
        loop {
            for queue in self.some(asked.clone()) {
                queue.ring.want_call();
            }
            if self.some(asked.clone()).iter().any(|queue| queue.ring.has_used()) {
                return Ok(());
            }
            for queue in self.some(asked.clone()) {
                queue.sleeps += 1;
            }
            let queues = &self.queues[usize::from(asked.start)..usize::from(asked.end)];
            let mut fds = Vec::with_capacity(1 + 2 * queues.len());
            fds.push(PollFd::new(&self.session, PollFlags::RDHUP));
            for queue in queues {
                fds.push(PollFd::new(&queue.call, PollFlags::IN));
                fds.push(PollFd::new(&queue.error, PollFlags::IN));
            }
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(Error::TimedOut(patience)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for a call")(error)),
            }
            for (queue, fds) in queues.iter().zip(fds[1..].chunks_exact(2)) {
                if fds[0].revents().is_empty() && !fds[1].revents().is_empty() {
                    return Err(Error::Broken(queue.index));
                }
                if !fds[0].revents().is_empty() {
                    queue.take_call();
                }
            }
            let closed = !fds[0].revents().is_empty();
            let queues = self.some(asked.clone());
            for queue in &mut *queues {
                queue.ring.want_no_calls();
            }
            if queues.iter().any(|queue| queue.ring.has_used()) {
                return Ok(());
            }
            if closed {
                return Err(Error::Closed);
            }
        }
    }

    fn spin(&mut self, queues: Range<u16>) -> Result<(), Error> {
        let patience = self.session.patience();
        let mut begin = None;
        let mut spins = 0u32;
        let queues = self.some(queues);
        while !queues.iter().any(|queue| queue.ring.has_used()) {
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1 << 16) && begin.get_or_insert_with(Instant::now).elapsed() > patience {
                return Err(Error::TimedOut(patience));
            }
        }
        Ok(())
    }
}
