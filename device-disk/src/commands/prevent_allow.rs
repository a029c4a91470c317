//! PREVENT ALLOW MEDIUM REMOVAL (SBC-4 clause 5).

use super::DiskCommand;
use lunette_engine::{CommandSpec, Direction, Plan, Reservation};
use lunette_scsi::Opcode;

/// Nothing can take the medium out, so removal is prevented at all times.
pub(crate) static PREVENT_ALLOW_MEDIUM_REMOVAL: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, &[0x1e, 0, 0, 0, 0x01, 0], Direction::None)
        .reservation_by(Reservation::Write, |cdb| {
            let prevents = cdb.u8(4) & 0x03 != 0;
            if prevents { Reservation::Write } else { Reservation::Exempt }
        }),
    decode: |_, _| Ok(Plan::good()),
};
