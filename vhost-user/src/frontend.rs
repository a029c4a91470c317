//! The front end's side of a session, for tests, load generators and relays.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;

use crate::error::{Error, Fault};
use crate::features::{Features, ProtocolFeatures};
use crate::message::{Ack, BackendRequest, Flags, FrontendRequest, Message};
use crate::payload::{
    Config, InflightArea, LogArea, MemoryRegion, MemoryTable, SingleRegion, StateDirection, StateTransfer,
    VringAddress, VringArea, VringFd, VringState,
};

/// The front end of one connection: builds requests and makes sense of the replies, which come in order.
#[derive(Debug, Default)]
pub struct Frontend {
    protocol_features: ProtocolFeatures,
    quiet: bool,
    /// Requests that wait for a reply, oldest first.
    open: VecDeque<FrontendRequest>,
}

/// A reply of the back end.
#[derive(Debug)]
pub enum Reply {
    /// To GET_FEATURES.
    Features(Features),
    /// To GET_PROTOCOL_FEATURES.
    ProtocolFeatures(ProtocolFeatures),
    /// To GET_QUEUE_NUM.
    Queues(u64),
    /// To GET_MAX_MEM_SLOTS.
    MemorySlots(u64),
    /// To GET_STATUS.
    Status(u64),
    /// To GET_VRING_BASE.
    VringBase(VringState),
    /// To GET_CONFIG; `None` says that it failed.
    Config(Option<Config>),
    /// To GET_INFLIGHT_FD.
    Inflight(InflightArea, Option<OwnedFd>),
    /// To SET_DEVICE_STATE_FD.
    MoveState {
        /// Whether the state is going to be moved.
        success: bool,
        /// By which instead of the descriptor that was sent.
        fd: Option<OwnedFd>,
    },
    /// The acknowledgement of any other request.
    Ack {
        /// The request.
        request: FrontendRequest,
        /// Whether it was carried out.
        success: bool,
    },
}

/// A request of the back end, from its own channel.
#[derive(Debug)]
pub enum Notice {
    /// The configuration space has changed.
    ConfigChanged,
    /// Buffers of a queue were used.
    VringCall(u32),
    /// A ring is broken.
    VringError(u32),
    /// Use a page as a queue's doorbell; without descriptor, stop using it.
    HostNotifier(VringArea, Option<OwnedFd>),
    /// Any other request.
    Unknown(BackendRequest),
}

impl Frontend {
    /// A front end at the start of a connection. Once REPLY_ACK is negotiated, each request asks to be acknowledged,
    /// as User-Mode Linux does it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns need_reply in the requests to come off or on again.
    pub fn want_acks(&mut self, want: bool) {
        self.quiet = !want;
    }

    /// Whether replies are still to come.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Asks for the features offered.
    pub fn get_features(&mut self) -> Message {
        self.request(FrontendRequest::GET_FEATURES, [])
    }

    /// Acknowledges features.
    pub fn set_features(&mut self, features: Features) -> Message {
        self.request(FrontendRequest::SET_FEATURES, features.bits().to_ne_bytes())
    }

    /// Asks for the protocol features offered.
    pub fn get_protocol_features(&mut self) -> Message {
        self.request(FrontendRequest::GET_PROTOCOL_FEATURES, [])
    }

    /// Acknowledges protocol features; they hold from this very message on.
    pub fn set_protocol_features(&mut self, features: ProtocolFeatures) -> Message {
        self.protocol_features = features;
        self.request(FrontendRequest::SET_PROTOCOL_FEATURES, features.bits().to_ne_bytes())
    }

    /// Starts the session.
    pub fn set_owner(&mut self) -> Message {
        self.request(FrontendRequest::SET_OWNER, [])
    }

    /// Disables all rings.
    pub fn reset_owner(&mut self) -> Message {
        self.request(FrontendRequest::RESET_OWNER, [])
    }

    /// Resets the device.
    pub fn reset_device(&mut self) -> Message {
        self.request(FrontendRequest::RESET_DEVICE, [])
    }

    /// Asks for the number of queues.
    pub fn get_queue_num(&mut self) -> Message {
        self.request(FrontendRequest::GET_QUEUE_NUM, [])
    }

    /// Asks for the number of memory slots.
    pub fn get_max_mem_slots(&mut self) -> Message {
        self.request(FrontendRequest::GET_MAX_MEM_SLOTS, [])
    }

    /// Asks for the virtio device status.
    pub fn get_status(&mut self) -> Message {
        self.request(FrontendRequest::GET_STATUS, [])
    }

    /// Sets the virtio device status.
    pub fn set_status(&mut self, status: u8) -> Message {
        self.request(FrontendRequest::SET_STATUS, u64::from(status).to_ne_bytes())
    }

    /// Shares all guest memory; at most [`MAX_TABLE_REGIONS`](crate::MAX_TABLE_REGIONS) regions.
    pub fn set_mem_table(&mut self, regions: impl IntoIterator<Item = (MemoryRegion, OwnedFd)>) -> Message {
        let (regions, fds) = regions.into_iter().unzip();
        Message { fds, ..self.request(FrontendRequest::SET_MEM_TABLE, MemoryTable(regions).encode()) }
    }

    /// Shares one more region of guest memory.
    pub fn add_mem_reg(&mut self, region: MemoryRegion, fd: OwnedFd) -> Message {
        let payload = SingleRegion { padding: 0, region };
        Message { fds: vec![fd], ..self.request(FrontendRequest::ADD_MEM_REG, payload.as_bytes()) }
    }

    /// Takes a region of guest memory away.
    pub fn rem_mem_reg(&mut self, region: MemoryRegion) -> Message {
        let payload = SingleRegion { padding: 0, region };
        self.request(FrontendRequest::REM_MEM_REG, payload.as_bytes())
    }

    /// Sets a ring's size.
    pub fn set_vring_num(&mut self, index: u32, num: u32) -> Message {
        self.request(FrontendRequest::SET_VRING_NUM, VringState { index, num }.as_bytes())
    }

    /// Sets a ring's addresses.
    pub fn set_vring_addr(&mut self, address: VringAddress) -> Message {
        self.request(FrontendRequest::SET_VRING_ADDR, address.as_bytes())
    }

    /// Sets where a ring goes on.
    pub fn set_vring_base(&mut self, index: u32, num: u32) -> Message {
        self.request(FrontendRequest::SET_VRING_BASE, VringState { index, num }.as_bytes())
    }

    /// Stops a ring and asks where it stands.
    pub fn get_vring_base(&mut self, index: u32) -> Message {
        self.request(FrontendRequest::GET_VRING_BASE, VringState { index, num: 0 }.as_bytes())
    }

    /// Enables or disables a ring.
    pub fn set_vring_enable(&mut self, index: u32, enable: bool) -> Message {
        self.request(FrontendRequest::SET_VRING_ENABLE, VringState { index, num: enable.into() }.as_bytes())
    }

    /// Starts a ring; without descriptor the back end polls it.
    pub fn set_vring_kick(&mut self, index: u8, fd: Option<OwnedFd>) -> Message {
        self.vring_fd(FrontendRequest::SET_VRING_KICK, index, fd)
    }

    /// Sets the descriptor of the device's notifications; without one there are none.
    pub fn set_vring_call(&mut self, index: u8, fd: Option<OwnedFd>) -> Message {
        self.vring_fd(FrontendRequest::SET_VRING_CALL, index, fd)
    }

    /// Sets the descriptor of ring errors.
    pub fn set_vring_err(&mut self, index: u8, fd: Option<OwnedFd>) -> Message {
        self.vring_fd(FrontendRequest::SET_VRING_ERR, index, fd)
    }

    /// Notifies the back end in band.
    pub fn vring_kick(&mut self, index: u32) -> Message {
        self.request(FrontendRequest::VRING_KICK, VringState { index, num: 0 }.as_bytes())
    }

    /// Hands over the channel for the back end's own requests.
    pub fn set_backend_req_fd(&mut self, fd: OwnedFd) -> Message {
        Message { fds: vec![fd], ..self.request(FrontendRequest::SET_BACKEND_REQ_FD, []) }
    }

    /// Asks for a piece of the configuration space; only the number of bytes counts.
    pub fn get_config(&mut self, config: &Config) -> Message {
        self.request(FrontendRequest::GET_CONFIG, config.encode())
    }

    /// Writes a piece of the configuration space.
    pub fn set_config(&mut self, config: &Config) -> Message {
        self.request(FrontendRequest::SET_CONFIG, config.encode())
    }

    /// Sets the dirty log.
    pub fn set_log_base(&mut self, area: LogArea, fd: OwnedFd) -> Message {
        Message { fds: vec![fd], ..self.request(FrontendRequest::SET_LOG_BASE, area.as_bytes()) }
    }

    /// Sets the eventfd that tells of changes in the dirty log.
    pub fn set_log_fd(&mut self, fd: OwnedFd) -> Message {
        Message { fds: vec![fd], ..self.request(FrontendRequest::SET_LOG_FD, []) }
    }

    /// Asks for memory that tracks requests in flight.
    pub fn get_inflight_fd(&mut self, queues: u16, queue_size: u16) -> Message {
        let area = InflightArea { mmap_size: 0, mmap_offset: 0, queues, queue_size };
        self.request(FrontendRequest::GET_INFLIGHT_FD, area.encode())
    }

    /// Hands over the memory that tracked requests in flight.
    pub fn set_inflight_fd(&mut self, area: InflightArea, fd: OwnedFd) -> Message {
        Message { fds: vec![fd], ..self.request(FrontendRequest::SET_INFLIGHT_FD, area.encode()) }
    }

    /// Has the state of the device moved through `fd`.
    pub fn set_device_state_fd(&mut self, direction: StateDirection, fd: OwnedFd) -> Message {
        let transfer = StateTransfer { direction: direction.number(), phase: StateTransfer::STOPPED };
        Message { fds: vec![fd], ..self.request(FrontendRequest::SET_DEVICE_STATE_FD, transfer.as_bytes()) }
    }

    /// Asks whether the state of the device was moved.
    pub fn check_device_state(&mut self) -> Message {
        self.request(FrontendRequest::CHECK_DEVICE_STATE, [])
    }

    /// Any request, for what has no method of its own.
    pub fn request(&mut self, request: FrontendRequest, payload: impl Into<Vec<u8>>) -> Message {
        let mut message = Message::request(request.0, payload);
        let has_reply = request.has_reply(self.protocol_features);
        if !has_reply && !self.quiet && self.protocol_features.contains(ProtocolFeatures::REPLY_ACK) {
            message.flags.0 |= Flags::NEED_REPLY;
        }
        if has_reply || message.flags.needs_reply() {
            self.open.push_back(request);
        }
        message
    }

    fn vring_fd(&mut self, request: FrontendRequest, index: u8, fd: Option<OwnedFd>) -> Message {
        let word = u64::from(VringFd { index, has_fd: fd.is_some() });
        Message { fds: fd.into_iter().collect(), ..self.request(request, word.to_ne_bytes()) }
    }

    /// Takes a reply; it has to be the one to the oldest open request.
    pub fn receive(&mut self, message: Message) -> Result<Reply, Error> {
        let request = FrontendRequest(message.request);
        self.read_reply(request, message).map_err(|fault| Error::Reply { request, fault })
    }

    fn read_reply(&mut self, request: FrontendRequest, message: Message) -> Result<Reply, Fault> {
        use FrontendRequest as R;
        if message.flags.0 != Flags::VERSION | Flags::REPLY {
            return Err(Fault::NotAReply(message.flags.0));
        }
        let expected = self.open.front().copied();
        if expected != Some(request) {
            return Err(Fault::OutOfTurn { expected });
        }
        self.open.pop_front();
        Ok(match request {
            R::GET_FEATURES => Reply::Features(Features::from_bits_retain(message.body()?)),
            R::GET_PROTOCOL_FEATURES => {
                Reply::ProtocolFeatures(ProtocolFeatures::from_bits_retain(message.body()?))
            }
            R::GET_QUEUE_NUM => Reply::Queues(message.body()?),
            R::GET_MAX_MEM_SLOTS => Reply::MemorySlots(message.body()?),
            R::GET_STATUS => Reply::Status(message.body()?),
            R::GET_VRING_BASE => Reply::VringBase(message.body()?),
            R::GET_CONFIG if message.payload.is_empty() => Reply::Config(None),
            R::GET_CONFIG => Reply::Config(Some(Config::parse(&message.payload)?)),
            R::GET_INFLIGHT_FD => {
                let area = InflightArea::parse(&message.payload)?;
                Reply::Inflight(area, message.fds.into_iter().next())
            }
            R::SET_DEVICE_STATE_FD => {
                let value = message.body::<u64>()?;
                Reply::MoveState { success: value & 0xff == 0, fd: message.fds.into_iter().next() }
            }
            _ => Reply::Ack { request, success: message.body::<u64>()? == 0 },
        })
    }

    /// Takes a message from the back end's own channel.
    pub fn receive_notice(&self, message: Message) -> Result<(Notice, Ack), Error> {
        let request = BackendRequest(message.request);
        let fail = |fault| Error::Backend { request, fault };
        if message.flags.is_reply() {
            return Err(fail(Fault::NotARequest));
        }
        let asked =
            message.flags.needs_reply() && self.protocol_features.contains(ProtocolFeatures::REPLY_ACK);
        let ack = Ack { wanted_for: asked.then_some(request.0) };
        let notice = match request {
            BackendRequest::CONFIG_CHANGE_MSG => message.body().map(|()| Notice::ConfigChanged),
            BackendRequest::VRING_CALL => {
                message.body().map(|state: VringState| Notice::VringCall(state.index))
            }
            BackendRequest::VRING_ERR => {
                message.body().map(|state: VringState| Notice::VringError(state.index))
            }
            BackendRequest::VRING_HOST_NOTIFIER_MSG => {
                message.body().map(|area| Notice::HostNotifier(area, message.fds.into_iter().next()))
            }
            _ => Ok(Notice::Unknown(request)),
        };
        Ok((notice.map_err(fail)?, ack))
    }
}
