//! The control socket: who may write to its file may control the daemon. It is served between other things by one thread.

use super::rpc::{self, Call};
use lunette_transport_vhost_user::{Access, Error, SocketFile};
use rustix::event::{PollFd, PollFlags};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Most clients at a time; the next ones wait.
const CLIENTS: usize = 32;
/// Longest request, in bytes.
const REQUEST: usize = 1 << 20;
/// Bytes of answers above which nothing more of a client is read.
const ANSWERS: usize = 4 << 20;

/// The socket and those who have connected to it.
pub(crate) struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    _file: SocketFile,
}

struct Client {
    stream: UnixStream,
    /// The beginning of a request.
    input: Vec<u8>,
    /// What is to be sent.
    output: Vec<u8>,
}

impl Server {
    /// Listens at `path`, for the daemon's own user.
    ///
    /// # Errors
    /// When that is not possible.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let (listener, file) = SocketFile::bind(path, &Access::default())?;
        Ok(Self { listener, clients: Vec::new(), _file: file })
    }

    /// What to wait for until the next [turn](Self::turn).
    pub(crate) fn sources(&self) -> impl Iterator<Item = PollFd<'_>> {
        let more = self.clients.len() < CLIENTS;
        let listener = more.then(|| PollFd::new(&self.listener, PollFlags::IN));
        listener
            .into_iter()
            .chain(self.clients.iter().map(|client| PollFd::new(&client.stream, client.waits_for())))
    }

    /// Does what can be done without waiting.
    pub(crate) fn turn(&mut self, call: &mut Call<'_>) {
        while self.clients.len() < CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    self.clients.push(Client { stream, input: Vec::new(), output: Vec::new() });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the control socket");
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
            ANSWERS.. => PollFlags::OUT,
            _ => PollFlags::IN | PollFlags::OUT,
        }
    }

    /// `None`: it has gone, or is of no use.
    fn turn(&mut self, call: &mut Call<'_>) -> Option<()> {
        if self.output.len() < ANSWERS {
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
        (self.input.len() <= REQUEST).then_some(())
    }

    fn receive(&mut self) -> Option<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => return None,
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
    use crate::control::rpc::Failure;
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
        (Server::open(&path).unwrap(), directory, path)
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
