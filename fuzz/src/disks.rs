//! Disks to send commands to, and commands made from their tables.

use crate::input::Input;
use lunette_device_disk::{Disk, Options};
use lunette_engine::{CommandSpec, Direction, Identity, LogicalUnit, Outcome, TargetPort, spc};
use lunette_scsi::{Cdb, Naa, Opcode, Protocol, Sense, SenseFormat, Status};
use lunette_store::Backing;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of each disk: commands of several steps need more than one.
const SIZE: u64 = 640 << 10;

/// A disk over memory, with the faults of a plan.
pub(crate) fn disk(options: &Options, faults: Option<&str>, read_only: bool) -> Arc<LogicalUnit> {
    let ram = Ram::new(SIZE).expect("memory for a disk");
    let ram: Arc<dyn Backing> = Arc::new(if read_only { ram.read_only() } else { ram });
    let backing = match faults {
        Some(plan) => Arc::new(Fault::new(ram, plan.parse().expect("a plan"))),
        None => ram,
    };
    let disk = Disk::new(options, backing.caps()).expect("suits any memory");
    LogicalUnit::new("disk", Identity::new("1", Naa::locally_assigned(1)), Box::new(disk), Some(backing))
}

/// A port that shows units from number 0 on.
pub(crate) fn port(units: impl IntoIterator<Item = Arc<LogicalUnit>>) -> Arc<TargetPort> {
    let units: BTreeMap<_, _> = (0..).zip(units).collect();
    TargetPort::new("iqn.2026-11.dev.lunette:fuzz,t,0x0001", 1, Protocol::ISCSI, units)
}

/// The command table of a unit.
pub(crate) fn commands(unit: &LogicalUnit) -> Vec<&'static CommandSpec> {
    unit.device().commands().chain(spc::COMMANDS.iter().map(|row| &row.spec)).collect()
}

/// A CDB: mostly one of the table in which only bits are set that the command knows, now and then any bytes. With it the
/// direction of its data, if that is known.
pub(crate) fn cdb(commands: &[&'static CommandSpec], input: &mut Input<'_>) -> (Cdb, Option<Direction>) {
    if input.one_in(8) {
        let length = 1 + input.below(Cdb::CAPACITY);
        let bytes = input.bytes(length);
        let bytes = if bytes.is_empty() { &[0] } else { bytes };
        return (without_naca(bytes), None);
    }
    let spec = input.pick(commands);
    let mut bytes = spec.usage.to_vec();
    let kept = input.u32() & input.u32();
    for (at, byte) in bytes.iter_mut().enumerate().skip(1) {
        *byte &= if kept >> at & 1 != 0 { input.u8() } else { 0 };
    }
    // Most block addresses are of blocks that are there.
    if !input.one_in(8) {
        match bytes.len() {
            10 | 12 => bytes[2..4].fill(0),
            16 => bytes[2..8].fill(0),
            32 => bytes[12..18].fill(0),
            _ => {}
        }
    }
    match spec.service_action {
        Some(action) if spec.opcode == Opcode::VARIABLE_LENGTH_CDB => {
            bytes[7] = spec.usage[7];
            bytes[8..10].copy_from_slice(&action.to_be_bytes());
        }
        Some(action) => bytes[1] |= action as u8,
        None => {}
    }
    if input.one_in(32) {
        let at = input.below(bytes.len());
        bytes[at] ^= input.u8();
    }
    (without_naca(&bytes), Some(spec.direction))
}

/// NACA would have commands wait until somebody clears the condition.
fn without_naca(bytes: &[u8]) -> Cdb {
    const NACA: u8 = 0x04;
    let mut bytes = bytes.to_vec();
    // CONTROL (SAM-5 5.2).
    let control = if bytes[0] == Opcode::VARIABLE_LENGTH_CDB.0 { 1 } else { bytes.len() - 1 };
    if let Some(control) = bytes.get_mut(control) {
        *control &= !NACA;
    }
    Cdb::new(&bytes).expect("1 to 32 bytes")
}

/// What must be true of the end of every command. `sent` and `room` are the sizes of the initiator's buffers.
pub(crate) fn check_outcome(outcome: &Outcome, sent: u64, room: u64) {
    assert!(outcome.moved_in <= room && outcome.moved_out <= sent, "{outcome:?} for {sent} and {room} bytes");
    match (&outcome.sense, outcome.status) {
        (None, Status::GOOD) => {
            assert_eq!(outcome.moved_in, room.min(outcome.wanted_in), "{outcome:?}");
            let all_sent = sent >= outcome.wanted_out;
            assert!(!all_sent || outcome.moved_out == outcome.wanted_out, "{outcome:?}");
        }
        (Some(sense), Status::CHECK_CONDITION) => check_sense(sense),
        // Refused, perhaps for what its parameter list says.
        (None, Status::RESERVATION_CONFLICT | Status::ACA_ACTIVE | Status::BUSY | Status::TASK_SET_FULL) => {
            assert_eq!(outcome.moved_in, 0, "{outcome:?}");
        }
        (None, Status::TASK_ABORTED) => {}
        _ => panic!("{outcome:?}"),
    }
    let _ = (outcome.residual_in(room), outcome.residual_out(sent));
}

fn check_sense(sense: &Sense) {
    assert_eq!(Sense::parse(&sense.encode(SenseFormat::Descriptor)), Some(*sense));
    let fixed = Sense::parse(&sense.encode(SenseFormat::Fixed)).expect("sense data");
    assert_eq!((fixed.key, fixed.additional), (sense.key, sense.additional));
}
