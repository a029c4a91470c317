//! Control of a daemon that runs: JSON-RPC 2.0 over a Unix socket, a request on each line, and so the answers.
//!
//! The [`Server`] has no thread of its own: whoever waits for other things anyway waits for its [sources](Server::sources) too,
//! and gives it a [turn](Server::turn). It knows no method; those come from its owner. What clients send and leave unread is
//! bounded. The other side is [`call`].
//!
//! ```
//! use lunette_control::{Failure, Server, call};
//! use serde_json::json;
//! use std::os::unix::net::UnixListener;
//!
//! let socket = std::env::temp_dir().join(format!("lunette-control-doc-{}.sock", std::process::id()));
//! let mut server = Server::new(UnixListener::bind(&socket)?)?;
//! let path = socket.clone();
//! let client = std::thread::spawn(move || call::<u32>(&path, "add", &json!([2, 3])));
//! while !client.is_finished() {
//!     server.turn(&mut |method, params| match (method, &params[0], &params[1]) {
//!         ("add", a, b) => Ok(json!(a.as_u64().unwrap_or(0) + b.as_u64().unwrap_or(0))),
//!         _ => Err(Failure::no_method(method)),
//!     });
//! }
//! assert_eq!(client.join().unwrap()?, 5);
//! # std::fs::remove_file(socket)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod client;
mod rpc;
mod server;

pub use client::{Error, call};
pub use rpc::{Call, Failure};
pub use server::Server;
