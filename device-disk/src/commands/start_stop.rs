//! START STOP UNIT (SBC-4 clause 5): the medium goes in and out, runs and stops, and the disk rests.

use super::DiskCommand;
use crate::Disk;
use crate::medium::Medium;
use lunette_engine::{CommandSpec, Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::{AdditionalSense, Cdb, Opcode, Sense};

// IMMED; POWER CONDITION MODIFIER; POWER CONDITION, NO_FLUSH, LOEJ and START.
pub(crate) static START_STOP_UNIT: DiskCommand = DiskCommand {
    spec: CommandSpec::new(Opcode::START_STOP_UNIT, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0], Direction::None)
        .repeatable()
        .reservation_by(Reservation::Write, reservation)
        .when_idle(),
    decode,
};

/// What is asked for.
#[derive(Clone, Copy)]
enum Wish {
    Load,
    Eject,
    Start,
    Stop,
    /// Enter a power condition; `None` is the active one.
    Rest(Option<AdditionalSense>),
    /// Nothing that this disk knows.
    Other,
}

/// Starting is allowed to everybody (SBC-4 4.17).
fn reservation(cdb: &Cdb) -> Reservation {
    const POWER_CONDITION_AND_START: u8 = 0xf1;
    if cdb.u8(4) & POWER_CONDITION_AND_START == 0x01 { Reservation::Allowed } else { Reservation::Write }
}

/// Nothing spins: what has stopped, and in which power condition the disk is, are states that it reports and keeps to. All
/// of it is done before the command ends, with IMMED too: that only allows an early answer, and a late one says more.
fn decode(disk: &Disk, request: &Request<'_>) -> Decoded {
    let wish = wish(disk, request.cdb)?;
    let no_flush = request.cdb.bit(4, 2);
    let (condition, geometry) = (disk.condition.clone(), disk.geometry());
    let (flush, removable) = (disk.volatile_cache && !no_flush, disk.is_removable());
    Ok(Plan::run(0, async move |run| {
        let medium = Medium { run, geometry };
        let unit = medium.run.unit.clone();
        match wish {
            Wish::Load => {
                unit.rest(None);
                condition.load(&unit, &medium.run.nexus)
            }
            Wish::Start => {
                unit.rest(None);
                condition.start(&unit)
            }
            Wish::Eject => {
                condition.eject(&unit)?;
                let left = leave(&medium, flush).await;
                left.inspect_err(|_| condition.undo_eject(&unit))
            }
            // There is no motor that could be off while a medium is in.
            Wish::Stop if removable => {
                condition.start(&unit)?;
                medium.flush_if(flush).await
            }
            Wish::Stop => {
                let stopped = condition.stop(&medium.run)?;
                let left = leave(&medium, flush).await;
                if left.is_err() && stopped {
                    condition.undo_stop(&unit, medium.run.nexus.id());
                }
                left
            }
            // From that of a stopped disk too. The medium can still be accessed, so there is nothing to write to it.
            Wish::Rest(resting) => {
                condition.start(&unit)?;
                unit.rest(resting);
                Ok(())
            }
            Wish::Other => Ok(()),
        }
    }))
}

/// The medium is not accessible any more: waits for the commands that still work on it, and writes the cache to it.
async fn leave(medium: &Medium, flush: bool) -> Result<(), Sense> {
    medium.run.unit.end_self_test();
    let aborted = |_| Sense::aborted_command(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION);
    medium.run.settle().await.map_err(aborted)?;
    medium.flush_if(flush).await
}

fn wish(disk: &Disk, cdb: &Cdb) -> Result<Wish, Sense> {
    const START_VALID: u8 = 0x0;
    let (power_condition, modifier) = (cdb.u8(4) >> 4, cdb.u8(3));
    let (load_or_eject, start) = (cdb.bit(4, 1), cdb.bit(4, 0));
    let resting = |of: &[AdditionalSense]| {
        let known = of.get(usize::from(modifier)).copied();
        known.map(|condition| Wish::Rest(Some(condition))).ok_or(Sense::invalid_field_in_cdb(3, Some(3)))
    };
    match power_condition {
        START_VALID if modifier != 0 => Err(Sense::invalid_field_in_cdb(3, Some(3))),
        START_VALID if load_or_eject && disk.is_removable() => {
            Ok(if start { Wish::Load } else { Wish::Eject })
        }
        START_VALID if start => Ok(Wish::Start),
        START_VALID if load_or_eject => Err(Sense::invalid_field_in_cdb(4, Some(1))),
        START_VALID => Ok(Wish::Stop),
        power_condition::ACTIVE | power_condition::LU_CONTROL if modifier != 0 => {
            Err(Sense::invalid_field_in_cdb(3, Some(3)))
        }
        power_condition::ACTIVE | power_condition::LU_CONTROL => Ok(Wish::Rest(None)),
        power_condition::IDLE => resting(&[
            AdditionalSense::IDLE_CONDITION_ACTIVATED_BY_COMMAND,
            AdditionalSense::IDLE_B_CONDITION_ACTIVATED_BY_COMMAND,
            AdditionalSense::IDLE_C_CONDITION_ACTIVATED_BY_COMMAND,
        ]),
        power_condition::STANDBY => resting(&[
            AdditionalSense::STANDBY_CONDITION_ACTIVATED_BY_COMMAND,
            AdditionalSense::STANDBY_Y_CONDITION_ACTIVATED_BY_COMMAND,
        ]),
        power_condition::FORCE_IDLE_0 => resting(&[
            AdditionalSense::IDLE_CONDITION_ACTIVATED_BY_TIMER,
            AdditionalSense::IDLE_B_CONDITION_ACTIVATED_BY_TIMER,
            AdditionalSense::IDLE_C_CONDITION_ACTIVATED_BY_TIMER,
        ]),
        power_condition::FORCE_STANDBY_0 => resting(&[
            AdditionalSense::STANDBY_CONDITION_ACTIVATED_BY_TIMER,
            AdditionalSense::STANDBY_Y_CONDITION_ACTIVATED_BY_TIMER,
        ]),
        // libiscsi's suite goes through all of them with a removable medium, and wants that nothing happens.
        _ if disk.is_removable() => Ok(Wish::Other),
        _ => Err(Sense::invalid_field_in_cdb(4, Some(7))),
    }
}

/// POWER CONDITION.
mod power_condition {
    pub(super) const ACTIVE: u8 = 0x1;
    pub(super) const IDLE: u8 = 0x2;
    pub(super) const STANDBY: u8 = 0x3;
    /// Back to the timers, of which none runs.
    pub(super) const LU_CONTROL: u8 = 0x7;
    pub(super) const FORCE_IDLE_0: u8 = 0xa;
    pub(super) const FORCE_STANDBY_0: u8 = 0xb;
}
