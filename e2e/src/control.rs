//! A client of the control socket.

use crate::daemon::Lunette;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A connection to the control socket of a daemon.
pub struct Control {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Control {
    /// Connects to a daemon with the state directory of `lunette`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn of(lunette: &Lunette<'_>) -> Result<Self> {
        let to = UnixStream::connect(lunette.path("state/control.sock"))?;
        Ok(Self { from: BufReader::new(to.try_clone()?), to })
    }

    /// The answer to a request: its result, or its error.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&mut self, method: &str, params: Value) -> Result<Result<Value, Value>> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.to.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("{method}: {line:?}"))?;
        Ok(match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["result"].take()),
        })
    }

    /// The result of a request that must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        match self.ask(method, params)? {
            Ok(result) => Ok(result),
            Err(error) => bail!("{method}: {error}"),
        }
    }
}
