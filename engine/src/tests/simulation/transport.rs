//! The frames of commands, and what becomes of these.

use super::disk::BLOCK;
use super::key;
use super::world::{Kind, Shared, World, lock};
use crate::{Completion, Responder};
use lunette_scsi::{Opcode, ServiceResponse, service_action};
use lunette_store::Cx;

/// Cookies are numbers of commands and of functions.
pub(super) struct Transport {
    pub(super) world: Shared,
    pub(super) tells: bool,
}

impl Responder for Transport {
    fn command_ended(&self, cookie: u64, completion: Completion, _: &mut dyn Cx) {
        if self.tells {
            eprintln!("  command {cookie} ends: {}", told(&completion));
        }
        lock(&self.world).end(cookie as usize, completion);
    }

    fn management_ended(&self, cookie: u64, response: ServiceResponse, _: &mut dyn Cx) {
        let mut world = lock(&self.world);
        let now = world.tick();
        let function = &mut world.functions[cookie as usize];
        if self.tells {
            eprintln!("  function {cookie} ends: {response:?}");
        }
        assert!(function.answered.is_none(), "a function is answered twice");
        function.answered = Some((now, response));
    }
}

pub(super) fn told(completion: &Completion) -> String {
    match completion {
        Completion::Ended(outcome) => match &outcome.sense {
            Some(sense) => format!("{:?} {:?}", outcome.status, sense.additional),
            None => format!("{:?}", outcome.status),
        },
        Completion::Aborted(why) => format!("{why:?}"),
    }
}

impl World {
    pub(super) fn end(&mut self, command: usize, completion: Completion) {
        let now = self.tick();
        let command = &mut self.commands[command];
        assert!(command.ended.is_none(), "a command ends twice: {:?}", command.kind);
        command.ended = Some((now, completion));
    }
}

/// NACA of the CONTROL byte.
const NACA: u8 = 4;

/// The CDB and the data of a command.
pub(super) fn frame(nexus: usize, kind: Kind, naca: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut cdb, data) = plain_frame(nexus, kind);
    if naca && let Some(control) = cdb.last_mut() {
        *control |= NACA;
    }
    (cdb, data)
}

fn plain_frame(nexus: usize, kind: Kind) -> (Vec<u8>, Vec<u8>) {
    let cdb = |opcode: Opcode, first: usize, count: usize| {
        vec![opcode.0, 0, 0, 0, 0, first as u8, 0, 0, count as u8, 0]
    };
    match kind {
        Kind::Read { first, count, in_steps } => {
            let opcode = if in_steps { Opcode::READ_12 } else { Opcode::READ_10 };
            (cdb(opcode, first, count), vec![0; count * BLOCK])
        }
        Kind::Write { first, count, number } => {
            let blocks = (0..count as u64).flat_map(|block| (number + block).to_be_bytes());
            (cdb(Opcode::WRITE_10, first, count), blocks.collect())
        }
        Kind::CompareAndWrite { block, expected, number } => {
            let data = [expected.to_be_bytes(), number.to_be_bytes()].concat();
            (cdb(Opcode::COMPARE_AND_WRITE, block, 1), data)
        }
        Kind::Reserve { action, reservation_type, victim } => {
            let register = action == service_action::REGISTER_AND_IGNORE_EXISTING_KEY;
            let action_key = if register { key(nexus) } else { key(victim) };
            let mut list = [key(nexus).to_be_bytes(), action_key.to_be_bytes()].concat();
            list.resize(24, 0);
            let opcode = Opcode::PERSISTENT_RESERVE_OUT.0;
            (vec![opcode, action as u8, reservation_type, 0, 0, 0, 0, 0, 24, 0], list)
        }
        Kind::WriteAtomic { block, number } => {
            (cdb(Opcode::WRITE_ATOMIC_16, block, 1), number.to_be_bytes().to_vec())
        }
        Kind::Lock => (vec![Opcode::RESERVE_6.0, 0, 0, 0, 0, 0], Vec::new()),
        Kind::Unlock => (vec![Opcode::RELEASE_6.0, 0, 0, 0, 0, 0], Vec::new()),
        Kind::TestUnitReady => (vec![0; 6], Vec::new()),
    }
}
