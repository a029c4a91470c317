//! 1,000 iSCSI sessions at once, 10,000 logins and logouts, connections that never log in or never finish, and nonsense in
//! every state, while good sessions verify what they write. All initiators are this test's own, in one thread.

mod bad;
mod good;
mod peer;

use anyhow::{Result, ensure};
use bad::{Bad, STATES};
use good::{AREA, Good};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::tools;
use lunette_e2e::usage::Usage;
use peer::{Peer, READ, WRITE, cdb, connect_from, settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const GOOD: &str = "iqn.2026-11.dev.lunette:good";
pub(crate) const BAD: &str = "iqn.2026-11.dev.lunette:bad";

/// How many sessions verify all the time.
const STEADY: u32 = 8;
/// How many log in at the same time, and how many send nonsense.
const AT_ONCE: usize = 32;
/// How often a connection is looked at after it has sent nonsense.
const LOOKS: usize = 4;
/// By how much the daemon's memory may grow, in KiB.
const GROWTH: u64 = 128 << 10;

/// Full counts, or fewer.
fn count(full: u32, fewer: u32) -> u32 {
    if tools::full() { full } else { fewer }
}

/// Small random numbers from a seed (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The daemon and those who always work.
struct Rig {
    daemon: Daemon,
    address: SocketAddr,
    steady: Vec<Good>,
    peak: u64,
    turns: usize,
}

impl Rig {
    /// One turn of the steady ones. Returns whether anything has happened.
    fn turn(&mut self) -> Result<bool> {
        let mut moved = false;
        for good in &mut self.steady {
            moved |= good.go_on(usize::MAX)?;
        }
        self.turns += 1;
        if self.turns.is_multiple_of(200) {
            self.look()?;
        }
        Ok(moved)
    }

    fn look(&mut self) -> Result<u64> {
        let memory = Usage::of(&mut self.daemon)?.memory;
        self.peak = self.peak.max(memory);
        Ok(memory)
    }

    /// Turns, while `others` have their own, until those are done.
    fn until(&mut self, mut others: impl FnMut(&mut bool) -> Result<bool>) -> Result<()> {
        loop {
            let mut moved = self.turn()?;
            if others(&mut moved)? {
                return Ok(());
            }
            if !moved {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Turns until each of the steady ones has verified once more; says what had happened by then.
    fn all_is_well(&mut self, what: &str) -> Result<()> {
        let goals: Vec<_> = self.steady.iter().map(|good| good.verified + 2).collect();
        while self.steady.iter().zip(&goals).any(|(good, goal)| good.verified < *goal) {
            self.turn()?;
        }
        self.daemon.alive()?;
        let (memory, rounds) =
            (self.look()? >> 10, self.steady.iter().map(|good| good.verified).sum::<usize>());
        println!("{what}: {memory} MiB, {rounds} rounds verified so far");
        Ok(())
    }

    /// So many sessions at the same time, each of which verifies once.
    fn many_sessions(&mut self, many: u32) -> Result<()> {
        let mut sessions = Vec::new();
        for number in STEADY..many {
            sessions.push(Good::connect(number, self.address)?);
            self.turn()?;
            go_on(&mut sessions, 0, &mut false)?;
        }
        self.until(|moved| {
            go_on(&mut sessions, 1, moved)?;
            Ok(sessions.iter().all(|session| session.verified == 1))
        })?;
        self.all_is_well(&format!("{many} sessions at once"))?;
        sessions.iter_mut().for_each(Good::leave);
        self.until(|moved| {
            go_on(&mut sessions, 1, moved)?;
            Ok(sessions.iter().all(Good::has_left))
        })
    }

    fn many_logins(&mut self, many: u32) -> Result<()> {
        let (mut begun, mut left) = (0, 0);
        let mut sessions: Vec<Good> = Vec::new();
        let address = self.address;
        self.until(|moved| {
            while sessions.len() < AT_ONCE && begun < many {
                sessions.push(Good::connect(STEADY + begun % 1000, address)?);
                begun += 1;
            }
            go_on(&mut sessions, 0, moved)?;
            sessions.iter_mut().filter(|session| session.is_ready()).for_each(Good::leave);
            sessions.retain(|session| !session.has_left());
            left = begun - sessions.len() as u32;
            Ok(left == many)
        })?;
        self.all_is_well(&format!("{left} logins and logouts"))
    }

    /// Connections that send nothing, or a part of a request.
    fn half_open(&mut self, many: u32, random: &mut Random) -> Result<()> {
        let mut sockets: Vec<TcpStream> = Vec::new();
        for number in 0..many {
            let mut socket = connect_from(Ipv4Addr::new(127, 2, 0, 1 + (number % 8) as u8), self.address)?;
            let length = random.below(48);
            let mut part = random.bytes(length);
            if let [opcode, ..] = &mut *part {
                *opcode = 0x43;
            }
            let _ = socket.write(&part);
            sockets.push(socket);
            self.turn()?;
        }
        // Somebody else comes nevertheless.
        let mut late = Good::connect(STEADY, self.address)?;
        self.until(|moved| {
            *moved |= late.go_on(1)?;
            Ok(late.verified == 1)
        })?;
        self.all_is_well(&format!("{many} connections that do not log in"))
    }

    fn nonsense(&mut self, many: u32, seed: u64) -> Result<()> {
        let (mut begun, mut sent) = (0, [0; STATES.len()]);
        let mut there: VecDeque<Bad> = VecDeque::new();
        let address = self.address;
        self.until(|moved| {
            *moved = true;
            there.iter_mut().for_each(Bad::go_on);
            there.retain(|bad| {
                let stays = bad.looks < LOOKS;
                sent[bad.state as usize] += usize::from(!stays && bad.has_sent);
                stays
            });
            while there.len() < AT_ONCE && begun < many {
                let state = STATES[begun as usize % STATES.len()];
                there.push_back(Bad::connect(begun, state, seed, address)?);
                begun += 1;
            }
            Ok(there.is_empty())
        })?;
        println!("nonsense in the states {STATES:?}: {sent:?} times");
        let enough = |count: &usize| *count > many as usize / STATES.len() / 4;
        ensure!(sent.iter().all(enough), "few have come where they wanted");
        self.all_is_well(&format!("{many} times nonsense"))
    }
}

fn go_on(sessions: &mut [Good], rounds: usize, moved: &mut bool) -> Result<()> {
    for session in sessions {
        *moved |= session.go_on(rounds)?;
    }
    Ok(())
}

/// A session that does not finish what it has begun.
enum Slow {
    /// A ping of which a byte comes now and then.
    Pdu(Peer),
    /// A transfer. It answers pings.
    Transfer(Peer),
    /// The reading of an answer.
    Answer(Peer),
}

impl Slow {
    fn connect(number: u32, address: SocketAddr) -> Result<Self> {
        // Where no good session writes.
        let lba = 1000 * (AREA / 512) as u32;
        let settings = settings(&format!("slow{number}"), GOOD, false);
        let mut peer = Peer::connect(Ipv4Addr::new(127, 4, 0, 1), address, settings)?;
        while !peer.logged_in {
            peer.pump()?;
        }
        peer.lazy = true;
        match number % 3 {
            0 => {
                peer.initiator.ping(&[1; 64 << 10], &mut peer.out);
                let wire = peer.take_wire();
                peer.socket.write_all(&wire[..1000])?;
                Ok(Self::Pdu(peer))
            }
            1 => {
                peer.written = vec![1; 1 << 20];
                peer.begin(&cdb(WRITE, lba, 2048), 0);
                while peer.asked.is_none() {
                    peer.pump()?;
                    // Of the unit attention.
                    if peer.ended.is_some() {
                        peer.begin(&cdb(WRITE, lba, 2048), 0);
                    }
                }
                Ok(Self::Transfer(peer))
            }
            _ => {
                for n in 0..64 {
                    peer.begin(&cdb(READ, lba + n, 2048), 1 << 20);
                }
                let wire = peer.take_wire();
                peer.socket.write_all(&wire)?;
                Ok(Self::Answer(peer))
            }
        }
    }

    /// Goes on, slowly. Whether it is still there.
    fn go_on(&mut self) -> bool {
        match self {
            Self::Transfer(peer) => peer.pump().is_ok() && !peer.closed,
            Self::Pdu(peer) | Self::Answer(peer) => match peer.socket.write(&[0]) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            },
        }
    }
}

fn start() -> Result<Daemon> {
    let lunette = Lunette::new()?;
    let good = lunette.file("good.img", 1100 * AREA)?;
    let bad = lunette.file("bad.img", 16 << 20)?;
    let file = lunette.path("iscsi.toml");
    let tables = format!(
        r#"
        [[portal]]
        listen = "127.0.0.1:0"
        [[target]]
        name = "{GOOD}"
        units = {{ 0 = "good" }}
        [[target]]
        name = "{BAD}"
        units = {{ 0 = "bad" }}
        [times]
        idle = 5
        silence = 10
        "#
    );
    std::fs::write(&file, tables)?;
    let lunette = lunette.lu(format!("disk:{},w,name=good", good.display()));
    let lunette = lunette.lu(format!("disk:{},w,name=bad", bad.display()));
    lunette.arg("--iscsi-config").arg(file).start()
}

#[test]
fn good_sessions_go_on_in_a_bad_crowd() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random::new(seed);

    let mut daemon = start()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.iscsi_port()?));
    let cold = Usage::of(&mut daemon)?.connections();
    // What the daemon opens or allocates at first use is no part of the comparison.
    for number in 0..STEADY {
        let mut first = Good::connect(number, address)?;
        while first.verified < 10 {
            first.go_on(10)?;
        }
    }
    tools::wait_until("the first sessions are gone", || Ok(Usage::of(&mut daemon)?.connections() == cold))?;
    let idle = Usage::of(&mut daemon)?;
    let steady: Result<_> = (0..STEADY).map(|number| Good::connect(number, address)).collect();
    let mut rig = Rig { daemon, address, steady: steady?, peak: 0, turns: 0 };
    rig.all_is_well("the beginning")?;

    let slow: Result<_> = (0..9).map(|number| Slow::connect(number, address)).collect();
    let mut slow: Vec<Slow> = slow?;
    rig.many_sessions(count(1000, 200))?;
    rig.many_logins(count(10_000, 500))?;
    rig.half_open(count(2000, 700), &mut random)?;
    rig.nonsense(count(20_000, 600), seed)?;
    let mut turns = 0;
    rig.until(|_| {
        turns += 1;
        // Not so often that they come to an end.
        if turns % 100 == 0 {
            slow.retain_mut(Slow::go_on);
        }
        Ok(slow.is_empty())
    })?;
    rig.all_is_well("slow sessions are gone")?;

    let Rig { mut daemon, mut steady, mut peak, .. } = rig;
    steady.iter_mut().for_each(Good::leave);
    while !steady.iter().all(Good::has_left) {
        go_on(&mut steady, usize::MAX, &mut false)?;
    }
    tools::wait_until("the daemon lets go of all connections", || {
        Ok(Usage::of(&mut daemon)?.descriptors == idle.descriptors)
    })?;
    let after = Usage::of(&mut daemon)?.memory;
    peak = peak.max(after);
    println!("memory: {} KiB before, {peak} KiB at most, {after} KiB after", idle.memory);
    ensure!(peak < idle.memory + GROWTH, "the daemon's memory grew by more than {GROWTH} KiB");
    let said = daemon.stop()?;
    ensure!(!said.text().contains("panicked"), "{said}");
    Ok(())
}
