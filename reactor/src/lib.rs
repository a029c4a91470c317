//! Event loops on pinned threads.
//!
//! The only crate of the program that starts threads or reads a clock. Each reactor is one thread with one io_uring that
//! waits for files, descriptors, timers and its mailbox alike, and offers the code that runs on it the context
//! [`Cx`](lunette_store::Cx). What the kernel can only do by blocking is done by further threads, which no
//! two [`Lane`](lunette_store::Lane)s share. Where io_uring is refused, epoll and such threads give the same behaviour.
//!
//! It knows nothing of SCSI, of stores or of transports: it takes work by [`Post`](lunette_store::Post) and tells
//! [`Sink`](lunette_store::Sink)s what has become of it.
//!
//! Entry types: [`Options`], [`Reactors`]; [`Workers`] for what blocks and belongs to no reactor;
//! [`confine_threads`], by which threads give up what they do not need; [`Whereabouts`] of a reactor that does not answer.
//!
//! ```
//! use lunette_reactor::{Options, Reactors};
//! use lunette_store::ReactorId;
//!
//! let reactors = Reactors::start(&Options { reactors: 2, ..Options::default() })?;
//! println!("{} reactors on {}", reactors.count(), reactors.backend());
//! let answer = reactors.call(ReactorId(1), |cx| cx.reactor());
//! assert_eq!(answer, Some(ReactorId(1)));
//! reactors.stop();
//! # Ok::<(), lunette_reactor::Error>(())
//! ```
//!
//! # One turn
//!
//! Messages, then what the kernel reports, completions queued by [`Cx::complete`](lunette_store::Cx::complete) and due
//! timers, round by round until none is left or the turn has had its share; then deferred calls and pollers. A turn that
//! found nothing is followed by a short spin and then by sleep in the kernel, without any periodic tick.

mod core;
mod crew;
mod epoll;
mod handover;
mod kernel;
mod lanes;
mod load;
mod mailbox;
mod options;
mod reactors;
mod sinks;
mod spin;
mod sys;
mod threads;
mod timers;
mod transfer;
mod uring;
mod watches;
mod whereabouts;
mod workers;

pub use load::ReactorLoad;
pub use options::{Backend, Error, Io, Options, Poll};
pub use reactors::Reactors;
pub use threads::{ThreadKind, confine_threads, settle_threads};
pub use whereabouts::{Whereabouts, answer_where};
pub use workers::Workers;
