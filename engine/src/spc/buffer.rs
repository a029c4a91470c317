//! READ BUFFER and WRITE BUFFER (SPC-4 6.18, 6.49).

use super::PrimaryCommand;
use crate::buffers::{DATA, ECHO};
use crate::{Access, CommandSpec, Decoded, Direction, LogicalUnit, Plan, Request, Reservation, Run};
use lunette_scsi::{Opcode, Sense};

pub(crate) static READ_BUFFER_10: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::READ_BUFFER_10,
        &[0x3c, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00],
        Direction::In,
    )
    .repeatable()
    .reservation(Reservation::Read)
    .access(Access::Any),
    decode: read,
};

pub(crate) static WRITE_BUFFER: PrimaryCommand = PrimaryCommand {
    spec: CommandSpec::new(
        Opcode::WRITE_BUFFER,
        &[0x3b, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00],
        Direction::Out,
    )
    .repeatable()
    .reservation(Reservation::Write)
    .access(Access::Any),
    decode: write,
};

/// MODE. There is no microcode to be sent and no error history.
mod mode {
    pub(super) const DATA: u8 = 0x02;
    pub(super) const DESCRIPTOR: u8 = 0x03;
    pub(super) const ECHO: u8 = 0x0a;
    pub(super) const ECHO_DESCRIPTOR: u8 = 0x0b;
}

fn read(unit: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (buffer, offset, allocation) = (cdb.u8(2), cdb.u24(3) as usize, cdb.u24(6));
    let data = match cdb.u8(1) & 0x1f {
        mode::DATA => {
            check_data_buffer(buffer, offset)?;
            unit.buffers().read(offset, allocation as usize)
        }
        // Any offset will do; a buffer that is not there has no bytes.
        mode::DESCRIPTOR if buffer == 0 => (DATA as u32).to_be_bytes().to_vec(),
        mode::DESCRIPTOR => vec![0; 4],
        mode::ECHO => unit.buffers().echo(request.nexus.id())?,
        mode::ECHO_DESCRIPTOR => {
            const OVERWRITTEN_SUPPORTED: u8 = 0x01;
            let [high, low] = (ECHO as u16).to_be_bytes();
            vec![OVERWRITTEN_SUPPORTED, 0, high, low]
        }
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(4))),
    };
    Ok(Plan::data(data, allocation.into()))
}

fn write(_: &LogicalUnit, request: &Request<'_>) -> Decoded {
    let cdb = request.cdb;
    let (buffer, offset, length) = (cdb.u8(2), cdb.u24(3) as usize, cdb.u24(6));
    let mode = cdb.u8(1) & 0x1f;
    let room = match mode {
        mode::DATA => {
            check_data_buffer(buffer, offset)?;
            DATA - offset
        }
        mode::ECHO => ECHO,
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(4))),
    };
    if length as usize > room {
        return Err(Sense::invalid_field_in_cdb(6, None));
    }
    Ok(Plan::run(length.into(), async move |run: Run| {
        let bytes = run.data_out(0, length.into());
        match mode {
            mode::DATA => run.unit.buffers().write(offset, &bytes),
            _ => run.unit.buffers().write_echo(run.nexus.id(), bytes),
        }
        Ok(())
    }))
}

fn check_data_buffer(buffer: u8, offset: usize) -> Result<(), Sense> {
    if buffer != 0 {
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    if offset > DATA {
        return Err(Sense::invalid_field_in_cdb(3, None));
    }
    Ok(())
}
