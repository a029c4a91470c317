//! What is known of a request that is not answered.

use std::ops::Range;

use crate::error::Error;
use crate::extents::Extents;
use crate::params::Parameters;
use crate::pdu::{DataIn, Opcode, ReadyToTransfer, TaskManagementFunction, flag};
use crate::target::Residual;

/// What a task management function ends when it is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub(super) function: TaskManagementFunction,
    pub(super) lun: [u8; 8],
    pub(super) referenced: u32,
}

#[derive(Debug)]
pub(super) struct Task {
    /// The connection that it has its allegiance to.
    pub(super) cid: u16,
    /// The PDU that answers it.
    pub(super) answer: Opcode,
    pub(super) lun: [u8; 8],
    /// Of a task management function.
    pub(super) effect: Option<Effect>,
    /// The write data.
    pub(super) payload: Option<u64>,
    write_length: u32,
    read_length: u32,
    /// Number of the next Data-In or R2T.
    data_sn: u32,
    /// Data-In that has come.
    read: Extents,
    /// Bytes of the current Data-In sequence.
    sequence: u32,
    /// Data-Out that was sent unasked, or asked for.
    requested: Extents,
}

impl Task {
    /// A request without data transfer, which `answer` ends.
    pub(super) fn new(cid: u16, answer: Opcode) -> Self {
        Self {
            cid,
            answer,
            lun: [0; 8],
            effect: None,
            payload: None,
            write_length: 0,
            read_length: 0,
            data_sn: 0,
            read: Extents::default(),
            sequence: 0,
            requested: Extents::default(),
        }
    }

    pub(super) fn management(cid: u16, effect: Effect) -> Self {
        Self { effect: Some(effect), ..Self::new(cid, Opcode::TASK_MANAGEMENT_RESPONSE) }
    }

    /// A command for `lun` with so many bytes to read and write, `unsolicited` of which are sent unasked.
    pub(super) fn command(
        cid: u16,
        lun: [u8; 8],
        payload: Option<u64>,
        (read_length, write_length, unsolicited): (u32, u32, u32),
    ) -> Self {
        let requested = Extents::new(unsolicited);
        Self { lun, payload, write_length, read_length, requested, ..Self::new(cid, Opcode::SCSI_RESPONSE) }
    }

    pub(super) fn reads(&self) -> bool {
        self.read_length > 0
    }

    pub(super) fn writes(&self) -> bool {
        self.payload.is_some()
    }

    /// ExpDataSN of the response (RFC 7143 11.4.8).
    pub(super) fn exp_data_sn(&self) -> u32 {
        if self.read.count() > 0 { self.data_sn } else { 0 }
    }

    /// A Data-In header has come, with `length` bytes of data.
    pub(super) fn take_data_in(
        &mut self,
        header: &DataIn,
        length: u32,
        agreed: &Parameters,
    ) -> Result<(), Error> {
        self.count(header.data_sn.get())?;
        let range = within(header.buffer_offset.get(), length, self.read_length)?;
        let in_order = agreed.data_pdu_in_order && agreed.data_sequence_in_order;
        if in_order && range.start != self.read.prefix() {
            return Err(Error::Transfer("a Data-In PDU is out of order"));
        }
        self.read.insert(range).map_err(|_| Error::Transfer("Data-In PDUs overlap or leave gaps"))?;
        self.sequence += length;
        if self.sequence > agreed.max_burst_length {
            return Err(Error::Transfer("a Data-In sequence is longer than MaxBurstLength"));
        }
        let last = header.flags & flag::FINAL != 0;
        if header.flags & flag::STATUS != 0 && !last {
            return Err(Error::Transfer("a status comes before the end of a Data-In sequence"));
        }
        if last {
            self.sequence = 0;
        }
        Ok(())
    }

    pub(super) fn take_request(
        &mut self,
        header: &ReadyToTransfer,
        agreed: &Parameters,
    ) -> Result<(), Error> {
        self.count(header.r2t_sn.get())?;
        let length = header.desired_length.get();
        if !(1..=agreed.max_burst_length).contains(&length) {
            return Err(Error::Transfer("an R2T asks for nothing, or for more than MaxBurstLength"));
        }
        let range = within(header.buffer_offset.get(), length, self.write_length)?;
        if agreed.data_sequence_in_order && range.start != self.requested.prefix() {
            return Err(Error::Transfer("an R2T is out of order"));
        }
        self.requested.insert(range).map_err(|_| Error::Transfer("R2Ts overlap or leave gaps"))
    }

    /// Checks that all data of a command that has ended well was sent; `residual` is that of its read part.
    pub(super) fn check_residual(&self, residual: Residual) -> Result<(), Error> {
        let missing = match residual {
            Residual::Underflow(count) => count,
            Residual::Exact | Residual::Overflow(_) => 0,
        };
        if !self.reads() {
            return Ok(());
        }
        if self.read.has_gaps() || self.read.prefix().checked_add(missing) != Some(self.read_length) {
            return Err(Error::Transfer("Data-In is missing that the residual count does not tell of"));
        }
        Ok(())
    }

    fn count(&mut self, received: u32) -> Result<(), Error> {
        if received != self.data_sn {
            return Err(Error::Transfer("a DataSN or R2TSN is wrong"));
        }
        self.data_sn = self.data_sn.wrapping_add(1);
        Ok(())
    }
}

fn within(offset: u32, length: u32, expected: u32) -> Result<Range<u32>, Error> {
    let end = offset.checked_add(length).filter(|&end| end <= expected);
    end.map(|end| offset..end).ok_or(Error::Transfer("data is past the end of what the command expects"))
}
