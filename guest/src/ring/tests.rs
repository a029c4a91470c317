use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;

/// A device that keeps the rules, or breaks one.
struct Device {
    areas: Areas,
    setup: Setup,
    /// The next available and the next used entry, with their wrap counters.
    available: (u16, bool),
    used: (u16, bool),
    /// Buffers taken: head or ID, descriptors, elements.
    taken: VecDeque<(u16, u16, Vec<Element>)>,
}

fn ring(memory: &mut GuestMemory, format: Format, size: u16, event_idx: bool) -> (Ring, Device) {
    let setup = Setup { format, size, event_idx, table: 4 };
    let ring = Ring::new(memory, setup).unwrap();
    let areas = ring.areas().clone();
    let device = Device { areas, setup, available: (0, true), used: (0, true), taken: VecDeque::new() };
    (ring, device)
}

fn both(size: u16) -> [(GuestMemory, Ring, Device); 2] {
    [Format::Split, Format::Packed].map(|format| {
        let mut memory = GuestMemory::with_size(1 << 20).unwrap();
        let (ring, device) = ring(&mut memory, format, size, true);
        (memory, ring, device)
    })
}

fn element(address: u64, length: u32, writable: bool) -> Element {
    Element { address, length, writable }
}

fn elements(count: usize) -> Vec<Element> {
    (0..count).map(|n| element(0x1_0000 * (n as u64 + 1), 100 + n as u32, n > 0 || count == 1)).collect()
}

impl Device {
    fn descriptor(memory: &View, format: Format, index: u16) -> Descriptor {
        let bytes = memory.bytes(usize::from(index) * DESCRIPTOR, DESCRIPTOR);
        let half = |at| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (flags, link) = match format {
            Format::Split => (half(12), half(14)),
            Format::Packed => (half(14), half(12)),
        };
        Descriptor {
            address: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            length: u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
            flags,
            link,
        }
    }

    fn element(descriptor: Descriptor) -> Element {
        element(descriptor.address, descriptor.length, descriptor.flags & Descriptor::WRITE != 0)
    }

    fn table(&self, memory: &GuestMemory, indirect: Descriptor) -> Vec<Element> {
        let view = memory.view(indirect.address, indirect.length as usize).unwrap();
        let count = indirect.length as u16 / DESCRIPTOR as u16;
        let descriptors: Vec<_> = (0..count).map(|n| Self::descriptor(&view, self.setup.format, n)).collect();
        for (n, descriptor) in (0..).zip(&descriptors) {
            let chained = self.setup.format == Format::Split && n + 1 < count;
            assert_eq!(descriptor.flags & !Descriptor::WRITE, if chained { Descriptor::NEXT } else { 0 });
            assert!(!chained || descriptor.link == n + 1);
        }
        descriptors.into_iter().map(Self::element).collect()
    }

    fn take_all(&mut self, memory: &GuestMemory) {
        while let Some(first) = self.next_available() {
            let mut current = Self::descriptor(&self.areas.descriptors, self.setup.format, first);
            let (mut count, mut parts) = (1, Vec::new());
            if current.flags & Descriptor::INDIRECT != 0 {
                parts = self.table(memory, current);
            } else {
                parts.push(Self::element(current));
                while current.flags & Descriptor::NEXT != 0 {
                    let next = match self.setup.format {
                        Format::Split => current.link,
                        Format::Packed => (first + count) % self.setup.size,
                    };
                    current = Self::descriptor(&self.areas.descriptors, self.setup.format, next);
                    parts.push(Self::element(current));
                    count += 1;
                }
            }
            let name = if self.setup.format == Format::Split { first } else { current.link };
            self.taken.push_back((name, count, parts));
            let step = if self.setup.format == Format::Split { 1 } else { count };
            self.available = self.forward(self.available, step);
        }
    }

    fn forward(&self, (index, wrap): (u16, bool), count: u16) -> (u16, bool) {
        match self.setup.format {
            Format::Split => (index.wrapping_add(count), wrap),
            Format::Packed if index + count >= self.setup.size => (index + count - self.setup.size, !wrap),
            Format::Packed => (index + count, wrap),
        }
    }

    fn next_available(&self) -> Option<u16> {
        let (index, wrap) = self.available;
        match self.setup.format {
            Format::Split => {
                let entry = usize::from(index % self.setup.size);
                let published = self.areas.driver.u16(2).load(Relaxed) != index;
                published.then(|| self.areas.driver.u16(4 + 2 * entry).load(Relaxed))
            }
            Format::Packed => {
                let flags = Self::descriptor(&self.areas.descriptors, Format::Packed, index).flags;
                let is_available = (flags & AVAILABLE != 0) == wrap && (flags & USED != 0) != wrap;
                is_available.then_some(index)
            }
        }
    }

    /// Uses the `n`th buffer taken.
    fn use_one(&mut self, n: usize, length: u32) {
        let (name, count, _) = self.taken.remove(n).unwrap();
        self.mark_used(name, length);
        let step = if self.setup.format == Format::Split { 1 } else { count };
        self.used = self.forward(self.used, step);
    }

    fn mark_used(&self, name: u16, length: u32) {
        let (index, wrap) = self.used;
        match self.setup.format {
            Format::Split => {
                let entry = 4 + 8 * usize::from(index % self.setup.size);
                self.areas.device.u32(entry).store(name.into(), Relaxed);
                self.areas.device.u32(entry + 4).store(length, Relaxed);
                self.areas.device.u16(2).store(index.wrapping_add(1), Relaxed);
            }
            Format::Packed => {
                let flags = Descriptor::WRITE | if wrap { AVAILABLE | USED } else { 0 };
                let at = usize::from(index) * DESCRIPTOR;
                let used = Descriptor { address: 0, length, flags, link: name };
                self.areas.descriptors.write(at, &used.to_bytes(Format::Packed));
            }
        }
    }

    /// Asks for a kick when the entry `ahead` of the next one becomes available.
    fn want_kick(&self, ahead: u16) {
        match self.setup.format {
            Format::Split => {
                let event = 4 + 8 * usize::from(self.setup.size);
                self.areas.device.u16(event).store(self.available.0.wrapping_add(ahead), Relaxed);
            }
            Format::Packed => {
                let (index, wrap) = self.forward(self.available, ahead);
                self.areas.device.u16(0).store(index | u16::from(wrap) << 15, Relaxed);
                self.areas.device.u16(2).store(2, Relaxed);
            }
        }
    }
}

/// Sends buffers, uses them in some order, and takes them back.
fn exchange(format: Format, size: u16, start: u16, steps: &[(usize, bool, usize)]) {
    let mut memory = GuestMemory::with_size(1 << 22).unwrap();
    let (mut ring, mut device) = ring(&mut memory, format, size, true);
    ring.reset(start);
    let first = if format == Format::Packed { start % size } else { start };
    (device.available, device.used) = ((first, true), (first, true));
    let mut free: Vec<u16> = (0..size).collect();
    let mut sent = VecDeque::new();
    for &(count, indirect, pick) in steps {
        let form = if indirect { Form::Indirect } else { Form::Chained };
        let token = free.swap_remove(pick % free.len());
        let parts = elements(count);
        match ring.push(token, &parts, form) {
            Ok(()) => sent.push_back((token, parts)),
            Err(Error::Full { .. }) => free.push(token),
            Err(other) => panic!("{other}"),
        }
        ring.publish().unwrap();
        device.take_all(&memory);
        let known: Vec<_> = device.taken.iter().map(|(_, _, parts)| parts).collect();
        assert_eq!(known, sent.iter().map(|(_, parts)| parts).collect::<Vec<_>>());
        let fill = usize::from(size) / 3;
        while !sent.is_empty() && (sent.len() > fill || free.is_empty() || pick % 3 == 0) {
            let n = pick % sent.len();
            let (token, parts) = sent.remove(n).unwrap();
            let length = parts.iter().filter(|part| part.writable).map(|part| part.length).sum();
            assert!(!ring.has_used());
            device.use_one(n, length);
            assert!(ring.has_used());
            assert_eq!(ring.pop().unwrap(), Some(Used { token, length }));
            assert_eq!(ring.pop().unwrap(), None);
            free.push(token);
        }
    }
    let base = match format {
        Format::Split => u32::from(device.available.0),
        Format::Packed => {
            let bits = |(index, wrap)| u32::from(index | u16::from(wrap) << 15);
            bits(device.available) | bits(device.used) << 16
        }
    };
    if sent.is_empty() {
        ring.check_base(base).unwrap();
        assert_eq!(ring.base(), base);
    } else {
        assert!(matches!(ring.check_base(base), Err(Violation::Base { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn buffers_come_back_in_any_order(
        packed: bool,
        size in 4u16..40,
        start: u16,
        steps in prop::collection::vec((1usize..5, any::<bool>(), 0usize..1000), 1..400),
    ) {
        match packed {
            true => exchange(Format::Packed, size, start, &steps),
            false => exchange(Format::Split, size.next_power_of_two(), start, &steps),
        }
    }
}

#[test]
fn indices_wrap() {
    for form in [false, true] {
        let steps: Vec<_> = (0..70_000).map(|n| (1 + n % 3, form, n)).collect();
        exchange(Format::Split, 8, 0, &steps);
        exchange(Format::Packed, 7, 3, &steps);
    }
}

#[test]
fn a_ring_takes_what_it_has_descriptors_for() {
    for (_memory, mut ring, _) in both(8) {
        ring.push(0, &elements(3), Form::Chained).unwrap();
        ring.push(1, &elements(3), Form::Indirect).unwrap();
        ring.push(2, &elements(3), Form::Chained).unwrap();
        assert!(matches!(ring.push(3, &elements(2), Form::Chained), Err(Error::Full { free: 1, needed: 2 })));
        ring.push(3, &elements(2), Form::Indirect).unwrap();
    }
}

#[test]
fn a_device_gets_a_repeated_buffer_twice() {
    for (memory, mut ring, mut device) in both(8) {
        for token in [5, 3] {
            ring.push(token, &elements(1), Form::Indirect).unwrap();
        }
        ring.repeat(3, &elements(2)).unwrap();
        ring.publish().unwrap();
        device.take_all(&memory);
        let names: Vec<_> = device.taken.iter().map(|(name, ..)| *name).collect();
        assert!(names.len() == 3 && names[0] != names[1] && names[1] == names[2], "{names:?}");
    }
}

#[test]
fn a_kick_is_wanted_when_the_event_index_is_passed() {
    for (memory, mut ring, mut device) in both(8) {
        assert!(!ring.publish().unwrap(), "nothing was pushed");
        device.want_kick(0);
        ring.push(0, &elements(1), Form::Chained).unwrap();
        assert!(ring.publish().unwrap());
        ring.push(1, &elements(1), Form::Chained).unwrap();
        assert!(!ring.publish().unwrap(), "passed before");
        device.take_all(&memory);
        device.want_kick(7);
        for token in 2..8 {
            ring.push(token, &elements(1), Form::Chained).unwrap();
        }
        assert!(!ring.publish().unwrap(), "one before");
        for _ in 0..2 {
            device.take_all(&memory);
            device.use_one(0, 0);
            let Used { token, .. } = ring.pop().unwrap().unwrap();
            ring.push(token, &elements(1), Form::Chained).unwrap();
        }
        assert!(ring.publish().unwrap(), "over the end of the ring");
    }
}

#[test]
fn without_event_index_the_flags_count() {
    for (format, flags) in [(Format::Split, 0), (Format::Packed, 2)] {
        let mut memory = GuestMemory::with_size(1 << 20).unwrap();
        let (mut ring, device) = ring(&mut memory, format, 8, false);
        ring.push(0, &elements(1), Form::Chained).unwrap();
        assert!(ring.publish().unwrap());
        device.areas.device.u16(flags).store(1, Relaxed);
        ring.push(1, &elements(1), Form::Chained).unwrap();
        assert!(!ring.publish().unwrap());
        ring.want_no_calls();
        assert_eq!(device.areas.driver.u16(flags).load(Relaxed), 1);
        ring.want_call();
        assert_eq!(device.areas.driver.u16(flags).load(Relaxed), 0);
    }
}

#[test]
fn calls_are_asked_for_at_the_next_used_buffer() {
    let [(_m, mut split, split_device), (_n, mut packed, packed_device)] = both(8);
    split.reset(5);
    split.want_call();
    assert_eq!(split_device.areas.driver.u16(4 + 16).load(Relaxed), 5);
    split.want_no_calls();
    assert_eq!(split_device.areas.driver.u16(4 + 16).load(Relaxed), 4);
    packed.reset(5);
    packed.want_call();
    assert_eq!([0, 2].map(|at| packed_device.areas.driver.u16(at).load(Relaxed)), [0x8005, 2]);
    packed.want_no_calls();
    assert_eq!(packed_device.areas.driver.u16(2).load(Relaxed), 1);
}

/// Rings with one buffer, 100 bytes of which are writable, at the device.
fn with_one() -> [(GuestMemory, Ring, Device); 2] {
    both(8).map(|(memory, mut ring, mut device)| {
        ring.push(5, &[element(0, 8, false), element(8, 100, true)], Form::Chained).unwrap();
        ring.publish().unwrap();
        device.take_all(&memory);
        (memory, ring, device)
    })
}

#[test]
fn a_buffer_comes_back_once() {
    for (_memory, mut ring, mut device) in with_one() {
        device.use_one(0, 100);
        ring.pop().unwrap();
        device.mark_used(5, 100);
        let again = ring.pop().unwrap_err();
        assert!(matches!(again, Violation::TooMany { .. } | Violation::Overwritten { .. }), "{again}");
    }
}

#[test]
fn a_buffer_that_was_not_sent_cannot_come_back() {
    for name in [6, 0xffff] {
        for (_memory, mut ring, device) in with_one() {
            device.mark_used(name, 0);
            assert_eq!(ring.pop(), Err(Violation::NotAvailable(name.into())));
        }
    }
}

#[test]
fn no_more_can_be_written_than_there_is_room_for() {
    for (_memory, mut ring, mut device) in with_one() {
        device.use_one(0, 101);
        assert_eq!(ring.pop(), Err(Violation::Length { length: 101, room: 100 }));
    }
}

#[test]
fn a_packed_device_keeps_its_wrap_counter() {
    let [_, (_memory, mut ring, mut device)] = with_one();
    device.used.1 = false;
    device.use_one(0, 10);
    assert!(matches!(ring.pop(), Err(Violation::Wrap { index: 0, wrap: true, .. })));
}

#[test]
fn a_packed_device_leaves_skipped_descriptors_alone() {
    let [_, (_memory, mut ring, mut device)] = with_one();
    device.used.0 = 1;
    device.mark_used(5, 0);
    assert!(!ring.has_used(), "the device wrote to the wrong descriptor");
    device.used.0 = 0;
    device.use_one(0, 10);
    assert!(matches!(ring.pop(), Err(Violation::Overwritten { index: 1, .. })));
}

#[test]
fn a_packed_device_has_three_event_flags() {
    let [_, (_memory, mut ring, device)] = both(8);
    device.areas.device.u16(2).store(3, Relaxed);
    ring.push(0, &elements(1), Form::Chained).unwrap();
    assert_eq!(ring.publish(), Err(Violation::EventFlags(3)));
}

#[test]
fn a_ring_stops_where_its_buffers_are() {
    let [(_, split, _), (_, packed, _)] = with_one();
    assert_eq!(split.check_base(0), Ok(()), "not looked at");
    assert_eq!(packed.check_base(0x8000_8000), Ok(()));
    for base in [1, 2, 0x1_0000] {
        assert!(matches!(split.check_base(base), Err(Violation::Base { outstanding: 1, .. })));
    }
    for base in [0x8000_8002, 0x8002_8002, 0x8000_0000, 0x0000_8000] {
        assert!(packed.check_base(base).is_err(), "{base:#x}");
    }
}
