//! The other end of the socket.

use crate::Failure;
use crate::rpc;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use thiserror::Error;

/// Longest answer, in bytes.
const ANSWER: u64 = 256 << 20;

/// Why a method has no result.
#[derive(Debug, Error)]
pub enum Error {
    /// The daemon cannot be reached, or has hung up.
    #[error("cannot reach the daemon: {0}")]
    Socket(#[from] io::Error),
    /// What has answered does not speak as agreed.
    #[error("what answers is no such daemon: {0}")]
    Answer(String),
    /// The daemon refuses.
    #[error(transparent)]
    Refused(#[from] Failure),
}

/// Has the daemon at `socket` carry out a method.
///
/// # Errors
/// When it cannot, or does not want to.
pub fn call<T: DeserializeOwned>(socket: &Path, method: &str, params: &Value) -> Result<T, Error> {
    const ID: u64 = 1;
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all((rpc::request(ID, method, params) + "\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).take(ANSWER).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has hung up").into());
    }
    let result = rpc::result(ID, &line).map_err(|why| Error::Answer(why.to_owned()))?;
    serde_json::from_value(result?).map_err(|error| Error::Answer(error.to_string()))
}
