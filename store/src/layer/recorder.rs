//! What a power cut leaves, for tests: everything that a store is asked for is recorded, so what may be on the medium after the
//! power has failed can be made for any moment.
//!
//! Only what was flushed, or written durably, is surely there. Of anything else each sector may be there or not, whatever became
//! of others and of later ones, as behind a volatile cache that writes back in any order.

use crate::{
    Backing, Caps, Cx, IoError, IoId, IoResult, Lane, Op, Pending, Relay, Room, Sink, Store, Submit,
    attach_relay,
};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the stores of several [recorders](Recorder) were asked for, in one order.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<Event>>>);

enum Event {
    Began {
        unit: usize,
        what: What,
    },
    /// What began as the event of this number has succeeded.
    Ended(usize),
}

#[derive(Clone)]
enum What {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
        durable: bool,
    },
    /// What is given up reads as it did before or as zeroes, and so does what is to become zeroes until that is flushed.
    Clear {
        offset: u64,
        length: u64,
    },
    Flush,
}

/// A moment at which the power fails, and what befalls what was not flushed.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// So many [events](Recording::events) have come before.
    pub at: usize,
    /// What decides about each sector that could be one thing or another.
    pub seed: u64,
    /// Flushes count for nothing, as in a cache that lies: shows that a test would notice.
    pub lying: bool,
}

/// Another store, which claims to have a volatile cache, and what it is asked for.
pub struct Recorder {
    inner: Arc<dyn Backing>,
    caps: Caps,
    recording: Recording,
    unit: usize,
}

impl Recorder {
    /// `inner`, known as `unit` in the `recording`.
    pub fn new(inner: Arc<dyn Backing>, recording: &Recording, unit: usize) -> Self {
        let caps = Caps { volatile_cache: true, ..inner.caps().clone() };
        Self { inner, caps, recording: recording.clone(), unit }
    }
}

impl Recording {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, event: Event) -> usize {
        let mut events = self.lock();
        events.push(event);
        events.len() - 1
    }

    /// How many events there are: beginnings and ends of operations.
    pub fn events(&self) -> usize {
        self.lock().len()
    }

    /// The writes to a unit that have begun, with the numbers of their events: first byte and bytes of each.
    pub fn writes(&self, unit: usize) -> Vec<(usize, u64, Arc<[u8]>)> {
        let events = self.lock();
        let writes = events.iter().enumerate().filter_map(|(number, event)| match event {
            Event::Began { unit: of, what: What::Write { offset, bytes, .. } } if *of == unit => {
                Some((number, *offset, bytes.clone()))
            }
            _ => None,
        });
        writes.collect()
    }

    /// Whether initiators have had a unit flushed, and whether they have written durably to it.
    pub fn flushed_and_durable(&self, unit: usize) -> (bool, bool) {
        let events = self.lock();
        let any = |wanted: fn(&What) -> bool| {
            events
                .iter()
                .any(|event| matches!(event, Event::Began { unit: of, what } if *of == unit && wanted(what)))
        };
        (
            any(|what| matches!(what, What::Flush)),
            any(|what| matches!(what, What::Write { durable: true, .. })),
        )
    }

    /// What a unit of `size` bytes that was all zeroes may hold after the power has failed, whose sectors of so many bytes are
    /// written whole or not at all.
    pub fn after(&self, cut: Cut, unit: usize, size: usize, sector: usize) -> Vec<u8> {
        let events = self.lock();
        let before = &events[..cut.at.min(events.len())];
        let ends: HashMap<usize, usize> = ends(before).collect();
        let began = |number: usize| match &before[number] {
            Event::Began { unit: of, what } if *of == unit => Some(what),
            _ => None,
        };
        let flushes = ends.keys().filter(|number| matches!(began(**number), Some(What::Flush)));
        // What had ended when the last of them began is there.
        let flushed = if cut.lying { 0 } else { flushes.copied().max().unwrap_or(0) };
        let mut sectors: BTreeMap<usize, Vec<(Option<usize>, Content)>> = BTreeMap::new();
        for number in 0..before.len() {
            let Some((range, content)) = began(number).and_then(changed) else { continue };
            let end = ends.get(&number).copied();
            let durable = matches!(began(number), Some(What::Write { durable: true, .. })) && !cut.lying;
            let is_there = end.is_some_and(|end| durable || end < flushed);
            for at in range.start / sector..range.end.div_ceil(sector) {
                let versions = sectors.entry(at).or_insert_with(|| vec![(None, Content::Zero)]);
                if is_there {
                    // What was under way at the same time may have come after it.
                    let is_beside = |older: usize| ends.get(&older).is_none_or(|end| *end > number);
                    versions.retain(|(older, _)| older.is_some_and(is_beside));
                }
                versions.push((Some(number), content.clone().part(at * sector, range.start)));
            }
        }
        let mut random = Random(cut.seed);
        let losses = random.next() % 5;
        let mut image = vec![0; size];
        for (at, versions) in sectors {
            let lost = random.next() % 4 < losses;
            let which = if lost { random.next() as usize % versions.len() } else { versions.len() - 1 };
            let (start, end) = (at * sector, ((at + 1) * sector).min(size));
            versions[which].1.store(&mut image[start..end]);
        }
        image
    }
}

/// The operations that have succeeded, and when.
fn ends(events: &[Event]) -> impl Iterator<Item = (usize, usize)> {
    events.iter().enumerate().filter_map(|(end, event)| match event {
        Event::Ended(began) => Some((*began, end)),
        Event::Began { .. } => None,
    })
}

/// What an operation changes, and to what.
fn changed(what: &What) -> Option<(Range<usize>, Content)> {
    let range = |offset: u64, length: u64| offset as usize..(offset + length) as usize;
    match what {
        What::Write { offset, bytes, .. } => {
            Some((range(*offset, bytes.len() as u64), Content::Bytes(bytes.clone(), 0)))
        }
        What::Clear { offset, length } => Some((range(*offset, *length), Content::Zero)),
        What::Flush => None,
    }
}

/// What a sector may hold.
#[derive(Clone)]
enum Content {
    Zero,
    /// These bytes from there on.
    Bytes(Arc<[u8]>, usize),
}

impl Content {
    /// What is at `position` of what began at `start`.
    fn part(self, position: usize, start: usize) -> Self {
        match self {
            Self::Bytes(bytes, _) => Self::Bytes(bytes, position - start),
            Self::Zero => Self::Zero,
        }
    }

    fn store(&self, sector: &mut [u8]) {
        match self {
            Self::Zero => sector.fill(0),
            Self::Bytes(bytes, from) => sector.copy_from_slice(&bytes[*from..][..sector.len()]),
        }
    }
}

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Backing for Recorder {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn is_lasting(&self) -> bool {
        self.inner.is_lasting()
    }

    fn lane(&self) -> Option<&Lane> {
        self.inner.lane()
    }

    fn room(&self) -> Result<Room, IoError> {
        self.inner.room()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        let attached = Attached {
            inner: self.inner.attach(cx),
            caps: self.caps.clone(),
            recording: self.recording.clone(),
            unit: self.unit,
            pending: Pending::default(),
        };
        attach_relay(cx, attached)
    }
}

struct Attached {
    inner: Rc<dyn Store>,
    caps: Caps,
    recording: Recording,
    unit: usize,
    /// Who is told of an operation's end, and the number of the event of its beginning.
    pending: Pending<(IoId, usize)>,
}

impl Attached {
    fn ended(&self, began: usize, result: IoResult) {
        if result.is_ok() {
            self.recording.add(Event::Ended(began));
        }
    }
}

fn recorded(op: &Op<'_>) -> Option<What> {
    match *op {
        Op::Write { offset, from, durable } => {
            let mut bytes = vec![0; from.len() as usize];
            from.copy_out(0, &mut bytes);
            Some(What::Write { offset, bytes: bytes.into(), durable })
        }
        Op::Zero { offset, length, .. } | Op::Discard { offset, length } => {
            Some(What::Clear { offset, length })
        }
        Op::Flush => Some(What::Flush),
        Op::Read { .. } | Op::Seek { .. } | Op::Copy { .. } => None,
    }
}

impl Store for Attached {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        if matches!(op, Op::Copy { .. }) {
            return Submit::Done(Err(IoError::Unsupported));
        }
        let Some(what) = recorded(&op) else { return self.inner.submit(op, id, cx) };
        let began = self.recording.add(Event::Began { unit: self.unit, what });
        let ours = self.pending.keep((id, began));
        let submitted = self.inner.submit(op, ours, cx);
        match submitted {
            Submit::Queued => return submitted,
            Submit::Done(result) => self.ended(began, result),
            // It comes again; what has not ended may not have happened.
            Submit::Full => {}
        }
        self.pending.take(ours.token);
        submitted
    }

    fn release(&self, cx: &mut dyn Cx) {
        self.inner.release(cx);
    }
}

impl Sink for Attached {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        if let Some((id, began)) = self.pending.take(token) {
            self.ended(began, result);
            cx.complete(id, result);
        }
    }
}

impl Relay for Attached {
    type Kept = (IoId, usize);

    fn pending(&self) -> &Pending<(IoId, usize)> {
        &self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, Sg, SinkId, ram::Ram, sim::Sim};
    use std::collections::BTreeSet;

    const SECTOR: usize = 512;
    const SIZE: usize = 8 * SECTOR;

    struct Rig {
        sim: Sim,
        recording: Recording,
        store: Rc<dyn Store>,
    }

    impl Rig {
        fn new() -> Self {
            let (mut sim, recording) = (Sim::new(1), Recording::default());
            let ram = Arc::new(Ram::new(SIZE as u64).unwrap());
            let store = Recorder::new(ram, &recording, 0).attach(sim.cx(0));
            assert!(store.caps().volatile_cache);
            Self { sim, recording, store }
        }

        fn run(&mut self, op: Op<'_>) {
            let id = IoId { sink: SinkId(0), token: 0 };
            assert!(matches!(self.store.submit(op, id, self.sim.cx(0)), Submit::Done(Ok(_))));
        }

        fn write(&mut self, sector: u64, byte: u8, sectors: usize, durable: bool) {
            let memory = Memory::from_bytes(&vec![byte; sectors * SECTOR]);
            let segs = [memory.seg()];
            self.run(Op::Write { offset: sector * SECTOR as u64, from: Sg::new(&segs), durable });
        }

        /// The first bytes of all sectors, for many seeds.
        fn outcomes(&self, at: usize, lying: bool) -> BTreeSet<[u8; 8]> {
            let image = |seed| self.recording.after(Cut { at, seed, lying }, 0, SIZE, SECTOR);
            let firsts = |image: Vec<u8>| std::array::from_fn(|sector| image[sector * SECTOR]);
            (0..400).map(|seed| firsts(image(seed))).collect()
        }
    }

    #[test]
    fn what_is_flushed_stays_and_the_rest_may_be_there_in_any_order() {
        let mut rig = Rig::new();
        rig.write(0, 1, 1, false);
        rig.run(Op::Flush);
        let flushed = rig.recording.events();
        rig.write(0, 2, 1, false);
        rig.write(1, 3, 2, false);
        let all = rig.recording.events();
        assert_eq!(rig.outcomes(flushed, false), [[1, 0, 0, 0, 0, 0, 0, 0]].into());
        assert_eq!(rig.outcomes(flushed, true).len(), 2);
        let both = |first| [[0, 0], [0, 3], [3, 0], [3, 3]].map(|[a, b]| [first, a, b, 0, 0, 0, 0, 0]);
        assert_eq!(rig.outcomes(all, false), both(1).into_iter().chain(both(2)).collect());
        assert_eq!(rig.outcomes(0, false), [[0; 8]].into());
        // The flush has not ended.
        assert_eq!(rig.outcomes(flushed - 1, false).len(), 2);
    }

    #[test]
    fn what_is_written_durably_stays_and_outlives_what_came_before() {
        let mut rig = Rig::new();
        rig.write(0, 1, 2, false);
        rig.write(0, 2, 1, true);
        let expected = [0, 1].map(|second| [2, second, 0, 0, 0, 0, 0, 0]);
        assert_eq!(rig.outcomes(usize::MAX, false), expected.into());
        assert_eq!(rig.recording.flushed_and_durable(0), (false, true));
    }

    #[test]
    fn what_is_given_up_is_there_until_that_is_flushed() {
        let mut rig = Rig::new();
        rig.write(3, 7, 1, true);
        rig.run(Op::Zero { offset: 0, length: SIZE as u64, unmap: true });
        let full = [0, 0, 0, 7, 0, 0, 0, 0];
        assert_eq!(rig.outcomes(usize::MAX, false), [[0; 8], full].into());
        rig.run(Op::Flush);
        assert_eq!(rig.outcomes(usize::MAX, false), [[0; 8]].into());
    }

    #[test]
    fn what_comes_together_may_come_in_either_order() {
        let recording = Recording::default();
        let write = |byte| {
            let bytes = vec![byte; SECTOR].into();
            recording.add(Event::Began { unit: 0, what: What::Write { offset: 0, bytes, durable: false } })
        };
        let [one, two] = [1, 2].map(write);
        recording.add(Event::Ended(two));
        recording.add(Event::Ended(one));
        let flush = recording.add(Event::Began { unit: 0, what: What::Flush });
        recording.add(Event::Ended(flush));
        let first = |seed| recording.after(Cut { at: usize::MAX, seed, lying: false }, 0, SIZE, SECTOR)[0];
        assert_eq!((0..400).map(first).collect::<BTreeSet<_>>(), [1, 2].into());
        assert_eq!(recording.writes(0).len(), 2);
    }
}
