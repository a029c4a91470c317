//! What answers where no logical unit is, and at the REPORT LUNS well-known logical unit (SPC-4 6.6.2, 8.2).

use crate::command::Command;
use crate::spc::{INQUIRY, PrimaryCommand, REPORT_LUNS, REQUEST_SENSE, TEST_UNIT_READY};
use crate::{CommandSpec, Decoded, Device, Identity, LogicalUnit, Request};
use lunette_scsi::inquiry::NO_LOGICAL_UNIT;
use lunette_scsi::{AdditionalSense, Naa, PeripheralDeviceType, Sense};
use std::sync::Arc;

static MISSING: &[&PrimaryCommand] = &[&INQUIRY, &REPORT_LUNS, &REQUEST_SENSE];
static WELL_KNOWN_REPORT_LUNS: &[&PrimaryCommand] =
    &[&INQUIRY, &REPORT_LUNS, &REQUEST_SENSE, &TEST_UNIT_READY];

/// A device that only has some of the primary commands.
struct Placeholder {
    peripheral: u8,
    commands: &'static [&'static Command<LogicalUnit>],
}

/// Stands for every logical unit that is not there.
pub(crate) fn missing_unit() -> Arc<LogicalUnit> {
    unit("no logical unit", Placeholder { peripheral: NO_LOGICAL_UNIT, commands: MISSING })
}

/// The REPORT LUNS well-known logical unit.
pub(crate) fn report_luns_unit() -> Arc<LogicalUnit> {
    unit(
        "REPORT LUNS",
        Placeholder {
            peripheral: PeripheralDeviceType::WELL_KNOWN_LOGICAL_UNIT.0,
            commands: WELL_KNOWN_REPORT_LUNS,
        },
    )
}

fn unit(name: &str, device: Placeholder) -> Arc<LogicalUnit> {
    let mut identity = Identity::new("", Naa::locally_assigned(0));
    identity.product = String::new();
    LogicalUnit::new(name, identity, Box::new(device), None)
}

impl Device for Placeholder {
    fn peripheral(&self) -> u8 {
        self.peripheral
    }

    fn commands(&self) -> Box<dyn Iterator<Item = &'static CommandSpec>> {
        Box::new(self.commands.iter().map(|command| &command.spec))
    }

    fn decode(&self, row: usize, request: &Request<'_>) -> Decoded {
        (self.commands[row].decode)(request.unit, request)
    }

    fn ready(&self) -> Result<(), Sense> {
        if self.peripheral == NO_LOGICAL_UNIT { Err(self.unknown_command()) } else { Ok(()) }
    }

    fn unknown_command(&self) -> Sense {
        Sense::illegal_request(match self.peripheral {
            NO_LOGICAL_UNIT => AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED,
            _ => AdditionalSense::INVALID_COMMAND_OPERATION_CODE,
        })
    }

    fn is_placeholder(&self) -> bool {
        true
    }
}
