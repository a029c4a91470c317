//! The vhost-user protocol, both sides, as state machines without I/O.
//!
//! A virtual machine monitor (the *front end*) shares a guest's memory and virtqueues with another process (the
//! *back end*) by messages over a Unix socket. This crate turns bytes and file descriptors into messages, and
//! messages into what is to be done. It opens no socket, maps no memory, reads no ring, and knows no virtio device
//! beyond a number of queues and some bytes of configuration space.
//!
//! * [`Decoder`] puts [`Message`]s together from what `recvmsg` delivers.
//! * [`Backend`] takes the front end's messages and answers each with an [`Event`]: a reply to send, or a [`Change`] to
//!   carry out and then acknowledge. Its [`State`] is plain data and can move to another process.
//! * [`Frontend`] builds requests and reads replies; it serves tests, load generators and relays.
//!
//! The protocol is that of QEMU's "Vhost-user Protocol" document, with the liberties that real front ends take.
//!
//! ```
//! use lunette_vhost_user::{
//!     Backend, Change, Decoder, Event, Features, Frontend, Offer, ProtocolFeatures, Reply,
//! };
//!
//! let mut backend = Backend::new(Offer {
//!     features: Features::VERSION_1,
//!     protocol_features: ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK,
//!     queues: 3,
//!     max_queue_size: 1024,
//!     max_memory_slots: 8,
//! });
//! let mut frontend = Frontend::new();
//! let mut decoder = Decoder::new();
//!
//! let (bytes, fds) = frontend.get_features().into_parts();
//! decoder.feed(&bytes, fds);
//! let message = decoder.next_message()?.expect("a whole message");
//! let Event::Reply(reply) = backend.handle(message)? else { panic!("GET_FEATURES has a reply") };
//! let Reply::Features(offered) = frontend.receive(reply)? else { panic!("of features") };
//! assert!(offered.contains(Features::VERSION_1));
//!
//! let Event::Change(change, ack) = backend.handle(frontend.set_features(offered))? else { panic!() };
//! assert!(matches!(change, Change::SetFeatures { unoffered, .. } if unoffered.is_empty()));
//! assert!(ack.done(true).is_none(), "REPLY_ACK has not been negotiated");
//! # Ok::<(), lunette_vhost_user::Error>(())
//! ```

#![forbid(unsafe_code)]

mod backend;
mod decoder;
mod error;
mod features;
mod frontend;
mod message;
mod payload;

pub use backend::{
    Backend, Change, CheckStateReply, ConfigReply, Event, InflightReply, MAX_QUEUES, MoveStateReply, Offer,
    SharedRegion, State, Vring, VringBaseReply,
};
pub use decoder::Decoder;
pub use error::{Error, Fault};
pub use features::{Features, ProtocolFeatures};
pub use frontend::{Frontend, Notice, Reply};
pub use message::{Ack, BackendRequest, Flags, FrontendRequest, HEADER_SIZE, MAX_FDS, MAX_PAYLOAD, Message};
pub use payload::{
    Config, ConfigFlags, InflightArea, LogArea, MAX_CONFIG_SIZE, MAX_TABLE_REGIONS, MemoryRegion,
    MemoryTable, StateDirection, VringAddress, VringArea, VringFd, VringState,
};
