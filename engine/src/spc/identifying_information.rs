//! REPORT IDENTIFYING INFORMATION and SET IDENTIFYING INFORMATION (SPC-4 6.32, 6.43).

use super::PrimaryCommand;
use crate::saved::HexBytes;
use crate::{
    Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run, StateError,
};
use lunette_scsi::{AdditionalSense, Opcode, Sense, service_action};
use serde::{Deserialize, Serialize};

pub(crate) static REPORT_IDENTIFYING_INFORMATION: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_IN,
        &[0xa3, 0x05, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xfe, 0x00],
        Direction::In,
    )
    .repeatable()
    .action(service_action::REPORT_IDENTIFYING_INFORMATION)
    .reservation(Reservation::Exempt)
    .access(Access::Standby),
    decode: report,
};

pub(crate) static SET_IDENTIFYING_INFORMATION: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MAINTENANCE_OUT,
        &[0xa4, 0x06, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xfe, 0x00],
        Direction::Out,
    )
    .repeatable()
    .action(service_action::SET_IDENTIFYING_INFORMATION)
    .reservation(Reservation::Write),
    decode: set,
};

/// What initiators have written on a logical unit.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct IdentifyingInformation {
    peripheral: HexBytes,
    text: HexBytes,
}

/// INFORMATION TYPE.
mod kind {
    pub(super) const PERIPHERAL: u8 = 0x00;
    pub(super) const TEXT: u8 = 0x02;
    pub(super) const SUPPORTED: u8 = 0x7f;
}

/// The most bytes of each type; at least 64 and 256 have to fit.
const LONGEST: u16 = 256;

impl IdentifyingInformation {
    /// Its section of the saved state.
    const SECTION: &str = "identifying-information";

    /// # Errors
    /// When there is something else in its place.
    pub(crate) fn of(saved: &crate::Saved) -> Result<Self, StateError> {
        saved.get(Self::SECTION)
    }

    fn field(&mut self, kind: u8) -> Option<&mut HexBytes> {
        match kind {
            kind::PERIPHERAL => Some(&mut self.peripheral),
            kind::TEXT => Some(&mut self.text),
            _ => None,
        }
    }
}

fn report(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let (kind, allocation) = (request.cdb.u8(10) >> 1, request.cdb.u32(6));
    let information = match kind {
        kind::SUPPORTED => {
            let [high, low] = LONGEST.to_be_bytes();
            let supported = [kind::PERIPHERAL, kind::TEXT, kind::SUPPORTED];
            let longest = |kind| if kind == kind::SUPPORTED { [0, 0] } else { [high, low] };
            supported
                .into_iter()
                .flat_map(|kind| [kind << 1, 0, longest(kind)[0], longest(kind)[1]])
                .collect()
        }
        _ => {
            let mut information = unit.identifying_information();
            std::mem::take(&mut information.field(kind).ok_or(Sense::invalid_field_in_cdb(10, Some(7)))?.0)
        }
    };
    let mut data = vec![0, 0];
    data.extend((information.len() as u16).to_be_bytes());
    data.extend(information);
    Ok(Plan::data(data, allocation.into()))
}

fn set(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let (kind, length) = (request.cdb.u8(10) >> 1, request.cdb.u32(6));
    if !matches!(kind, kind::PERIPHERAL | kind::TEXT) {
        return Err(Sense::invalid_field_in_cdb(10, Some(7)));
    }
    if length > LONGEST.into() {
        return Err(Sense::invalid_field_in_cdb(6, None));
    }
    Ok(Plan::run(length.into(), async move |run: Run| {
        let list = run.data_out(0, length.into());
        if list.len() < length as usize {
            return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
        }
        let turn = run.turn().await?;
        let mut information = run.unit.identifying_information();
        if let Some(field) = information.field(kind) {
            field.0 = list;
        }
        let (nexus, new) = (run.nexus.clone(), information.clone());
        let apply = move |unit: &LogicalUnit| {
            unit.set_identifying_information(new);
            unit.establish_attention(AdditionalSense::DEVICE_IDENTIFIER_CHANGED, Some(&nexus));
        };
        run.save(&turn, IdentifyingInformation::SECTION, information, apply).await
    }))
}
