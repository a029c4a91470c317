//! PREVENT ALLOW MEDIUM REMOVAL (SBC-4 clause 5).

use super::DiskCommand;
use lunette_engine::{CommandSpec, Direction, Plan};
use lunette_scsi::Opcode;

/// Nothing can take the medium out, so removal is prevented at all times.
pub(crate) static PREVENT_ALLOW_MEDIUM_REMOVAL: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, &[0x1e, 0, 0, 0, 0x01, 0], Direction::None),
    decode: |_, _| Ok(Plan::good()),
};
