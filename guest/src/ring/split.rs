//! Split virtqueues (VIRTIO 1.2, 2.7).

use std::fmt;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::{
    Areas, DESCRIPTOR, Descriptor, Driver, Element, Form, Format, Outstanding, Setup, Tables, Used, crosses,
};
use crate::error::{Error, Violation};

/// Offsets in the available and in the used ring.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const RING: usize = 4;
/// The flag that suppresses notifications.
const SUPPRESS: u16 = 1;

pub(super) struct SplitRing {
    areas: Areas,
    tables: Tables,
    size: u16,
    event_idx: bool,
    outstanding: Outstanding,
    /// The token of a chain, by its head.
    tokens: Box<[u16]>,
    /// The descriptor after each: of a chain, or of the free list.
    next: Box<[u16]>,
    free: u16,
    free_count: u16,
    /// Available index: of the next entry, and as the device knows it.
    pushed: u16,
    published: u16,
    /// Used index of the next entry to take.
    taken: u16,
}

impl SplitRing {
    pub(super) fn new(areas: Areas, tables: Tables, setup: &Setup) -> Self {
        assert!(setup.size.is_power_of_two(), "the size of a split ring is a power of two");
        let size = setup.size;
        let mut ring = Self {
            areas,
            tables,
            size,
            event_idx: setup.event_idx,
            outstanding: Outstanding::new(size),
            tokens: vec![0; size.into()].into(),
            next: vec![0; size.into()].into(),
            free: 0,
            free_count: 0,
            pushed: 0,
            published: 0,
            taken: 0,
        };
        ring.reset(0);
        ring
    }

    fn entry(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Takes `count` descriptors from the free list; the first of them. They stay linked.
    fn allocate(&mut self, count: u16) -> u16 {
        let head = self.free;
        for _ in 0..count {
            self.free = self.next[usize::from(self.free)];
        }
        self.free_count -= count;
        head
    }

    fn release(&mut self, head: u16, count: u16) {
        let last = (1..count).fold(head, |index, _| self.next[usize::from(index)]);
        self.next[usize::from(last)] = self.free;
        self.free = head;
        self.free_count += count;
    }

    fn store(&self, index: u16, descriptor: Descriptor) {
        descriptor.store(Format::Split, &self.areas.descriptors, usize::from(index) * DESCRIPTOR);
    }

    fn used_index(&self) -> u16 {
        self.areas.device.u16(INDEX).load(Acquire).to_le()
    }

    /// Makes the chain available that begins at `head`.
    fn offer(&mut self, head: u16) {
        let entry = RING + 2 * self.entry(self.pushed);
        self.areas.driver.u16(entry).store(head.to_le(), Relaxed);
        self.pushed = self.pushed.wrapping_add(1);
    }

    /// Chains that the device has.
    fn at_device(&self) -> u16 {
        self.published.wrapping_sub(self.taken)
    }

    /// Asks for a call when the used index passes `event`, or sets the flag.
    fn ask(&self, event: u16, flags: u16) {
        if self.event_idx {
            let offset = RING + 2 * usize::from(self.size);
            self.areas.driver.u16(offset).store(event.to_le(), Relaxed);
        } else {
            self.areas.driver.u16(FLAGS).store(flags.to_le(), Relaxed);
        }
    }
}

impl Driver for SplitRing {
    fn push(&mut self, token: u16, elements: &[Element], form: Form) -> Result<(), Error> {
        let needed = match form {
            Form::Chained => elements.len() as u16,
            Form::Indirect => 1,
        };
        if needed > self.free_count {
            return Err(Error::Full { free: self.free_count, needed });
        }
        self.outstanding.add(token, elements, needed);
        let head = self.allocate(needed);
        if form == Form::Indirect {
            let table = self.tables.write(Format::Split, token, elements);
            self.store(head, table);
        } else {
            let mut index = head;
            for (number, element) in elements.iter().enumerate() {
                let link = self.next[usize::from(index)];
                let mut flags = if element.writable { Descriptor::WRITE } else { 0 };
                if number + 1 < elements.len() {
                    flags |= Descriptor::NEXT;
                }
                let Element { address, length, .. } = *element;
                self.store(index, Descriptor { address, length, flags, link });
                index = link;
            }
        }
        self.tokens[usize::from(head)] = token;
        self.offer(head);
        Ok(())
    }

    fn repeat(&mut self, token: u16, _: &[Element]) -> Result<(), Error> {
        let head = self.tokens.iter().position(|other| *other == token).expect("the device has the buffer");
        self.offer(head as u16);
        Ok(())
    }

    fn publish(&mut self) -> Result<bool, Violation> {
        if self.pushed == self.published {
            return Ok(false);
        }
        let old = std::mem::replace(&mut self.published, self.pushed);
        self.areas.driver.u16(INDEX).store(self.pushed.to_le(), Release);
        fence(SeqCst);
        if self.event_idx {
            let offset = RING + 8 * usize::from(self.size);
            let event = self.areas.device.u16(offset).load(Relaxed).to_le();
            return Ok(crosses(event, self.pushed, old));
        }
        Ok(self.areas.device.u16(FLAGS).load(Relaxed).to_le() & SUPPRESS == 0)
    }

    fn has_used(&self) -> bool {
        self.used_index() != self.taken
    }

    fn pop(&mut self) -> Result<Option<Used>, Violation> {
        let used = self.used_index().wrapping_sub(self.taken);
        if used == 0 {
            return Ok(None);
        }
        if used > self.at_device() {
            return Err(Violation::TooMany { used, available: self.at_device() });
        }
        let entry = RING + 8 * self.entry(self.taken);
        let [head, length] = [0, 4].map(|offset| self.areas.device.u32(entry + offset).load(Relaxed).to_le());
        self.taken = self.taken.wrapping_add(1);
        let token = self.tokens.get(head as usize).copied().filter(|&token| token < self.size);
        let token = token.ok_or(Violation::NotAvailable(head))?;
        self.tokens[head as usize] = u16::MAX;
        let sent = self.outstanding.take(token.into(), length)?;
        self.release(head as u16, sent.descriptors);
        Ok(Some(Used { token, length }))
    }

    fn want_call(&mut self) {
        self.ask(self.taken, 0);
        fence(SeqCst);
    }

    fn want_no_calls(&mut self) {
        self.ask(self.taken.wrapping_sub(1), SUPPRESS);
    }

    fn base(&self) -> u32 {
        self.taken.into()
    }

    fn check_base(&self, base: u32) -> Result<(), Violation> {
        let outstanding = self.at_device();
        let expected = u16::try_from(base).map_or(u16::MAX, |base| self.published.wrapping_sub(base));
        match expected == outstanding {
            true => Ok(()),
            false => Err(Violation::Base { base, expected, outstanding }),
        }
    }

    fn reset(&mut self, start: u16) {
        let Areas { descriptors, driver, device } = &self.areas;
        for area in [descriptors, driver, device] {
            area.fill(0);
        }
        driver.u16(INDEX).store(start.to_le(), Relaxed);
        device.u16(INDEX).store(start.to_le(), Relaxed);
        (self.pushed, self.published, self.taken) = (start, start, start);
        self.outstanding = Outstanding::new(self.size);
        self.tables.forget();
        self.tokens.fill(u16::MAX);
        self.next = (1..=self.size).collect();
        (self.free, self.free_count) = (0, self.size);
    }
}

impl fmt::Debug for SplitRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, pushed, published, taken, .. } = self;
        write!(f, "split ring of {size}: pushed {pushed}, published {published}, taken {taken}")
    }
}
