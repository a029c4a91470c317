//! A virtual machine that keeps all rules, and counts on being served whatever others do.

use super::daemon::{Address, Daemon};
use super::guest::{Agreement, Guest, REQUESTS};
use super::requests::{self, RESPONSE, Request};
use crate::input::Input;

/// A unit that nobody else has, and one that others have too.
pub(super) const OWN: u8 = 0;
pub(super) const SHARED: u8 = 1;

pub(super) struct Victim {
    guest: Guest,
    turn: u8,
}

impl Victim {
    pub(super) fn new(address: &Address, daemon: &mut Daemon) -> Self {
        let mut guest = Guest::new(address, Agreement::USUAL, 1, &mut Input::new(&[]));
        guest.set_up(daemon);
        Self { guest, turn: 0 }
    }

    /// Asks a few things, and gets the right answers.
    pub(super) fn check(&mut self, daemon: &mut Daemon) {
        self.turn = self.turn.wrapping_add(1);
        let block = self.turn;
        let inquiry = self.execute(SHARED, &[0x12, 0, 0, 0, 36, 0], &[], 36, daemon);
        assert_eq!((inquiry[0], inquiry[2]), (0, 6), "an INQUIRY of a unit that others use: {inquiry:x?}");
        // The first command to a unit finds that it was powered on.
        if self.turn == 1 {
            self.execute(OWN, &[0; 6], &[], 0, daemon);
        }
        let pattern = [block ^ 0x5a; 512];
        self.execute(OWN, &[0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0], &pattern, 0, daemon);
        let read = self.execute(OWN, &[0x28, 0, 0, 0, 0, block, 0, 0, 1, 0], &[], 512, daemon);
        assert_eq!(read, pattern, "a block is not what was written");
    }

    /// Sends a command and takes its answer, which must say GOOD; the data.
    fn execute(&mut self, unit: u8, cdb: &[u8], sent: &[u8], room: u32, daemon: &mut Daemon) -> Vec<u8> {
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
        let first = self.turn == 1 && cdb[0] == 0;
        assert!(
            first || (status, response) == (0, 0),
            "{cdb:x?}: {status}, {response}, {:x?}",
            &bytes[12..32]
        );
        bytes.split_off(sizes.response() as usize)
    }
}
