//! What a queue has and where it stands.

use super::run::PUBLISH_AT;
use super::slots::{Slot, Slots};
use super::{Logging, Setup, TICKS};
use crate::control::Round;
use crate::memory::MemoryMap;
use crate::ring::{Chain, Head, Ring, RingError};
use crate::targets::Sessions;
use crate::wire::Expected;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct State {
    pub(crate) setup: Setup,
    /// With the targets.
    pub(crate) sessions: Sessions,
    /// While started and not broken, and until the last request has ended.
    pub(crate) ring: Option<Ring>,
    /// The ring was found broken since its start.
    pub(super) broken: bool,
    /// The front end has taken the ring's own memory away; the ring goes on when it is there again.
    pub(super) suspended: bool,
    /// Where the ring stands or stood.
    pub(super) base: u32,
    /// Chains are taken from the ring.
    pub(super) taking: bool,
    /// The requests under way.
    pub(crate) slots: Slots,
    pub(crate) chain: Chain,
    /// Numbers the memory maps of this queue; requests of epochs before the first are not this ring's.
    epoch: u64,
    pub(super) first_epoch: u64,
    /// Requests under way in the ring's memory.
    pub(crate) in_flight: u16,
    /// Memory that is no more the ring's, with requests under way in it.
    pub(super) past: Vec<Past>,
    /// What the connection waits for.
    pub(super) round: Option<u64>,
    pub(super) watched: Option<Arc<OwnedFd>>,
    /// When to look next if the driver cannot notify us.
    pub(super) tick: Duration,
    /// The driver's notifications are suppressed.
    pub(super) awake: bool,
    /// The reactor polls us.
    pub(super) polled: bool,
    pub(super) looks: u32,
    /// Task management functions that wait for requests before them, and how many these may still be.
    pub(super) behind: Vec<(usize, Rc<Round>)>,
    /// A call to publish is on its way.
    pub(super) deferred: bool,
    /// A call to go on is on its way.
    pub(super) going_on: bool,
}

pub(super) struct Past {
    epoch: u64,
    in_flight: u16,
    memory: Arc<MemoryMap>,
}

impl State {
    pub(super) fn new(setup: Setup, sessions: Sessions) -> Self {
        Self {
            setup,
            sessions,
            ring: None,
            broken: false,
            suspended: false,
            base: 0,
            taking: false,
            slots: Slots::default(),
            chain: Chain::default(),
            epoch: 0,
            first_epoch: 0,
            in_flight: 0,
            past: Vec::new(),
            round: None,
            watched: None,
            tick: TICKS[0],
            awake: false,
            polled: false,
            looks: 0,
            behind: Vec::new(),
            deferred: false,
            going_on: false,
        }
    }

    pub(super) fn active(&self) -> bool {
        self.ring.is_some() && self.setup.started && !self.suspended
    }

    /// Whether the ring is to be let go of.
    pub(super) fn stops(&self) -> bool {
        !self.setup.started || self.suspended
    }

    /// Whether nothing of a former state is in use.
    pub(super) fn has_settled(&self) -> bool {
        self.past.is_empty() && !(self.stops() && self.in_flight > 0)
    }

    /// Starts the ring; how many requests of a former process are in flight, if there was one.
    pub(super) fn start(&mut self, memory: Arc<MemoryMap>) -> Result<Option<usize>, RingError> {
        self.begin(memory)
    }

    /// Goes on where the ring stood, if its memory is there again.
    pub(super) fn resume(&mut self, memory: Arc<MemoryMap>) -> Result<(), RingError> {
        let resumed = self.begin(memory).map(drop);
        self.suspended = matches!(resumed, Err(RingError::Outside { .. }));
        if self.suspended { Ok(()) } else { resumed }
    }

    fn begin(&mut self, memory: Arc<MemoryMap>) -> Result<Option<usize>, RingError> {
        let mut ring = Ring::new(memory, self.setup.layout, self.base)?;
        let noted = match &self.setup.notes {
            Some((notes, queue)) => ring.note(notes, *queue)?,
            None => None,
        };
        let noted = noted.filter(|count| *count > 0 || !self.setup.at_rest);
        self.slots.make_room(match self.setup.layout.packed {
            true => 1 << u16::BITS,
            false => self.setup.layout.size.into(),
        });
        self.ring = Some(ring);
        if noted.is_some() {
            self.mark_ring();
        }
        self.first_epoch = self.epoch;
        self.awake = false;
        if noted.is_some() {
            // The former process may have shown something and died before it said so.
            self.signal();
        }
        Ok(noted)
    }

    pub(super) fn remap(&mut self, memory: Arc<MemoryMap>) -> Result<(), RingError> {
        if let Some(ring) = &mut self.ring {
            match ring.remap(memory) {
                Ok(old) => {
                    self.retire(old);
                    self.suspended = false;
                }
                // What is under way ends in the old memory.
                Err(RingError::Outside { .. }) => self.suspended = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the front end has truncated the ring's memory, or that of its notes.
    pub(super) fn memory_is_gone(&self) -> bool {
        self.ring.as_ref().is_some_and(Ring::is_lost)
    }

    /// Keeps memory that is no more the ring's for the requests that are under way in it.
    pub(super) fn retire(&mut self, memory: Arc<MemoryMap>) {
        if self.in_flight > 0 {
            self.past.push(Past { epoch: self.epoch, in_flight: self.in_flight, memory });
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.in_flight = 0;
    }

    /// The request in `chain`, which is empty then, is under way, with the number that [`Slots::next`] gave; its response goes to
    /// the first `response` writable bytes.
    #[inline]
    pub(crate) fn hold(&mut self, head: Head, expected: Expected, response: u64) -> &mut Slot {
        self.in_flight += 1;
        let slot = self.slots.hold(head, &mut self.chain, response);
        slot.epoch = self.epoch;
        slot.expected = expected;
        slot
    }

    /// A request of the memory `epoch` has ended.
    pub(super) fn let_go(&mut self, epoch: u64) {
        if epoch == self.epoch {
            self.in_flight -= 1;
        } else if let Some(index) = self.past.iter().position(|past| past.epoch == epoch) {
            self.past[index].in_flight -= 1;
            if self.past[index].in_flight == 0 {
                self.past.swap_remove(index);
            }
        }
    }

    /// Returns `chain` to the driver.
    #[inline]
    pub(crate) fn answer(&mut self, head: Head, written: u32) {
        if self.setup.log.is_some() {
            self.mark_chain();
        }
        if let Some(ring) = &mut self.ring {
            ring.push(head, written);
        }
    }

    pub(super) fn unpublished(&self) -> u16 {
        self.ring.as_ref().map_or(0, Ring::unpublished)
    }

    /// Shows the driver what was returned, and notifies it if it wants that.
    pub(super) fn publish(&mut self) {
        if self.setup.log.is_some() {
            return self.publish_marked();
        }
        if let Some(ring) = &mut self.ring
            && ring.publish()
        {
            self.signal();
        }
    }

    /// Does the same, and marks what was written.
    #[cold]
    #[inline(never)]
    fn publish_marked(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let has_written = ring.unpublished() > 0;
        let wanted = ring.publish();
        if has_written {
            self.mark_ring();
        }
        if wanted {
            self.signal();
        }
    }

    /// Marks all that the device may have written of `chain`.
    #[cold]
    #[inline(never)]
    fn mark_chain(&self) {
        if let (Some(logging), Some(ring)) = (&self.setup.log, &self.ring) {
            logging.log.mark_list(self.chain.writable(), ring.memory());
        }
    }

    /// Marks the ring, which was written to.
    #[cold]
    #[inline(never)]
    fn mark_ring(&self) {
        if let Some(Logging { log, used: Some(used) }) = &self.setup.log
            && let Some(ring) = &self.ring
        {
            ring.mark(log, *used);
        }
    }

    /// Marks all that a request may have written to that has ended, however it has.
    #[cold]
    #[inline(never)]
    pub(super) fn mark_ended(&self, slot: &Slot) {
        if let Some(logging) = &self.setup.log {
            let past = || self.past.iter().find(|past| past.epoch == slot.epoch).map(|past| &past.memory);
            let memory = match slot.epoch == self.epoch {
                true => self.ring.as_ref().map(Ring::memory),
                false => past(),
            };
            memory.inspect(|memory| logging.log.mark_list(slot.writable(), memory));
        }
    }

    /// Tells the driver that it need not notify us.
    pub(super) fn suppress_kicks(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.suppress_kicks();
            if self.setup.log.is_some() {
                self.mark_ring();
            }
        }
    }

    /// Asks the driver to notify us of the next chain. Whether there is one already.
    pub(super) fn want_kicks(&mut self) -> Result<bool, RingError> {
        let Some(ring) = &mut self.ring else { return Ok(false) };
        let more = ring.want_kicks();
        if self.setup.log.is_some() {
            self.mark_ring();
        }
        more
    }

    /// Whether there is a chain to take.
    pub(super) fn has_waiting(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.has_waiting(0))
    }

    /// Publishes if no more is waiting than has ended, so that the driver deals with one half of its requests while we
    /// deal with the other; neither waits for the other as long as there is work.
    #[inline]
    pub(super) fn publish_half(&mut self) {
        if let Some(ring) = &mut self.ring {
            let ended = ring.unpublished();
            if ended >= PUBLISH_AT || ended > 0 && !ring.has_waiting(ended) {
                self.publish();
            }
        }
    }

    /// Notifies the driver.
    pub(super) fn signal(&self) {
        if let Some(call) = &self.setup.fds.call
            && self.ring.is_some()
        {
            call.notify();
        }
    }
}
