//! The other end of the control socket: what the command line speaks.

use super::rpc;
use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Longest answer, in bytes.
const ANSWER: u64 = 256 << 20;

/// Has the daemon at `socket` carry out a method.
pub(crate) fn call<T: DeserializeOwned>(socket: &Path, method: &str, params: &Value) -> Result<T> {
    const ID: u64 = 1;
    let told = || format!("cannot reach a lunette at {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(told)?;
    stream.write_all((rpc::request(ID, method, params) + "\n").as_bytes()).with_context(told)?;
    let mut line = String::new();
    BufReader::new(stream).take(ANSWER).read_line(&mut line).with_context(told)?;
    if line.is_empty() {
        return Err(anyhow!("it has hung up")).with_context(told);
    }
    let result = rpc::result(ID, &line).map_err(|why| anyhow!(why)).with_context(told)?;
    Ok(serde_json::from_value(result?)?)
}
