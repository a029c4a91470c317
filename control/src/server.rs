//! The daemon's end of the socket.

use crate::rpc::{self, Call};
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Most clients at a time; the next ones wait.
const CLIENTS: usize = 32;
/// Longest request, in bytes.
const REQUEST: usize = 1 << 20;
/// Bytes of answers above which nothing more of a client is read.
const ANSWERS: usize = 4 << 20;

/// How long no client is accepted when none can be.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket and those who have connected to it.
pub struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    /// No client can be accepted for the moment.
    pausing: bool,
}

struct Client {
    stream: UnixStream,
    /// The beginning of a request.
    input: Vec<u8>,
    /// What is to be sent.
    output: Vec<u8>,
    /// It says nothing more, but may still listen.
    is_silent: bool,
}

impl Server {
    /// Serves those who connect to `listener`.
    ///
    /// # Errors
    /// When the socket cannot be used without blocking.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), pausing: false })
    }

    /// How long to wait at most; `None`: for as long as nothing happens.
    pub fn pause(&self) -> Option<Duration> {
        self.pausing.then_some(PAUSE)
    }

    /// What to wait for until the next [turn](Self::turn).
    pub fn sources(&self) -> impl Iterator<Item = PollFd<'_>> {
        let more = self.clients.len() < CLIENTS && !self.pausing;
        let listener = more.then(|| PollFd::new(&self.listener, PollFlags::IN));
        listener
            .into_iter()
            .chain(self.clients.iter().map(|client| PollFd::new(&client.stream, client.waits_for())))
    }

    /// Does what can be done without waiting.
    pub fn turn(&mut self, call: &mut Call<'_>) {
        let paused = std::mem::take(&mut self.pausing);
        while self.clients.len() < CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    self.clients.push(Client {
                        stream,
                        input: Vec::new(),
                        output: Vec::new(),
                        is_silent: false,
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) => {}
                Err(error) => {
                    // There are no descriptors, most likely.
                    if !paused {
                        tracing::warn!(%error, "cannot accept a connection to the control socket");
                    }
                    self.pausing = true;
                    break;
                }
            }
        }
        self.clients.retain_mut(|client| client.turn(call).is_some());
    }
}

impl Client {
    fn waits_for(&self) -> PollFlags {
        match self.output.len() {
            0 => PollFlags::IN,
            length if length >= ANSWERS || self.is_silent => PollFlags::OUT,
            _ => PollFlags::IN | PollFlags::OUT,
        }
    }

    /// `None`: it has gone, or is of no use.
    fn turn(&mut self, call: &mut Call<'_>) -> Option<()> {
        if self.output.len() < ANSWERS && !self.is_silent {
            self.receive()?;
        }
        loop {
            self.send()?;
            if self.output.len() >= ANSWERS {
                return Some(());
            }
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { break };
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if let Some(answer) = rpc::answer(&line[..end], call) {
                self.output.extend_from_slice(answer.as_bytes());
                self.output.push(b'\n');
            }
        }
        let is_over = self.is_silent && self.output.is_empty();
        (self.input.len() <= REQUEST && !is_over).then_some(())
    }

    fn receive(&mut self) -> Option<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.is_silent = true,
            Ok(length) => self.input.extend_from_slice(&bytes[..length]),
            Err(error) => transient(&error)?,
        }
        Some(())
    }

    fn send(&mut self) -> Option<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) => return transient(&error),
            }
        }
        Some(())
    }
}

/// `None` for an error that stays.
fn transient(error: &std::io::Error) -> Option<()> {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;
    use serde_json::{Value, json};
    use std::io::{BufRead, BufReader};

    fn turn(server: &mut Server) {
        server.turn(&mut |method, params| match method {
            "echo" => Ok(params),
            "much" => Ok(Value::String("x".repeat(1 << 20))),
            _ => Err(Failure::new(Failure::METHOD, "no")),
        });
    }

    fn server() -> (Server, tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        (Server::new(UnixListener::bind(&path).unwrap()).unwrap(), directory, path)
    }

    #[test]
    fn requests_come_in_pieces_and_several_at_a_time() {
        let (mut server, _directory, path) = server();
        let mut client = UnixStream::connect(&path).unwrap();
        let request = rpc::request(1, "echo", &json!("ä"));
        let (head, tail) = request.as_bytes().split_at(20);
        client.write_all(head).unwrap();
        turn(&mut server);
        client.write_all(tail).unwrap();
        client.write_all(b"\n").unwrap();
        client.write_all(format!("{}\n", rpc::request(2, "no", &Value::Null)).as_bytes()).unwrap();
        turn(&mut server);
        let mut lines = BufReader::new(client).lines();
        assert_eq!(rpc::result(1, &lines.next().unwrap().unwrap()), Ok(Ok(json!("ä"))));
        assert!(matches!(rpc::result(2, &lines.next().unwrap().unwrap()), Ok(Err(_))));
        drop(lines);
        turn(&mut server);
        assert_eq!(server.sources().count(), 1, "it has gone");
    }

    #[test]
    fn a_client_that_says_too_much_or_hears_too_little_is_bounded() {
        let (mut server, _directory, path) = server();
        let mut loud = UnixStream::connect(&path).unwrap();
        loud.set_nonblocking(true).unwrap();
        let mut said = 0;
        turn(&mut server);
        while said <= REQUEST + (1 << 20) && server.clients.len() == 1 {
            said += loud.write(&[b'x'; 4096]).unwrap_or(0);
            turn(&mut server);
        }
        assert!(said <= REQUEST + (1 << 20), "what never ends is cut off");
        let mut deaf = UnixStream::connect(&path).unwrap();
        deaf.set_nonblocking(true).unwrap();
        let request = format!("{}\n", rpc::request(1, "much", &Value::Null));
        for _ in 0..64 {
            let _ = deaf.write(request.as_bytes());
            turn(&mut server);
        }
        let waiting = server.clients[0].output.len();
        assert!(waiting < ANSWERS + (2 << 20), "{waiting}");
        assert_eq!(server.clients[0].waits_for(), PollFlags::OUT);
    }

    #[test]
    fn who_says_nothing_more_is_still_answered() {
        let (mut server, _directory, path) = server();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(format!("{}\n", rpc::request(1, "much", &Value::Null)).as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let reader = std::thread::spawn(move || {
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|length| (length, answer))
        });
        while !reader.is_finished() {
            turn(&mut server);
        }
        let (length, answer) = reader.join().unwrap().unwrap();
        assert!(length > 1 << 20 && answer.ends_with('\n'), "{length}");
        assert_eq!(server.sources().count(), 1, "it has gone");
    }

    #[test]
    fn no_more_clients_than_there_is_room_for() {
        let (mut server, _directory, path) = server();
        let clients: Vec<_> = (0..CLIENTS + 3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        turn(&mut server);
        assert_eq!((server.clients.len(), server.sources().count()), (CLIENTS, CLIENTS));
        drop(clients);
        turn(&mut server);
        turn(&mut server);
        assert_eq!((server.clients.len(), server.sources().count()), (0, 1));
    }
}
