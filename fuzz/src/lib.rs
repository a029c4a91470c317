//! The bodies of the fuzz targets.
//!
//! Each function takes any bytes, makes of them what an initiator, a guest or a front end might send, and panics when an
//! invariant does not hold. `fuzz/targets` hands them to libFuzzer, `tests/smoke.rs` to a random generator, so that
//! plain `cargo test` keeps them working. Everything here may know everything; nothing of the project depends on it.
//!
//! Entry points: [`TARGETS`] lists them.
//!
//! ```
//! let (_, decode) = lunette_fuzz::TARGETS[3];
//! decode(b"any bytes");
//! ```
#![forbid(unsafe_code)]

mod chap;
mod commands;
mod config;
mod control;
mod decode;
mod disks;
mod input;
mod iscsi_initiator;
mod iscsi_target;
mod iscsi_wire;
mod lists;
mod notes;
mod parameter_lists;
mod parsers;
mod vhost;
mod vhost_user_messages;

pub use chap::chap;
pub use commands::commands;
pub use config::config;
pub use control::control;
pub use decode::decode;
pub use iscsi_initiator::iscsi_initiator;
pub use iscsi_target::iscsi_target;
pub use notes::notes;
pub use parameter_lists::parameter_lists;
pub use parsers::parsers;
pub use vhost::session::vhost_user_session;
pub use vhost::virtqueue::virtqueue;
pub use vhost_user_messages::vhost_user_messages;

/// A fuzz target: takes any bytes, panics when an invariant does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("chap", chap),
    ("commands", commands),
    ("config", config),
    ("control", control),
    ("decode", decode),
    ("iscsi_initiator", iscsi_initiator),
    ("iscsi_target", iscsi_target),
    ("notes", notes),
    ("parameter_lists", parameter_lists),
    ("parsers", parsers),
    ("vhost_user_messages", vhost_user_messages),
    ("vhost_user_session", vhost_user_session),
    ("virtqueue", virtqueue),
];
