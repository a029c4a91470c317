//! iSCSI (RFC 7143) as sans-I/O state machines: target and initiator.
#![forbid(unsafe_code)]

pub mod digest;
mod error;
mod frame;
pub mod initiator;
pub mod limits;
mod outbox;
pub mod params;
pub mod pdu;
mod serial;
pub mod target;
pub mod text;

pub use error::Error;
pub use outbox::{Outbox, Payload, Piece};
