use super::*;
use crate::ring::Ring;
use crate::ring::chain::WRITE;
use crate::testing::{DriverRing, Guest};
use lunette_store::Sg;
use proptest::prelude::*;

const RAM: u64 = 0x10_0000;
const DATA: u64 = 0x2_0000;

fn head(id: u16) -> Head {
    Head { id, extent: 0 }
}

/// Takes the next chain, whatever its bytes.
fn next(ring: &mut Split) -> Result<Option<u16>, RingError> {
    ring.take(&mut Chain::default()).map(|head| head.map(|head| head.id))
}

fn rig(size: u16, event_index: bool) -> (Guest, DriverRing, Split) {
    let guest = Guest::new(RAM);
    let driver = DriverRing::new(0, size);
    let ring = Split::new(guest.map.clone(), driver.layout(event_index, true), 0).unwrap();
    (guest, driver, ring)
}

fn lengths(list: &Sg<'_>) -> Vec<usize> {
    list.iter().map(|seg| seg.len()).collect()
}

#[test]
fn chains_go_round_the_ring_and_its_indexes_wrap() {
    let guest = Guest::new(RAM);
    let driver = DriverRing::new(0, 4);
    let base = u16::MAX - 5;
    driver.set_available_index(&guest, base);
    guest.write(driver.used + 2, &base.to_le_bytes());
    let mut ring = Split::new(guest.map.clone(), driver.layout(false, false), base.into()).unwrap();
    driver.chain(&guest, 1, &[(DATA, 16, false), (DATA + 64, 32, true)]);
    let mut chain = Chain::default();
    for round in 0..12u16 {
        assert_eq!(next(&mut ring), Ok(None));
        driver.offer(&guest, 1);
        assert_eq!(ring.take(&mut chain), Ok(Some(head(1))));
        assert_eq!((lengths(&chain.readable()), lengths(&chain.writable())), (vec![16], vec![32]));
        ring.push(head(1), 7);
        assert_eq!(driver.used_index(&guest), base.wrapping_add(round));
        assert!(ring.publish());
        assert_eq!(driver.used_index(&guest), base.wrapping_add(round + 1));
        assert_eq!(driver.used_entry(&guest, base.wrapping_add(round)), (1, 7));
    }
    assert_eq!(ring.base(), u32::from(base.wrapping_add(12)));
}

#[test]
fn a_burst_is_published_at_once() {
    let (guest, driver, mut ring) = rig(8, false);
    driver.chain(&guest, 0, &[(DATA, 1, false)]);
    for _ in 0..3 {
        driver.offer(&guest, 0);
        assert_eq!(next(&mut ring), Ok(Some(0)));
        ring.push(head(0), 0);
    }
    assert_eq!((ring.unpublished(), driver.used_index(&guest)), (3, 0));
    assert!(ring.publish());
    assert_eq!((ring.unpublished(), driver.used_index(&guest)), (0, 3));
    assert!(!ring.publish());
}

#[test]
fn notifications_follow_the_flags_or_the_event_index() {
    let (guest, driver, mut ring) = rig(8, false);
    guest.write(driver.available, &NO_INTERRUPT.to_le_bytes());
    ring.push(head(0), 0);
    assert!(ring.publish(), "the first time always notifies");
    ring.push(head(0), 0);
    assert!(!ring.publish());
    guest.write(driver.available, &0u16.to_le_bytes());
    ring.push(head(0), 0);
    assert!(ring.publish());

    let (guest, driver, mut ring) = rig(8, true);
    ring.push(head(0), 0);
    ring.publish();
    for (event, wanted) in [(2, false), (2, true), (2, false), (u16::MAX, false), (5, true), (3, false)] {
        driver.set_used_event(&guest, event);
        ring.push(head(0), 0);
        assert_eq!(ring.publish(), wanted, "at {} with {event}", driver.used_index(&guest));
    }
    driver.set_used_event(&guest, 8);
    (0..3).for_each(|_| ring.push(head(0), 0));
    assert!(ring.publish(), "passed within the burst");
}

#[test]
fn kicks_are_suppressed_and_wanted() {
    let (guest, driver, mut ring) = rig(8, false);
    ring.suppress_kicks();
    assert_eq!(guest.u16(driver.used), NO_NOTIFY);
    driver.offer(&guest, 0);
    assert_eq!(ring.want_kicks(), Ok(true));
    assert_eq!(guest.u16(driver.used), 0);
    next(&mut ring).unwrap();
    assert_eq!(ring.want_kicks(), Ok(false));

    let (guest, driver, mut ring) = rig(8, true);
    ring.suppress_kicks();
    driver.offer(&guest, 0);
    next(&mut ring).unwrap();
    assert_eq!(driver.available_event(&guest), 0);
    assert_eq!(ring.want_kicks(), Ok(false));
    assert_eq!(driver.available_event(&guest), 1);
}

#[test]
fn indirect_tables_may_end_a_chain() {
    let (guest, driver, mut ring) = rig(8, false);
    let table = DATA + 8; // not aligned to 16
    DriverRing::write_descriptor(&guest, table, (DATA + 0x100, 10, NEXT, 2));
    DriverRing::write_descriptor(&guest, table + 32, (DATA + 0x200, 20, WRITE, 0));
    driver.descriptor(&guest, 0, (DATA + 0x300, 5, NEXT, 3));
    driver.descriptor(&guest, 3, (table, 48, INDIRECT | WRITE, 0));
    let mut chain = Chain::default();
    ring.walk(0, &mut chain).unwrap();
    assert_eq!((lengths(&chain.readable()), lengths(&chain.writable())), (vec![5, 10], vec![20]));
}

#[test]
fn empty_descriptors_do_no_harm() {
    let (guest, driver, mut ring) = rig(8, false);
    driver.chain(&guest, 0, &[(u64::MAX, 0, false), (DATA, 4, false), (0, 0, true), (DATA, 8, true)]);
    let mut chain = Chain::default();
    ring.walk(0, &mut chain).unwrap();
    assert_eq!((lengths(&chain.readable()), lengths(&chain.writable())), (vec![4], vec![8]));
}

#[test]
fn hostile_chains_are_refused() {
    type Descriptors<'a> = &'a [(u16, (u64, u32, u16, u16))];
    let far = RAM - 4;
    let cases: [(Descriptors<'_>, RingError); 14] = [
        (&[(0, (DATA, 1, NEXT, 0))], RingError::Loop(0)),
        (&[(0, (DATA, 1, NEXT, 1)), (1, (DATA, 1, NEXT, 0))], RingError::Loop(0)),
        (&[(0, (DATA, 1, NEXT, 8))], RingError::NoSuchDescriptor { index: 8, count: 8 }),
        (&[(0, (DATA, 1, NEXT, u16::MAX))], RingError::NoSuchDescriptor { index: u16::MAX, count: 8 }),
        (&[(0, (far, 5, 0, 0))], RingError::Address { address: far, length: 5 }),
        (&[(0, (u64::MAX, 1, 0, 0))], RingError::Address { address: u64::MAX, length: 1 }),
        (&[(0, (0, u32::MAX, WRITE, 0))], RingError::Address { address: 0, length: u32::MAX }),
        (&[(0, (DATA, 4, NEXT | WRITE, 1)), (1, (DATA, 4, 0, 0))], RingError::Order(0)),
        (&[(0, (DATA, 16, INDIRECT | NEXT, 1))], RingError::Indirect),
        (&[(0, (DATA, 0, INDIRECT, 1))], RingError::IndirectSize(0)),
        (&[(0, (DATA, 17, INDIRECT, 1))], RingError::IndirectSize(17)),
        (&[(0, (DATA, 16 * 1025, INDIRECT, 1))], RingError::IndirectSize(16 * 1025)),
        (&[(0, (far, 16, INDIRECT, 1))], RingError::Address { address: far, length: 16 }),
        (&[(0, (0, 16, INDIRECT, 1))], RingError::Indirect), // the ring's own table: indirect in indirect
    ];
    for (descriptors, error) in cases {
        let (guest, driver, mut ring) = rig(8, false);
        for (index, descriptor) in descriptors {
            driver.descriptor(&guest, *index, *descriptor);
        }
        assert_eq!(ring.walk(0, &mut Chain::default()), Err(error));
    }
    let guest = Guest::new(RAM);
    let driver = DriverRing::new(0, 8);
    driver.descriptor(&guest, 0, (DATA, 16, INDIRECT, 0));
    let mut ring = Split::new(guest.map.clone(), driver.layout(false, false), 0).unwrap();
    assert_eq!(ring.walk(0, &mut Chain::default()), Err(RingError::Indirect), "not negotiated");
}

#[test]
fn hostile_indexes_are_refused() {
    let (guest, driver, mut ring) = rig(8, false);
    driver.set_available_index(&guest, 9);
    assert_eq!(next(&mut ring), Err(RingError::AvailableIndex { from: 0, to: 9 }));
    driver.set_available_index(&guest, u16::MAX);
    assert_eq!(next(&mut ring), Err(RingError::AvailableIndex { from: 0, to: u16::MAX }));
    driver.set_available_index(&guest, 8);
    guest.write(driver.available + 4, &8u16.to_le_bytes());
    assert_eq!(next(&mut ring), Err(RingError::NoSuchDescriptor { index: 8, count: 8 }));
}

#[test]
fn impossible_layouts_are_refused() {
    let guest = Guest::new(RAM);
    let good = DriverRing::new(0, 8).layout(true, true);
    let with = |change: fn(&mut Layout)| {
        let mut layout = good;
        change(&mut layout);
        Ring::new(guest.map.clone(), layout, 0).err()
    };
    assert_eq!(with(|_| ()), None);
    assert_eq!(with(|layout| layout.size = 0), Some(RingError::Size(0)));
    assert_eq!(with(|layout| layout.size = 6), Some(RingError::Size(6)));
    assert_eq!(with(|layout| layout.size = 2048), Some(RingError::Size(2048)));
    assert!(matches!(with(|layout| layout.descriptors += 8), Some(RingError::Misaligned { .. })));
    assert!(matches!(with(|layout| layout.available += 1), Some(RingError::Misaligned { .. })));
    assert!(matches!(with(|layout| layout.used += 2), Some(RingError::Misaligned { .. })));
    assert!(matches!(with(|layout| layout.used += RAM - 0xa010), Some(RingError::Outside { .. })));
    assert!(matches!(with(|layout| layout.descriptors = 0), Some(RingError::Outside { .. })));
    assert!(matches!(with(|layout| layout.available = u64::MAX - 1), Some(RingError::Outside { .. })));
}

#[test]
fn a_ring_moves_to_other_memory() {
    let (guest, driver, mut ring) = rig(8, false);
    let other = Guest::new(RAM);
    driver.chain(&other, 2, &[(DATA, 3, false)]);
    driver.offer(&guest, 1);
    assert_eq!(next(&mut ring), Ok(Some(1)));
    let old = ring.remap(other.map.clone()).unwrap();
    assert!(Arc::ptr_eq(&old, &guest.map));
    driver.set_available_index(&other, 1);
    driver.offer(&other, 2);
    assert_eq!(next(&mut ring), Ok(Some(2)));
    ring.push(head(2), 0);
    ring.publish();
    assert_eq!((driver.used_index(&guest), driver.used_index(&other)), (0, 1));
    assert!(ring.remap(Guest::new(0x1000).map).is_err());
}

proptest! {
    #[test]
    fn random_rings_never_leave_guest_memory(
        bytes in prop::collection::vec(any::<u8>(), 0x400),
        small in any::<bool>(),
        heads in prop::collection::vec(0u16..8, 1..20),
    ) {
        let (guest, driver, mut ring) = rig(8, true);
        guest.write(driver.table, &bytes[..0x80]);
        guest.write(driver.available, &bytes[0x80..0x100]);
        guest.write(DATA, &bytes[0x100..]);
        if small {
            // Addresses and lengths that hit memory now and then, indirect tables among them.
            for index in 0..8u16 {
                let at = driver.table + 16 * u64::from(index);
                guest.write(at, &(DATA + u64::from(bytes[usize::from(index)])).to_le_bytes());
                guest.write(at + 8, &u32::from(bytes[8 + usize::from(index)] & 0x70).to_le_bytes());
                guest.write(at + 14, &u16::from(bytes[16 + usize::from(index)] & 7).to_le_bytes());
            }
        }
        let start = guest.map.guest(0, RAM, &mut 0).unwrap().as_ptr() as usize;
        let mut chain = Chain::default();
        for first in heads {
            let _ = next(&mut ring);
            if ring.walk(first, &mut chain).is_ok() {
                for seg in chain.readable().iter().chain(chain.writable().iter()) {
                    let at = seg.address() as usize;
                    prop_assert!(at >= start && at + seg.len() <= start + RAM as usize);
                }
                ring.push(head(first), 1);
                ring.publish();
            }
            let _ = ring.want_kicks();
        }
    }
}
