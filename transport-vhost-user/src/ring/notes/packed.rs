//! Notes of a packed ring, in which used descriptors are written over available ones: so these are noted as a whole.

use super::{NoteMemory, Notes};
use crate::ring::RingError;
use crate::ring::chain::Descriptor;

/// What stands before the notes of the descriptors.
const HEADER: usize = 32;
/// The first note that is free, and the one from before the burst that is being shown.
const FREE_AT: usize = 12;
/// Where the next chain is returned, as index and wrap counter, and where from before that burst. One store writes all four.
const USED_AT: usize = 16;

/// The note of a descriptor. What concerns a chain stands in the note of its first one.
const NOTE: usize = 32;
const IN_FLIGHT: usize = 0;
const NEXT: usize = 2;
const LAST: usize = 4;
const COUNT: usize = 6;
const COUNTER: usize = 8;
const ID: usize = 16;
const FLAGS: usize = 18;
const LENGTH: usize = 20;
const ADDRESS: usize = 24;

/// Where the device returns the next chain: the place in the ring, and the wrap counter there.
pub(in crate::ring) type Used = (u16, bool);

/// A chain that was taken and not returned.
pub(in crate::ring) struct Noted {
    /// The first note of it.
    pub(in crate::ring) note: u16,
    /// Its descriptors, as they were.
    pub(in crate::ring) descriptors: Vec<Descriptor>,
}

/// The last note of a chain, and how many it has.
#[derive(Clone, Copy, Default)]
struct Extent {
    last: u16,
    count: u16,
}

/// The notes of one queue.
///
/// The links between them are kept here as well: those in the memory are for who comes after us.
pub(in crate::ring) struct PackedNotes {
    notes: Notes,
    size: u16,
    /// Counts the chains that were taken.
    counter: u64,
    /// The first note that is free; none if it is the size.
    free: u16,
    /// What follows each note, in its chain or among the free ones.
    next: Vec<u16>,
    /// Of the chains in flight, by their first notes.
    chains: Vec<Extent>,
    /// What was noted of the chain that is being taken.
    taking: Extent,
    /// The chains that were returned and are not shown yet.
    returned: Vec<u16>,
}

impl PackedNotes {
    pub(in crate::ring) fn new(memory: &NoteMemory, queue: u16, size: u16) -> Result<Self, RingError> {
        let count = usize::from(size);
        Ok(Self {
            notes: memory.of(queue, size, Self::length(size))?,
            size,
            counter: 0,
            free: 0,
            next: (1..=size).collect(),
            chains: vec![Extent::default(); count],
            taking: Extent::default(),
            returned: Vec::with_capacity(count),
        })
    }

    pub(super) fn length(size: u16) -> u64 {
        (HEADER + NOTE * usize::from(size)) as u64
    }

    #[inline]
    fn note(&self, index: u16) -> usize {
        HEADER + NOTE * usize::from(index)
    }

    /// Where the next chain is returned and what is in flight, in the order in which it was taken; nothing if there are no
    /// notes yet, which then begin at `used`. `is_shown` says whether the device has shown a descriptor that was to be
    /// returned there.
    pub(in crate::ring) fn recover(
        &mut self,
        used: Used,
        is_shown: impl Fn(Used) -> bool,
    ) -> Result<Option<(Used, Vec<Noted>)>, RingError> {
        if !self.notes.is_begun(self.size)? {
            for (index, next) in (0..self.size).zip(&self.next) {
                self.notes.set_byte(self.note(index) + IN_FLIGHT, 0);
                self.notes.set_half(self.note(index) + NEXT, *next);
            }
            self.set_free(self.free, self.free);
            self.set_used(used, used);
            self.notes.begin(self.size);
            return Ok(None);
        }
        let [new, old] = self.used();
        if [new, old].iter().any(|(index, _)| *index >= self.size) {
            return Err(RingError::WrongNotes);
        }
        let [new_free, old_free] = [0, 2].map(|at| self.notes.half(FREE_AT + at));
        // The burst was shown, or it was not and is forgotten.
        let (used, free) = if new != old && is_shown(old) { (new, new_free) } else { (old, old_free) };
        let mut is_free = vec![false; usize::from(self.size)];
        self.read_free(free, &mut is_free)?;
        let noted = self.read_chains(is_free)?;
        self.set_free(free, free);
        self.set_used(used, used);
        Ok(Some((used, noted)))
    }

    /// Whether something is in flight.
    pub(super) fn has_some(&self) -> bool {
        self.notes.is_begun(self.size) == Ok(true)
            && (0..self.size).any(|index| self.notes.byte(self.note(index) + IN_FLIGHT) != 0)
    }

    /// Reads which notes are free.
    fn read_free(&mut self, first: u16, is_free: &mut [bool]) -> Result<(), RingError> {
        self.free = first;
        let mut index = first;
        while index != self.size {
            let known = is_free.get_mut(usize::from(index)).ok_or(RingError::WrongNotes)?;
            if std::mem::replace(known, true) {
                return Err(RingError::WrongNotes);
            }
            self.notes.set_byte(self.note(index) + IN_FLIGHT, 0);
            index = self.follow(index)?;
        }
        Ok(())
    }

    /// The note that follows another one.
    fn follow(&mut self, index: u16) -> Result<u16, RingError> {
        let next = self.notes.half(self.note(index) + NEXT);
        if next > self.size {
            return Err(RingError::WrongNotes);
        }
        self.next[usize::from(index)] = next;
        Ok(next)
    }

    /// Reads the chains in flight, whose notes are all those that are not free.
    fn read_chains(&mut self, mut is_known: Vec<bool>) -> Result<Vec<Noted>, RingError> {
        let mut found = Vec::new();
        for note in 0..self.size {
            if self.notes.byte(self.note(note) + IN_FLIGHT) != 0 {
                let descriptors = self.read_chain(note, &mut is_known)?;
                found.push((self.notes.wide(self.note(note) + COUNTER), Noted { note, descriptors }));
            }
        }
        if is_known.contains(&false) {
            return Err(RingError::WrongNotes);
        }
        found.sort_unstable_by_key(|(counter, _)| *counter);
        self.counter = found.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(found.into_iter().map(|(_, noted)| noted).collect())
    }

    fn read_chain(&mut self, note: u16, is_known: &mut [bool]) -> Result<Vec<Descriptor>, RingError> {
        let count = self.notes.half(self.note(note) + COUNT);
        let (mut index, mut last) = (note, note);
        let mut descriptors = Vec::new();
        for _ in 0..count {
            let known = is_known.get_mut(usize::from(index)).ok_or(RingError::WrongNotes)?;
            if std::mem::replace(known, true) {
                return Err(RingError::WrongNotes);
            }
            let at = self.note(index);
            descriptors.push(Descriptor {
                address: self.notes.wide(at + ADDRESS),
                length: self.notes.word(at + LENGTH),
                fields: [self.notes.half(at + ID), self.notes.half(at + FLAGS)],
            });
            last = index;
            index = self.follow(index)?;
        }
        if descriptors.is_empty() {
            return Err(RingError::WrongNotes);
        }
        self.chains[usize::from(note)] = Extent { last, count };
        Ok(descriptors)
    }

    /// A descriptor of the chain that is being taken. What was noted of a chain before it is [`taken`](Self::taken) is
    /// forgotten when another begins.
    #[inline]
    pub(in crate::ring) fn take(&mut self, is_first: bool, descriptor: &Descriptor) -> Result<(), RingError> {
        let Extent { last, count } = if is_first { Extent::default() } else { self.taking };
        let index = if is_first { self.free } else { self.next[usize::from(last)] };
        if index == self.size {
            return Err(RingError::WrongNotes);
        }
        let at = self.note(index);
        self.notes.set_wide(at + ADDRESS, descriptor.address);
        self.notes.set_word(at + LENGTH, descriptor.length);
        self.notes.set_half(at + ID, descriptor.fields[0]);
        self.notes.set_half(at + FLAGS, descriptor.fields[1]);
        self.taking = Extent { last: index, count: count + 1 };
        Ok(())
    }

    /// The chain has been taken. Returns its first note.
    #[inline]
    pub(in crate::ring) fn taken(&mut self) -> u16 {
        let (note, chain) = (self.free, self.taking);
        let at = self.note(note);
        self.notes.set_half(at + LAST, chain.last);
        self.notes.set_half(at + COUNT, chain.count);
        self.notes.set_wide(at + COUNTER, self.counter);
        self.notes.set_byte(at + IN_FLIGHT, 1);
        self.counter = self.counter.wrapping_add(1);
        self.chains[usize::from(note)] = chain;
        self.free = self.next[usize::from(chain.last)];
        // Until then the note is a free one, and what it says is not believed.
        self.set_free(self.free, self.free);
        note
    }

    /// A chain stands in the ring, where the driver does not see it yet. How many descriptors it has.
    #[inline]
    pub(in crate::ring) fn returned(&mut self, note: u16) -> u16 {
        self.returned.push(note);
        self.chains[usize::from(note)].count
    }

    /// The driver is about to see what was returned, and the next chain comes to `used`.
    #[inline]
    pub(in crate::ring) fn show(&mut self, used: Used) {
        let [_, old] = self.used();
        let old_free = self.free;
        for &note in &self.returned {
            let last = self.chains[usize::from(note)].last;
            self.next[usize::from(last)] = self.free;
            self.notes.set_half(self.note(last) + NEXT, self.free);
            self.free = note;
        }
        self.set_free(self.free, old_free);
        self.set_used(used, old);
    }

    /// The driver sees it.
    #[inline]
    pub(in crate::ring) fn shown(&mut self, used: Used) {
        for note in &self.returned {
            self.notes.set_byte(self.note(*note) + IN_FLIGHT, 0);
        }
        self.returned.clear();
        self.set_free(self.free, self.free);
        self.set_used(used, used);
    }

    pub(in crate::ring) fn notes(&self) -> &Notes {
        &self.notes
    }

    #[inline]
    fn set_free(&self, new: u16, old: u16) {
        self.notes.set_word(FREE_AT, u32::from_ne_bytes(pair(new, old)));
    }

    /// Where the next chain is returned, and where from before the burst that is being shown.
    fn used(&self) -> [Used; 2] {
        let bytes = self.notes.wide(USED_AT).to_ne_bytes();
        [0, 1].map(|which| {
            let index = u16::from_ne_bytes([bytes[2 * which], bytes[2 * which + 1]]);
            (index, bytes[4 + which] != 0)
        })
    }

    #[inline]
    fn set_used(&self, new: Used, old: Used) {
        let [a, b, c, d] = pair(new.0, old.0);
        let bytes = [a, b, c, d, new.1.into(), old.1.into(), 0, 0];
        self.notes.set_wide(USED_AT, u64::from_ne_bytes(bytes));
    }
}

fn pair(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}
