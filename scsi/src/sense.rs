//! Sense data: what went wrong, in fixed and in descriptor format (SPC-4 4.5).

mod additional;
mod encoding;

#[cfg(test)]
mod tests;

use std::fmt;

use bitflags::bitflags;

use crate::codes::codes;

pub use additional::AdditionalSense;
pub use encoding::SenseBytes;

codes! {
    /// SENSE KEY (SPC-4 4.5.6).
    pub struct SenseKey(u8);
    NO_SENSE = 0x0, "NO SENSE";
    RECOVERED_ERROR = 0x1, "RECOVERED ERROR";
    NOT_READY = 0x2, "NOT READY";
    MEDIUM_ERROR = 0x3, "MEDIUM ERROR";
    HARDWARE_ERROR = 0x4, "HARDWARE ERROR";
    ILLEGAL_REQUEST = 0x5, "ILLEGAL REQUEST";
    UNIT_ATTENTION = 0x6, "UNIT ATTENTION";
    DATA_PROTECT = 0x7, "DATA PROTECT";
    BLANK_CHECK = 0x8, "BLANK CHECK";
    VENDOR_SPECIFIC = 0x9, "VENDOR SPECIFIC";
    COPY_ABORTED = 0xa, "COPY ABORTED";
    ABORTED_COMMAND = 0xb, "ABORTED COMMAND";
    VOLUME_OVERFLOW = 0xd, "VOLUME OVERFLOW";
    MISCOMPARE = 0xe, "MISCOMPARE";
    COMPLETED = 0xf, "COMPLETED";
}

/// The three bytes whose meaning depends on the sense key (SPC-4 4.5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SenseKeySpecific {
    /// ILLEGAL REQUEST: the field that was refused.
    FieldPointer {
        /// The field lies in the CDB; otherwise in the parameter list.
        in_cdb: bool,
        /// Byte of the field's most significant byte.
        byte: u16,
        /// Most significant bit of the field, 0 to 7.
        bit: Option<u8>,
    },
    /// HARDWARE, MEDIUM and RECOVERED ERROR: how often the command was tried again.
    ActualRetryCount(u16),
    /// NO SENSE and NOT READY: how much of a job is done, in 65 536ths.
    Progress(u16),
    /// COPY ABORTED: the descriptor field that was in error.
    SegmentPointer {
        /// The pointer counts from the start of a segment descriptor; otherwise of the parameter list.
        in_segment_descriptor: bool,
        /// Byte of the field.
        byte: u16,
        /// Most significant bit of the field, 0 to 7.
        bit: Option<u8>,
    },
    /// UNIT ATTENTION: whether the queue of unit attention conditions overflowed.
    UnitAttentionQueue {
        /// Conditions were lost.
        overflow: bool,
    },
}

bitflags! {
    /// Flags of stream and block commands (SPC-4 4.5.2).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct SenseFlags: u8 {
        /// A stream command read a filemark or setmark.
        const FILEMARK = 0x80;
        /// A stream command came to an end of partition or of medium.
        const EOM = 0x40;
        /// The length asked for was not that of the block (stream commands).
        const ILI = 0x20;
        /// The length asked for was not that of the block (block commands: READ LONG, WRITE LONG).
        const BLOCK_ILI = 0x01;
    }
}

/// The two formats of sense data; the control mode page's D_SENSE bit chooses (SPC-4 7.5.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SenseFormat {
    /// Response codes 70h and 71h (SPC-4 4.5.3).
    #[default]
    Fixed,
    /// Response codes 72h and 73h (SPC-4 4.5.2).
    Descriptor,
}

/// Sense data, independent of its format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sense {
    /// The kind of condition.
    pub key: SenseKey,
    /// What exactly happened.
    pub additional: AdditionalSense,
    /// The error belongs to an earlier command (response codes 71h and 73h).
    pub deferred: bool,
    /// INFORMATION, for block commands usually the LBA. Left out of the fixed format, with VALID
    /// set to zero, when it needs more than 32 bits (SPC-4 4.5.3).
    pub information: Option<u64>,
    /// COMMAND-SPECIFIC INFORMATION. Zero in the fixed format when it needs more than 32 bits.
    pub command_specific: Option<u64>,
    /// FIELD REPLACEABLE UNIT CODE, zero for none.
    pub field_replaceable_unit: u8,
    /// SENSE KEY SPECIFIC.
    pub sense_key_specific: Option<SenseKeySpecific>,
    /// Flags of stream and block commands.
    pub flags: SenseFlags,
}

impl Sense {
    /// "No sense": nothing to report.
    pub const NO_SENSE: Self =
        Self::new(SenseKey::NO_SENSE, AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION);

    /// A current error without further detail.
    pub const fn new(key: SenseKey, additional: AdditionalSense) -> Self {
        Self {
            key,
            additional,
            deferred: false,
            information: None,
            command_specific: None,
            field_replaceable_unit: 0,
            sense_key_specific: None,
            flags: SenseFlags::empty(),
        }
    }

    /// ILLEGAL REQUEST.
    pub const fn illegal_request(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::ILLEGAL_REQUEST, additional)
    }

    /// UNIT ATTENTION.
    pub const fn unit_attention(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::UNIT_ATTENTION, additional)
    }

    /// NOT READY.
    pub const fn not_ready(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::NOT_READY, additional)
    }

    /// MEDIUM ERROR.
    pub const fn medium_error(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::MEDIUM_ERROR, additional)
    }

    /// HARDWARE ERROR.
    pub const fn hardware_error(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::HARDWARE_ERROR, additional)
    }

    /// DATA PROTECT.
    pub const fn data_protect(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::DATA_PROTECT, additional)
    }

    /// ABORTED COMMAND.
    pub const fn aborted_command(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::ABORTED_COMMAND, additional)
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN CDB, with a pointer to the field's first byte and, if
    /// it is narrower than a byte, its most significant bit.
    pub const fn invalid_field_in_cdb(byte: u16, bit: Option<u8>) -> Self {
        Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB)
            .with_specific(SenseKeySpecific::FieldPointer { in_cdb: true, byte, bit })
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST, with a pointer into the data-out buffer.
    pub const fn invalid_field_in_parameter_list(byte: u16, bit: Option<u8>) -> Self {
        Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST)
            .with_specific(SenseKeySpecific::FieldPointer { in_cdb: false, byte, bit })
    }

    /// MISCOMPARE DURING VERIFY OPERATION; `offset` is the first byte that differs (SBC-3 5.2).
    pub const fn miscompare(offset: u64) -> Self {
        Self::new(SenseKey::MISCOMPARE, AdditionalSense::MISCOMPARE_DURING_VERIFY_OPERATION)
            .with_information(offset)
    }

    /// The same with INFORMATION.
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The same with COMMAND-SPECIFIC INFORMATION.
    pub const fn with_command_specific(mut self, value: u64) -> Self {
        self.command_specific = Some(value);
        self
    }

    /// The same with SENSE KEY SPECIFIC.
    pub const fn with_specific(mut self, specific: SenseKeySpecific) -> Self {
        self.sense_key_specific = Some(specific);
        self
    }

    /// The same with a progress indication, in 65 536ths.
    pub const fn with_progress(self, progress: u16) -> Self {
        self.with_specific(SenseKeySpecific::Progress(progress))
    }

    /// The same with these flags.
    pub const fn with_flags(mut self, flags: SenseFlags) -> Self {
        self.flags = flags;
        self
    }

    /// The same, as an error of an earlier command.
    pub const fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.deferred {
            f.write_str("deferred ")?;
        }
        write!(f, "{}, {}", self.key, self.additional)?;
        if let Some(information) = self.information {
            write!(f, ", information {information:#x}")?;
        }
        match self.sense_key_specific {
            Some(SenseKeySpecific::FieldPointer { in_cdb, byte, bit }) => {
                let place = if in_cdb { "CDB" } else { "parameter list" };
                write!(f, ", {place} byte {byte}")?;
                bit.map_or(Ok(()), |bit| write!(f, " bit {bit}"))
            }
            Some(SenseKeySpecific::Progress(done)) => {
                write!(f, ", {} % done", u32::from(done) * 100 / 65536)
            }
            _ => Ok(()),
        }
    }
}
