//! Sessions that write blocks of their own, read them back and compare.

use crate::peer::{Peer, READ, WRITE, cdb, settings};
use crate::{GOOD, Random};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};

/// Bytes that a session has for itself.
pub(crate) const AREA: u64 = 64 << 10;

pub(crate) struct Good {
    peer: Peer,
    number: u32,
    random: Random,
    step: Step,
    /// How often what was written has been read back.
    pub(crate) verified: usize,
    /// It has been told to log out.
    leaves: bool,
}

/// The command that is under way.
enum Step {
    Login,
    /// TEST UNIT READY, until there is no unit attention.
    Ready,
    Write,
    Read,
    Rest,
    Logout,
}

impl Good {
    /// Begins a login.
    pub(crate) fn connect(number: u32, to: SocketAddr) -> Result<Self> {
        let from = Ipv4Addr::new(127, 1, 0, 1 + (number % 16) as u8);
        let settings = settings(&format!("good{number}"), GOOD, number.is_multiple_of(2));
        Ok(Self {
            peer: Peer::connect(from, to, settings)?,
            number,
            random: Random::new(number.into()),
            step: Step::Login,
            verified: 0,
            leaves: false,
        })
    }

    /// Logs out when what is under way is done.
    pub(crate) fn leave(&mut self) {
        self.leaves = true;
    }

    /// It has logged out, and the target has closed the connection.
    pub(crate) fn has_left(&self) -> bool {
        self.peer.logged_out && self.peer.closed
    }

    /// Goes on as far as is possible now; at most `rounds` rounds are verified. Returns whether anything has happened.
    pub(crate) fn go_on(&mut self, rounds: usize) -> Result<bool> {
        let number = self.number;
        self.try_to_go_on(rounds).with_context(|| format!("session {number}"))
    }

    fn try_to_go_on(&mut self, rounds: usize) -> Result<bool> {
        let moved = self.peer.pump()?;
        ensure!(!self.peer.closed || self.peer.logged_out, "the target closed the connection");
        match self.step {
            Step::Login if self.peer.logged_in => self.begin(&[0; 6], 0, Step::Ready)?,
            Step::Ready if self.peer.ended == Some(0) => self.step = Step::Rest,
            Step::Ready if self.peer.ended.is_some() => self.begin(&[0; 6], 0, Step::Ready)?,
            Step::Write if self.peer.ended.is_some() => {
                ensure!(self.peer.ended == Some(0), "WRITE ended with status {:?}", self.peer.ended);
                let data = std::mem::take(&mut self.peer.written);
                let cdb = cdb(READ, self.lba(), (data.len() / 512) as u16);
                self.begin(&cdb, data.len() as u32, Step::Read)?;
                self.peer.written = data;
            }
            Step::Read if self.peer.ended.is_some() => {
                ensure!(self.peer.ended == Some(0), "READ ended with status {:?}", self.peer.ended);
                ensure!(self.peer.read == self.peer.written, "other bytes than were written");
                self.peer.written.clear();
                self.verified += 1;
                self.step = Step::Rest;
            }
            Step::Rest if self.leaves => {
                self.peer.begin_logout()?;
                self.step = Step::Logout;
            }
            Step::Rest if self.verified < rounds => {
                let blocks = 1 + self.random.below(AREA as usize / 512) as u16;
                self.peer.written = self.random.bytes(usize::from(blocks) * 512);
                let cdb = cdb(WRITE, self.lba(), blocks);
                self.begin(&cdb, 0, Step::Write)?;
            }
            _ => return Ok(moved),
        }
        self.peer.pump()?;
        Ok(true)
    }

    fn lba(&self) -> u32 {
        self.number * (AREA / 512) as u32
    }

    fn begin(&mut self, cdb: &[u8], read_length: u32, step: Step) -> Result<()> {
        self.peer.begin(cdb, read_length).context("the command window is closed")?;
        self.step = step;
        Ok(())
    }

    /// Whether it has logged in.
    pub(crate) fn is_ready(&self) -> bool {
        !matches!(self.step, Step::Login | Step::Ready)
    }
}
