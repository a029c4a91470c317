//! For fuzzers and measurements only: a device's queues on one reactor, without sockets; a look at what is left of
//! exports; guest memory with fences.

use crate::aside::Aside;
use crate::events::Events;
use crate::local::{ConnectionId, ExportId, Local};
use crate::memory::{DirtyLog, FENCED, MemoryMap};
use crate::place::{Observer, Place};
use crate::queue::{Fds, Logging, Queue, Setup, Stop};
use crate::ring::{Layout, NoteMemory};
use crate::targets::Targets;
use crate::wire::Sizes;
use lunette_engine::Nexus;
use lunette_store::log::LineBudget;
use lunette_store::{Cx, Sink};
use lunette_vhost_user::SharedRegion;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// From now on, guest memory of all exports is mapped between pages that nobody may access. Not for huge pages.
pub fn fence_guest_memory() {
    FENCED.store(true, Ordering::Relaxed);
}

/// How many exports, connections and queues a reactor has.
pub fn residents(cx: &mut dyn Cx) -> [usize; 3] {
    let local = Local::on(cx);
    [local.listeners.borrow().len(), local.connections.borrow().len(), local.queues.borrow().len()]
}

/// The queues of one connection: control, event and one of requests.
pub struct Queues {
    queues: Vec<Rc<Queue>>,
    setups: Vec<Setup>,
    memory: Arc<MemoryMap>,
}

/// Where a ring is, in the front end's own addresses, and where it begins.
#[derive(Clone, Copy, Debug)]
pub struct RingSetup {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table, available ring, used ring, or what a packed ring has in their stead.
    pub parts: [u64; 3],
    /// Packed instead of split.
    pub packed: bool,
    /// Next entry of the available ring; both positions of a packed ring.
    pub base: u32,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// Bytes of the CDB and sense fields.
    pub sizes: [u16; 2],
    /// `VIRTIO_SCSI_F_INOUT`.
    pub bidirectional: bool,
}

impl Queues {
    /// Three queues that are stopped, on the reactor of `cx`. `None` if the memory cannot be mapped.
    pub fn new(nexus: &Arc<Nexus>, memory: &[SharedRegion], cx: &mut dyn Cx) -> Option<Self> {
        let reactor = cx.reactor();
        let reactors = [reactor].into();
        let events = Arc::new(Events::new(ExportId::next(), reactor, cx.poster()));
        let place = Place {
            name: "fuzz".into(),
            targets: Arc::new(Targets::one(nexus.clone(), &events)),
            events,
            home: reactor,
            reactors,
            pin_memory: false,
            keep_notes: false,
            aside: Aside::new(reactor, cx.poster()),
            log: LineBudget::default(),
            observer: Observer::default(),
            lease: None,
        };
        let (place, connection, local) = (Arc::new(place), ConnectionId::next(), Local::on(cx));
        let layout = Layout {
            size: 1,
            packed: false,
            descriptors: 0,
            available: 0,
            used: 0,
            event_index: false,
            indirect: false,
        };
        let setup = Setup {
            started: false,
            stop: Stop::Answer,
            broken: false,
            enabled: true,
            layout,
            base: 0,
            at_rest: false,
            notes: None,
            log: None,
            sizes: Sizes::DEFAULT,
            bidirectional: false,
            fds: Fds::default(),
        };
        let setups = vec![setup; 3];
        let queues =
            (0..).zip(&setups).map(|(index, setup)| Queue::on(&local, connection, index, &place, setup, cx));
        Some(Self { queues: queues.collect(), memory: Arc::new(MemoryMap::new(memory).ok()?), setups })
    }

    /// Has the queues note what is in flight, from their next start on. `region` begins at address 0, and is for queues of as
    /// many descriptors as said. Whether it can be mapped.
    pub fn keep_notes(&mut self, region: SharedRegion, queue_size: u16) -> bool {
        let length = region.region.size;
        let Ok(map) = MemoryMap::new(&[region]) else { return false };
        let notes = NoteMemory::new(map, length, self.setups.len() as u16, queue_size);
        for (index, setup) in (0..).zip(&mut self.setups) {
            setup.notes = Some((notes.clone(), index));
        }
        true
    }

    /// Has the queues mark what they write, from their next start on, in a log that fills `region`, which begins at address 0;
    /// their rings where `used` says. Whether it can be mapped.
    pub fn keep_log(&mut self, region: SharedRegion, used: u64) -> bool {
        let length = region.region.size;
        let Ok(map) = MemoryMap::new(&[region]) else { return false };
        let Some(log) = DirtyLog::new(map, length).map(Arc::new) else { return false };
        for setup in &mut self.setups {
            setup.log = Some(Logging { log: log.clone(), used: Some(used) });
        }
        true
    }

    /// Starts a queue, or changes what counts while it runs. The driver has no way to notify it, so it looks at its ring
    /// by the clock.
    pub fn start(&mut self, queue: usize, ring: &RingSetup, cx: &mut dyn Cx) {
        let [descriptors, available, used] = ring.parts;
        let RingSetup { size, packed, base, event_index, indirect, sizes: [cdb, sense], .. } = *ring;
        let setup = &mut self.setups[queue];
        setup.layout = Layout { size, packed, descriptors, available, used, event_index, indirect };
        setup.started = true;
        setup.base = base;
        setup.sizes = Sizes { cdb: cdb.max(1), sense };
        setup.bidirectional = ring.bidirectional;
        self.apply(queue, cx);
    }

    /// Stops a queue.
    pub fn stop(&mut self, queue: usize, cx: &mut dyn Cx) {
        self.setups[queue].started = false;
        self.apply(queue, cx);
    }

    /// Lets all queues go on in other memory. Whether that can be mapped.
    pub fn remap(&mut self, memory: &[SharedRegion], cx: &mut dyn Cx) -> bool {
        let Ok(map) = MemoryMap::new(memory) else { return false };
        self.memory = Arc::new(map);
        (0..self.queues.len()).for_each(|queue| self.apply(queue, cx));
        true
    }

    /// Looks at a ring, as an awake reactor does. Whether there was work.
    pub fn poll(&self, queue: usize, cx: &mut dyn Cx) -> bool {
        self.queues[queue].poll(cx)
    }

    /// Whether a queue's ring is looked at: not after it was found broken.
    pub fn is_running(&self, queue: usize) -> bool {
        self.queues[queue].state().ring.is_some()
    }

    fn apply(&self, queue: usize, cx: &mut dyn Cx) {
        self.queues[queue].apply(self.setups[queue].clone(), self.memory.clone(), None, cx);
    }
}
