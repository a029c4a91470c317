//! READ CAPACITY (SBC-4 clause 5).

use super::DiskCommand;
use crate::Disk;
use lunette_engine::{Access, CommandSpec, Direction, Plan};
use lunette_scsi::{Capacity, Opcode, service_action};

pub(crate) static READ_CAPACITY_10: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::READ_CAPACITY_10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::In)
        .repeatable()
        .when_ready()
        .access(Access::Standby),
    decode: |disk, _| Ok(Plan::data(capacity(disk).encode_10().to_vec(), 8)),
};

pub(crate) static READ_CAPACITY_16: DiskCommand = DiskCommand {
    spec: CommandSpec::new(
        Opcode::SERVICE_ACTION_IN_16,
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Direction::In,
    )
    .repeatable()
    .action(service_action::READ_CAPACITY_16)
    .when_ready()
    .access(Access::Standby),
    decode: |disk, request| Ok(Plan::data(capacity(disk).encode_16().to_vec(), request.cdb.u32(10).into())),
};

fn capacity(disk: &Disk) -> Capacity {
    let geometry = disk.geometry();
    Capacity {
        last_lba: geometry.blocks - 1,
        block_length: geometry.block_length,
        physical_block_exponent: (disk.physical_block / geometry.block_length).ilog2().min(15) as u8,
        provisioned: disk.discard.is_some(),
        read_zeros: disk.discard.is_some_and(|discard| discard.reads_zero),
        ..Capacity::default()
    }
}
