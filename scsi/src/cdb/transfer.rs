//! The fields that the read and write families share.

use super::Cdb;
use crate::opcode::Opcode;

/// LBA, length and flags of a command that names a range of blocks: READ, WRITE, VERIFY, WRITE
/// AND VERIFY, WRITE SAME, SYNCHRONIZE CACHE, PRE-FETCH, ORWRITE, COMPARE AND WRITE, WRITE ATOMIC
/// and XDWRITEREAD (SBC-4 5). Fields that the command does not have are zero.
///
/// ```
/// use lunette_scsi::{Cdb, Transfer};
///
/// let cdb = Cdb::new(&[0x28, 0x08, 0, 0, 0x10, 0, 0, 0, 8, 0])?;
/// let read = Transfer::parse(&cdb).unwrap();
/// assert_eq!((read.lba, read.blocks, read.fua), (0x1000, 8, true));
/// # Ok::<(), lunette_scsi::CdbError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Transfer {
    /// LOGICAL BLOCK ADDRESS of the first block.
    pub lba: u64,
    /// Number of blocks. For the 6-byte forms zero on the wire is already turned into 256;
    /// elsewhere zero keeps the command's own meaning (none, or up to the end).
    pub blocks: u32,
    /// RDPROTECT, WRPROTECT, VRPROTECT or ORPROTECT, 3 bits.
    pub protect: u8,
    /// DPO: the blocks will not be needed again soon.
    pub dpo: bool,
    /// FUA: bypass the volatile cache.
    pub fua: bool,
    /// BYTCHK, 2 bits (VERIFY, WRITE AND VERIFY).
    pub bytchk: u8,
    /// IMMED (SYNCHRONIZE CACHE, PRE-FETCH).
    pub immed: bool,
    /// ANCHOR (WRITE SAME).
    pub anchor: bool,
    /// UNMAP (WRITE SAME).
    pub unmap: bool,
    /// NDOB, no data-out buffer (WRITE SAME(16)).
    pub ndob: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
}

impl Transfer {
    /// Parses the 6, 10, 12 and 16-byte forms; `None` for any other opcode.
    pub const fn parse(cdb: &Cdb) -> Option<Self> {
        let range = Self::range(cdb);
        let (dpo, fua) = (cdb.bit(1, 4), cdb.bit(1, 3));
        let protect = cdb.u8(1) >> 5;
        let bytchk = (cdb.u8(1) >> 1) & 3;
        let immed = cdb.bit(1, 1);
        Some(match cdb.opcode() {
            Opcode::READ_6 | Opcode::WRITE_6 => {
                let blocks = if cdb.u8(4) == 0 { 256 } else { cdb.u8(4) as u32 };
                Self { lba: (cdb.u24(1) & 0x1f_ffff) as u64, blocks, ..Self::EMPTY }
            }
            Opcode::READ_10
            | Opcode::READ_12
            | Opcode::READ_16
            | Opcode::WRITE_10
            | Opcode::WRITE_12
            | Opcode::WRITE_16
            | Opcode::ORWRITE_16 => Self { protect, dpo, fua, ..range },
            Opcode::XDWRITEREAD_10 => Self { dpo, fua, ..range },
            Opcode::COMPARE_AND_WRITE => Self { protect, dpo, fua, blocks: cdb.u8(13) as u32, ..range },
            Opcode::WRITE_ATOMIC_16 => Self { protect, dpo, fua, blocks: cdb.u16(12) as u32, ..range },
            Opcode::VERIFY_10
            | Opcode::VERIFY_12
            | Opcode::VERIFY_16
            | Opcode::WRITE_AND_VERIFY_10
            | Opcode::WRITE_AND_VERIFY_12
            | Opcode::WRITE_AND_VERIFY_16 => Self { protect, dpo, bytchk, ..range },
            Opcode::SYNCHRONIZE_CACHE_10
            | Opcode::SYNCHRONIZE_CACHE_16
            | Opcode::PRE_FETCH_10
            | Opcode::PRE_FETCH_16 => Self { immed, ..range },
            Opcode::WRITE_SAME_10 => Self { protect, anchor: cdb.bit(1, 4), unmap: cdb.bit(1, 3), ..range },
            Opcode::WRITE_SAME_16 => {
                Self { protect, anchor: cdb.bit(1, 4), unmap: cdb.bit(1, 3), ndob: cdb.bit(1, 0), ..range }
            }
            _ => return None,
        })
    }

    /// The first LBA past the range; `None` when it does not fit.
    pub const fn end(&self) -> Option<u64> {
        self.lba.checked_add(self.blocks as u64)
    }

    const EMPTY: Self = Self {
        lba: 0,
        blocks: 0,
        protect: 0,
        dpo: false,
        fua: false,
        bytchk: 0,
        immed: false,
        anchor: false,
        unmap: false,
        ndob: false,
        group: 0,
    };

    /// LBA, length and group number where CDBs of this opcode's group have them.
    const fn range(cdb: &Cdb) -> Self {
        let (lba, blocks, group) = match cdb.opcode().cdb_length() {
            Some(10) => (cdb.u32(2) as u64, cdb.u16(7) as u32, cdb.u8(6)),
            Some(12) => (cdb.u32(2) as u64, cdb.u32(6), cdb.u8(10)),
            Some(16) => (cdb.u64(2), cdb.u32(10), cdb.u8(14)),
            _ => (0, 0, 0),
        };
        Self { lba, blocks, group: group & 0x3f, ..Self::EMPTY }
    }
}
