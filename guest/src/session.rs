//! The socket of a vhost-user session: sends requests with their descriptors, reads replies.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use lunette_vhost_user::{
    Config, ConfigFlags, Decoder, Features, Frontend, FrontendRequest, MAX_FDS, MAX_TABLE_REGIONS, Message,
    ProtocolFeatures, Reply,
};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::error::Error;
use crate::memory::GuestMemory;

/// Longest that anything is waited for, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Features that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the daemon must offer.
    pub required: Features,
    /// What is taken if the daemon offers it.
    pub optional: Features,
    /// Protocol features that are taken if the daemon offers them.
    pub protocol: ProtocolFeatures,
}

impl Default for Wanted {
    /// Split rings with all the daemon has to make them fast.
    fn default() -> Self {
        Self {
            required: Features::VERSION_1.union(Features::PROTOCOL_FEATURES),
            optional: Features::EVENT_IDX.union(Features::INDIRECT_DESC),
            protocol: ProtocolFeatures::MQ
                .union(ProtocolFeatures::REPLY_ACK)
                .union(ProtocolFeatures::CONFIG)
                .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
                .union(ProtocolFeatures::RESET_DEVICE)
                .union(ProtocolFeatures::INFLIGHT_SHMFD)
                .union(ProtocolFeatures::LOG_SHMFD)
                .union(ProtocolFeatures::DEVICE_STATE),
        }
    }
}

/// A session as the front end sees it.
///
/// Methods that take a closure send the message that it builds. Messages of any kind, such as a daemon must refuse, go
/// through [`send`](Self::send).
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    frontend: Frontend,
    decoder: Decoder,
    patience: Duration,
    features: Features,
    protocol_features: ProtocolFeatures,
}

impl Session {
    /// Connects to a daemon.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let connect = Error::system("connect to the vhost-user socket");
        Self::new(UnixStream::connect(socket).map_err(connect)?)
    }

    /// Takes a connection to a daemon.
    pub fn new(stream: UnixStream) -> Result<Self, Error> {
        let mut session = Self {
            stream,
            frontend: Frontend::new(),
            decoder: Decoder::new(),
            patience: PATIENCE,
            features: Features::empty(),
            protocol_features: ProtocolFeatures::empty(),
        };
        session.set_patience(PATIENCE)?;
        Ok(session)
    }

    /// Sets how long replies and used buffers are waited for.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), Error> {
        self.patience = patience;
        self.stream.set_read_timeout(Some(patience)).map_err(Error::system("set a time-out"))
    }

    /// How long replies and used buffers are waited for.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The features negotiated.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The protocol features negotiated.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol_features
    }

    /// The protocol's state, to build messages for [`send`](Self::send).
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Starts the session and agrees on features.
    pub fn negotiate(&mut self, wanted: &Wanted) -> Result<(), Error> {
        self.done(Frontend::set_owner)?;
        let offered = match self.ask(Frontend::get_features)? {
            Some(Reply::Features(offered)) => offered,
            _ => return Err(Error::Reply(FrontendRequest::GET_FEATURES)),
        };
        if !offered.contains(wanted.required) {
            return Err(Error::NotOffered(wanted.required - offered));
        }
        if offered.contains(Features::PROTOCOL_FEATURES) {
            let offered = match self.ask(Frontend::get_protocol_features)? {
                Some(Reply::ProtocolFeatures(offered)) => offered,
                _ => return Err(Error::Reply(FrontendRequest::GET_PROTOCOL_FEATURES)),
            };
            self.protocol_features = offered & wanted.protocol;
            let features = self.protocol_features;
            self.done(|frontend| frontend.set_protocol_features(features))?;
        }
        self.set_features(wanted.required | (offered & wanted.optional))
    }

    /// Acknowledges features, whether offered or not.
    pub fn set_features(&mut self, features: Features) -> Result<(), Error> {
        self.done(|frontend| frontend.set_features(features))?;
        self.features = features;
        Ok(())
    }

    /// Shares all memory: in a table, or region by region if there are more than fit.
    pub fn share(&mut self, memory: &GuestMemory) -> Result<(), Error> {
        let regions = memory.regions()?;
        if regions.len() <= MAX_TABLE_REGIONS {
            return self.done(|frontend| frontend.set_mem_table(regions));
        }
        regions
            .into_iter()
            .try_for_each(|(region, fd)| self.done(|frontend| frontend.add_mem_reg(region, fd)))
    }

    /// The number of queues that the daemon has.
    pub fn queues(&mut self) -> Result<u64, Error> {
        match self.ask(Frontend::get_queue_num)? {
            Some(Reply::Queues(queues)) => Ok(queues),
            _ => Err(Error::Reply(FrontendRequest::GET_QUEUE_NUM)),
        }
    }

    /// Stops a ring; where it stood.
    pub fn stop_ring(&mut self, index: u16) -> Result<u32, Error> {
        match self.ask(|frontend| frontend.get_vring_base(index.into()))? {
            Some(Reply::VringBase(state)) if state.index == u32::from(index) => Ok(state.num),
            _ => Err(Error::Reply(FrontendRequest::GET_VRING_BASE)),
        }
    }

    /// Reads the configuration space.
    pub fn config(&mut self, offset: u32, length: usize) -> Result<Vec<u8>, Error> {
        let wanted = Config { offset, flags: ConfigFlags::WRITABLE, bytes: vec![0; length] };
        match self.ask(|frontend| frontend.get_config(&wanted))? {
            Some(Reply::Config(Some(config))) if config.bytes.len() == length => Ok(config.bytes),
            Some(Reply::Config(None)) => Err(Error::Refused(FrontendRequest::GET_CONFIG)),
            _ => Err(Error::Reply(FrontendRequest::GET_CONFIG)),
        }
    }

    /// Writes to the configuration space.
    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let config = Config { offset, flags: ConfigFlags::WRITABLE, bytes: bytes.to_vec() };
        self.done(|frontend| frontend.set_config(&config))
    }

    /// Gives the daemon a channel for requests of its own; our end.
    pub fn open_backend_channel(&mut self) -> Result<UnixStream, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::system("make a pair of sockets"))?;
        self.done(|frontend| frontend.set_backend_req_fd(theirs.into()))?;
        Ok(ours)
    }

    /// Returns once the daemon has carried out all that was sent before.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.ask(Frontend::get_features).map(drop)
    }

    /// Sends a request that has to succeed.
    pub fn done(&mut self, build: impl FnOnce(&mut Frontend) -> Message) -> Result<(), Error> {
        match self.ask(build)? {
            None | Some(Reply::Ack { .. }) => Ok(()),
            Some(other) => panic!("{other:?} has a meaning"),
        }
    }

    /// Sends a request; its reply, or `None` if it has none. A refusal is an error.
    pub fn ask(&mut self, build: impl FnOnce(&mut Frontend) -> Message) -> Result<Option<Reply>, Error> {
        let message = build(&mut self.frontend);
        self.send(message)?;
        if !self.frontend.is_waiting() {
            return Ok(None);
        }
        match self.reply()? {
            Reply::Ack { request, success: false } => Err(Error::Refused(request)),
            reply => Ok(Some(reply)),
        }
    }

    /// Sends a message, whatever it says.
    pub fn send(&mut self, message: Message) -> Result<(), Error> {
        let (bytes, fds) = message.into_parts();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds));
        assert!(fits, "at most {} descriptors are sent", 2 * MAX_FDS);
        match sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                assert_eq!(sent, bytes.len(), "a blocking socket takes everything");
                Ok(())
            }
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::Closed),
            Err(error) => Err(Error::system("send to the daemon")(error)),
        }
    }

    /// Waits for the reply to the oldest request that has none yet.
    pub fn reply(&mut self) -> Result<Reply, Error> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(self.frontend.receive(message)?);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), Error> {
        let mut bytes = vec![0; self.decoder.wanted()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::AGAIN) => return Err(Error::TimedOut(self.patience)),
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(Error::system("receive from the daemon")(error)),
        };
        if received == 0 {
            return Err(Error::Closed);
        }
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds = rights.flatten().collect();
        self.decoder.feed(&bytes[..received], fds);
        Ok(())
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
