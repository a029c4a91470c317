//! Packed virtqueues (VIRTIO 1.2, 2.8).

use std::fmt;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::{
    Areas, DESCRIPTOR, Descriptor, Driver, Element, Form, Format, Outstanding, Setup, Tables, Used, crosses,
};
use crate::error::{Error, Violation};

/// The flag that matches the driver's wrap counter in an available descriptor (2.8.1).
pub const AVAILABLE: u16 = 1 << 7;
/// The flag that differs from it, and matches the device's wrap counter in a used descriptor (2.8.1).
pub const USED: u16 = 1 << 15;

/// Values of the event flags (2.8.10).
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_DESCRIPTOR: u16 = 2;
/// Where a descriptor has its length, ID and flags.
const LENGTH: usize = 8;
const ID: usize = 12;
const FLAGS: usize = 14;
/// The wrap counter beside an offset.
const WRAP: u16 = 1 << 15;

/// A place in the ring, with the wrap counter that holds there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u16,
    wrap: bool,
}

impl Place {
    fn forward(self, count: u16, size: u16) -> Self {
        let index = self.index + count;
        match index >= size {
            true => Self { index: index - size, wrap: !self.wrap },
            false => Self { index, ..self },
        }
    }

    /// Descriptors from here to a place ahead, if it can be ahead.
    fn distance_to(self, ahead: Self, size: u16) -> Option<u16> {
        let lap = if self.wrap == ahead.wrap { 0 } else { size };
        (ahead.index + lap).checked_sub(self.index).filter(|&distance| distance <= size)
    }

    fn to_bits(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    fn from_bits(bits: u16) -> Self {
        Self { index: bits & !WRAP, wrap: bits & WRAP != 0 }
    }
}

pub(super) struct PackedRing {
    areas: Areas,
    tables: Tables,
    size: u16,
    event_idx: bool,
    outstanding: Outstanding,
    /// Flags of each descriptor as the driver wrote or accepted them.
    flags: Box<[u16]>,
    free: u16,
    /// The next descriptor to make available, and to be used.
    available: Place,
    used: Place,
    /// Descriptors made available since the device was last asked whether it wants a kick.
    fresh: u16,
}

impl PackedRing {
    pub(super) fn new(areas: Areas, tables: Tables, setup: &Setup) -> Self {
        let start = Place { index: 0, wrap: true };
        let mut ring = Self {
            areas,
            tables,
            size: setup.size,
            event_idx: setup.event_idx,
            outstanding: Outstanding::new(setup.size),
            flags: vec![0; setup.size.into()].into(),
            free: setup.size,
            available: start,
            used: start,
            fresh: 0,
        };
        ring.reset(0);
        ring
    }

    fn offset(index: u16) -> usize {
        usize::from(index) * DESCRIPTOR
    }

    fn load_flags(&self, index: u16) -> u16 {
        self.areas.descriptors.u16(Self::offset(index) + FLAGS).load(Acquire).to_le()
    }

    /// Whether a descriptor with these flags is as the driver has left it, as far as the wrap counters tell: a device that
    /// goes on after another may have undone what that one wrote and never showed.
    fn is_available(&self, index: u16, flags: u16) -> bool {
        (flags ^ self.flags[usize::from(index)]) & (AVAILABLE | USED) == 0
    }

    fn store_flags(&self, index: u16, flags: u16) {
        self.areas.descriptors.u16(Self::offset(index) + FLAGS).store(flags.to_le(), Release);
    }

    /// Writes the next descriptor but not its flags, which it returns.
    fn describe(&mut self, descriptor: Descriptor) -> (u16, u16) {
        let Place { index, wrap } = self.available;
        let (memory, offset) = (&self.areas.descriptors, Self::offset(index));
        memory.u64(offset).store(descriptor.address.to_le(), Relaxed);
        memory.u32(offset + LENGTH).store(descriptor.length.to_le(), Relaxed);
        memory.u16(offset + ID).store(descriptor.link.to_le(), Relaxed);
        let flags = descriptor.flags | if wrap { AVAILABLE } else { USED };
        self.flags[usize::from(index)] = flags;
        self.available = self.available.forward(1, self.size);
        (index, flags)
    }

    /// Takes `needed` descriptors, which are to be made available.
    fn take_room(&mut self, needed: u16) -> Result<(), Error> {
        if needed > self.free {
            return Err(Error::Full { free: self.free, needed });
        }
        self.free -= needed;
        self.fresh += needed;
        Ok(())
    }

    /// Makes a chain available. Its first descriptor, which is the last to get its flags, shows the device all of them.
    fn chain(&mut self, id: u16, elements: &[Element]) {
        let mut first = None;
        for (number, element) in elements.iter().enumerate() {
            let mut flags = if element.writable { Descriptor::WRITE } else { 0 };
            if number + 1 < elements.len() {
                flags |= Descriptor::NEXT;
            }
            let Element { address, length, .. } = *element;
            let (index, flags) = self.describe(Descriptor { address, length, flags, link: id });
            match first {
                None => first = Some((index, flags)),
                Some(_) => self.store_flags(index, flags),
            }
        }
        let (index, flags) = first.expect("a buffer has an element");
        self.store_flags(index, flags);
    }

    /// The descriptors after the first of a used buffer: the device skips them.
    fn check_skipped(&self, count: u16) -> Result<(), Violation> {
        for skipped in 1..count {
            let Place { index, .. } = self.used.forward(skipped, self.size);
            let (flags, expected) = (self.load_flags(index), self.flags[usize::from(index)]);
            if !self.is_available(index, flags) {
                return Err(Violation::Overwritten { index, flags, expected });
            }
        }
        Ok(())
    }

    fn ask(&self, place: Place, flags: u16) {
        self.areas.driver.u16(0).store(place.to_bits().to_le(), Relaxed);
        self.areas.driver.u16(2).store(flags.to_le(), Release);
    }
}

impl Driver for PackedRing {
    fn push(&mut self, token: u16, elements: &[Element], form: Form) -> Result<(), Error> {
        let needed = match form {
            Form::Chained => elements.len() as u16,
            Form::Indirect => 1,
        };
        self.take_room(needed)?;
        self.outstanding.add(token, elements, needed);
        if form == Form::Indirect {
            let table = self.tables.write(Format::Packed, token, elements);
            let (index, flags) = self.describe(Descriptor { link: token, ..table });
            self.store_flags(index, flags);
        } else {
            self.chain(token, elements);
        }
        Ok(())
    }

    fn repeat(&mut self, token: u16, elements: &[Element]) -> Result<(), Error> {
        self.take_room(elements.len() as u16)?;
        self.chain(token, elements);
        Ok(())
    }

    fn publish(&mut self) -> Result<bool, Violation> {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh == 0 {
            return Ok(false);
        }
        fence(SeqCst);
        let flags = self.areas.device.u16(2).load(Acquire).to_le();
        match flags {
            ENABLE => Ok(true),
            DISABLE => Ok(false),
            AT_DESCRIPTOR if self.event_idx => {
                let event = Place::from_bits(self.areas.device.u16(0).load(Relaxed).to_le());
                // Both on one scale that counts on over the end of the ring.
                let lap = if event.wrap == self.available.wrap { 0 } else { self.size };
                let new = self.available.index;
                Ok(crosses(event.index.wrapping_sub(lap), new, new.wrapping_sub(fresh)))
            }
            other => Err(Violation::EventFlags(other)),
        }
    }

    fn has_used(&self) -> bool {
        let Place { index, .. } = self.used;
        !self.is_available(index, self.load_flags(index))
    }

    fn pop(&mut self) -> Result<Option<Used>, Violation> {
        let Place { index, wrap } = self.used;
        let flags = self.load_flags(index);
        let expected = self.flags[usize::from(index)];
        if self.is_available(index, flags) {
            return Ok(None);
        }
        if self.free == self.size {
            return Err(Violation::Overwritten { index, flags, expected });
        }
        if flags & (AVAILABLE | USED) != if wrap { AVAILABLE | USED } else { 0 } {
            return Err(Violation::Wrap { index, flags, wrap });
        }
        let descriptor = Self::offset(index);
        let token = self.areas.descriptors.u16(descriptor + ID).load(Relaxed).to_le();
        let length = match flags & Descriptor::WRITE {
            0 => 0,
            _ => self.areas.descriptors.u32(descriptor + LENGTH).load(Relaxed).to_le(),
        };
        let sent = self.outstanding.take(token.into(), length)?;
        self.check_skipped(sent.descriptors)?;
        self.flags[usize::from(index)] = flags;
        self.used = self.used.forward(sent.descriptors, self.size);
        self.free += sent.descriptors;
        Ok(Some(Used { token, length }))
    }

    fn want_call(&mut self) {
        self.ask(self.used, if self.event_idx { AT_DESCRIPTOR } else { ENABLE });
        fence(SeqCst);
    }

    fn want_no_calls(&mut self) {
        self.ask(self.used, DISABLE);
    }

    fn base(&self) -> u32 {
        let used = u32::from(self.used.to_bits());
        used << 16 | used
    }

    fn check_base(&self, base: u32) -> Result<(), Violation> {
        let (available, used) = (Place::from_bits(base as u16), Place::from_bits((base >> 16) as u16));
        let outstanding = self.size - self.free;
        let expected = available.distance_to(self.available, self.size).unwrap_or(u16::MAX);
        match used == self.used && expected == outstanding {
            true => Ok(()),
            false => Err(Violation::Base { base, expected, outstanding }),
        }
    }

    fn reset(&mut self, start: u16) {
        let Areas { descriptors, driver, device } = &self.areas;
        for area in [descriptors, driver, device] {
            area.fill(0);
        }
        let start = Place { index: start % self.size, wrap: true };
        (self.available, self.used) = (start, start);
        self.outstanding = Outstanding::new(self.size);
        self.tables.forget();
        self.flags.fill(0);
        (self.free, self.fresh) = (self.size, 0);
    }
}

impl fmt::Debug for PackedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, available, used, free, .. } = self;
        write!(f, "packed ring of {size}: available {available:?}, used {used:?}, {free} free")
    }
}
