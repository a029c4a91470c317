//! PREVENT ALLOW MEDIUM REMOVAL (SBC-4 clause 5).

use super::DiskCommand;
use lunette_engine::{CommandSpec, Direction, Plan, Reservation, Run};
use lunette_scsi::{Cdb, Opcode};

/// Each nexus says whether it prevents the removal of the medium; that holds until it says otherwise, is lost or preempted, or
/// the unit is reset. It can be said while there is no medium: the next one is meant.
pub(crate) static PREVENT_ALLOW_MEDIUM_REMOVAL: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, &[0x1e, 0, 0, 0, 0x01, 0], Direction::None)
        .repeatable()
        .reservation_by(Reservation::Write, reservation)
        .when_idle(),
    decode: |disk, request| {
        let (condition, prevent) = (disk.condition.clone(), prevents(request.cdb));
        Ok(Plan::run(0, async move |run: Run| {
            if prevent {
                condition.prevent(&run);
            } else {
                condition.allow(run.nexus.id());
            }
            Ok(())
        }))
    },
};

fn prevents(cdb: &Cdb) -> bool {
    cdb.bit(4, 0)
}

/// Allowing is allowed to everybody (SBC-4 4.17; SPC-2 table 10).
fn reservation(cdb: &Cdb) -> Reservation {
    if prevents(cdb) { Reservation::Write } else { Reservation::Exempt }
}
