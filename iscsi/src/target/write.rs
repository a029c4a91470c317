//! The data an initiator sends for one command: immediate, unsolicited and solicited (RFC 7143 4.2.5.2, 11.8).
//!
//! R2Ts are sent with rising offsets, whatever DataSequenceInOrder is, and answered in the order in which they were
//! sent (RFC 7143 11.8). So those open at once need no list: they cut the rest of the transfer into pieces of
//! MaxBurstLength. Within a sequence data may come in any order if DataPDUInOrder is No. No sequence counts before
//! each of its bytes has come once: what was in the buffer before is never written to a disk.

use thiserror::Error;

use crate::extents::{Extents, Misfit};
use crate::params::Parameters;

/// Why the data of a command is unusable. The command must end with CHECK CONDITION, ABORTED COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DataError {
    /// A target transfer tag that no open R2T has.
    #[error("Data-Out under a wrong target transfer tag")]
    TransferTag,
    /// Data without an R2T where one was needed.
    #[error("unexpected unsolicited Data-Out")]
    Unsolicited,
    /// A DataSN is wrong: repeated, skipped or out of order.
    #[error("Data-Out with a wrong DataSN")]
    DataSn,
    /// A buffer offset is wrong.
    #[error("Data-Out with a wrong buffer offset")]
    Offset,
    /// More or less data than the R2T, FirstBurstLength or the command allows.
    #[error("Data-Out with an incorrect amount of data")]
    Length,
    /// A logical unit number is not that of the command.
    #[error("Data-Out for another logical unit than its command")]
    Lun,
    /// Data comes in more pieces out of order than are kept in mind.
    #[error("Data-Out with more than {} gaps", crate::limits::MAX_EXTENTS)]
    Fragments,
    /// A data digest is wrong.
    #[error("Data-Out with a wrong data digest")]
    Digest,
}

impl DataError {
    /// Sense key, additional sense code and qualifier (RFC 7143 11.4.7.2; SPC-6 where it has no code).
    pub fn sense(self) -> (u8, u8, u8) {
        match self {
            Self::TransferTag => (0x0b, 0x4b, 0x01),
            Self::Unsolicited => (0x0b, 0x0c, 0x0c),
            Self::DataSn | Self::Lun => (0x0b, 0x4b, 0x00),
            Self::Offset => (0x0b, 0x4b, 0x05),
            Self::Length => (0x0b, 0x0c, 0x0d),
            Self::Fragments => (0x0b, 0x55, 0x03),
            Self::Digest => (0x0b, 0x47, 0x05),
        }
    }
}

/// The fields of a Data-Out PDU that place its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataPdu {
    /// `None`: unsolicited.
    pub(crate) transfer: Option<u16>,
    pub(crate) data_sn: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) last: bool,
}

/// An R2T to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) transfer: u16,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Where a transfer stands after a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Complete,
    Failed(DataError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The immediate data is still coming in; `announced`: unsolicited data follows it.
    Immediate {
        announced: bool,
    },
    /// Data that needs no R2T is still to come, up to `burst_end`.
    Unsolicited,
    Solicited,
    /// Ended by success or failure: nothing more is taken.
    Closed,
}

#[derive(Debug)]
pub(crate) struct WriteTransfer {
    phase: Phase,
    /// Data length the initiator expects to send.
    expected: u32,
    /// What the command needs of that, once known.
    wanted: Option<u32>,
    /// The bytes there are, those of the PDU being received included.
    there: Extents,
    /// Where the current sequence ends.
    burst_end: u32,
    next_data_sn: u32,
    /// Where the last R2T ends.
    requested: u32,
    /// R2Ts not yet answered.
    outstanding: u32,
    /// Names the R2T that is answered next.
    transfer: u16,
    max_burst: u32,
    max_outstanding: u32,
    /// Within a sequence data comes with rising offsets.
    in_order: bool,
    /// A digest error: reported once all sequences in flight have ended (RFC 7143 7.8).
    bad_digest: bool,
}

impl WriteTransfer {
    /// A transfer of `expected` bytes, the first `immediate` of them in the command itself. `announced`: more
    /// unsolicited data follows. `first_transfer` names the first R2T.
    pub(crate) fn new(
        expected: u32,
        immediate: u32,
        announced: bool,
        first_transfer: u16,
        agreed: &Parameters,
    ) -> Self {
        let first_burst = agreed.first_burst_length.min(expected);
        let mut transfer = Self {
            phase: Phase::Immediate { announced: announced && immediate < first_burst },
            expected,
            wanted: None,
            there: Extents::new(immediate),
            burst_end: first_burst,
            next_data_sn: 0,
            requested: immediate,
            outstanding: 0,
            transfer: first_transfer,
            max_burst: agreed.max_burst_length,
            max_outstanding: agreed.max_outstanding_r2t,
            in_order: agreed.data_pdu_in_order,
            bad_digest: false,
        };
        if immediate == 0 {
            transfer.end_immediate(true);
        }
        transfer
    }

    /// Checks a Data-Out header and takes note of its data, which follows, up to [`end_pdu`](Self::end_pdu).
    pub(crate) fn check(&mut self, pdu: DataPdu) -> Result<(), DataError> {
        let due = match self.phase {
            Phase::Unsolicited => pdu.transfer.is_none(),
            Phase::Solicited if self.outstanding > 0 => pdu.transfer == Some(self.transfer),
            Phase::Immediate { .. } | Phase::Solicited | Phase::Closed => false,
        };
        if !due {
            return Err(pdu.transfer.map_or(DataError::Unsolicited, |_| DataError::TransferTag));
        }
        if pdu.data_sn != self.next_data_sn {
            return Err(DataError::DataSn);
        }
        let prefix = self.there.prefix();
        if pdu.offset < prefix || pdu.offset > self.burst_end || self.in_order && pdu.offset != prefix {
            return Err(DataError::Offset);
        }
        if pdu.length > self.burst_end - pdu.offset {
            return Err(DataError::Length);
        }
        self.there.insert(pdu.offset..pdu.offset + pdu.length).map_err(|misfit| match misfit {
            Misfit::Overlap => DataError::Offset,
            Misfit::Fragments => DataError::Fragments,
        })?;
        if pdu.last != (self.there.prefix() == self.burst_end) {
            return Err(DataError::Length);
        }
        Ok(())
    }

    /// The PDU that passed `check` is complete.
    pub(crate) fn end_pdu(&mut self, digest_ok: bool) -> Progress {
        if self.phase == Phase::Closed {
            return Progress::More;
        }
        self.bad_digest |= !digest_ok;
        self.next_data_sn = self.next_data_sn.wrapping_add(1);
        if self.there.prefix() == self.burst_end {
            self.next_data_sn = 0;
            if self.phase == Phase::Unsolicited {
                self.phase = Phase::Solicited;
                self.requested = self.burst_end;
            } else {
                self.outstanding -= 1;
                self.transfer = self.next_transfer(1);
                self.aim();
            }
        }
        self.progress()
    }

    /// Judges the immediate data, which `new` has counted.
    pub(crate) fn end_immediate(&mut self, digest_ok: bool) -> Progress {
        self.bad_digest |= !digest_ok;
        if let Phase::Immediate { announced } = self.phase {
            self.phase = if announced { Phase::Unsolicited } else { Phase::Solicited };
        }
        self.progress()
    }

    /// Says how many bytes the command needs; R2Ts ask for the missing ones. Only the first call counts.
    pub(crate) fn want(&mut self, wanted: u32) -> Progress {
        self.wanted.get_or_insert(wanted.min(self.expected));
        self.progress()
    }

    /// The next R2T, if one may be sent.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        let wanted = self.wanted?;
        if self.phase != Phase::Solicited
            || self.bad_digest
            || self.outstanding >= self.max_outstanding
            || self.requested >= wanted
        {
            return None;
        }
        let length = self.max_burst.min(wanted - self.requested);
        let request =
            Request { transfer: self.next_transfer(self.outstanding), offset: self.requested, length };
        self.requested += length;
        self.outstanding += 1;
        if self.outstanding == 1 {
            self.aim();
        }
        Some(request)
    }

    /// Takes no more data.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Data arrives that no one needs: the transfer has failed or is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Bytes still to come, with those that R2Ts have yet to ask for, but without those of the PDU being received.
    pub(crate) fn left(&self) -> u32 {
        let unasked = match self.phase {
            Phase::Immediate { announced: true } | Phase::Unsolicited => self.burst_end,
            Phase::Immediate { announced: false } | Phase::Solicited => 0,
            Phase::Closed => return 0,
        };
        self.wanted.unwrap_or(0).max(unasked).saturating_sub(self.there.count())
    }

    /// The name the R2Ts of the next task in this slot start from.
    pub(crate) fn unused_transfer(&self) -> u16 {
        self.next_transfer(self.outstanding)
    }

    fn next_transfer(&self, ahead: u32) -> u16 {
        self.transfer.wrapping_add(ahead as u16) & 0x7fff
    }

    /// Sets the end of the sequence that answers the oldest R2T.
    fn aim(&mut self) {
        if self.outstanding > 0 {
            self.burst_end = self.requested.min(self.there.prefix().saturating_add(self.max_burst));
        }
    }

    fn progress(&mut self) -> Progress {
        if self.phase == Phase::Closed {
            return Progress::More;
        }
        let idle = self.phase == Phase::Solicited && self.outstanding == 0;
        if idle && self.bad_digest {
            self.close();
            return Progress::Failed(DataError::Digest);
        }
        if idle && self.wanted.is_some_and(|wanted| self.there.prefix() >= wanted) {
            self.close();
            return Progress::Complete;
        }
        Progress::More
    }
}

#[cfg(test)]
mod tests;
