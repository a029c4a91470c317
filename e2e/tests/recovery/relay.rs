//! Between a guest and the daemon: for virtual machine monitors that do not connect again.
//!
//! The relay passes on what the guest's monitor asks for, keeps it, and repeats it to the next daemon when one has died. It
//! also has the daemon note what is in flight, of which these monitors know nothing, and keeps the notes.

use anyhow::{Context, Result, bail};
use lunette_vhost_user::{Decoder, FrontendRequest, InflightArea, Message, ProtocolFeatures};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use FrontendRequest as R;

/// What the guest's monitor does not see: the notes are ours, and it has one message that says all of its memory.
const HIDDEN: ProtocolFeatures =
    ProtocolFeatures::INFLIGHT_SHMFD.union(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
/// Descriptors of a ring that the daemon may have in flight.
const QUEUE_SIZE: u16 = 1024;

/// Listens for one guest.
pub(crate) struct Relay {
    taken_over: Arc<AtomicU64>,
}

impl Relay {
    /// Relays from `socket` to daemons, in a thread of its own.
    pub(crate) fn start(socket: &Path, meeting: Meeting) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let taken_over = Arc::<AtomicU64>::default();
        let count = taken_over.clone();
        std::thread::spawn(move || {
            let relayed = listener
                .accept()
                .context("no guest")
                .and_then(|(guest, _)| Connection::new(guest, meeting, count)?.run());
            if let Err(error) = relayed {
                eprintln!("relay: {error:#}");
            }
        });
        Ok(Self { taken_over })
    }

    /// How often another daemon has been told all.
    pub(crate) fn taken_over(&self) -> u64 {
        self.taken_over.load(Ordering::Acquire)
    }
}

/// How relay and daemons find each other.
pub(crate) enum Meeting {
    /// Daemons listen at this path.
    At(PathBuf),
    /// They connect to this socket.
    Here(UnixListener),
}

impl Meeting {
    /// A daemon, once one is there.
    fn find(&self) -> std::io::Result<UnixStream> {
        match self {
            Self::At(path) => UnixStream::connect(path),
            Self::Here(listener) => Ok(listener.accept()?.0),
        }
    }
}

/// One end of the relay.
struct End {
    stream: UnixStream,
    decoder: Decoder,
}

impl End {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new() }
    }

    /// Sends a message; whether the peer is there.
    fn send(&self, message: Message) -> Result<bool> {
        let (bytes, fds) = message.into_parts();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            bail!("a message with {} descriptors", fds.len());
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
        Ok(sent.is_ok_and(|sent| sent == bytes.len()))
    }

    /// Waits for a message; `None` if the peer has gone.
    fn receive(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(Some(message));
            }
            let mut bytes = vec![0; self.decoder.wanted()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
            let Some(received) = received.ok().filter(|received| received.bytes > 0) else { return Ok(None) };
            let rights = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let fds = rights.flatten().collect();
            self.decoder.feed(&bytes[..received.bytes], fds);
        }
    }
}

/// What is kept of a request: of each kind the last one, for a queue if it is of one.
struct Kept {
    payload: Vec<u8>,
    fds: Vec<OwnedFd>,
}

struct Connection {
    guest: End,
    daemon: End,
    meeting: Meeting,
    kept: BTreeMap<(usize, u32), Kept>,
    protocol: ProtocolFeatures,
    notes: Option<(InflightArea, OwnedFd)>,
    taken_over: Arc<AtomicU64>,
}

/// What is kept, in the order in which it is repeated. What is of queues comes last, queue by queue.
const KEPT: [FrontendRequest; 13] = [
    R::SET_OWNER,
    R::SET_PROTOCOL_FEATURES,
    R::SET_FEATURES,
    R::SET_CONFIG,
    R::SET_MEM_TABLE,
    R::SET_BACKEND_REQ_FD,
    FIRST_OF_QUEUES,
    R::SET_VRING_BASE,
    R::SET_VRING_ADDR,
    R::SET_VRING_ERR,
    R::SET_VRING_CALL,
    R::SET_VRING_KICK,
    R::SET_VRING_ENABLE,
];
const FIRST_OF_QUEUES: FrontendRequest = R::SET_VRING_NUM;

fn rank(request: FrontendRequest) -> Option<usize> {
    KEPT.iter().position(|kept| *kept == request)
}

fn word(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

impl Connection {
    fn new(guest: UnixStream, meeting: Meeting, taken_over: Arc<AtomicU64>) -> Result<Self> {
        let daemon = End::new(meeting.find().context("no daemon")?);
        let (kept, protocol) = (BTreeMap::new(), ProtocolFeatures::empty());
        Ok(Self { guest: End::new(guest), daemon, meeting, kept, protocol, notes: None, taken_over })
    }

    fn run(mut self) -> Result<()> {
        loop {
            let (guest, daemon) = (self.guest.stream.as_fd(), self.daemon.stream.as_fd());
            let mut fds = [
                PollFd::from_borrowed_fd(guest, PollFlags::IN),
                PollFd::from_borrowed_fd(daemon, PollFlags::IN),
            ];
            poll(&mut fds, None)?;
            let [by_guest, by_daemon] = fds.map(|fd| !fd.revents().is_empty());
            if by_daemon {
                // It says nothing by itself, so it is gone.
                self.take_over()?;
            }
            if by_guest {
                let Some(message) = self.guest.receive()? else { return Ok(()) };
                self.pass(message)?;
            }
        }
    }

    /// Passes a request of the guest's on, to as many daemons as it takes.
    fn pass(&mut self, mut message: Message) -> Result<()> {
        let request = FrontendRequest(message.request);
        if request == R::SET_PROTOCOL_FEATURES {
            let wanted = u64::from_ne_bytes(*message.payload.first_chunk().context("a short message")?);
            self.protocol = ProtocolFeatures::from_bits_retain(wanted);
            let wanted = self.protocol | ProtocolFeatures::INFLIGHT_SHMFD;
            message.payload = wanted.bits().to_ne_bytes().to_vec();
        }
        if request == R::SET_VRING_KICK && self.notes.is_none() {
            self.make_notes()?;
        }
        self.keep(request, &message)?;
        let has_reply = matches!(
            request,
            R::GET_FEATURES
                | R::GET_PROTOCOL_FEATURES
                | R::GET_QUEUE_NUM
                | R::GET_VRING_BASE
                | R::GET_CONFIG
                | R::GET_MAX_MEM_SLOTS
        );
        let is_acknowledged =
            message.flags.needs_reply() && self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        if !has_reply && !is_acknowledged {
            // If it is not taken, all will be repeated.
            self.daemon.send(message)?;
            return Ok(());
        }
        let mut reply = self.ask(&message)?;
        if request == R::GET_PROTOCOL_FEATURES {
            let offered = u64::from_ne_bytes(*reply.payload.first_chunk().context("a short reply")?);
            let offered = ProtocolFeatures::from_bits_retain(offered) - HIDDEN;
            reply.payload = offered.bits().to_ne_bytes().to_vec();
        }
        if request == R::GET_VRING_BASE {
            // It has stopped there.
            let index = word(&message.payload);
            self.kept.remove(&(rank(R::SET_VRING_KICK).context("kept")?, index));
            let base = Kept { payload: reply.payload.clone(), fds: Vec::new() };
            self.kept.insert((rank(R::SET_VRING_BASE).context("kept")?, index), base);
        }
        self.guest.send(reply)?;
        Ok(())
    }

    /// The reply to a message, of whichever daemon gives one.
    fn ask(&mut self, message: &Message) -> Result<Message> {
        loop {
            if self.daemon.send(copy(message)?)?
                && let Some(reply) = self.daemon.receive()?
            {
                return Ok(reply);
            }
            self.take_over()?;
        }
    }

    fn keep(&mut self, request: FrontendRequest, message: &Message) -> Result<()> {
        let first = rank(FIRST_OF_QUEUES).context("kept")?;
        if request == R::RESET_DEVICE {
            self.kept.retain(|(rank, _), _| *rank < first);
        }
        let Some(rank) = rank(request) else { return Ok(()) };
        let number = match request {
            // The lowest byte is the queue, and the others say whether there is a descriptor.
            R::SET_VRING_KICK | R::SET_VRING_CALL | R::SET_VRING_ERR => word(&message.payload) & 0xff,
            // Each field of the configuration space.
            R::SET_CONFIG => word(&message.payload),
            _ if rank >= first => word(&message.payload),
            _ => 0,
        };
        let Message { payload, fds, .. } = copy(message)?;
        self.kept.insert((rank, number), Kept { payload, fds });
        Ok(())
    }

    /// Asks for memory for notes, and for its use.
    fn make_notes(&mut self) -> Result<()> {
        let queues = self.ask(&Message::request(R::GET_QUEUE_NUM.0, []))?;
        let queues = u16::try_from(word(&queues.payload))?;
        let area = InflightArea { mmap_size: 0, mmap_offset: 0, queues, queue_size: QUEUE_SIZE };
        let mut reply = self.ask(&Message::request(R::GET_INFLIGHT_FD.0, area.encode()))?;
        let fd = reply.fds.pop().context("no memory for notes")?;
        self.notes = Some((InflightArea::parse(&reply.payload)?, fd));
        self.give_notes()?;
        Ok(())
    }

    fn give_notes(&self) -> Result<bool> {
        let Some((area, fd)) = &self.notes else { return Ok(true) };
        let message = Message::request(R::SET_INFLIGHT_FD.0, area.encode());
        self.daemon.send(Message { fds: vec![fd.try_clone()?], ..message })
    }

    /// Tells the next daemon all that the guest has told the former ones.
    fn take_over(&mut self) -> Result<()> {
        while !self.try_take_over()? {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.taken_over.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn try_take_over(&mut self) -> Result<bool> {
        let Ok(stream) = self.meeting.find() else { return Ok(false) };
        self.daemon = End::new(stream);
        let first = rank(FIRST_OF_QUEUES).context("kept")?;
        let of_device = self.kept.iter().filter(|((rank, _), _)| *rank < first);
        let mut of_queues: Vec<_> = self.kept.iter().filter(|((rank, _), _)| *rank >= first).collect();
        of_queues.sort_by_key(|((rank, index), _)| (*index, *rank));
        if !self.repeat(of_device)? || !self.give_notes()? || !self.repeat(of_queues.into_iter())? {
            return Ok(false);
        }
        // It has carried all out when it answers.
        Ok(self.daemon.send(Message::request(R::GET_FEATURES.0, []))? && self.daemon.receive()?.is_some())
    }

    fn repeat<'a>(&self, mut kept: impl Iterator<Item = (&'a (usize, u32), &'a Kept)>) -> Result<bool> {
        kept.try_fold(true, |there, ((rank, _), kept)| {
            let fds = kept.fds.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
            let message = Message::request(KEPT[*rank].0, kept.payload.clone());
            Ok(there && self.daemon.send(Message { fds, ..message })?)
        })
    }
}

fn copy(message: &Message) -> Result<Message> {
    let fds = message.fds.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
    Ok(Message { request: message.request, flags: message.flags, payload: message.payload.clone(), fds })
}
