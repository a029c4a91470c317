//! The table of those who receive completions.

use lunette_store::{Sink, SinkId};
use std::collections::VecDeque;
use std::rc::Rc;

const INDEX_BITS: u32 = 20;
const MAX_GENERATION: u32 = (1 << (32 - INDEX_BITS)) - 1;

/// Sinks by id. An id is an index and a generation and never names a second sink: a place whose generations are used up
/// is not used again.
#[derive(Default)]
pub(crate) struct Sinks {
    places: Vec<Place>,
    free: VecDeque<u32>,
    pollers: Vec<SinkId>,
}

struct Place {
    generation: u32,
    sink: Option<Rc<dyn Sink>>,
}

impl Sinks {
    /// # Panics
    /// When 2²⁰ sinks are registered at once.
    pub(crate) fn add(&mut self, sink: Rc<dyn Sink>) -> SinkId {
        let index = self.free.pop_front().unwrap_or_else(|| {
            let index = self.places.len() as u32;
            assert!(index >> INDEX_BITS == 0, "too many sinks on one reactor");
            self.places.push(Place { generation: 0, sink: None });
            index
        });
        let place = &mut self.places[index as usize];
        place.sink = Some(sink);
        SinkId(place.generation << INDEX_BITS | index)
    }

    /// Removes and returns a sink, so that the caller chooses when it is dropped.
    pub(crate) fn remove(&mut self, id: SinkId) -> Option<Rc<dyn Sink>> {
        let place = self.place_mut(id)?;
        let sink = place.sink.take()?;
        if place.generation < MAX_GENERATION {
            place.generation += 1;
            self.free.push_back(index(id) as u32);
        }
        self.pollers.retain(|other| *other != id);
        Some(sink)
    }

    pub(crate) fn get(&self, id: SinkId) -> Option<Rc<dyn Sink>> {
        let place = self.places.get(index(id))?;
        if place.generation != generation(id) {
            return None;
        }
        place.sink.clone()
    }

    pub(crate) fn contains(&self, id: SinkId) -> bool {
        self.places
            .get(index(id))
            .is_some_and(|place| place.generation == generation(id) && place.sink.is_some())
    }

    pub(crate) fn set_polled(&mut self, id: SinkId, on: bool) {
        self.pollers.retain(|other| *other != id);
        if on && self.contains(id) {
            self.pollers.push(id);
        }
    }

    /// The poller number `index`; the list may change between two calls.
    pub(crate) fn poller(&self, index: usize) -> Option<Rc<dyn Sink>> {
        self.get(*self.pollers.get(index)?)
    }

    fn place_mut(&mut self, id: SinkId) -> Option<&mut Place> {
        self.places.get_mut(index(id)).filter(|place| place.generation == generation(id))
    }
}

fn index(id: SinkId) -> usize {
    (id.0 & ((1 << INDEX_BITS) - 1)) as usize
}

fn generation(id: SinkId) -> u32 {
    id.0 >> INDEX_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::{Cx, IoResult};

    struct Nobody;

    impl Sink for Nobody {
        fn complete(&self, _: u64, _: IoResult, _: &mut dyn Cx) {}
    }

    #[test]
    fn an_id_never_names_a_second_sink() {
        let mut sinks = Sinks::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 * MAX_GENERATION {
            let id = sinks.add(Rc::new(Nobody));
            assert!(seen.insert(id.0));
            assert!(sinks.contains(id));
            assert!(sinks.remove(id).is_some());
            assert!(sinks.get(id).is_none());
            assert!(sinks.remove(id).is_none());
        }
        assert_eq!(sinks.places.len(), 3);
    }

    #[test]
    fn a_removed_sink_is_polled_no_more() {
        let mut sinks = Sinks::default();
        let id = sinks.add(Rc::new(Nobody));
        sinks.set_polled(id, true);
        sinks.set_polled(id, true);
        assert!(sinks.poller(0).is_some());
        assert!(sinks.poller(1).is_none());
        sinks.remove(id);
        assert!(sinks.poller(0).is_none());
        sinks.set_polled(id, true);
        assert!(sinks.poller(0).is_none());
    }
}
