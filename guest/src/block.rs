//! A guest's virtio-blk driver (VIRTIO 1.2, 5.2), as far as a load needs it: one queue, reads and writes.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use lunette_vhost_user::Features;

use crate::error::{Error, Violation};
use crate::memory::{GuestMemory, View};
use crate::monitor::{Monitor, Waiting};
use crate::ring::{DESCRIPTOR, Element, Form, Used};
use crate::session::Wanted;

/// Bytes of a sector, the unit of addresses.
pub const SECTOR: u64 = 512;

const REQUEST: u32 = 16;
const STATUS: usize = 16;
const STRIDE: usize = 64;
const ELEMENTS: usize = 3;

/// How a driver is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Features.
    pub wanted: Wanted,
    /// Descriptors of the ring.
    pub queue_size: u16,
    /// Requests at a time.
    pub slots: u16,
    /// Bytes of data that each request has a buffer for.
    pub room: usize,
    /// How requests are described, if INDIRECT_DESC was negotiated.
    pub form: Form,
    /// How the driver learns of used buffers.
    pub waiting: Waiting,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether it is a write.
    pub write: bool,
    /// The first sector.
    pub sector: u64,
    /// Bytes, from the start of the slot's buffer on.
    pub length: usize,
}

/// A request that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its slot.
    pub slot: u16,
    /// 0 if it succeeded.
    pub status: u8,
}

/// A driver with one queue, and slots as [`ScsiDriver`](crate::ScsiDriver) has them.
#[derive(Debug)]
pub struct BlockDriver {
    /// Session, memory and queue.
    pub monitor: Monitor,
    options: Options,
    headers: View,
    data: View,
}

impl BlockDriver {
    /// Connects and starts the queue.
    pub fn connect(socket: &Path, options: &Options) -> Result<Self, Error> {
        let (slots, room) = (usize::from(options.slots), options.room);
        let ring = usize::from(options.queue_size) * (26 + ELEMENTS * DESCRIPTOR);
        let size = ring + slots * (STRIDE + room) + (64 << 10);
        let memory = GuestMemory::with_size(size.next_multiple_of(4096))?;
        let mut monitor = Monitor::connect(socket, memory, &options.wanted)?;
        let indirect = monitor.session.features().contains(Features::INDIRECT_DESC);
        let options = Options { form: if indirect { options.form } else { Form::Chained }, ..*options };
        let queue = monitor.add_queue(options.queue_size, ELEMENTS)?;
        let headers = monitor.memory.allocate(slots * STRIDE, 64)?;
        let data = monitor.memory.allocate(slots * room, 4096)?;
        if options.waiting == Waiting::Poll {
            monitor.queue_mut(queue).ring_mut().want_no_calls();
        }
        monitor.start(queue)?;
        Ok(Self { monitor, options, headers, data })
    }

    /// Bytes of the disk.
    pub fn capacity(&mut self) -> Result<u64, Error> {
        let bytes = self.monitor.session.config(0, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight were asked for")).saturating_mul(SECTOR))
    }

    /// All data buffers, one after the other.
    pub fn all_data(&self) -> &View {
        &self.data
    }

    /// Puts a request into a free slot. It leaves with [`flush`](Self::flush).
    pub fn submit(&mut self, slot: u16, request: &Request) -> Result<(), Error> {
        assert!(request.length <= self.options.room, "the request is larger than its slot");
        let at = usize::from(slot) * STRIDE;
        self.headers.u64(at).store(u64::from(request.write).to_le(), Relaxed);
        self.headers.u64(at + 8).store(request.sector.to_le(), Relaxed);
        self.headers.u8(at + STATUS).store(u8::MAX, Relaxed);
        let header = |offset: usize, length, writable| Element {
            address: self.headers.address() + (at + offset) as u64,
            length,
            writable,
        };
        let data = Element {
            address: self.data.address() + (usize::from(slot) * self.options.room) as u64,
            length: request.length as u32,
            writable: !request.write,
        };
        let elements = [header(0, REQUEST, false), data, header(STATUS, 1, true)];
        self.monitor.queue_mut(0).push(slot, &elements, self.options.form)
    }

    /// Shows the device what was submitted, and kicks it if it wants that.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.monitor.queue_mut(0).flush()
    }

    /// Takes a request that has come back.
    pub fn poll(&mut self) -> Result<Option<Completion>, Error> {
        let queue = self.monitor.queue_mut(0);
        let Some(Used { token, .. }) = queue.pop()? else { return Ok(None) };
        let status = self.headers.u8(usize::from(token) * STRIDE + STATUS).load(Relaxed);
        if status > 3 {
            let violation = Violation::Response { what: "the status", value: status.into(), most: 3 };
            return Err(queue.violation(violation));
        }
        Ok(Some(Completion { slot: token, status }))
    }

    /// Waits for a request to come back.
    pub fn wait(&mut self) -> Result<(), Error> {
        self.monitor.wait(0..1, self.options.waiting)
    }
}
