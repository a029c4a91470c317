//! PREVENT ALLOW MEDIUM REMOVAL (SBC-4 clause 5).

use super::{DiskCommand, control};
use lunette_engine::{Direction, Plan};
use lunette_scsi::Opcode;

/// Nothing can take the medium out, so removal is prevented at all times.
pub(crate) static PREVENT_ALLOW_MEDIUM_REMOVAL: DiskCommand = DiskCommand {
    spec: control(Opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, &[0x1e, 0, 0, 0, 0x01, 0], Direction::None),
    decode: |_, _| Ok(Plan::good()),
};
