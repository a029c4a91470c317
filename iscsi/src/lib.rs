//! iSCSI (RFC 7143) as sans-I/O state machines, both sides.
//!
//! The machines exist so that every rule of the protocol can be tested, fuzzed and replayed without a network. They
//! take received bytes and return events; what they have to say goes to an [`Outbox`], a list of `iovec`s in which
//! data stays where the caller has it. They know no sockets, clocks, threads, nor what a CDB means.
//!
//! * The target: [`target::Login`] turns a new connection into a [`target::Connection`] and a [`target::Session`];
//!   it asks a [`target::Directory`] who may log in where. The connection knows bytes, digests and StatSN, the
//!   session CmdSN and open tasks, so that several connections can share a session later.
//! * The initiator: [`initiator::Initiator`], for tests, load and stores behind iSCSI.
//! * What both share: [`pdu`], [`text`], [`params`], [`chap`], [`digest`], and every bound in [`limits`]; [`discovery`]
//!   reads what a target tells of others.
//!
//! Error recovery is level 0, and sessions have one connection.
//!
//! An initiator logs in and pings:
//!
//! ```
//! use lunette_iscsi::initiator::{self, Event, Initiator};
//! use lunette_iscsi::target::{self, Admission, Directory, Identity, Login, Refusal, SessionInfo, TargetRecord};
//! use lunette_iscsi::{Outbox, Piece};
//! use std::ops::ControlFlow;
//!
//! /// Lets everyone in.
//! struct Open;
//! impl Directory for Open {
//!     fn admit(&mut self, _: Identity<'_>) -> Result<Admission, Refusal> {
//!         Ok(Admission::default())
//!     }
//!     fn open(&mut self, _: Identity<'_>) -> Result<u16, Refusal> {
//!         Ok(1)
//!     }
//!     fn targets(
//!         &self,
//!         _: &SessionInfo,
//!         _: Option<&str>,
//!         _: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
//!     ) {
//!     }
//! }
//!
//! /// Stands in for a socket.
//! fn send(out: &mut Outbox) -> Vec<u8> {
//!     let mut wire = Vec::new();
//!     for piece in out.pieces() {
//!         let Piece::Bytes(bytes) = piece else { unreachable!("no payload in this example") };
//!         wire.extend(bytes);
//!     }
//!     out.clear(|_| {});
//!     wire
//! }
//!
//! let settings = initiator::Settings {
//!     initiator_name: "iqn.2024-01.example:me".into(),
//!     target_name: "iqn.2024-01.example:disk".into(),
//!     ..Default::default()
//! };
//! let (mut up, mut down) = (Outbox::default(), Outbox::default());
//! let mut initiator = Initiator::new(settings, &mut up);
//! let mut login = Login::new(target::Settings::default());
//!
//! let mut accepted = loop {
//!     let progress = login.receive(&mut Open, &send(&mut up), &mut down)?;
//!     initiator.receive(&send(&mut down), &mut up)?;
//!     if let Some(accepted) = progress.accepted {
//!         break accepted;
//!     }
//! };
//! assert_eq!(accepted.session.info().initiator_name, "iqn.2024-01.example:me");
//!
//! initiator.ping(b"hello", &mut up).expect("the window is open");
//! let ping = send(&mut up);
//! let received = accepted.connection.receive(&mut accepted.session, &Open, &ping, &mut down)?;
//! assert!(received.event.is_none(), "the machine answers by itself");
//! let pong = send(&mut down);
//! let Some(Event::Pong { data, .. }) = initiator.receive(&pong, &mut up)?.event else { panic!() };
//! assert_eq!(data, b"hello");
//! # Ok::<(), lunette_iscsi::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod chap;
pub mod digest;
pub mod discovery;
mod error;
mod extents;
mod frame;
pub mod initiator;
pub mod limits;
mod outbox;
pub mod params;
pub mod pdu;
mod serial;
mod tags;
pub mod target;
pub mod text;

pub use error::Error;
pub use outbox::{Outbox, Payload, Piece};
