//! A virtual machine that keeps all rules, and counts on being served whatever others do.
//!
//! Only of a unit that it shares it is refused commands while another one has an auto contingent allegiance there.

use super::daemon::{Address, Daemon};
use super::guest::{Agreement, Guest, REQUESTS};
use super::requests::{self, RESPONSE, Request};
use crate::input::Input;
use lunette_engine::LogicalUnit;
use lunette_scsi::Status;
use std::sync::Weak;

/// A unit that nobody else has, and one that others have too.
pub(super) const OWN: u8 = 0;
pub(super) const SHARED: u8 = 1;

pub(super) struct Victim {
    guest: Guest,
    shared: Weak<LogicalUnit>,
    turn: u8,
}

impl Victim {
    pub(super) fn new(address: &Address, shared: Weak<LogicalUnit>, daemon: &mut Daemon) -> Self {
        let mut guest = Guest::new(address, Agreement::USUAL, 1, &mut Input::new(&[]));
        guest.set_up(daemon);
        Self { guest, shared, turn: 0 }
    }

    /// Asks a few things, and gets the right answers.
    pub(super) fn check(&mut self, daemon: &mut Daemon) {
        self.turn = self.turn.wrapping_add(1);
        let block = self.turn;
        let before = self.has_allegiance();
        match self.execute(SHARED, &[0x12, 0, 0, 0, 36, 0], &[], 36, daemon) {
            Some(inquiry) => assert_eq!((inquiry[0], inquiry[2]), (0, 6), "{inquiry:x?}"),
            None => assert!(before || self.has_allegiance(), "a unit that others use is BUSY"),
        }
        // The first command to a unit finds that it was powered on.
        if self.turn == 1 {
            self.execute(OWN, &[0; 6], &[], 0, daemon);
        }
        let pattern = [block ^ 0x5a; 512];
        self.execute(OWN, &[0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0], &pattern, 0, daemon);
        let read = self.execute(OWN, &[0x28, 0, 0, 0, 0, block, 0, 0, 1, 0], &[], 512, daemon);
        assert_eq!(read.as_deref(), Some(&pattern[..]), "a block is not what was written");
    }

    fn has_allegiance(&self) -> bool {
        self.shared.upgrade().is_some_and(|unit| unit.has_allegiance())
    }

    /// Sends a command and takes its answer, which must say GOOD; the data. `None` for BUSY, of the unit that is shared.
    fn execute(
        &mut self,
        unit: u8,
        cdb: &[u8],
        sent: &[u8],
        room: u32,
        daemon: &mut Daemon,
    ) -> Option<Vec<u8>> {
        let (guest, mut input) = (&mut self.guest, Input::new(&[]));
        let sizes = guest.agreement.sizes;
        let mut readable = requests::command([1, 0, 0x40, unit, 0, 0, 0, 0], 1, 0, cdb, sizes);
        readable.extend(sent);
        let request = Request { readable, writable: sizes.response() + room, least: sizes.response() };
        assert!(guest.push(REQUESTS, &request, &mut input), "there is room for a request");
        guest.drivers[REQUESTS].flush();
        guest.run(daemon);
        let returned = guest.drivers[REQUESTS].collect(&mut input);
        let [(address, written)] = returned[..] else { panic!("{} answers", returned.len()) };
        let mut bytes = vec![0; written as usize];
        guest.memory.read(address, &mut bytes);
        let (status, response) = (bytes[RESPONSE as usize - 2], bytes[RESPONSE as usize - 1]);
        if (unit, status, response) == (SHARED, Status::BUSY.0, 0) {
            return None;
        }
        let first = self.turn == 1 && cdb[0] == 0;
        assert!(
            first || (status, response) == (0, 0),
            "{cdb:x?}: {status}, {response}, {:x?}",
            &bytes[12..32]
        );
        Some(bytes.split_off(sizes.response() as usize))
    }
}
