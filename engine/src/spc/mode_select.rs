//! MODE SELECT (SPC-4 6.11, 6.12).

use super::PrimaryCommand;
use crate::mode::SavedModes;
use crate::{
    Access, CommandSpec, Decoded, Direction, IoKind, LogicalUnit, Plan, Request, Reservation, Run, sense_of,
};
use lunette_scsi::mode::{BlockDescriptor, ModeForm, ModePageCode, ModeParameterList};
use lunette_scsi::{Opcode, Sense};

pub(crate) static MODE_SELECT_6: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(Opcode::MODE_SELECT_6, &[0x15, 0x11, 0x00, 0x00, 0xff, 0x00], Direction::Out)
        .repeatable()
        .reservation(Reservation::Write)
        .when_idle()
        .access(Access::Standby),
    decode: |_, request| select(request, ModeForm::Six, request.cdb.u8(4).into()),
};

pub(crate) static MODE_SELECT_10: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::MODE_SELECT_10,
        &[0x55, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00],
        Direction::Out,
    )
    .repeatable()
    .reservation(Reservation::Write)
    .when_idle()
    .access(Access::Standby),
    decode: |_, request| select(request, ModeForm::Ten, request.cdb.u16(7)),
};

fn select(request: &Request<'_>, form: ModeForm, length: u16) -> Decoded {
    let (page_format, save) = (request.cdb.bit(1, 4), request.cdb.bit(1, 0));
    if length == 0 && !save {
        return Ok(Plan::good());
    }
    if length > 0 && !page_format {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)));
    }
    Ok(Plan::run(length.into(), async move |run: Run| {
        let list = run.data_out(0, length.into());
        let turn = run.turn().await?;
        let selection = match length {
            0 => run.unit.select_modes(&[])?,
            _ => {
                let list = ModeParameterList::parse(form, &list)?;
                check_header(&run.unit, form, &list)?;
                run.unit.select_modes(&list.pages)?
            }
        };
        let caching = selection.has(ModePageCode::page(0x08));
        if save {
            // All that can be saved is, whichever pages were sent (SPC-4 6.11).
            let (modes, nexus) = (run.unit.modes_to_save(&selection), run.nexus.clone());
            let apply = {
                let modes = modes.clone();
                move |unit: &LogicalUnit| {
                    unit.keep_modes(&modes);
                    unit.set_modes(&selection, &nexus);
                }
            };
            run.save(&turn, SavedModes::SECTION, modes, apply).await?;
        } else {
            run.unit.set_modes(&selection, &run.nexus);
        }
        run.unit.device().modes_selected(&run.unit, &*run.poster());
        // What the cache holds reaches the medium before it counts as disabled (SBC-4 6.5), also what is still being written.
        // It may hold something though it is disabled: the command that did that may have failed here.
        let has_cache = run.unit.backing().is_some_and(|backing| backing.caps().volatile_cache);
        if caching && has_cache && !run.unit.write_cache_enabled() {
            drop(turn);
            run.settle_anew().await.map_err(|error| sense_of(IoKind::Flush, error))?;
            run.flush().await.map_err(|error| sense_of(IoKind::Flush, error))?;
        }
        Ok(())
    }))
}

/// Medium type and block descriptor cannot be changed. DEVICE-SPECIFIC PARAMETER is not looked at, as its bits are reserved
/// in MODE SELECT.
fn check_header(unit: &LogicalUnit, form: ModeForm, list: &ModeParameterList<'_>) -> Result<(), Sense> {
    let (medium_type_at, descriptor_length_at) = match form {
        ModeForm::Six => (1, 3),
        ModeForm::Ten => (2, 6),
    };
    if list.header.medium_type != 0 {
        return Err(Sense::invalid_field_in_parameter_list(medium_type_at, None));
    }
    let Some(given) = list.descriptor else { return Ok(()) };
    let long = matches!(given, BlockDescriptor::Long { .. });
    let Some(ours) = unit.device().block_descriptor(long) else {
        return Err(Sense::invalid_field_in_parameter_list(descriptor_length_at, None));
    };
    let ((blocks, length), (our_blocks, our_length)) = (fields(given), fields(ours));
    let at = list.descriptor_offset;
    // No blocks means: as many as there are.
    if blocks != 0 && blocks != our_blocks {
        return Err(Sense::invalid_field_in_parameter_list(at, None));
    }
    if length != our_length {
        return Err(Sense::invalid_field_in_parameter_list(at + if long { 12 } else { 5 }, None));
    }
    Ok(())
}

fn fields(descriptor: BlockDescriptor) -> (u64, u32) {
    match descriptor {
        BlockDescriptor::Short { blocks, block_length } => (blocks.into(), block_length),
        BlockDescriptor::Long { blocks, block_length } => (blocks, block_length),
    }
}
