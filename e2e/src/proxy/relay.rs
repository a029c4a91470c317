//! Connections, two threads each.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Gate;
use super::pdu::{Digests, Pdu};
use super::trouble::{Direction, Fate, Injury, Schedule, Trouble};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening proxy.
pub(super) struct Relay(Arc<Shared>);

struct Shared {
    /// It listens unless the gate is closed.
    listener: TcpListener,
    state: Mutex<State>,
    gate_moved: Condvar,
}

struct State {
    gate: Gate,
    schedule: Schedule,
    counts: BTreeMap<String, u64>,
    /// A handle of each socket, by the number of its connection.
    sockets: Vec<(u64, TcpStream)>,
}

impl State {
    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the gate is silent.
    fn pass(&self) -> MutexGuard<'_, State> {
        let state = self.lock();
        self.gate_moved
            .wait_while(state, |state| state.gate == Gate::Silent)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes connections as they come.
    fn accept(self: &Arc<Self>, target: SocketAddr) {
        loop {
            let Ok((initiator, _)) = self.listener.accept() else {
                // It does not listen, or a connection has gone before it was taken.
                drop(self.gate_moved.wait_while(self.lock(), |state| state.gate == Gate::Closed));
                continue;
            };
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                if let Err(error) = shared.relay(initiator, target) {
                    eprintln!("proxy: {error:#}");
                }
            });
        }
    }

    /// Relays a connection until it ends.
    fn relay(self: &Arc<Self>, initiator: TcpStream, target: SocketAddr) -> Result<()> {
        if self.pass().gate == Gate::Closed {
            return Ok(());
        }
        let target = TcpStream::connect(target).context("the target does not answer")?;
        let number = {
            let mut state = self.lock();
            // Between the two locks it may have been closed: whoever does that ends what it finds here.
            if state.gate == Gate::Closed {
                return Ok(());
            }
            state.count("connections");
            let number = state.counts["connections"];
            for socket in [&initiator, &target] {
                socket.set_nodelay(true)?;
                state.sockets.push((number, socket.try_clone()?));
            }
            number
        };
        let login = Login::default();
        std::thread::scope(|scope| {
            for (from, to, direction) in
                [(&initiator, &target, Direction::Out), (&target, &initiator, Direction::In)]
            {
                let login = &login;
                scope.spawn(move || {
                    // Either end of the connection may go at any time: that is what the proxy is for.
                    let _ = self.pump(from, to, direction, login);
                    let _ = to.shutdown(Shutdown::Both);
                    let _ = from.shutdown(Shutdown::Both);
                });
            }
        });
        self.lock().sockets.retain(|(of, _)| *of != number);
        Ok(())
    }

    /// Relays PDUs in one direction.
    fn pump(&self, from: &TcpStream, to: &TcpStream, direction: Direction, login: &Login) -> io::Result<()> {
        let mut from = BufReader::with_capacity(64 << 10, from);
        while let Some(mut pdu) = Pdu::read(&mut from, || login.digests())? {
            let (fate, random) = {
                let mut state = self.pass();
                state.count("pdus");
                let fate = match login.is_over() {
                    true => state.schedule.decide(&pdu, direction, login.digests()),
                    false => Fate::default(),
                };
                if let Some(injury) = fate.injury {
                    state.count(&format!("{} {}", injury.name(), direction.name()));
                }
                for (done, name) in [(fate.split, "split"), (fate.milliseconds > 0, "late")] {
                    if done {
                        state.count(name);
                    }
                }
                (fate, state.schedule.random.below(u64::MAX) as usize)
            };
            // Before the answer is on its way, for with it the other direction changes too.
            if direction == Direction::In {
                login.hear(&pdu);
            }
            std::thread::sleep(Duration::from_millis(fate.milliseconds));
            let cut = fate.injury == Some(Injury::Cut);
            if let Some(injury) = fate.injury {
                injure(&mut pdu, injury, random);
            }
            // A prime number of bytes, so that pieces end everywhere.
            let piece = if fate.split { 1 + random % 1021 } else { pdu.bytes.len().max(1) };
            for piece in pdu.bytes.chunks(piece) {
                let mut to = to;
                to.write_all(piece)?;
                std::thread::yield_now();
            }
            if cut {
                break;
            }
        }
        Ok(())
    }
}

/// Does it to the PDU, at a place that `random` chooses.
fn injure(pdu: &mut Pdu, injury: Injury, random: usize) {
    let flipped = match injury {
        Injury::Header => &pdu.header,
        Injury::HeaderDigest => &pdu.header_digest,
        Injury::Data => &pdu.data,
        Injury::DataDigest => &pdu.data_digest,
        Injury::Loss => {
            let at = random % pdu.bytes.len();
            let end = pdu.bytes.len().min(at + 1 + random % 64);
            pdu.bytes.drain(at..end);
            return;
        }
        Injury::Cut => return pdu.bytes.truncate(random % pdu.bytes.len()),
    };
    let at = flipped.start + random % flipped.len();
    pdu.bytes[at] ^= 1 << (random / flipped.len() % 8);
}

/// What the login of a connection has come to.
#[derive(Default)]
struct Login(Mutex<(Digests, bool)>);

impl Login {
    fn lock(&self) -> MutexGuard<'_, (Digests, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, pdu: &Pdu) {
        if let Some((agreed, over)) = pdu.login_answer() {
            let (digests, is_over) = &mut *self.lock();
            digests.header |= agreed.header;
            digests.data |= agreed.data;
            *is_over |= over;
        }
    }

    fn is_over(&self) -> bool {
        self.lock().1
    }

    /// The digests of the next PDU: there are none before the login is over.
    fn digests(&self) -> Digests {
        let (digests, over) = *self.lock();
        if over { digests } else { Digests::default() }
    }
}

impl Relay {
    pub(super) fn start(listen: SocketAddr, target: SocketAddr, trouble: Trouble) -> Result<Relay> {
        let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
        let state = State {
            gate: Gate::Open,
            schedule: Schedule::new(trouble),
            counts: BTreeMap::new(),
            sockets: Vec::new(),
        };
        let shared = Arc::new(Shared { listener, state: Mutex::new(state), gate_moved: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(target));
        Ok(Relay(shared))
    }

    pub(super) fn set(&self, gate: Gate) -> io::Result<()> {
        let mut state = self.0.lock();
        let before = std::mem::replace(&mut state.gate, gate);
        match (before == Gate::Closed, gate == Gate::Closed) {
            (false, true) => {
                // On Linux that is the end of listening, until it is asked for again.
                rustix::net::shutdown(&self.0.listener, rustix::net::Shutdown::Read)?;
                for (_, socket) in state.sockets.drain(..) {
                    let _ = socket.shutdown(Shutdown::Both);
                }
            }
            (true, false) => rustix::net::listen(&self.0.listener, BACKLOG)?,
            _ => {}
        }
        self.0.gate_moved.notify_all();
        Ok(())
    }

    pub(super) fn calm(&self) {
        self.0.lock().schedule.calm();
    }

    pub(super) fn report(&self) -> BTreeMap<String, u64> {
        self.0.lock().counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A target that says every PDU back, and a relay before it.
    fn echo(trouble: Trouble) -> (Relay, SocketAddr) {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = target.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut socket in target.incoming().flatten() {
                let mut copy = socket.try_clone().unwrap();
                std::thread::spawn(move || io::copy(&mut socket, &mut copy));
            }
        });
        let listen = format!("127.0.0.1:{}", crate::tools::free_port().unwrap()).parse().unwrap();
        (Relay::start(listen, address, trouble).unwrap(), listen)
    }

    /// The last login response, with which both digests are on.
    fn login() -> Vec<u8> {
        let text = b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0\0\0";
        let mut bytes = vec![0; 48];
        (bytes[0], bytes[1], bytes[7]) = (0x23, 0x87, text.len() as u8);
        bytes.extend(text);
        bytes
    }

    fn ping() -> Vec<u8> {
        let mut bytes: Vec<u8> = vec![0; 48 + 4 + 8 + 4];
        bytes[7] = 8;
        bytes
    }

    /// Sends `wire` and reads as much, or to the end.
    fn exchange(socket: &mut TcpStream, wire: &[u8]) -> io::Result<Vec<u8>> {
        socket.write_all(wire)?;
        let mut back = Vec::new();
        socket.take(wire.len() as u64).read_to_end(&mut back)?;
        Ok(back)
    }

    #[test]
    fn pieces_and_delays_change_nothing() {
        let (relay, address) = echo(Trouble { split: 1, late: 2, ..Trouble::NONE });
        let mut socket = TcpStream::connect(address).unwrap();
        assert_eq!(exchange(&mut socket, &login()).unwrap(), login());
        for _ in 0..5 {
            assert_eq!(exchange(&mut socket, &ping()).unwrap(), ping());
        }
        let report = relay.report();
        assert_eq!((report["connections"], report["pdus"], report["split"]), (1, 12, 10));
    }

    #[test]
    fn a_bit_is_flipped_where_it_should_be() {
        for (injury, part) in [
            (Injury::Header, 0..48),
            (Injury::HeaderDigest, 48..52),
            (Injury::Data, 52..60),
            (Injury::DataDigest, 60..64),
        ] {
            let mut pdu =
                Pdu::read(&mut &ping()[..], || Digests { header: true, data: true }).unwrap().unwrap();
            injure(&mut pdu, injury, 123_456_789);
            let bits = pdu.bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
            assert_eq!(bits, 2, "one is in the length");
            let at = pdu.bytes.iter().zip(ping()).position(|(new, old)| *new != old).unwrap();
            assert!(part.contains(&at), "{injury:?} at {at}");
        }
    }

    #[test]
    fn a_gate_stops_what_is_there_and_what_comes() {
        let (relay, address) = echo(Trouble::NONE);
        let connect = || {
            let mut socket = TcpStream::connect(address)?;
            exchange(&mut socket, &login()).map(|said| (socket, said == login()))
        };
        let (mut first, works) = connect().unwrap();
        assert!(works);
        relay.set(Gate::Silent).unwrap();
        first.write_all(&ping()).unwrap();
        relay.set(Gate::Open).unwrap();
        let mut back = vec![0; ping().len()];
        first.read_exact(&mut back).unwrap();
        relay.set(Gate::Closed).unwrap();
        assert!(exchange(&mut first, &ping()).unwrap_or_default().is_empty());
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        relay.set(Gate::Open).unwrap();
        let (mut third, _) = connect().unwrap();
        assert_eq!(exchange(&mut third, &ping()).unwrap(), ping());
    }
}
