//! Those who mean no good: PDUs that are random or spoilt, in every state of a connection.

use crate::peer::{Peer, READ, WRITE, cdb, settings};
use crate::{BAD, Random};
use anyhow::Result;
use lunette_iscsi::initiator::TaskManagementRequest;
use lunette_iscsi::pdu::TaskManagementFunction;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

/// Where a connection is when it begins to send nonsense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Login,
    FullFeature,
    /// An R2T is not answered.
    DataOut,
    Logout,
}

pub(crate) const STATES: [State; 4] = [State::Login, State::FullFeature, State::DataOut, State::Logout];

pub(crate) struct Bad {
    peer: Peer,
    pub(crate) state: State,
    random: Random,
    /// Requests of the login that are left as they are.
    steps: usize,
    /// How often it has been looked at since it was where it wanted to be.
    pub(crate) looks: usize,
    /// It has sent nonsense.
    pub(crate) has_sent: bool,
}

impl Bad {
    pub(crate) fn connect(number: u32, state: State, seed: u64, to: SocketAddr) -> Result<Self> {
        let mut random = Random::new(seed ^ u64::from(number) << 32);
        let from = Ipv4Addr::new(127, 3, (number >> 6) as u8, 1 + (number % 64) as u8);
        let settings = settings(&format!("bad{}", number % 40), BAD, random.below(3) == 0);
        let steps = random.below(2);
        Ok(Self { peer: Peer::connect(from, to, settings)?, state, random, steps, looks: 0, has_sent: false })
    }

    /// Goes on. What the target says to nonsense is of no interest.
    pub(crate) fn go_on(&mut self) {
        if self.looks > 0 || self.is_there() {
            self.looks += 1;
        }
        if self.looks == 1 {
            let wire = self.nonsense();
            self.has_sent = self.peer.socket.write(&wire).is_ok();
        }
        if self.peer.pump().is_err() || self.peer.closed {
            // It may be nothing that this state has brought about: another of the same name has come.
            self.looks = usize::MAX;
        }
    }

    /// Whether it has come to its state; begins what is to be under way then.
    fn is_there(&mut self) -> bool {
        match self.state {
            State::Login => {
                self.steps = self.steps.wrapping_sub(1);
                self.steps == usize::MAX
            }
            _ if !self.peer.logged_in => false,
            State::FullFeature => {
                for _ in 0..self.random.below(8) {
                    self.something();
                }
                true
            }
            State::DataOut if self.peer.asked.is_some() => true,
            State::DataOut => {
                if self.peer.written.is_empty() {
                    self.peer.lazy = true;
                    self.peer.written = vec![0x55; 1 << 20];
                    self.peer.begin(&cdb(WRITE, 0, 2048), 0);
                }
                // Its only command may have been ended by the reset of another.
                self.peer.ended.is_some()
            }
            State::Logout => {
                for _ in 0..self.random.below(8) {
                    self.something();
                }
                self.peer.begin_logout().is_ok()
            }
        }
    }

    /// Queues a request.
    fn something(&mut self) {
        let lba = self.random.below(1 << 14) as u32;
        match self.random.below(6) {
            0 => drop(self.peer.initiator.ping(&[7; 100], &mut self.peer.out)),
            1 => drop(self.peer.initiator.text(b"SendTargets=\0", &mut self.peer.out)),
            2 => {
                let request = TaskManagementRequest {
                    function: TaskManagementFunction(1 + self.random.below(8) as u8),
                    lun: [0; 8],
                    referenced_task_tag: self.random.below(10) as u32,
                    ref_cmd_sn: 0,
                    immediate: true,
                };
                self.peer.initiator.task_management(&request, &mut self.peer.out);
            }
            3 => drop(self.peer.begin(&[0; 6], 0)),
            4 => {
                self.peer.written = vec![0xaa; 512 * (1 + self.random.below(64))];
                let blocks = (self.peer.written.len() / 512) as u16;
                self.peer.begin(&cdb(WRITE, lba, blocks), 0);
                // What follows has been sent already.
                let wire = self.peer.take_wire();
                let _ = self.peer.socket.write(&wire);
                self.peer.written.clear();
            }
            _ => drop(self.peer.begin(&cdb(READ, lba, 64), 64 * 512)),
        }
    }

    /// What is to be sent, spoilt, and some that nobody would send.
    fn nonsense(&mut self) -> Vec<u8> {
        if self.peer.asked.is_some() && self.random.below(2) == 0 {
            self.peer.answer();
        }
        let mut wire = self.peer.take_wire();
        for _ in 0..1 + self.random.below(4) {
            match self.random.below(6) {
                0 => wire.truncate(self.random.below(wire.len() + 1)),
                1 => wire.extend_from_within(..),
                2 => {
                    let at = self.random.below(wire.len() + 1);
                    let pdu = self.made_up();
                    wire.splice(at..at, pdu);
                }
                3 => wire.extend(self.made_up()),
                // Mostly in the first header.
                part => {
                    let within = if part == 4 { wire.len().min(48) } else { wire.len() };
                    if within > 0 {
                        let at = self.random.below(within);
                        wire[at] = self.random.next() as u8;
                    }
                }
            }
            wire.truncate(4 << 20);
        }
        wire
    }

    /// A PDU of a known kind, mostly with the data it announces, and with fields that are somewhat likely.
    fn made_up(&mut self) -> Vec<u8> {
        const KINDS: [u8; 12] = [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x40, 0x41, 0x42, 0x44];
        let mut pdu = self.random.bytes(48);
        pdu[0] = KINDS[self.random.below(KINDS.len())];
        if self.random.below(8) > 0 {
            pdu[4] = 0;
        }
        let length =
            if self.random.below(16) == 0 { self.random.below(1 << 24) } else { self.random.below(3000) };
        pdu[5..8].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        if self.random.below(2) == 0 {
            pdu[8..16].fill(0);
            // A CmdSN inside the window, and a tag that may be in use.
            pdu[24..28].copy_from_slice(&(2 + self.random.below(12) as u32).to_be_bytes());
            pdu[16..20].copy_from_slice(&(self.random.below(12) as u32).to_be_bytes());
        }
        if let Some((tag, transfer_tag, offset, _)) = self.peer.asked.filter(|_| self.random.below(2) == 0) {
            pdu[0] = 0x05;
            pdu[16..20].copy_from_slice(&tag.to_be_bytes());
            pdu[20..24].copy_from_slice(&transfer_tag.to_be_bytes());
            pdu[36..40].fill(0);
            pdu[40..44].copy_from_slice(&offset.to_be_bytes());
        }
        let data = self.random.bytes(length.min(3000).next_multiple_of(4));
        pdu.extend(data);
        pdu
    }
}
