//! The watched descriptors, by key and by receiver.

use crate::timers::{IdKey, id_key};
use lunette_store::{Interest, IoId};
use std::collections::BTreeSet;
use std::os::fd::RawFd;

/// Bits of a key's generation, so that a key fits beside a tag into 64 bits.
const GENERATION_BITS: u32 = 30;

/// What the kernel back end knows a watch by. A key of a watch that has ended finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WatchKey(u64);

impl WatchKey {
    fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    /// The key as a number below 2⁶².
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// The key that had these `bits`.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    pub(crate) fd: RawFd,
    pub(crate) interest: Interest,
    pub(crate) id: IoId,
}

#[derive(Default)]
pub(crate) struct Watches {
    places: Vec<Place>,
    free: Vec<u32>,
    by_id: BTreeSet<(IdKey, u32)>,
}

struct Place {
    generation: u32,
    watch: Option<Watch>,
}

impl Watches {
    pub(crate) fn add(&mut self, watch: Watch) -> WatchKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, watch: None });
            self.places.len() as u32 - 1
        });
        self.by_id.insert((id_key(watch.id), index));
        let place = &mut self.places[index as usize];
        place.watch = Some(watch);
        WatchKey::new(index, place.generation)
    }

    pub(crate) fn get(&self, key: WatchKey) -> Option<Watch> {
        self.places.get(key.index()).filter(|place| place.generation == key.generation())?.watch
    }

    pub(crate) fn remove(&mut self, key: WatchKey) -> Option<Watch> {
        let watch = self.get(key)?;
        let index = key.index() as u32;
        let place = &mut self.places[index as usize];
        place.watch = None;
        place.generation = (place.generation + 1) % (1 << GENERATION_BITS);
        self.free.push(index);
        self.by_id.remove(&(id_key(watch.id), index));
        Some(watch)
    }

    /// A watch of one of the receivers `first` to `last`.
    pub(crate) fn find(&self, first: IdKey, last: IdKey) -> Option<WatchKey> {
        let (_, index) = *self.by_id.range((first, 0)..=(last, u32::MAX)).next()?;
        Some(WatchKey::new(index, self.places[index as usize].generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timers::sink_keys;
    use lunette_store::SinkId;

    fn watch(sink: u32, token: u64) -> Watch {
        Watch { fd: 7, interest: Interest::Readable, id: IoId { sink: SinkId(sink), token } }
    }

    #[test]
    fn an_old_key_finds_nothing_when_its_place_is_used_again() {
        let mut watches = Watches::default();
        let old = watches.add(watch(1, 1));
        assert_eq!(watches.remove(old), Some(watch(1, 1)));
        let new = watches.add(watch(1, 2));
        assert_eq!(old.index(), new.index());
        assert_eq!(watches.get(old), None);
        assert_eq!(watches.remove(old), None);
        assert_eq!(watches.get(WatchKey::from_bits(new.bits())), Some(watch(1, 2)));
    }

    #[test]
    fn watches_are_found_by_receiver() {
        let mut watches = Watches::default();
        let keys: Vec<_> = [(1, 9), (2, 0), (2, 0), (2, 7), (3, 0)]
            .map(|(sink, token)| watches.add(watch(sink, token)))
            .into();
        let (first, last) = sink_keys(SinkId(2));
        let mut found = Vec::new();
        while let Some(key) = watches.find(first, last) {
            watches.remove(key);
            found.push(key);
        }
        assert_eq!(found, keys[1..4]);
        assert!(watches.get(keys[0]).is_some() && watches.get(keys[4]).is_some());
    }
}
