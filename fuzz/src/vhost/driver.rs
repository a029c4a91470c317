//! The driver of one queue: keeps the rules, or breaks them.

use super::memory::{self, BUFFERS, Memory, USER, WRITABLE};
use crate::input::Input;
use lunette_guest::Error;
use lunette_guest::ring::{Areas, Descriptor, Element, Form, Format, Ring, Setup};
use lunette_vhost_user::VringAddress;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::ops::Range;
use std::os::fd::OwnedFd;

/// Most elements of a chain with an indirect table.
const TABLE: usize = 6;

/// A chain that the device has.
struct Sent {
    /// Where the device may write.
    writable: (u64, u32),
    /// What it has to write at least.
    least: u32,
}

/// What a queue is like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) packed: bool,
    pub(super) event_index: bool,
    pub(super) indirect: bool,
    pub(super) size: u16,
}

/// A queue with its driver.
pub(super) struct Driver {
    pub(super) index: u16,
    ring: Ring,
    indirect: bool,
    sent: Vec<Option<Sent>>,
    /// Guest addresses of the indirect tables.
    tables: Range<u64>,
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
    /// A call was asked for while nothing had come back.
    armed: bool,
    /// Breaks the rules.
    pub(super) rogue: bool,
    /// The device has this ring.
    pub(super) started: bool,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

impl Driver {
    pub(super) fn new(index: u16, memory: &mut Memory, shape: Shape) -> Self {
        let format = if shape.packed { Format::Packed } else { Format::Split };
        let setup = Setup { format, size: shape.size, event_idx: shape.event_index, table: TABLE };
        let ring = Ring::new(&mut memory.rings, setup).expect("room for rings");
        let end = memory.rings.allocate(0, 1).expect("room for nothing").address();
        let tables = end - u64::from(shape.size) * Self::table_size()..end;
        Self {
            index,
            ring,
            indirect: shape.indirect,
            sent: (0..shape.size).map(|_| None).collect(),
            tables,
            kick: event(),
            call: event(),
            error: event(),
            armed: false,
            rogue: false,
            started: false,
        }
    }

    const fn table_size() -> u64 {
        (TABLE * size_of::<[u64; 2]>()) as u64
    }

    /// A place between two indirect tables.
    pub(super) fn between_tables(&self, input: &mut Input<'_>) -> u64 {
        self.tables.start + Self::table_size() * input.below(self.sent.len()) as u64
    }

    pub(super) fn size(&self) -> u16 {
        self.sent.len() as u16
    }

    pub(super) fn base(&self) -> u32 {
        self.ring.base()
    }

    /// Where the ring is, as SET_VRING_ADDR says it.
    pub(super) fn address(&self) -> VringAddress {
        let Areas { descriptors, driver, device } = self.ring.areas();
        VringAddress {
            index: self.index.into(),
            flags: 0,
            descriptor: USER + descriptors.address(),
            used: USER + device.address(),
            available: USER + driver.address(),
            log: 0,
        }
    }

    /// Copies of the eventfds: kick, call, error.
    pub(super) fn fds(&self) -> [OwnedFd; 3] {
        [&self.kick, &self.call, &self.error].map(|fd| fd.try_clone().expect("another descriptor"))
    }

    /// Makes bytes and a buffer available, in pieces, if there is room. `least` bytes have to be written.
    pub(super) fn send(
        &mut self,
        memory: &mut Memory,
        bytes: &[u8],
        writable: u32,
        least: u32,
        input: &mut Input<'_>,
    ) -> bool {
        let Some(token) = self.free_token(input) else { return false };
        let address = memory.writable(writable, input);
        self.send_to(memory, token, bytes, (address, writable), least, input)
    }

    fn free_token(&self, input: &mut Input<'_>) -> Option<u16> {
        let first = input.below(self.sent.len());
        let mut all = (first..self.sent.len()).chain(0..first);
        all.find(|token| self.sent[*token].is_none()).map(|token| token as u16)
    }

    fn send_to(
        &mut self,
        memory: &mut Memory,
        token: u16,
        bytes: &[u8],
        writable: (u64, u32),
        least: u32,
        input: &mut Input<'_>,
    ) -> bool {
        let mut elements = Vec::new();
        if !bytes.is_empty() {
            elements.extend(pieces((memory.put(bytes), bytes.len() as u32), false, input));
        }
        elements.extend(pieces(writable, true, input));
        if self.rogue && input.one_in(6) {
            spoil(&mut elements, input);
        }
        let indirect = self.indirect && elements.len() <= TABLE && input.flag();
        let form = if indirect { Form::Indirect } else { Form::Chained };
        match self.ring.push(token, &elements, form) {
            Ok(()) => {}
            Err(Error::Full { .. }) => return false,
            Err(error) => panic!("{error}"),
        }
        self.sent[usize::from(token)] = Some(Sent { writable, least });
        true
    }

    /// Shows the device what was sent, and kicks it if it wants that.
    pub(super) fn flush(&mut self) {
        match self.ring.publish() {
            Ok(true) => self.kick(),
            Ok(false) => {}
            Err(_) if self.rogue => self.kick(),
            Err(violation) => panic!("queue {}: {violation}", self.index),
        }
    }

    pub(super) fn kick(&self) {
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// Whether the device has said that the ring is broken.
    pub(super) fn is_broken(&self) -> bool {
        is_readable(&self.error)
    }

    /// Takes back what the device has returned: chains that it has, each once; where each was written to.
    pub(super) fn collect(&mut self, input: &mut Input<'_>) -> Vec<(u64, u32)> {
        let mut returned = Vec::new();
        if self.started && !self.rogue && self.ring.has_used() {
            let called = is_readable(&self.call);
            assert!(called || !self.armed, "queue {}: the driver was to be called", self.index);
        }
        loop {
            match self.ring.pop() {
                Ok(None) => break,
                Ok(Some(used)) => {
                    let Some(sent) = self.sent[usize::from(used.token)].take() else { break };
                    let least = sent.least;
                    assert!(self.rogue || used.length >= least, "{} bytes of {least}", used.length);
                    returned.push((sent.writable.0, used.length));
                }
                Err(_) if self.rogue => break,
                Err(violation) => panic!("queue {}: {violation}", self.index),
            }
        }
        let _ = rustix::io::read(&self.call, &mut [0; 8]);
        self.armed = input.flag();
        match self.armed {
            true => self.ring.want_call(),
            false => self.ring.want_no_calls(),
        }
        returned
    }

    /// Whether the device has nothing of this queue.
    pub(super) fn is_idle(&self) -> bool {
        self.sent.iter().all(Option::is_none)
    }

    /// The device has stopped at `base`, and what it has returned was taken.
    pub(super) fn check_base(&self, base: u32) {
        let checked = self.ring.check_base(base);
        checked.unwrap_or_else(|violation| panic!("queue {}: {violation}", self.index));
    }

    /// Forgets everything. The device must not have the ring.
    pub(super) fn reset(&mut self) {
        self.ring.reset(0);
        self.sent.iter_mut().for_each(|sent| *sent = None);
        self.armed = false;
        let _ = rustix::io::read(&self.error, &mut [0; 8]);
    }

    /// Where in the file the device may write on behalf of this queue.
    pub(super) fn allowed(&self, into: &mut Vec<Range<u64>>) {
        let Areas { descriptors, device, .. } = self.ring.areas();
        if self.started && !self.is_broken() {
            into.extend(memory::places(device.address(), device.length() as u64));
            if self.ring.setup().format == Format::Packed {
                into.extend(memory::places(descriptors.address(), descriptors.length() as u64));
            }
        }
        for sent in self.sent.iter().flatten() {
            into.extend(memory::places(sent.writable.0, sent.writable.1.into()));
        }
        if self.rogue {
            into.extend(memory::within_reach(self.index));
        }
    }

    /// Breaks a rule, perhaps. What the device could write to by that are buffers, not rings.
    pub(super) fn misbehave(&mut self, input: &mut Input<'_>) {
        let (length, flags) = (length(input), u16::from(input.u8() & 7) | u16::from(input.u8() & 0x81) << 8);
        let mut flags = flags & !(1 << 8);
        if self.ring.setup().format == Format::Packed {
            flags |= u16::from(input.u8() & 1) << 7;
        }
        let address = match flags & Descriptor::INDIRECT {
            0 => bad_address(input),
            // At other addresses than these, what is there could be taken for descriptors of rings.
            _ => self.tables.start + u64::from(input.u16() & !7) % (self.tables.end - self.tables.start),
        };
        let link = if input.one_in(8) { input.u16() } else { u16::from(input.u8() % 72) };
        let index = input.below(self.sent.len()) as u16;
        self.ring.write_descriptor(index, Descriptor { address, length, flags, link });
        if self.ring.setup().format == Format::Split {
            self.jump(input);
        }
        self.kick();
    }

    /// Makes a chain available that no device can serve. Whether there was room for it.
    pub(super) fn shatter(&mut self, memory: &mut Memory, input: &mut Input<'_>) -> bool {
        let Some(token) = self.free_token(input) else { return false };
        let address = input.pick(&[WRITABLE.guest << 32, WRITABLE.guest - 8, u64::MAX - 63]);
        if !self.send_to(memory, token, &[0; 64], (address, 16), 0, input) {
            return false;
        }
        self.rogue = true;
        self.flush();
        self.kick();
        true
    }

    /// Makes a chain available once more that the device has. Whether there is one, and room.
    pub(super) fn repeat(&mut self, memory: &mut Memory, _: &mut Input<'_>) -> bool {
        let Some((token, sent)) =
            (0..).zip(&self.sent).find_map(|(token, sent)| Some((token, sent.as_ref()?)))
        else {
            return false;
        };
        // What can be served, but for the ID.
        let readable = Element { address: memory.put(&[0; 64]), length: 64, writable: false };
        let (address, length) = sent.writable;
        if self.ring.repeat(token, &[readable, Element { address, length, writable: true }]).is_err() {
            return false;
        }
        self.rogue = true;
        self.flush();
        self.kick();
        true
    }

    /// Moves the available index on, over any heads.
    fn jump(&self, input: &mut Input<'_>) {
        let driver = &self.ring.areas().driver;
        let index = u16::from_le(driver.u16(2).load(std::sync::atomic::Ordering::Relaxed));
        let entry = 4 + 2 * usize::from(index % self.size());
        let head = if input.one_in(8) { input.u16() } else { input.u8().into() };
        driver.write(entry, &head.to_le_bytes());
        let step = input.pick(&[1, 1, 1, 1, 2, self.size(), self.size() + 1, 0x8000]);
        driver.write(2, &index.wrapping_add(step).to_le_bytes());
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// An address at which the device may write into no ring.
fn bad_address(input: &mut Input<'_>) -> u64 {
    let zone = input.pick(&BUFFERS);
    match input.below(8) {
        0 => u64::MAX - u64::from(input.u8()),
        1 => zone.guest + zone.size - u64::from(input.u8()),
        2 => zone.guest - u64::from(input.u8()),
        3 => WRITABLE.guest << 32,
        _ => zone.guest + u64::from(input.u16()) % zone.size,
    }
}

fn length(input: &mut Input<'_>) -> u32 {
    match input.below(8) {
        0 => u32::MAX,
        1 => input.u16().into(),
        2 | 3 => 16 * u32::from(input.u8()),
        _ => input.u8().into(),
    }
}

/// Has one part of a request lie or end where it should not; the others are as they should be, so the device gets far.
fn spoil(elements: &mut [Element], input: &mut Input<'_>) {
    let element = &mut elements[input.below(elements.len())];
    match input.below(4) {
        0 => element.length = length(input),
        1 => element.address = bad_address(input),
        // In memory, but not all of it.
        _ => {
            let zone = input.pick(&BUFFERS);
            element.address = zone.guest + zone.size - 1 - u64::from(input.u8()).min(element.length.into());
        }
    }
}

/// The buffer in one to three pieces, some of which may be empty.
fn pieces((address, length): (u64, u32), writable: bool, input: &mut Input<'_>) -> Vec<Element> {
    let mut pieces = vec![Element { address, length, writable }];
    for _ in 0..input.below(5).saturating_sub(2) {
        let Element { address, length, .. } = pieces.pop().expect("never empty");
        let cut = u32::from(input.u8()).min(length);
        pieces.push(Element { address, length: cut, writable });
        pieces.push(Element { address: address + u64::from(cut), length: length - cut, writable });
    }
    pieces
}
