//! Control of a daemon that runs: JSON-RPC 2.0 over a Unix socket, a message on each line.
//!
//! A daemon has a [`Table`] of [`Method`]s, whose parameters and results are types, and a [`Plane`], which carries them out:
//! on [`Workers`], changes one after the other and counted by a generation, long ones as jobs. The [`Server`] speaks to
//! clients, who are let in by what the kernel says of them ([`AccessRules`]). It has no thread of its own: whoever waits for
//! other things anyway [waits](Server::wait) through it, and gives it a [turn](Server::turn). What happens is told with
//! [`Events`], from any thread, to those who have subscribed.
//!
//! It knows no methods but those about itself. What clients send and leave unread is bounded. The other side is
//! [`Connection`], or [`call`] for a single one.
//!
//! ```
//! use lunette_control::{About, Call, Crew, Door, Effect, Failure, Feed, Method, Plane, Server, Table, Task, Workers, call};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use serde_json::json;
//! use std::os::unix::net::UnixListener;
//! use std::time::SystemTime;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Add {
//!     number: u32,
//! }
//!
//! fn add(call: &Call<'_, u32>, Add { number }: Add) -> Result<u32, Failure> {
//!     Ok(call.daemon + number)
//! }
//!
//! struct Threads;
//!
//! impl Workers for Threads {
//!     fn run(&self, _: Crew, task: Task) {
//!         std::thread::spawn(task);
//!     }
//! }
//!
//! let socket = std::env::temp_dir().join(format!("lunette-control-doc-{}.sock", std::process::id()));
//! let listener = UnixListener::bind(&socket)?;
//! let table = Table::new([Method::new(Effect::Reads, "number.add", "Adds a number.", add)]);
//! let feed = Feed::new(SystemTime::now, 0)?;
//! let about = About { version: "1", kinds: &[] };
//! let plane = Plane::new(40, table, about, Threads, &feed);
//! let mut server = Server::new(Some(listener), Door::default(), plane, feed)?;
//! let path = socket.clone();
//! let client = std::thread::spawn(move || call::<u32>(&path, "number.add", &json!({ "number": 2 })));
//! while !client.is_finished() {
//!     server.turn();
//! }
//! assert_eq!(client.join().unwrap()?, 42);
//! # std::fs::remove_file(socket)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod access;
mod built_in;
mod caller;
mod client;
mod events;
mod failure;
mod nearest;
mod peer;
mod plane;
mod rpc;
mod server;
mod table;
mod ticket;
mod time;
mod waker;

pub use access::{AccessRules, Role};
pub use built_in::{Description, Explained, Status, Subscribe, Subscribed};
pub use caller::Caller;
pub use client::{Connection, Error, Told, call};
pub use events::{EventKind, Events};
pub use failure::{CODES, Failure};
pub use nearest::{did_you_mean, nearest};
pub use peer::Credentials;
pub use plane::{About, Begun, Crew, Feed, JobState, JobStatus, Plane, Task, Work, Workers};
pub use server::{Door, Refused, Server};
pub use table::{Call, Described, Effect, Method, NoParams, Table};
pub use ticket::Ticket;
pub use time::Clock;
