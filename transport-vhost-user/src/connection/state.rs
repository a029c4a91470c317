//! What a connection has and where it stands.

use super::descriptors::Vetting;
use super::ledger::Ledger;
use super::memory::{Mapping, RegionFile};
use super::notes::Noting;
use super::offer::{CONTROL_QUEUE, FIXED_QUEUES, INOUT, LAYOUTS, offer};
use super::resume::Resuming;
use super::tenancy::Tenancy;
use super::transfer::Transfer;
use crate::aside::Foreign;
use crate::device_state::DeviceState;
use crate::handover::HandedConnection;
use crate::memory::{DirtyLog, MemoryMap};
use crate::notify::{Kind, Notifier};
use crate::place::Place;
use crate::queue::{Fds, Setup, Stop};
use crate::ring::{Layout, NoteMemory};
use crate::wire::ConfigSpace;
use lunette_vhost_user::{
    Backend, Change, CheckStateReply, Decoder, Features, InflightArea, LogArea, Message, Vring,
    VringBaseReply,
};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(super) struct State {
    pub(super) backend: Backend,
    pub(super) decoder: Decoder,
    /// The open files of the descriptors that came with the message, which others may close meanwhile.
    pub(super) held: Vec<Foreign>,
    /// Bytes of a reply that the socket had no room for.
    pub(super) outbox: Vec<u8>,
    /// A descriptor of ours that goes with the first of them.
    pub(super) outbox_fd: Option<OwnedFd>,
    pub(super) memory: Arc<MemoryMap>,
    /// The files of guest memory, in the order of its regions.
    pub(super) files: Vec<RegionFile>,
    pub(super) config: ConfigSpace,
    /// Features that forbid to start any ring.
    pub(super) forbidding: Features,
    pub(super) fds: Vec<Fds>,
    /// Rings that another process has found broken, until they stop.
    pub(super) broken: BTreeSet<u16>,
    /// Rings that have come to rest for another process, or in another one and have not run since. Their notes say the same as
    /// their bases, for who is killed before they run.
    pub(super) rested: BTreeSet<u16>,
    /// The hand-over that they have come to rest for was broken off.
    pub(super) is_broken_off: bool,
    /// What each queue was last told; `None` for those that were never started.
    pub(super) told: Vec<Option<Started>>,
    /// Stays open: closing it means to the front end that the device was unplugged.
    pub(super) channel: Option<Foreign>,
    /// Numbers the times that something was waited for.
    pub(super) round: u64,
    /// Answers that are still to come in this round.
    pub(super) waiting: usize,
    /// Queues of other reactors that have not heard yet what they should be.
    pub(super) unheard: usize,
    /// The nexuses are reset when all have.
    pub(super) resetting: bool,
    /// Descriptors that are being looked at, with the bytes that they came with.
    pub(super) vetting: Option<Vetting>,
    /// Memory that is being mapped.
    pub(super) mapping: Option<Mapping>,
    /// Memory for notes that is being made or mapped.
    pub(super) noting: Option<Noting>,
    /// Where queues note what is in flight, if the front end keeps that.
    pub(super) notes: Option<NoteMemory>,
    /// Queues that have been served since these notes came, so that nothing of theirs is known by the notes alone.
    pub(super) served: Vec<bool>,
    /// The device is being reset: when all queues have stopped, nothing is noted any more.
    pub(super) forgetting: bool,
    /// What that memory is, for another process.
    pub(super) notes_file: Option<(InflightArea, Foreign)>,
    /// Where is marked what is written to guest memory, and its file.
    pub(super) log: Option<Arc<DirtyLog>>,
    pub(super) log_file: Option<(LogArea, Foreign)>,
    /// The state of the device on its way, and who wants to know what has become of it.
    pub(super) transfer: Transfer,
    pub(super) checking: Option<CheckStateReply>,
    /// Since rings have run, one was stopped while its writes were logged, or the state was saved: the virtual machine may go
    /// on elsewhere.
    pub(super) may_go: bool,
    /// What whoever had the units before has left with them, as long as nobody has begun to use them since.
    pub(super) left: Option<Box<DeviceState>>,
    /// Rings have run with the units since they came.
    pub(super) has_used_units: bool,
    /// In which terms of its units the state was left that was loaded, as long as no ring has run since.
    pub(super) loaded_of: BTreeMap<String, u64>,
    /// Rings that have run in another process, and have not been stopped or gone on since.
    pub(super) resumed: BTreeSet<u16>,
    /// Where the units are, and why they could not be had the last time.
    pub(super) tenancy: Tenancy,
    pub(super) refused: Option<String>,
    /// Queues that are not started because the units are not here.
    pub(super) held_back: Vec<bool>,
    /// What another process had is being mapped.
    pub(super) resuming: Option<Resuming>,
    /// Says which agreement is in force, where others go on after a kill.
    pub(super) ledger: Option<Ledger>,
    /// Messages have changed something since the observer was told.
    pub(super) has_changed: bool,
    /// Who takes the connection to another process.
    pub(super) taker: Option<Taker>,
    /// The control queue is not looked at because [commands are missing](State::commands_are_missing).
    pub(super) control_waits: bool,
    /// Former memory maps that are still in use, or are being unmapped.
    pub(super) epochs: usize,
    /// With how many of them the next message is carried out.
    pub(super) epochs_allowed: usize,
    /// What is done when nothing is waited for any more.
    pub(super) then: Then,
    pub(super) phase: Phase,
}

/// Whether a queue was told to be started.
type Started = bool;

/// Who takes the connection to another process.
pub(crate) type Taker = Box<dyn FnOnce(Option<HandedConnection>)>;

pub(super) enum Then {
    Nothing,
    Send(Message),
    /// The reply to GET_VRING_BASE.
    SendBase {
        reply: VringBaseReply,
        /// The ring has not run here, so where it stands is known by its notes alone.
        is_turned_back: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The queues finish what is in flight, for another process.
    HandingOver,
    /// The queues finish what is in flight, and turn back what has not begun.
    Draining,
    /// The queues are told to take no more.
    Silencing,
    /// Whatever is still in flight is being aborted.
    Closing,
    /// Nothing is in flight, and the memory is being unmapped.
    Leaving,
    Closed,
}

/// Which queues a message concerns.
pub(super) enum Concerned {
    None,
    One(u16),
    All,
}

impl State {
    pub(super) fn new(request_queues: u16, config: ConfigSpace, memory: Arc<MemoryMap>) -> Self {
        let offer = offer(request_queues);
        let count = usize::from(offer.queues);
        Self {
            backend: Backend::new(offer),
            decoder: Decoder::new(),
            held: Vec::new(),
            outbox: Vec::new(),
            outbox_fd: None,
            memory,
            files: Vec::new(),
            config,
            forbidding: Features::empty(),
            fds: vec![Fds::default(); count],
            broken: BTreeSet::new(),
            rested: BTreeSet::new(),
            is_broken_off: false,
            told: vec![None; count],
            channel: None,
            round: 0,
            waiting: 0,
            unheard: 0,
            resetting: false,
            vetting: None,
            mapping: None,
            noting: None,
            notes: None,
            served: vec![false; count],
            forgetting: false,
            notes_file: None,
            log: None,
            log_file: None,
            transfer: Transfer::None,
            checking: None,
            may_go: false,
            left: None,
            has_used_units: false,
            loaded_of: BTreeMap::new(),
            resumed: BTreeSet::new(),
            tenancy: Tenancy::Away,
            refused: None,
            held_back: vec![false; count],
            resuming: None,
            ledger: None,
            has_changed: false,
            taker: None,
            control_waits: false,
            epochs: 0,
            epochs_allowed: 0,
            then: Then::Nothing,
            phase: Phase::Open,
        }
    }

    /// Answers of earlier rounds do not count any more.
    pub(super) fn begin_round(&mut self) {
        self.round += 1;
        self.waiting = 0;
        self.unheard = 0;
        self.resetting = false;
    }

    /// Whether a queue works as the front end takes it.
    pub(super) fn is_started(&self, index: u16) -> bool {
        let vring = self.backend.state().vrings.get(usize::from(index));
        let is_held_back = self.held_back.get(usize::from(index)).is_some_and(|held| *held);
        vring.is_some_and(|vring| vring.started) && self.forbidding.is_empty() && !is_held_back
    }

    /// Whether something has to end before the next message.
    pub(super) fn is_waiting(&self) -> bool {
        // Units that are on their way bring with them what would be lost.
        let come_first = self.taker.is_some() && self.tenancy == Tenancy::Asked;
        self.is_busy() || come_first || self.epochs > self.epochs_allowed
    }

    /// Whether queues or calls that may block are still to answer.
    pub(super) fn is_busy(&self) -> bool {
        let is_aside = self.vetting.is_some()
            || self.mapping.is_some()
            || self.noting.is_some()
            || self.resuming.is_some();
        let is_asked = self.checking.is_some() || self.tenancy == Tenancy::Leaving || self.ends_first();
        self.waiting > 0 || self.unheard > 0 || is_aside || is_asked
    }

    /// Whether something was asked for that must end before the connection does.
    fn ends_first(&self) -> bool {
        !matches!(self.phase, Phase::Open | Phase::HandingOver)
            && (self.tenancy == Tenancy::Asked || self.transfer.is_aside())
    }

    /// Carries a change out as far as this side is concerned.
    pub(super) fn make(&mut self, change: Change, place: &Place) -> Result<Concerned, String> {
        Ok(match change {
            Change::SetVringBase { index, .. }
            | Change::SetVringEnable { index, .. }
            | Change::KickVring { index }
            // Of a ring that runs, only what is logged changes.
            | Change::SetVringAddress { index, .. } => Concerned::One(index),
            Change::SetVringKick { index, fd } => {
                let kick = fd.map(kick).transpose();
                self.fds[usize::from(index)].kick = kick.inspect_err(|_| self.backend.undo_kick(index))?;
                Concerned::One(index)
            }
            Change::SetVringCall { index, fd } => {
                self.fds[usize::from(index)].call = notifier(fd, index, place)?;
                Concerned::One(index)
            }
            Change::SetVringError { index, fd } => {
                self.fds[usize::from(index)].error = notifier(fd, index, place)?;
                Concerned::One(index)
            }
            Change::SetFeatures { unoffered, .. } => {
                self.forbidding = unoffered & LAYOUTS;
                Concerned::All
            }
            Change::SetConfig(config) => {
                if !self.config.write(config.offset, &config.bytes) {
                    return Err("SET_CONFIG writes more than valid sizes of sense data and CDBs".to_owned());
                }
                Concerned::All
            }
            Change::ResetDevice => {
                self.config.reset();
                Concerned::All
            }
            Change::ResetOwner => Concerned::All,
            Change::SetBackendRequestFd(fd) => {
                self.channel = Some(Foreign::new(fd, &place.aside));
                Concerned::None
            }
            // Sizes count from the next start. Who has the log (SET_LOG_FD) looks at it without being told. What is left was not
            // offered, or concerns nothing here.
            _ => Concerned::None,
        })
    }

    pub(super) fn setup(&self, index: u16, started: bool) -> Setup {
        let session = self.backend.state();
        let vring = &session.vrings[usize::from(index)];
        let address = vring.address.as_ref();
        Setup {
            started,
            stop: self.stop(),
            broken: self.broken.contains(&index),
            enabled: vring.enabled && !(index == CONTROL_QUEUE && self.commands_are_missing()),
            layout: Layout {
                size: vring.size,
                packed: session.features.contains(Features::RING_PACKED),
                descriptors: address.map_or(0, |address| address.descriptor),
                available: address.map_or(0, |address| address.available),
                used: address.map_or(0, |address| address.used),
                event_index: session.features.contains(Features::EVENT_IDX),
                indirect: session.features.contains(Features::INDIRECT_DESC),
            },
            base: vring.base,
            at_rest: false,
            notes: self.notes.clone().map(|memory| (memory, index)),
            log: self.logging(address),
            sizes: self.config.sizes,
            bidirectional: session.features.contains(INOUT),
            fds: self.fds[usize::from(index)].clone(),
        }
    }
}

impl State {
    /// Whether there are commands in flight of which we know only by the notes: their queues are not served yet. A task
    /// management function would not find them, and say that all is well.
    pub(super) fn commands_are_missing(&self) -> bool {
        let Some(notes) = &self.notes else { return false };
        let session = self.backend.state();
        let packed = session.features.contains(Features::RING_PACKED);
        let is_served = |vring: &Vring| vring.started && vring.enabled;
        let queues = (0..).zip(session.vrings.iter().zip(&self.served));
        let mut unserved = queues.filter(|(_, (vring, served))| !(**served || is_served(vring)));
        unserved.any(|(index, _)| index >= FIXED_QUEUES && notes.has_some(index, packed))
    }

    /// Whether the notes of a queue say where it stands, as a former process has left them.
    pub(super) fn is_noted(&self, index: u16) -> bool {
        !self.broken.contains(&index) && self.notes.as_ref().is_some_and(|notes| notes.is_begun(index))
    }

    /// Rings that wait for their units, and have not run since they were started.
    pub(super) fn waiting_anew(&self) -> impl Iterator<Item = u16> {
        let held_back = (0..).zip(&self.held_back).filter(|(_, held)| **held).map(|(index, _)| index);
        held_back.filter(|index| !self.broken.contains(index) && !self.is_noted(*index))
    }

    /// A message is about to change something.
    pub(super) fn begin_change(&mut self) {
        self.has_changed = true;
        self.ledger.iter_mut().for_each(Ledger::change);
    }

    /// How queues stop that are told to.
    fn stop(&self) -> Stop {
        match self.phase {
            _ if self.forgetting => Stop::Forget,
            Phase::Silencing => Stop::Keep,
            Phase::HandingOver => Stop::HandOver,
            _ => Stop::Answer,
        }
    }

    /// A ring that waited for its units is set up anew: what another process has left of it is of no use.
    pub(super) fn begins_anew(&mut self, index: u16) {
        self.broken.remove(&index);
        self.rested.remove(&index);
        self.resumed.remove(&index);
        self.notes.iter().for_each(|notes| notes.end(index));
    }

    fn is_packed(&self) -> bool {
        self.backend.state().features.contains(Features::RING_PACKED)
    }

    /// All queues have stopped: no other process goes on with those that have come to rest for it, so they leave no notes, like any
    /// that was stopped. What is in flight stays noted.
    pub(super) fn end_rested(&mut self) {
        if std::mem::take(&mut self.is_broken_off)
            && let Some(notes) = &self.notes
        {
            let told = (0..).zip(&self.told).filter(|(_, told)| told.is_some());
            told.for_each(|(index, _)| notes.end_idle(index, self.is_packed()));
        }
    }

    /// All queues have stopped: nobody waits for what was in flight when the device was reset.
    pub(super) fn forget_if_reset(&mut self) {
        if std::mem::take(&mut self.forgetting)
            && let Some(notes) = &self.notes
        {
            notes.forget();
        }
    }
}

pub(super) fn notifier(
    fd: Option<OwnedFd>,
    index: u16,
    place: &Place,
) -> Result<Option<Arc<Notifier>>, String> {
    let Some(fd) = fd else { return Ok(None) };
    let notifier = Notifier::new(fd, place.reactor(index), &place.aside);
    notifier.map(|notifier| Some(Arc::new(notifier))).map_err(|error| error.to_string())
}

/// A descriptor that is only polled. To poll or close another than an eventfd may wait for whoever is behind it.
pub(super) fn kick(fd: OwnedFd) -> Result<Arc<OwnedFd>, String> {
    match Kind::of(&fd) {
        Kind::Event => Ok(Arc::new(fd)),
        _ => Err("a kick descriptor is no eventfd".to_owned()),
    }
}
