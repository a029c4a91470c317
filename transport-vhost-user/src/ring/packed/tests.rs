use super::*;
use crate::ring::Ring;
use crate::testing::Guest;
use crate::testing::packed::{PackedDriver, Part, Place};
use lunette_store::Sg;
use proptest::prelude::*;

const RAM: u64 = 0x10_0000;
const DATA: u64 = 0x2_0000;
const TABLES: u64 = 0x4_0000;

fn rig(size: u16, event_index: bool) -> (Guest, PackedDriver, Packed) {
    let guest = Guest::new(RAM);
    let driver = PackedDriver::new(0, size);
    let layout = driver.layout(event_index, true);
    let ring = Packed::new(guest.map.clone(), layout, driver.base()).unwrap();
    (guest, driver, ring)
}

fn take(ring: &mut Packed) -> Result<Option<Head>, RingError> {
    ring.take(&mut Chain::default())
}

fn lengths(list: &Sg<'_>) -> Vec<u32> {
    list.iter().map(|seg| seg.len() as u32).collect()
}

#[test]
fn a_burst_is_seen_as_a_whole_and_chains_are_skipped_by_their_length() {
    let (guest, mut driver, mut ring) = rig(7, false);
    driver.offer(&guest, 0xffff, &[(DATA, 16, false), (DATA + 64, 32, true)]);
    driver.offer(&guest, 3, &[(DATA, 5, false), (DATA, 6, false), (DATA + 64, 7, true)]);
    driver.offer(&guest, 0, &[(DATA, 8, false)]);
    let mut chain = Chain::default();
    let heads: Vec<_> = std::iter::from_fn(|| ring.take(&mut chain).unwrap()).collect();
    let of = |id, extent| Head { id, extent };
    assert_eq!(heads, [of(0xffff, 2), of(3, 3), of(0, 1)]);
    assert_eq!((lengths(&chain.readable()), lengths(&chain.writable())), (vec![8], vec![]));
    // In another order than they came.
    ring.push(heads[1], 7);
    ring.push(heads[2], 0);
    ring.push(heads[0], 9);
    assert_eq!((ring.unpublished(), driver.collect(&guest)), (3, None));
    assert!(ring.publish());
    assert_eq!(ring.unpublished(), 0);
    let seen: Vec<_> = std::iter::from_fn(|| driver.collect(&guest)).collect();
    assert_eq!(seen, [(3, 7, true), (0, 0, false), (0xffff, 9, true)]);
    assert_eq!(ring.base(), driver.base());
    assert!(!ring.publish());
}

/// What User-Mode Linux calls the base of a new ring is that of a ring after an odd number of laps. Chains that lie across
/// the end of the ring leave descriptors behind that the device never writes.
#[test]
fn base_0_is_a_new_ring_or_one_after_an_odd_lap() {
    for (size, length) in [(2, 1), (2, 2), (7, 3), (5, 4), (8, 3)] {
        for waiting in [false, true] {
            let (guest, mut driver, mut ring) = rig(size, false);
            let parts = vec![(DATA, 1, false); length];
            let mut new = true;
            for id in 0..64 {
                if waiting {
                    driver.offer(&guest, 77, &parts);
                }
                let base = if new { 0 } else { ring.base() };
                let mut again = Packed::new(guest.map.clone(), driver.layout(false, true), base).unwrap();
                assert_eq!(again.base(), ring.base(), "chain {id} of {length} in {size}");
                // One that the driver has filled again may look new.
                assert!(again.is_new() == new || waiting, "chain {id} of {length} in {size}");
                assert!(again.is_new() || !new);
                assert_eq!(take(&mut again).unwrap().is_some(), waiting, "chain {id} of {length} in {size}");
                if !waiting {
                    driver.offer(&guest, id, &parts);
                }
                let head = take(&mut ring).unwrap().unwrap();
                ring.push(head, 0);
                ring.publish();
                driver.collect(&guest).unwrap();
                new = false;
            }
        }
    }
}

/// A hostile driver makes the same descriptors available again and again before it is shown any.
#[test]
fn a_burst_may_be_longer_than_numbers() {
    let (guest, _, mut ring) = rig(1000, true);
    for lap in 0..70 {
        let mut driver = PackedDriver::new(0, 1000);
        driver.next = Place(0, lap % 2 == 0);
        driver.offer(&guest, 1, &vec![(DATA, 1, false); 1000]);
        let head = take(&mut ring).unwrap().unwrap();
        ring.push(head, 0);
    }
    ring.publish();
}

#[test]
fn all_descriptors_of_a_table_count_in_their_order() {
    let (guest, mut driver, mut ring) = rig(2, false);
    let parts: Vec<Part> = (0..600).map(|n| (DATA + n, 1 + n as u32, n >= 200)).collect();
    let mut chain = Chain::default();
    driver.offer_indirect(&guest, 9, &parts, TABLES + 8);
    assert_eq!(ring.take(&mut chain), Ok(Some(Head { id: 9, extent: 1 })));
    assert_eq!(lengths(&chain.readable()), (1..=200).collect::<Vec<_>>());
    assert_eq!(lengths(&chain.writable()), (201..=600).collect::<Vec<_>>());
}

#[test]
fn notifications_follow_the_driver_event_area() {
    let (guest, mut driver, mut ring) = rig(8, true);
    let use_one = |driver: &mut PackedDriver, ring: &mut Packed| {
        driver.offer(&guest, 1, &[(DATA, 1, false)]);
        let head = take(ring).unwrap().unwrap();
        ring.push(head, 0);
        let notify = ring.publish();
        driver.collect(&guest).unwrap();
        notify
    };
    driver.set_event(&guest, Place(0, true), DISABLE);
    assert!(use_one(&mut driver, &mut ring), "the first time always notifies");
    assert!(!use_one(&mut driver, &mut ring));
    driver.set_event(&guest, Place(0, true), ENABLE);
    assert!(use_one(&mut driver, &mut ring));
    // One descriptor is used at a time, at 3, 4, ...
    driver.set_event(&guest, Place(4, true), DESC);
    for wanted in [false, true, false] {
        assert_eq!(use_one(&mut driver, &mut ring), wanted);
    }
    // Not in this lap, but in the next.
    driver.set_event(&guest, Place(6, false), DESC);
    for wanted in [false, false, false, false, false, false, false, false, true, false] {
        assert_eq!(use_one(&mut driver, &mut ring), wanted, "{:?}", ring.used);
    }
    let (guest, mut driver, mut ring) = rig(8, false);
    ring.first = false;
    driver.set_event(&guest, Place(6, true), DESC);
    driver.offer(&guest, 1, &[(DATA, 1, false)]);
    let head = take(&mut ring).unwrap().unwrap();
    ring.push(head, 0);
    assert!(ring.publish(), "by descriptor was not negotiated");
}

#[test]
fn kicks_are_suppressed_and_wanted() {
    for event_index in [false, true] {
        let (guest, mut driver, mut ring) = rig(3, event_index);
        ring.suppress_kicks();
        assert_eq!(driver.device_event(&guest).1, DISABLE);
        driver.offer(&guest, 1, &[(DATA, 1, false), (DATA, 1, true)]);
        assert_eq!(ring.want_kicks(), Ok(true));
        take(&mut ring).unwrap().unwrap();
        assert_eq!(ring.want_kicks(), Ok(false));
        let (at, flags) = driver.device_event(&guest);
        match event_index {
            true => assert_eq!((at, flags), (driver.next.bits(), DESC)),
            false => assert_eq!(flags, ENABLE),
        }
        assert_eq!(guest.read(driver.device_event + 4, 8), [0; 8]);
    }
}

#[test]
fn hostile_chains_are_refused() {
    type Descriptors<'a> = &'a [((u64, u32), u16)];
    let far = RAM - 4;
    let cases: [(Descriptors<'_>, RingError); 11] = [
        (&[((DATA, 1), NEXT); 4], RingError::Loop(0)),
        (&[((far, 5), 0)], RingError::Address { address: far, length: 5 }),
        (&[((u64::MAX, 1), 0)], RingError::Address { address: u64::MAX, length: 1 }),
        (&[((0, u32::MAX), WRITE)], RingError::Address { address: 0, length: u32::MAX }),
        (&[((DATA, 4), NEXT | WRITE), ((DATA, 4), 0)], RingError::Order(0)),
        (&[((DATA, 16), INDIRECT | NEXT), ((DATA, 1), 0)], RingError::Indirect),
        (&[((DATA, 0), INDIRECT)], RingError::IndirectSize(0)),
        (&[((DATA, 17), INDIRECT)], RingError::IndirectSize(17)),
        (&[((DATA, 16 * 1025), INDIRECT)], RingError::IndirectSize(16 * 1025)),
        (&[((far, 16), INDIRECT)], RingError::Address { address: far, length: 16 }),
        (&[((0, 16), INDIRECT)], RingError::Indirect), // the ring itself: indirect in indirect
    ];
    for (descriptors, error) in cases {
        let (guest, mut driver, mut ring) = rig(4, false);
        driver.offer_raw(&guest, 1, descriptors);
        assert_eq!(take(&mut ring), Err(error));
    }
    let guest = Guest::new(RAM);
    let mut driver = PackedDriver::new(0, 4);
    let layout = driver.layout(false, false);
    let mut ring = Packed::new(guest.map.clone(), layout, driver.base()).unwrap();
    driver.offer_indirect(&guest, 1, &[(DATA, 1, false)], TABLES);
    assert_eq!(take(&mut ring), Err(RingError::Indirect), "not negotiated");
}

#[test]
fn descriptors_that_the_device_has_are_not_taken_again() {
    let (guest, mut driver, mut ring) = rig(4, false);
    driver.offer(&guest, 1, &[(DATA, 1, false); 3]);
    take(&mut ring).unwrap().unwrap();
    // The driver forgets that the device has it, and goes on in the next lap.
    driver.out.clear();
    driver.offer(&guest, 2, &[(DATA, 1, false); 2]);
    assert_eq!(take(&mut ring), Err(RingError::Loop(3)));

    let (guest, mut driver, mut ring) = rig(1, false);
    driver.offer(&guest, 1, &[(DATA, 1, false)]);
    take(&mut ring).unwrap().unwrap();
    driver.out.clear();
    driver.offer(&guest, 1, &[(DATA, 1, false)]);
    assert_eq!(take(&mut ring), Err(RingError::Loop(0)));
}

#[test]
fn a_ring_begins_where_it_stopped() {
    let guest = Guest::new(RAM);
    let layout = PackedDriver::new(0, 8).layout(false, false);
    let at = |base| Packed::new(guest.map.clone(), layout, base).map(|ring| (ring.base(), ring.taken));
    assert_eq!(at(0x8000_8000), Ok((0x8000_8000, 0)));
    assert_eq!(at(0x8003_8005), Ok((0x8003_8005, 2)), "two were lost");
    assert_eq!(at(0x8006_0001), Ok((0x8006_0001, 3)));
    assert_eq!(at(0x8005), Ok((0x8005_8005, 0)), "only the available half is known");
    for impossible in [0x8000_8008, 0x8008_8000, 0x8005_8003, 0x8001_0002, 0xffff_ffff, 0x8000_7fff] {
        assert_eq!(at(impossible), Err(RingError::Base(impossible)));
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let guest = Guest::new(RAM);
    let good = PackedDriver::new(0, 7).layout(true, true);
    let with = |change: fn(&mut Layout)| {
        let mut layout = good;
        change(&mut layout);
        Ring::new(guest.map.clone(), layout, 0x8000_8000).err()
    };
    assert_eq!(with(|_| ()), None);
    assert_eq!(with(|layout| layout.size = 1000), None);
    assert_eq!(with(|layout| layout.size = 0), Some(RingError::Size(0)));
    assert_eq!(with(|layout| layout.size = 1025), Some(RingError::Size(1025)));
    assert!(matches!(with(|layout| layout.descriptors += 8), Some(RingError::Misaligned { .. })));
    assert!(matches!(with(|layout| layout.available += 2), Some(RingError::Misaligned { .. })));
    assert!(matches!(with(|layout| layout.used += 1), Some(RingError::Misaligned { .. })));
    assert!(matches!(with(|layout| layout.used += RAM), Some(RingError::Outside { .. })));
    assert!(matches!(with(|layout| layout.descriptors += RAM - 96), Some(RingError::Outside { .. })));
}

#[test]
fn a_ring_moves_to_other_memory() {
    let (guest, mut driver, mut ring) = rig(4, false);
    let other = Guest::new(RAM);
    driver.offer(&guest, 1, &[(DATA, 1, false)]);
    let head = take(&mut ring).unwrap().unwrap();
    let old = ring.remap(other.map.clone()).unwrap();
    assert!(Arc::ptr_eq(&old, &guest.map));
    ring.push(head, 0);
    ring.publish();
    assert_eq!(driver.collect(&other), Some((1, 0, false)));
    assert!(ring.remap(Guest::new(0x40).map).is_err());
}

/// What a test does next.
#[derive(Clone, Debug)]
enum Step {
    /// Lengths of readable and writable parts, and whether through a table.
    Offer(u8, u8, bool),
    Take,
    /// One of the chains that were taken, with this length.
    Push(u8, u32),
    Publish,
    /// The driver wants to be notified at so many descriptors from where it looks next.
    Event(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..4, any::<bool>()).prop_map(|(read, write, table)| Step::Offer(read, write, table)),
        4 => Just(Step::Take),
        4 => (any::<u8>(), 0u32..99).prop_map(|(which, length)| Step::Push(which, length)),
        2 => Just(Step::Publish),
        1 => (0u16..16).prop_map(Step::Event),
    ]
}

proptest! {
    /// Chains of any form, returned in any order and in bursts of any size, go round rings of any size.
    #[test]
    fn the_ring_agrees_with_a_driver(
        size in prop_oneof![1u16..9, Just(1000u16)],
        mut start in 0u16..2000,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        start %= 2 * size;
        let guest = Guest::new(RAM);
        let mut driver = PackedDriver::new(0, size);
        driver.begin_at(&guest, Place(start % size, start < size));
        let mut ring = Packed::new(guest.map.clone(), driver.layout(true, true), driver.base()).unwrap();
        ring.first = false;
        let (mut waiting, mut taken) = (std::collections::VecDeque::new(), Vec::new());
        let (mut pushed, mut event) = (Vec::new(), Place(0, true));
        driver.set_event(&guest, event, DESC);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Offer(read, write, table) => {
                    let parts: Vec<Part> = (0..read + write)
                        .map(|n| (DATA + u64::from(n), u32::from(n) + 1, n >= read))
                        .collect();
                    let needed = if table { 1 } else { parts.len() as u16 };
                    if parts.is_empty() || needed > driver.free() {
                        continue;
                    }
                    // Any numbers, each of them once at a time.
                    let id = (number as u16).wrapping_mul(0x9e37);
                    match table {
                        true => driver.offer_indirect(&guest, id, &parts, TABLES + 64 * number as u64 * 2),
                        false => driver.offer(&guest, id, &parts),
                    }
                    waiting.push_back((Head { id, extent: needed }, parts));
                }
                Step::Take => {
                    let mut chain = Chain::default();
                    let head = ring.take(&mut chain).unwrap();
                    prop_assert_eq!(head, waiting.front().map(|(head, _)| *head));
                    if let Some((head, parts)) = waiting.pop_front() {
                        let lengths_of = |write| -> Vec<u32> {
                            parts.iter().filter(|part| part.2 == write).map(|part| part.1).collect()
                        };
                        prop_assert_eq!(lengths(&chain.readable()), lengths_of(false));
                        prop_assert_eq!(lengths(&chain.writable()), lengths_of(true));
                        taken.push(head);
                    }
                }
                Step::Push(which, length) if !taken.is_empty() => {
                    let head = taken.swap_remove(usize::from(which) % taken.len());
                    ring.push(head, length);
                    pushed.push((head, length));
                    prop_assert_eq!(driver.collect(&guest), None);
                }
                Step::Publish => {
                    let notify = ring.publish();
                    let mut passed = false;
                    for (Head { id, extent }, length) in pushed.drain(..) {
                        passed |= (0..extent).any(|n| driver.used.on(n, size) == event);
                        prop_assert_eq!(driver.collect(&guest), Some((id, length, length > 0)));
                    }
                    prop_assert_eq!(notify, passed);
                    prop_assert_eq!(driver.collect(&guest), None);
                }
                Step::Event(ahead) => {
                    let ahead = ahead % size;
                    event = driver.used.on(ahead, size);
                    driver.set_event(&guest, event, DESC);
                }
                Step::Push(..) => {}
            }
        }
        if pushed.is_empty() && taken.is_empty() && waiting.is_empty() {
            prop_assert_eq!(ring.base(), driver.base());
        }
    }

    #[test]
    fn random_rings_never_leave_guest_memory(
        bytes in prop::collection::vec(any::<u8>(), 0x200),
        tame in any::<bool>(),
        rounds in prop::collection::vec((any::<u16>(), any::<bool>()), 1..60),
    ) {
        let (guest, driver, mut ring) = rig(7, true);
        guest.write(driver.ring, &bytes[..7 * 16]);
        guest.write(driver.driver_event, &bytes[0x80..0x84]);
        guest.write(DATA, &bytes[0x100..]);
        let start = guest.map.guest(0, RAM, &mut 0).unwrap().as_ptr() as usize;
        let (mut chain, mut taken) = (Chain::default(), Vec::new());
        for (random, push) in rounds {
            if tame {
                // Addresses and lengths that hit memory now and then, indirect tables among them.
                let at = driver.at(random % 7);
                let buffer = (DATA + u64::from(random & 0xf0), u32::from(random >> 8 & 0x70));
                let available = if random & 0x100 == 0 { AVAILABLE } else { USED };
                PackedDriver::write(&guest, at, buffer, random, random >> 9 & 7 | available);
            }
            match ring.take(&mut chain) {
                Ok(Some(head)) => {
                    for seg in chain.readable().iter().chain(chain.writable().iter()) {
                        let at = seg.address() as usize;
                        prop_assert!(at >= start && at + seg.len() <= start + RAM as usize);
                    }
                    taken.push(head);
                }
                Ok(None) => {}
                // Broken, and not looked at again.
                Err(_) => break,
            }
            prop_assert!(taken.iter().map(|head: &Head| head.extent).sum::<u16>() <= 7);
            if push && let Some(head) = taken.pop() {
                ring.push(head, 1);
                ring.publish();
            }
            let _ = ring.want_kicks();
        }
    }
}
