//! A process dies between any two of its stores, and another one goes on.

use super::*;
use crate::ring::{Chain, Head, Layout, Ring};
use crate::testing::packed::{PackedDriver, Part, Place};
use crate::testing::{DriverRing, Guest, memfd};
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

const RAM: u64 = 0x10_0000;
const DATA: u64 = 0x2_0000;
const TABLES: u64 = 0x4_0000;
const SIZE: u16 = 16;
const QUEUES: u16 = 3;
const QUEUE: u16 = 1;

/// The driver's side of either layout.
enum Driver {
    /// With the chains that the device has, and how many used entries were seen.
    Split(DriverRing, BTreeMap<u16, Vec<Part>>, u16),
    Packed(PackedDriver, BTreeMap<u16, Vec<Part>>),
}

impl Driver {
    fn new(packed: bool) -> Self {
        match packed {
            false => Self::Split(DriverRing::new(0, SIZE), BTreeMap::new(), 0),
            true => Self::Packed(PackedDriver::new(0, SIZE), BTreeMap::new()),
        }
    }

    fn layout(&self) -> Layout {
        match self {
            Self::Split(ring, ..) => ring.layout(false, true),
            Self::Packed(ring, _) => ring.layout(false, true),
        }
    }

    /// What a front end that has lost its back end says: everything that was taken was returned.
    fn base(&self) -> u32 {
        match self {
            Self::Split(.., seen) => (*seen).into(),
            Self::Packed(ring, _) => u32::from(ring.used.bits()) | u32::from(ring.used.bits()) << 16,
        }
    }

    fn out(&mut self) -> &mut BTreeMap<u16, Vec<Part>> {
        match self {
            Self::Split(_, out, _) | Self::Packed(_, out) => out,
        }
    }

    /// Makes a chain of `parts` available, if there is room.
    fn offer(&mut self, guest: &Guest, number: u16, parts: Vec<Part>, table: bool) {
        match self {
            Self::Split(ring, out, _) => {
                let head = number % (SIZE / 4) * 4;
                out.entry(head).or_insert_with(|| {
                    ring.chain(guest, head, &parts);
                    ring.offer(guest, head);
                    parts
                });
            }
            Self::Packed(ring, out) => {
                let needed = if table { 1 } else { parts.len() as u16 };
                if needed <= ring.free() && !out.contains_key(&number) {
                    match table {
                        true => ring.offer_indirect(guest, number, &parts, TABLES + 64 * u64::from(number)),
                        false => ring.offer(guest, number, &parts),
                    }
                    out.insert(number, parts);
                }
            }
        }
    }

    /// Takes what the device has returned.
    fn collect(&mut self, guest: &Guest) {
        match self {
            Self::Split(ring, out, seen) => {
                while *seen != ring.used_index(guest) {
                    let (head, _) = ring.used_entry(guest, *seen);
                    out.remove(&(head as u16)).expect("a chain that the device has");
                    *seen = seen.wrapping_add(1);
                }
            }
            Self::Packed(ring, out) => {
                while let Some((id, ..)) = ring.collect(guest) {
                    out.remove(&id).expect("a chain that the device has");
                }
            }
        }
    }
}

struct Rig {
    guest: Guest,
    notes: OwnedFd,
    driver: Driver,
}

impl Rig {
    fn new(packed: bool) -> Self {
        let length = NoteMemory::needed(QUEUES, SIZE);
        Self { guest: Guest::new(RAM), notes: memfd(length), driver: Driver::new(packed) }
    }

    fn memory(&self) -> NoteMemory {
        let size = NoteMemory::needed(QUEUES, SIZE);
        let region = MemoryRegion { guest_address: 0, size, user_address: 0, mmap_offset: 0 };
        let shared = SharedRegion { region, fd: self.notes.try_clone().unwrap() };
        NoteMemory::new(MemoryMap::new(&[shared]).unwrap(), size, QUEUES, SIZE)
    }

    fn ring(&self, base: u32) -> Result<Ring, RingError> {
        let mut ring = Ring::new(self.guest.map.clone(), self.driver.layout(), base)?;
        ring.note(&self.memory(), QUEUE)?;
        Ok(ring)
    }

    /// The ring of a process that has lived long enough to start it. Each one before it dies when it has stored so often.
    fn ring_after(&self, deaths: &[u8]) -> Ring {
        for stores in deaths {
            death::after((*stores).into());
            match catch_unwind(AssertUnwindSafe(|| self.ring(self.driver.base()))) {
                Ok(ring) => drop(ring.unwrap()),
                Err(death) if death.is::<death::Died>() => {}
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        death::never();
        self.ring(self.driver.base()).unwrap()
    }
}

/// The life of one process after the other.
struct Life {
    rig: Rig,
    /// What the present process has, in the order in which it was taken.
    taken: VecDeque<Head>,
    /// Chains that were returned and have not been seen to be shown.
    hidden: Vec<u16>,
    /// Those who go on die as well, after so many stores.
    deaths: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u16, u8, u8, bool),
    Take,
    Return(u8),
    Publish,
    Collect,
    /// The process dies when it has stored so often from here on, and those who go on with it when they have.
    Die(u8, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u16>(), 0u8..3, 0u8..2, any::<bool>()).prop_map(|(n, r, w, t)| Step::Offer(n % 64, r, w, t)),
        4 => Just(Step::Take),
        4 => any::<u8>().prop_map(Step::Return),
        2 => Just(Step::Publish),
        2 => Just(Step::Collect),
        1 => (0u8..40, prop::collection::vec(0u8..80, 0..4)).prop_map(|(after, next)| Step::Die(after, next)),
    ]
}

impl Life {
    fn take(&mut self, ring: &mut Ring) -> bool {
        let mut chain = Chain::default();
        let Some(head) = ring.take(&mut chain).unwrap() else { return false };
        let parts = self.rig.driver.out().get(&head.id).expect("a chain that the driver has not got back");
        let lengths = |write| -> u64 {
            parts.iter().filter(|part| part.2 == write).map(|part| u64::from(part.1)).sum()
        };
        assert_eq!((chain.readable().len(), chain.writable().len()), (lengths(false), lengths(true)));
        assert!(self.taken.iter().all(|other| other.id != head.id), "it was taken twice");
        self.taken.push_back(head);
        true
    }

    fn carry_out(&mut self, ring: &mut Ring, step: &Step) {
        match *step {
            Step::Offer(number, read, write, table) if read + write > 0 => {
                let part = |n| (DATA + u64::from(n), u32::from(number) + 1 + u32::from(n), n >= read);
                let parts = (0..read + write).map(part).collect();
                self.rig.driver.offer(&self.rig.guest, number, parts, table);
            }
            Step::Take => drop(self.take(ring)),
            Step::Return(which) if !self.taken.is_empty() => {
                let head = self.taken.remove(usize::from(which) % self.taken.len()).unwrap();
                self.hidden.push(head.id);
                ring.push(head, 0);
            }
            Step::Publish => {
                let _ = ring.publish();
            }
            Step::Collect => {
                self.rig.driver.collect(&self.rig.guest);
                let out = self.rig.driver.out();
                self.hidden.retain(|id| out.contains_key(id));
            }
            Step::Die(after, ref next) => {
                death::after(after.into());
                self.deaths.clone_from(next);
            }
            _ => {}
        }
    }

    /// Another process goes on, and finds what the former one had and has not shown.
    fn go_on(&mut self) -> Ring {
        self.rig.driver.collect(&self.rig.guest);
        let out = self.rig.driver.out();
        let had: Vec<u16> = self.taken.drain(..).map(|head| head.id).collect();
        let mut left: Vec<u16> =
            had.iter().chain(&self.hidden).copied().filter(|id| out.contains_key(id)).collect();
        self.hidden.clear();
        let mut ring = self.rig.ring_after(&self.deaths);
        let mut again = Vec::new();
        loop {
            let mut chain = Chain::default();
            if !ring.has_waiting(0) {
                break;
            }
            let head = ring.take(&mut chain).unwrap().unwrap();
            if chain.is_taken_again() {
                again.push(head.id);
            }
            self.taken.push_back(head);
        }
        // All that was taken before, in that order, and perhaps the one that was being taken.
        assert!(again.iter().filter(|id| had.contains(id)).eq(had.iter().filter(|id| again.contains(id))));
        left.retain(|id| !again.contains(id));
        assert!(left.is_empty(), "in flight, and not noted: {left:?}");
        ring
    }
}

proptest! {
    /// Whatever a process was doing when it was killed, the next one returns each chain once.
    #[test]
    fn nothing_is_lost_or_returned_twice(
        packed in any::<bool>(),
        deaths in prop::collection::vec(0u8..80, 0..4),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let rig = Rig::new(packed);
        let mut ring = rig.ring_after(&deaths);
        let mut life = Life { rig, taken: VecDeque::new(), hidden: Vec::new(), deaths };
        for step in &steps {
            let lived = catch_unwind(AssertUnwindSafe(|| life.carry_out(&mut ring, step)));
            match lived {
                Ok(()) => {}
                Err(death) if death.is::<death::Died>() => ring = life.go_on(),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        death::never();
        while life.take(&mut ring) {}
        life.taken.drain(..).for_each(|head| ring.push(head, 0));
        let _ = ring.publish();
        life.rig.driver.collect(&life.rig.guest);
        prop_assert!(life.rig.driver.out().is_empty());
        prop_assert!(!ring.has_waiting(0));
        ring.end();
        prop_assert!(!life.rig.memory().of(QUEUE, SIZE, 64).unwrap().is_begun(SIZE).unwrap());
    }

    /// The front end can write there what it likes.
    #[test]
    fn wrong_notes_are_refused_or_believed_but_never_left(
        packed in any::<bool>(),
        bytes in prop::collection::vec(prop_oneof![Just(0u8), 0u8..20, any::<u8>()], 700),
        takes in 0usize..40,
    ) {
        let rig = Rig::new(packed);
        let memory = rig.memory();
        let notes = memory.of(QUEUE, SIZE, PackedNotes::length(SIZE)).unwrap();
        bytes.iter().enumerate().take(notes.length).for_each(|(at, byte)| notes.set_byte(at, *byte));
        notes.begin(SIZE);
        let Ok(mut ring) = rig.ring(0) else { return Ok(()) };
        let mut chain = Chain::default();
        for _ in 0..takes {
            match ring.take(&mut chain) {
                Ok(Some(head)) => ring.push(head, 0),
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
            let _ = ring.publish();
        }
    }
}

#[test]
fn notes_of_another_size_or_version_are_refused() {
    for packed in [false, true] {
        let rig = Rig::new(packed);
        assert_eq!(
            rig.memory().of(QUEUES, SIZE, 8).err(),
            Some(RingError::NoRoomForNotes { queue: QUEUES, size: SIZE })
        );
        let notes = rig.memory().of(QUEUE, SIZE, 64).unwrap();
        notes.begin(8);
        assert_eq!(rig.ring(0).err(), Some(RingError::OtherNotes { version: 1, count: 8 }));
        notes.set_half(VERSION_AT, 2);
        assert_eq!(rig.ring(0).err(), Some(RingError::OtherNotes { version: 2, count: 8 }));
        notes.end();
        assert!(rig.ring(0).is_ok());
    }
}

#[test]
fn a_ring_without_notes_goes_on_where_it_is_told() {
    let rig = Rig::new(true);
    let base = u32::from(Place(3, true).bits()) | u32::from(Place(3, true).bits()) << 16;
    let ring = rig.ring(base).unwrap();
    assert_eq!(ring.base(), base);
    ring.end();
    assert_eq!(rig.ring(base).unwrap().base(), base);
    let rig = Rig::new(false);
    assert_eq!(rig.ring(7).unwrap().base(), 7);
}
