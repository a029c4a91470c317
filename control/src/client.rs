//! The other end of the socket.

use crate::rpc::{self, Said};
use crate::{Credentials, Failure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
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

/// Something that has happened, as the daemon tells it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Told {
    /// Which subscription it belongs to.
    pub subscription: u64,
    /// Its number; what was missed has numbers too.
    pub sequence: u64,
    /// When it happened (RFC 3339); empty where events were missed.
    pub time: String,
    /// Its kind, `object.what`.
    pub kind: String,
    /// The name of what it has happened to.
    pub object: String,
    /// More, by kind.
    pub details: Value,
}

/// A connection to a daemon. It blocks.
pub struct Connection {
    stream: BufReader<UnixStream>,
    last: u64,
    events: VecDeque<Told>,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there, or one may not connect.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let stream = BufReader::new(UnixStream::connect(path)?);
        Ok(Self { stream, last: 0, events: VecDeque::new() })
    }

    /// Who has begun to listen at the other end.
    ///
    /// # Errors
    /// What the system says.
    pub fn peer(&self) -> io::Result<Credentials> {
        Credentials::of_peer(self.stream.get_ref())
    }

    /// How long it waits for the daemon to say something; otherwise for ever.
    ///
    /// # Errors
    /// When the time is none.
    pub fn set_patience(&mut self, patience: Option<Duration>) -> Result<(), Error> {
        self.stream.get_ref().set_read_timeout(patience)?;
        Ok(self.stream.get_ref().set_write_timeout(patience)?)
    }

    /// Has the daemon carry out a method. Events that come before the answer are kept.
    ///
    /// # Errors
    /// When it cannot, or does not want to.
    pub fn call<T: DeserializeOwned>(&mut self, method: &str, params: &Value) -> Result<T, Error> {
        let id = self.send(method, params)?;
        loop {
            match self.hear()? {
                Said::Answer(whose, result) if whose == Some(id) || whose.is_none() => {
                    return serde_json::from_value(result?).map_err(|error| Error::Answer(error.to_string()));
                }
                Said::Answer(..) => {}
                Said::Notification(method, params) => self.keep(&method, params)?,
            }
        }
    }

    /// Sends a request, whose answer only ends the [events](Self::event).
    fn send(&mut self, method: &str, params: &Value) -> Result<u64, Error> {
        self.last += 1;
        let line = rpc::request(self.last, method, params) + "\n";
        match self.stream.get_mut().write_all(line.as_bytes()) {
            // Who refuses a connection says why and closes it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(self.last),
        }
    }

    /// The next event; waits for it.
    ///
    /// # Errors
    /// When the daemon hangs up.
    pub fn event(&mut self) -> Result<Told, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.hear()? {
                Said::Notification(method, params) => self.keep(&method, params)?,
                // Nothing was asked.
                Said::Answer(_, Err(failure)) => return Err(failure.into()),
                Said::Answer(..) => {}
            }
        }
    }

    /// The same, or `None` if something can be read from `other` before one comes.
    ///
    /// # Errors
    /// When the daemon hangs up.
    pub fn event_or(&mut self, other: BorrowedFd<'_>) -> Result<Option<Told>, Error> {
        loop {
            if !self.events.is_empty() || !self.stream.buffer().is_empty() {
                return self.event().map(Some);
            }
            let mut sources = [
                PollFd::new(self.stream.get_ref(), PollFlags::IN),
                PollFd::from_borrowed_fd(other, PollFlags::IN),
            ];
            match poll(&mut sources, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
                Ok(_) if !sources[1].revents().is_empty() => return Ok(None),
                Ok(_) => return self.event().map(Some),
            }
        }
    }

    fn keep(&mut self, method: &str, params: Value) -> Result<(), Error> {
        // Newer daemons may tell more.
        if method == "event" {
            let told = serde_json::from_value(params).map_err(|error| Error::Answer(error.to_string()))?;
            self.events.push_back(told);
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<Said, Error> {
        let mut line = Vec::new();
        self.stream.by_ref().take(ANSWER).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has hung up").into());
        }
        rpc::said(&line).map_err(|why| Error::Answer(why.to_owned()))
    }
}

/// Has the daemon at `socket` carry out a method.
///
/// # Errors
/// When it cannot, or does not want to.
pub fn call<T: DeserializeOwned>(socket: &Path, method: &str, params: &Value) -> Result<T, Error> {
    Connection::open(socket)?.call(method, params)
}
