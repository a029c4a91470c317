//! The back end's side of a session.

mod event;
mod state;

use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;

pub use event::{
    Change, CheckStateReply, ConfigReply, Event, InflightReply, MoveStateReply, SharedRegion, VringBaseReply,
};
pub use state::{MAX_QUEUES, Offer, State, Vring};

use crate::error::{Error, Fault};
use crate::features::{Features, ProtocolFeatures};
use crate::message::{Ack, BackendRequest, FrontendRequest, Message};
use crate::payload::{
    Config, InflightArea, LogArea, MemoryRegion, MemoryTable, SingleRegion, StateDirection, StateTransfer,
    VringAddress, VringFd, VringState,
};

/// The back end of one connection: takes the front end's messages, keeps [`State`], and says what is to be done.
///
/// Messages are handled in order and one at a time: the answer of an [`Event`] is sent before the next message is
/// handled. The state follows the request. If the transport cannot carry a change out, it tells so through [`Ack`], and
/// takes back what concerned [memory](Self::undo_memory_change), [kicks](Self::undo_kick) or [features](Self::undo_features); without need_reply, closing
/// the connection is the only way to tell.
#[derive(Debug)]
pub struct Backend {
    offer: Offer,
    state: State,
    /// Guest memory before its last change.
    former_memory: Vec<MemoryRegion>,
    /// Whether the ring that was kicked last had been started before.
    was_started: bool,
    /// What was before features were last acknowledged.
    former: Former,
}

/// What SET_FEATURES changes.
#[derive(Debug)]
struct Former {
    features: Features,
    acknowledged: bool,
    /// Of each ring.
    enabled: Vec<bool>,
}

impl Former {
    fn of(state: &State) -> Self {
        let enabled = state.vrings.iter().map(|vring| vring.enabled).collect();
        Self { features: state.features, acknowledged: state.acknowledged, enabled }
    }
}

/// What handling a request comes to, before it is known whether it is acknowledged.
enum Outcome {
    Change(Change),
    Other(Event),
}

impl From<Change> for Outcome {
    fn from(change: Change) -> Self {
        Self::Change(change)
    }
}

impl From<Event> for Outcome {
    fn from(event: Event) -> Self {
        Self::Other(event)
    }
}

impl Backend {
    /// The protocol features that this crate knows how to serve.
    pub const SUPPORTED: ProtocolFeatures = ProtocolFeatures::MQ
        .union(ProtocolFeatures::LOG_SHMFD)
        .union(ProtocolFeatures::REPLY_ACK)
        .union(ProtocolFeatures::BACKEND_REQ)
        .union(ProtocolFeatures::CONFIG)
        .union(ProtocolFeatures::INFLIGHT_SHMFD)
        .union(ProtocolFeatures::RESET_DEVICE)
        .union(ProtocolFeatures::INBAND_NOTIFICATIONS)
        .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
        .union(ProtocolFeatures::STATUS)
        .union(ProtocolFeatures::DEVICE_STATE);

    /// A back end at the start of a connection.
    pub fn new(offer: Offer) -> Self {
        Self::with(offer, State::default())
    }

    /// A back end in the middle of a session that another process began. Its offer may have been a smaller one.
    ///
    /// # Errors
    /// When no session with `offer` can have come to that state.
    pub fn resume(offer: Offer, state: State) -> Result<Self, Fault> {
        let backend = Self::with(offer, state);
        backend.state.check(&backend.offer)?;
        Ok(backend)
    }

    fn with(mut offer: Offer, mut state: State) -> Self {
        offer.protocol_features &= Self::SUPPORTED;
        offer.features.set(Features::PROTOCOL_FEATURES, !offer.protocol_features.is_empty());
        offer.queues = offer.queues.min(MAX_QUEUES);
        if state.vrings.len() < offer.queues.into() {
            state.vrings.resize_with(offer.queues.into(), Vring::default);
        }
        let former = Former::of(&state);
        Self { offer, state, former_memory: Vec::new(), was_started: false, former }
    }

    /// What is offered.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What has been agreed upon.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes the last change of guest memory back, because it could not be carried out: later ones are checked against
    /// the memory as it was before.
    pub fn undo_memory_change(&mut self) {
        self.state.memory.clone_from(&self.former_memory);
    }

    /// Takes the last SET_VRING_KICK back, which was for queue `index`, because its descriptor is of no use: it has started
    /// nothing.
    pub fn undo_kick(&mut self, index: u16) {
        if let Some(vring) = self.state.vrings.get_mut(usize::from(index)) {
            vring.started = self.was_started;
        }
    }

    /// Takes the last SET_FEATURES back, and which rings it has enabled.
    pub fn undo_features(&mut self) {
        (self.state.features, self.state.acknowledged) = (self.former.features, self.former.acknowledged);
        let vrings = self.state.vrings.iter_mut().zip(&self.former.enabled);
        vrings.for_each(|(vring, enabled)| vring.enabled = *enabled);
    }

    /// Whether the last SET_FEATURES has acknowledged `feature`, which was not acknowledged before.
    pub fn has_acknowledged(&self, feature: Features) -> bool {
        (self.state.features - self.former.features).contains(feature)
    }

    /// The ring of queue `index`, which has been stopped for another process, is at `base`, in the form of [`Vring::base`]. The
    /// front end is not told, and takes it for started.
    pub fn vring_left(&mut self, index: u16, base: u32) {
        if let Some(vring) = self.state.vrings.get_mut(usize::from(index)) {
            vring.base = base;
        }
    }

    /// The reply to GET_VRING_BASE: the ring has stopped at `base`, in the form of [`Vring::base`]. It starts there again
    /// unless SET_VRING_BASE comes first.
    pub fn vring_stopped(&mut self, VringBaseReply { index }: VringBaseReply, base: u32) -> Message {
        if let Some(vring) = self.state.vrings.get_mut(usize::from(index)) {
            vring.base = base;
        }
        let state = VringState { index: index.into(), num: base };
        Message::reply(FrontendRequest::GET_VRING_BASE.0, state.as_bytes())
    }

    /// Handles one message of the front end.
    ///
    /// A request that cannot be carried out is [refused](Event::Refused) if its sender can be told, and
    /// [ignored](Event::Ignored) if it is only unknown or was not negotiated and nobody waits for its reply. Any other fault is an error, and the
    /// connection is to be closed.
    pub fn handle(&mut self, message: Message) -> Result<Event, Error> {
        let request = FrontendRequest(message.request);
        let flags = message.flags;
        if flags.is_reply() {
            return Err(Error::Frontend { request, fault: Fault::NotARequest });
        }
        let outcome = self.execute(request, message);
        // User-Mode Linux asks for the acknowledgement of the very message that negotiates acknowledgements.
        let negotiated = self.state.protocol_features;
        let forced = request == FrontendRequest::SET_LOG_BASE && request.has_reply(negotiated);
        let asked = flags.needs_reply()
            && negotiated.contains(ProtocolFeatures::REPLY_ACK)
            && !request.has_reply(negotiated);
        let ack = Ack { wanted_for: (asked || forced).then_some(request.0) };
        match outcome {
            Ok(Outcome::Change(change)) => Ok(Event::Change(change, ack)),
            Ok(Outcome::Other(event)) => Ok(event),
            Err(fault) => refuse(request, fault, ack, request.has_reply(negotiated)),
        }
    }

    /// The message for the front end's side channel that says that the configuration space has changed, if the
    /// front end can take it. It asks for no reply: the channel of User-Mode Linux is a pipe.
    pub fn config_changed(&self) -> Option<Message> {
        self.notice(BackendRequest::CONFIG_CHANGE_MSG, ProtocolFeatures::CONFIG, &[])
    }

    /// The in-band notification that buffers of a queue were used, if negotiated.
    pub fn vring_call(&self, index: u16) -> Option<Message> {
        let state = VringState { index: index.into(), num: 0 };
        self.notice(BackendRequest::VRING_CALL, ProtocolFeatures::INBAND_NOTIFICATIONS, state.as_bytes())
    }

    /// The in-band notification that a ring is broken, if negotiated.
    pub fn vring_error(&self, index: u16) -> Option<Message> {
        let state = VringState { index: index.into(), num: 0 };
        self.notice(BackendRequest::VRING_ERR, ProtocolFeatures::INBAND_NOTIFICATIONS, state.as_bytes())
    }

    fn notice(&self, request: BackendRequest, needed: ProtocolFeatures, payload: &[u8]) -> Option<Message> {
        let needed = needed | ProtocolFeatures::BACKEND_REQ;
        self.state.protocol_features.contains(needed).then(|| Message::request(request.0, payload))
    }

    fn execute(&mut self, request: FrontendRequest, mut message: Message) -> Result<Outcome, Fault> {
        use FrontendRequest as R;
        let needed = needed_feature(request)?;
        let agreed = match request {
            // These two need only be offered, the specification says.
            R::GET_QUEUE_NUM | R::SET_BACKEND_REQ_FD => self.offer.protocol_features,
            _ => self.state.protocol_features,
        };
        if !agreed.contains(needed) {
            return Err(Fault::NotNegotiated(needed));
        }
        let fds = std::mem::take(&mut message.fds);
        let m = &message;
        match request {
            R::SET_MEM_TABLE => self.set_memory_table(&m.payload, fds),
            R::ADD_MEM_REG => self.add_memory_region(m.body()?, one(fds)?),
            // Some front ends send the region's descriptor along; it is closed unused.
            R::REM_MEM_REG => self.remove_memory_region(m.body()?),
            R::SET_VRING_KICK => self.set_kick(m.body()?, fds),
            R::SET_VRING_CALL => {
                let (index, fd) = self.vring_fd(m.body()?, fds)?;
                Ok(Change::SetVringCall { index, fd }.into())
            }
            R::SET_VRING_ERR => {
                let (index, fd) = self.vring_fd(m.body()?, fds)?;
                Ok(Change::SetVringError { index, fd }.into())
            }
            R::SET_BACKEND_REQ_FD => {
                m.body::<()>().and(one(fds)).map(|fd| Change::SetBackendRequestFd(fd).into())
            }
            R::SET_LOG_BASE => {
                let area = m.body::<LogArea>()?;
                Ok(Change::SetLogBase { area, fd: one(fds)? }.into())
            }
            R::SET_LOG_FD => m.body::<()>().and(one(fds)).map(|fd| Change::SetLogFd(fd).into()),
            R::SET_INFLIGHT_FD => {
                let area = self.inflight_area(&m.payload)?;
                Ok(Change::SetInflight { area, fd: one(fds)? }.into())
            }
            R::SET_DEVICE_STATE_FD => self.move_state(m.body()?, one(fds)?),
            _ => none(fds).and_then(|()| self.execute_without_fds(request, m)),
        }
    }

    fn move_state(&self, transfer: StateTransfer, fd: OwnedFd) -> Result<Outcome, Fault> {
        let direction = StateDirection::of(transfer.direction)?;
        match transfer.phase {
            StateTransfer::STOPPED if self.state.vrings.iter().any(|vring| vring.started) => {
                Err(Fault::Started)
            }
            StateTransfer::STOPPED => {
                Ok(Event::MoveState { direction, fd, reply: MoveStateReply(()) }.into())
            }
            other => Err(Fault::Value { field: "phase of a transfer", value: other.into() }),
        }
    }

    fn execute_without_fds(&mut self, request: FrontendRequest, m: &Message) -> Result<Outcome, Fault> {
        use FrontendRequest as R;
        let number = |value: u64| Ok(Event::Reply(Message::reply(request.0, value.to_ne_bytes())).into());
        match request {
            R::GET_FEATURES => m.body::<()>().and_then(|()| number(self.offer.features.bits())),
            R::GET_PROTOCOL_FEATURES => {
                m.body::<()>().and_then(|()| number(self.offer.protocol_features.bits()))
            }
            R::GET_QUEUE_NUM => m.body::<()>().and_then(|()| number(self.offer.queues.into())),
            R::GET_MAX_MEM_SLOTS => m.body::<()>().and_then(|()| number(self.offer.max_memory_slots.into())),
            R::GET_STATUS => m.body::<()>().and_then(|()| number(self.state.status.into())),
            R::CHECK_DEVICE_STATE => m.body::<()>().map(|()| Event::CheckState(CheckStateReply(())).into()),
            R::SET_FEATURES => Ok(self.set_features(m.body()?)),
            R::SET_PROTOCOL_FEATURES => self.set_protocol_features(m.body()?),
            R::SET_OWNER => m.body::<()>().map(|()| self.set_owner()),
            R::RESET_OWNER => m.body::<()>().map(|()| self.reset_owner()),
            R::RESET_DEVICE => m.body::<()>().map(|()| self.reset_device()),
            R::SET_STATUS => self.set_status(m.body()?),
            R::SET_VRING_NUM => self.set_vring_size(m.body()?),
            R::SET_VRING_ADDR => self.set_vring_address(m.body()?),
            R::SET_VRING_BASE => self.set_vring_base(m.body()?),
            R::GET_VRING_BASE => self.stop_vring(m.body()?),
            R::SET_VRING_ENABLE => self.enable_vring(m.body()?),
            R::VRING_KICK => self.kick_vring(m.body()?),
            R::SET_CONFIG => Ok(Change::SetConfig(Config::parse(&m.payload)?).into()),
            R::GET_CONFIG => Ok(read_config(Config::parse(&m.payload)?)),
            R::GET_INFLIGHT_FD => {
                let area = self.inflight_area(&m.payload)?;
                Ok(Event::GetInflight { area, reply: InflightReply { area, size: m.payload.len() } }.into())
            }
            _ => Err(Fault::Unknown),
        }
    }

    fn set_owner(&mut self) -> Outcome {
        self.state.owned = true;
        Change::SetOwner.into()
    }

    fn reset_owner(&mut self) -> Outcome {
        self.state.owned = false;
        for vring in &mut self.state.vrings {
            (vring.enabled, vring.told) = (false, false);
        }
        Change::ResetOwner.into()
    }

    fn reset_device(&mut self) -> Outcome {
        self.state.status = 0;
        // As at the start of a session that has the same features.
        let enabled = self.state.acknowledged && !self.state.features.contains(Features::PROTOCOL_FEATURES);
        self.state.vrings.fill(Vring { enabled, ..Vring::default() });
        Change::ResetDevice.into()
    }

    fn set_features(&mut self, bits: u64) -> Outcome {
        let wanted = Features::from_bits_retain(bits);
        let acked = wanted & self.offer.features;
        self.former = Former::of(&self.state);
        (self.state.features, self.state.acknowledged) = (acked, true);
        for vring in self.state.vrings.iter_mut().filter(|vring| !vring.told) {
            vring.enabled = !acked.contains(Features::PROTOCOL_FEATURES);
        }
        Change::SetFeatures { acked, unoffered: wanted - acked }.into()
    }

    fn set_protocol_features(&mut self, bits: u64) -> Result<Outcome, Fault> {
        let wanted = ProtocolFeatures::from_bits_retain(bits);
        let acked = wanted & self.offer.protocol_features;
        if acked.contains(ProtocolFeatures::INBAND_NOTIFICATIONS)
            && !acked.contains(ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK)
        {
            return Err(Fault::InbandAlone);
        }
        self.state.protocol_features = acked;
        Ok(Change::SetProtocolFeatures { acked, unoffered: wanted - acked }.into())
    }

    fn set_status(&mut self, status: u64) -> Result<Outcome, Fault> {
        self.state.status =
            u8::try_from(status).map_err(|_| Fault::Value { field: "status", value: status })?;
        Ok(Change::SetStatus(self.state.status).into())
    }

    fn set_memory_table(&mut self, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Outcome, Fault> {
        let MemoryTable(regions) = MemoryTable::parse(payload)?;
        if regions.len() != fds.len() {
            return Err(Fault::FdCount { expected: regions.len(), actual: fds.len() });
        }
        for (i, region) in regions.iter().enumerate() {
            region.check()?;
            no_overlap(region, &regions[..i])?;
        }
        self.former_memory = std::mem::replace(&mut self.state.memory, regions.clone());
        let shared = regions.into_iter().zip(fds).map(|(region, fd)| SharedRegion { region, fd });
        Ok(Change::SetMemoryTable(shared.collect()).into())
    }

    fn add_memory_region(&mut self, single: SingleRegion, fd: OwnedFd) -> Result<Outcome, Fault> {
        let slots = usize::from(self.offer.max_memory_slots);
        if self.state.memory.len() >= slots {
            return Err(Fault::TooManyRegions(slots));
        }
        let region = single.region;
        region.check()?;
        no_overlap(&region, &self.state.memory)?;
        self.former_memory.clone_from(&self.state.memory);
        self.state.memory.push(region);
        Ok(Change::AddMemoryRegion(SharedRegion { region, fd }).into())
    }

    fn remove_memory_region(&mut self, single: SingleRegion) -> Result<Outcome, Fault> {
        let found = self.state.memory.iter().position(|region| region.is_same(&single.region));
        let position = found.ok_or(Fault::NoSuchRegion(single.region.guest_address))?;
        self.former_memory.clone_from(&self.state.memory);
        Ok(Change::RemoveMemoryRegion(self.state.memory.remove(position)).into())
    }

    fn set_vring_size(&mut self, VringState { index, num }: VringState) -> Result<Outcome, Fault> {
        let packed = self.state.features.contains(Features::RING_PACKED);
        let max = self.offer.max_queue_size;
        let (index, vring) = self.vring(index)?;
        let size = u16::try_from(num)
            .ok()
            .filter(|&size| size > 0 && size <= max && (packed || size.is_power_of_two()));
        vring.size = size.ok_or(Fault::Value { field: "queue size", value: num.into() })?;
        Ok(Change::SetVringSize { index, size: vring.size }.into())
    }

    fn set_vring_address(&mut self, address: VringAddress) -> Result<Outcome, Fault> {
        let (index, vring) = self.vring(address.index)?;
        vring.address = Some(address);
        Ok(Change::SetVringAddress { index, address }.into())
    }

    fn set_vring_base(&mut self, VringState { index, num }: VringState) -> Result<Outcome, Fault> {
        let packed = self.state.features.contains(Features::RING_PACKED);
        let (index, vring) = self.vring(index)?;
        if !packed && num > u16::MAX.into() {
            return Err(Fault::Value { field: "vring base", value: num.into() });
        }
        vring.base = num;
        // User-Mode Linux sets rings up again, elsewhere, without having stopped them.
        vring.started = false;
        Ok(Change::SetVringBase { index, base: num }.into())
    }

    fn stop_vring(&mut self, VringState { index, .. }: VringState) -> Result<Outcome, Fault> {
        let (index, vring) = self.vring(index)?;
        vring.started = false;
        Ok(Event::StopVring { index, reply: VringBaseReply { index } }.into())
    }

    fn enable_vring(&mut self, VringState { index, num }: VringState) -> Result<Outcome, Fault> {
        let (index, vring) = self.vring(index)?;
        vring.enabled = match num {
            0 => false,
            1 => true,
            other => {
                return Err(Fault::Value { field: "vring enable", value: other.into() });
            }
        };
        vring.told = true;
        Ok(Change::SetVringEnable { index, enable: vring.enabled }.into())
    }

    fn kick_vring(&mut self, VringState { index, .. }: VringState) -> Result<Outcome, Fault> {
        let (index, vring) = self.vring(index)?;
        vring.started = true;
        Ok(Change::KickVring { index }.into())
    }

    fn set_kick(&mut self, word: u64, fds: Vec<OwnedFd>) -> Result<Outcome, Fault> {
        let (index, fd) = self.vring_fd(word, fds)?;
        self.was_started = std::mem::replace(&mut self.state.vrings[usize::from(index)].started, true);
        Ok(Change::SetVringKick { index, fd }.into())
    }

    fn vring(&mut self, index: u32) -> Result<(u16, &mut Vring), Fault> {
        let queues = self.offer.queues;
        let queue = u16::try_from(index).ok().filter(|&queue| queue < queues);
        let queue = queue.ok_or(Fault::NoSuchQueue { index, queues })?;
        Ok((queue, &mut self.state.vrings[usize::from(queue)]))
    }

    fn vring_fd(&mut self, word: u64, fds: Vec<OwnedFd>) -> Result<(u16, Option<OwnedFd>), Fault> {
        let VringFd { index, has_fd } = word.into();
        let (index, _) = self.vring(index.into())?;
        let fd = if has_fd { Some(one(fds)?) } else { none(fds).map(|()| None)? };
        Ok((index, fd))
    }

    fn inflight_area(&self, payload: &[u8]) -> Result<InflightArea, Fault> {
        let area = InflightArea::parse(payload)?;
        if area.queues > self.offer.queues {
            return Err(Fault::Value { field: "number of queues in flight", value: area.queues.into() });
        }
        if area.queue_size > self.offer.max_queue_size {
            return Err(Fault::Value { field: "queue size in flight", value: area.queue_size.into() });
        }
        Ok(area)
    }
}

/// The protocol feature that a request belongs to, empty for requests that always exist.
///
/// SET_VRING_ENABLE stands among those: some front ends send it without acknowledging
/// [`Features::PROTOCOL_FEATURES`].
fn needed_feature(request: FrontendRequest) -> Result<ProtocolFeatures, Fault> {
    use FrontendRequest as R;
    Ok(match request {
        R::GET_FEATURES
        | R::SET_FEATURES
        | R::SET_OWNER
        | R::RESET_OWNER
        | R::SET_MEM_TABLE
        | R::SET_LOG_FD
        | R::SET_VRING_NUM
        | R::SET_VRING_ADDR
        | R::SET_VRING_BASE
        | R::GET_VRING_BASE
        | R::SET_VRING_KICK
        | R::SET_VRING_CALL
        | R::SET_VRING_ERR
        | R::SET_VRING_ENABLE
        | R::GET_PROTOCOL_FEATURES
        | R::SET_PROTOCOL_FEATURES => ProtocolFeatures::empty(),
        R::GET_QUEUE_NUM => ProtocolFeatures::MQ,
        R::SET_LOG_BASE => ProtocolFeatures::LOG_SHMFD,
        R::SET_BACKEND_REQ_FD => ProtocolFeatures::BACKEND_REQ,
        R::GET_CONFIG | R::SET_CONFIG => ProtocolFeatures::CONFIG,
        R::GET_INFLIGHT_FD | R::SET_INFLIGHT_FD => ProtocolFeatures::INFLIGHT_SHMFD,
        R::RESET_DEVICE => ProtocolFeatures::RESET_DEVICE,
        R::VRING_KICK => ProtocolFeatures::INBAND_NOTIFICATIONS,
        R::GET_MAX_MEM_SLOTS | R::ADD_MEM_REG | R::REM_MEM_REG => ProtocolFeatures::CONFIGURE_MEM_SLOTS,
        R::GET_STATUS | R::SET_STATUS => ProtocolFeatures::STATUS,
        R::SET_DEVICE_STATE_FD | R::CHECK_DEVICE_STATE => ProtocolFeatures::DEVICE_STATE,
        _ => return Err(Fault::Unknown),
    })
}

/// Tells the sender of a request that it failed, as far as the protocol allows.
fn refuse(request: FrontendRequest, fault: Fault, ack: Ack, waits: bool) -> Result<Event, Error> {
    // Replies of their own that have a place for a refusal.
    let refusal = match request {
        FrontendRequest::GET_CONFIG => Some(Message::reply(request.0, [])),
        FrontendRequest::SET_DEVICE_STATE_FD => Some(MoveStateReply(()).done(false)),
        FrontendRequest::CHECK_DEVICE_STATE => Some(CheckStateReply(()).done(false)),
        _ => None,
    };
    if let Some(reply) = refusal {
        return Ok(Event::Refused { request, fault, reply });
    }
    match (ack.done(false), &fault) {
        (Some(reply), _) => Ok(Event::Refused { request, fault, reply }),
        // Whoever waits for a reply that has no place for a refusal must not wait for ever.
        (None, Fault::Unknown | Fault::NotNegotiated(_)) if !waits => Ok(Event::Ignored { request, fault }),
        (None, _) => Err(Error::Frontend { request, fault }),
    }
}

fn read_config(config: Config) -> Outcome {
    let size = config.bytes.len() as u32;
    Event::ReadConfig {
        offset: config.offset,
        size,
        reply: ConfigReply { offset: config.offset, flags: config.flags, size },
    }
    .into()
}

fn no_overlap(region: &MemoryRegion, others: &[MemoryRegion]) -> Result<(), Fault> {
    match others.iter().any(|other| other.overlaps(region)) {
        true => Err(Fault::RegionsOverlap(region.guest_address)),
        false => Ok(()),
    }
}

fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, Fault> {
    <[OwnedFd; 1]>::try_from(fds)
        .map(|[fd]| fd)
        .map_err(|fds| Fault::FdCount { expected: 1, actual: fds.len() })
}

fn none(fds: Vec<OwnedFd>) -> Result<(), Fault> {
    if fds.is_empty() { Ok(()) } else { Err(Fault::FdCount { expected: 0, actual: fds.len() }) }
}

#[cfg(test)]
mod tests;
