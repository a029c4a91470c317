//! The driver's side of virtqueues (VIRTIO 1.2, 2.7 and 2.8), which judges what the device does.

mod packed;
mod split;

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::{Error, Violation};
use crate::memory::{GuestMemory, View};

pub use packed::{AVAILABLE, USED};

use packed::PackedRing;
use split::SplitRing;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;

/// How a ring is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Descriptor table, available ring, used ring; the size is a power of two.
    Split,
    /// One ring of descriptors.
    Packed,
}

/// How a buffer's elements are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A chain of descriptors in the ring.
    Chained,
    /// One descriptor in the ring, and a table.
    Indirect,
}

/// What a ring is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Its layout.
    pub format: Format,
    /// Descriptors, 2^15 at most.
    pub size: u16,
    /// Whether EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// Most elements of an indirect table.
    pub table: usize,
}

/// An element of a buffer: contiguous guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Whether the device writes it; it reads it otherwise.
    pub writable: bool,
}

/// A buffer that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The buffer's name.
    pub token: u16,
    /// Bytes that the device says it has written.
    pub length: u32,
}

/// A descriptor as it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// [`NEXT`](Self::NEXT), [`WRITE`](Self::WRITE), [`INDIRECT`](Self::INDIRECT), in a packed ring also [`AVAILABLE`] and
    /// [`USED`].
    pub flags: u16,
    /// The next descriptor of a split ring, the buffer ID of a packed one.
    pub link: u16,
}

impl Descriptor {
    /// The buffer goes on.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// The element is a table of descriptors.
    pub const INDIRECT: u16 = 4;

    /// The bytes in memory.
    pub fn to_bytes(self, format: Format) -> [u8; DESCRIPTOR] {
        let mut bytes = [0; DESCRIPTOR];
        let (third, fourth) = match format {
            Format::Split => (self.flags, self.link),
            Format::Packed => (self.link, self.flags),
        };
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&third.to_le_bytes());
        bytes[14..].copy_from_slice(&fourth.to_le_bytes());
        bytes
    }

    #[inline]
    fn store(&self, format: Format, memory: &View, offset: usize) {
        let (third, fourth) = match format {
            Format::Split => (self.flags, self.link),
            Format::Packed => (self.link, self.flags),
        };
        let rest = u64::from(self.length) | u64::from(third) << 32 | u64::from(fourth) << 48;
        memory.u64(offset).store(self.address.to_le(), Relaxed);
        memory.u64(offset + 8).store(rest.to_le(), Relaxed);
    }
}

/// The three areas of a ring, for SET_VRING_ADDR and for tests that write to them as they like.
#[derive(Clone, Debug)]
pub struct Areas {
    /// Descriptor table or ring.
    pub descriptors: View,
    /// Available ring, or driver event suppression.
    pub driver: View,
    /// Used ring, or device event suppression.
    pub device: View,
}

/// Buffers that the device has, by token.
struct Outstanding(Box<[Option<Sent>]>);

#[derive(Clone, Copy)]
struct Sent {
    descriptors: u16,
    /// Bytes that the device may write.
    room: u64,
}

impl Outstanding {
    fn new(size: u16) -> Self {
        Self(vec![None; size.into()].into())
    }

    /// Notes that a buffer is sent. Two with the same token at the same time are an error of the caller.
    #[inline]
    fn add(&mut self, token: u16, elements: &[Element], descriptors: u16) {
        assert!(!elements.is_empty(), "a buffer has an element");
        assert!(elements.is_sorted_by_key(|element| element.writable), "what the device reads comes first");
        let writable = elements.iter().filter(|element| element.writable);
        let room = writable.map(|element| u64::from(element.length)).sum();
        let old = self.0[usize::from(token)].replace(Sent { descriptors, room });
        assert!(old.is_none(), "token {token} is in use");
    }

    /// Takes a buffer back.
    fn take(&mut self, token: u32, length: u32) -> Result<Sent, Violation> {
        let sent = self.0.get_mut(token as usize).and_then(Option::take);
        let sent = sent.ok_or(Violation::NotAvailable(token))?;
        if u64::from(length) > sent.room {
            return Err(Violation::Length { length, room: sent.room });
        }
        Ok(sent)
    }
}

/// A table of descriptors for each token.
struct Tables {
    memory: View,
    most: usize,
    /// What is in them. What is there already is not written again, and so need not travel to the device's CPU again.
    written: Box<[Option<Descriptor>]>,
}

impl Tables {
    fn new(memory: &mut GuestMemory, setup: &Setup) -> Result<Self, Error> {
        let count = usize::from(setup.size) * setup.table;
        let memory = memory.allocate(count * DESCRIPTOR, DESCRIPTOR)?;
        Ok(Self { memory, most: setup.table, written: vec![None; count].into() })
    }

    /// Has all tables written anew.
    fn forget(&mut self) {
        self.written.fill(None);
    }

    /// Writes a table; the descriptor that refers to it.
    fn write(&mut self, format: Format, token: u16, elements: &[Element]) -> Descriptor {
        assert!(elements.len() <= self.most, "an indirect table has at most {} elements", self.most);
        let first = usize::from(token) * self.most;
        let written = &mut self.written[first..first + elements.len()];
        for ((index, element), written) in elements.iter().enumerate().zip(written) {
            let mut flags = if element.writable { Descriptor::WRITE } else { 0 };
            let mut link = 0;
            // In a packed ring's table the order alone counts.
            if format == Format::Split && index + 1 < elements.len() {
                flags |= Descriptor::NEXT;
                link = index as u16 + 1;
            }
            let descriptor = Descriptor { address: element.address, length: element.length, flags, link };
            if *written != Some(descriptor) {
                *written = Some(descriptor);
                descriptor.store(format, &self.memory, (first + index) * DESCRIPTOR);
            }
        }
        Descriptor {
            address: self.memory.address() + (first * DESCRIPTOR) as u64,
            length: (elements.len() * DESCRIPTOR) as u32,
            flags: Descriptor::INDIRECT,
            link: 0,
        }
    }
}

/// What both formats do.
trait Driver: fmt::Debug + Send {
    fn push(&mut self, token: u16, elements: &[Element], form: Form) -> Result<(), Error>;
    fn repeat(&mut self, token: u16, elements: &[Element]) -> Result<(), Error>;
    fn publish(&mut self) -> Result<bool, Violation>;
    fn has_used(&self) -> bool;
    fn pop(&mut self) -> Result<Option<Used>, Violation>;
    fn want_call(&mut self);
    fn want_no_calls(&mut self);
    fn base(&self) -> u32;
    fn check_base(&self, base: u32) -> Result<(), Violation>;
    fn reset(&mut self, start: u16);
}

/// The driver's side of a ring.
///
/// Buffers are named by tokens below the ring's size, which the caller chooses: at any time each names at most one
/// buffer that the device has. [`push`](Self::push) as many as there is room for, [`publish`](Self::publish) them, and
/// [`pop`](Self::pop) what the device has used. None of these allocates.
#[derive(Debug)]
pub struct Ring {
    driver: Box<dyn Driver>,
    areas: Areas,
    setup: Setup,
}

impl Ring {
    /// A ring in memory of its own.
    pub fn new(memory: &mut GuestMemory, setup: Setup) -> Result<Self, Error> {
        assert!((1..=1 << 15).contains(&setup.size), "a ring has 1 to 2^15 descriptors");
        let size = usize::from(setup.size);
        let (driver, device) = match setup.format {
            Format::Split => (6 + 2 * size, 6 + 8 * size),
            Format::Packed => (4, 4),
        };
        let areas = Areas {
            descriptors: memory.allocate(DESCRIPTOR * size, 4096)?,
            driver: memory.allocate(driver, 64)?,
            device: memory.allocate(device, 64)?,
        };
        let tables = Tables::new(memory, &setup)?;
        let driver: Box<dyn Driver> = match setup.format {
            Format::Split => Box::new(SplitRing::new(areas.clone(), tables, &setup)),
            Format::Packed => Box::new(PackedRing::new(areas.clone(), tables, &setup)),
        };
        Ok(Self { driver, areas, setup })
    }

    /// What the ring is like.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The ring's memory. Who writes to it takes the driver's part.
    pub fn areas(&self) -> &Areas {
        &self.areas
    }

    /// Writes a descriptor over whatever is there. The driver does not know of it.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        let bytes = descriptor.to_bytes(self.setup.format);
        self.areas.descriptors.write(usize::from(index) * DESCRIPTOR, &bytes);
    }

    /// Puts a buffer into the ring: what the device reads, then what it writes. A packed ring shows it to the device at
    /// once, a split one with the next [`publish`](Self::publish).
    pub fn push(&mut self, token: u16, elements: &[Element], form: Form) -> Result<(), Error> {
        self.driver.push(token, elements, form)
    }

    /// Makes a buffer available once more that the device has: what no driver may do. A split ring has it there already; in
    /// a packed one other `elements` get its ID.
    pub fn repeat(&mut self, token: u16, elements: &[Element]) -> Result<(), Error> {
        self.driver.repeat(token, elements)
    }

    /// Shows the device what was pushed; whether it wants to be kicked (2.7.13.4, 2.8.19).
    pub fn publish(&mut self) -> Result<bool, Violation> {
        self.driver.publish()
    }

    /// Whether the device has used a buffer that was not taken yet.
    pub fn has_used(&self) -> bool {
        self.driver.has_used()
    }

    /// Takes the next used buffer.
    pub fn pop(&mut self) -> Result<Option<Used>, Violation> {
        self.driver.pop()
    }

    /// Asks for a call at the next used buffer. Look once more with [`has_used`](Self::has_used) before waiting for it.
    pub fn want_call(&mut self) {
        self.driver.want_call();
    }

    /// Asks for no calls: a hint, the device may still call now and then.
    pub fn want_no_calls(&mut self) {
        self.driver.want_no_calls();
    }

    /// Where a device starts that takes over now: what SET_VRING_BASE says.
    pub fn base(&self) -> u32 {
        self.driver.base()
    }

    /// Checks that a device could stop at `base` (the reply to GET_VRING_BASE), all used buffers having been taken.
    pub fn check_base(&self, base: u32) -> Result<(), Violation> {
        self.driver.check_base(base)
    }

    /// Forgets all buffers and begins anew, at index `start`: of a split ring, or the descriptor of a packed one.
    pub fn reset(&mut self, start: u16) {
        self.driver.reset(start);
    }
}

/// Whether an index that went from `old` to `new` passed `event` (2.7.7.1).
fn crosses(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests;
