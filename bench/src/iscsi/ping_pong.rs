//! A bare exchange of requests and responses over TCP: what this machine has to give, whatever the protocol.
//!
//! The server knows nothing but two lengths. What one receive has brought is answered by one send, from bytes that
//! never change, so it does less than any target could. Or it takes and answers requests singly, which shows what batches
//! are worth.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};
use lunette_iscsi::pdu::BHS;
use rustix::event::{PollFd, PollFlags, poll};

use super::bundle::{Bundle, Channel};
use crate::daemon::Daemon;
use crate::load::pattern::BLOCK;
use crate::load::workload::{Direction, Workload};
use crate::load::{self, Command, Completion, PATIENCE, Sample};
use crate::run::Settings;

/// Bytes received or sent by one call, unless one message is longer.
const BUFFER: usize = 256 << 10;

/// How many requests the server takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batching {
    AsReceived,
    Singly,
}

/// What is exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    port: u16,
    connections: usize,
    /// Bytes of a request and of a response.
    request: usize,
    response: usize,
    /// The most requests that the server takes at once.
    batch: usize,
}

impl Exchange {
    /// As many bytes each way as a READ or WRITE takes with all its data in one PDU.
    fn new(workload: &Workload, connections: usize, batching: Batching) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (request, response) = match workload.direction {
            Direction::Read => (BHS, BHS + workload.size),
            Direction::Write => (BHS + workload.size, BHS),
        };
        let batch = match batching {
            Batching::AsReceived => (BUFFER / request).max(1),
            Batching::Singly => 1,
        };
        Ok(Self { port, connections, request, response, batch })
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The words that [`from_str`](Self::from_str) takes.
    fn words(&self) -> String {
        let Self { port, connections, request, response, batch } = self;
        format!("{port},{connections},{request},{response},{batch}")
    }
}

impl FromStr for Exchange {
    type Err = Error;

    fn from_str(words: &str) -> Result<Self> {
        let numbers: Vec<usize> = words.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [port, connections, request, response, batch] =
            numbers[..].try_into().context("not five numbers")?;
        ensure!(request > 0 && response > 0 && batch > 0, "nothing to exchange");
        Ok(Self { port: port.try_into()?, connections, request, response, batch })
    }
}

/// Answers until the process is killed.
pub(crate) fn serve(exchange: &Exchange) -> Result<()> {
    let listener = TcpListener::bind(exchange.address())?;
    println!("ready");
    let accept = |_| Peer::new(listener.accept()?.0);
    let mut peers: Vec<_> = (0..exchange.connections).map(accept).collect::<Result<_>>()?;
    let mut input = vec![0; exchange.batch * exchange.request];
    let output = vec![0; BUFFER.next_multiple_of(exchange.response)];
    loop {
        for index in readable(&peers)? {
            if !peers[index].answer(exchange, &mut input, &output)? {
                return Ok(());
            }
        }
    }
}

/// Which peers have sent something. Of a single one, a receive finds that out itself.
fn readable(peers: &[Peer]) -> Result<Vec<usize>> {
    if peers.len() == 1 {
        return Ok(vec![0]);
    }
    let mut fds: Vec<_> = peers.iter().map(|peer| PollFd::new(&peer.socket, PollFlags::IN)).collect();
    poll(&mut fds, None)?;
    Ok((0..fds.len()).filter(|&index| !fds[index].revents().is_empty()).collect())
}

/// One connection of the server.
struct Peer {
    socket: TcpStream,
    /// Bytes of a request that is not whole.
    have: usize,
}

impl Peer {
    fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, have: 0 })
    }

    /// Answers what one call receives; false at the end of the stream.
    fn answer(&mut self, exchange: &Exchange, input: &mut [u8], output: &[u8]) -> Result<bool> {
        let room = input.len() - self.have;
        let count = self.socket.read(&mut input[..room])?;
        self.have += count;
        let mut left = self.have / exchange.request * exchange.response;
        self.have %= exchange.request;
        while left > 0 {
            let now = left.min(output.len());
            self.socket.write_all(&output[..now])?;
            left -= now;
        }
        Ok(count > 0)
    }
}

/// One connection of the client.
struct Client {
    socket: TcpStream,
    exchange: Exchange,
    /// Requests for all slots in a row.
    requests: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of a response that is not whole.
    have: usize,
    /// How many requests have not left yet.
    queued: usize,
    /// Slots in the order of their requests.
    waiting: VecDeque<usize>,
}

impl Client {
    fn connect(exchange: Exchange, slots: usize) -> Result<Self> {
        let socket = TcpStream::connect(exchange.address())?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            exchange,
            requests: vec![0; slots * exchange.request],
            input: vec![0; BUFFER.max(exchange.response)],
            have: 0,
            queued: 0,
            waiting: VecDeque::new(),
        })
    }
}

impl Channel for Client {
    fn submit(&mut self, slot: usize, _command: &Command) -> Result<()> {
        self.waiting.push_back(slot);
        self.queued += 1;
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.queued > 0 {
            self.socket.write_all(&self.requests[..self.queued * self.exchange.request])?;
            self.queued = 0;
        }
        Ok(())
    }

    fn receive(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        let count = match self.socket.read(&mut self.input) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.context("no answer")?,
        };
        ensure!(count > 0, "the server has closed the connection");
        self.have += count;
        let slots = self.waiting.drain(..self.have / self.exchange.response);
        done.extend(slots.map(|slot| Completion { slot, status: Completion::GOOD, residual: 0 }));
        self.have %= self.exchange.response;
        Ok(())
    }

    fn data(&self, _slot: usize) -> &[u8] {
        &[]
    }

    fn data_mut(&mut self, _slot: usize) -> &mut [u8] {
        &mut []
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One run of as many bytes as the workload moves.
pub(super) fn measure(
    workload: &Workload,
    connections: usize,
    batching: Batching,
    size: u64,
    settings: &Settings,
) -> Result<Sample> {
    let exchange = Exchange::new(workload, connections, batching)?;
    let mut daemon = Daemon::start(&std::env::current_exe()?, settings, false, |command| {
        command.args(["--serve-ping-pong", &exchange.words()]);
    })?;
    daemon.wait_for_line("ready")?;
    let slots = workload.depth / connections;
    let mut client = Bundle::new(Client::connect(exchange, slots)?);
    for _ in 1..connections {
        client.join(Bundle::new(Client::connect(exchange, slots)?));
    }
    load::measure_null(&mut client, size / BLOCK as u64, workload, settings.span(), || daemon.usage())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Initiator;

    fn exchange(direction: Direction, batching: Batching) -> Exchange {
        Exchange::new(&Workload::random(direction, 4 << 10, 4), 2, batching).unwrap()
    }

    #[test]
    fn words_name_an_exchange() {
        for batching in [Batching::AsReceived, Batching::Singly] {
            let exchange = exchange(Direction::Read, batching);
            assert_eq!(exchange.words().parse::<Exchange>().unwrap(), exchange);
        }
        for words in ["", "1,2,3,4", "1,2,0,3,4", "70000,1,1,1,1", "1,2,3,4,5,6"] {
            assert!(words.parse::<Exchange>().is_err(), "{words}");
        }
    }

    #[test]
    fn every_request_is_answered() {
        for direction in [Direction::Read, Direction::Write] {
            for batching in [Batching::AsReceived, Batching::Singly] {
                answers(exchange(direction, batching));
            }
        }
    }

    fn answers(exchange: Exchange) {
        let server = std::thread::spawn(move || serve(&exchange));
        let connect = || loop {
            match Client::connect(exchange, 4) {
                Ok(client) => break Bundle::new(client),
                Err(_) => std::thread::yield_now(),
            }
        };
        let mut client = connect();
        client.join(connect());
        let command = Command { cdb: [0; 16], lba: 0, direction: Direction::Read, length: 4096 };
        for slot in 0..8 {
            client.submit(slot, &command).unwrap();
        }
        let mut done = Vec::new();
        while done.len() < 8 {
            let mut some = Vec::new();
            client.wait(&mut some).unwrap();
            done.extend(some.iter().map(|completion| completion.slot));
        }
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 4, 5, 6, 7]);
        drop(client);
        server.join().unwrap().unwrap();
    }
}
