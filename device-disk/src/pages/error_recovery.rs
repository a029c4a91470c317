//! Read-Write Error Recovery and Verify Error Recovery (SBC-4 6.5).

use lunette_engine::ModePageSpec;
use lunette_scsi::mode::{ReadWriteErrorRecovery, VerifyErrorRecovery};

/// The store recovers as it can; there is nothing to set.
pub(crate) fn pages() -> [ModePageSpec; 2] {
    let read_write = ReadWriteErrorRecovery::default().encode(false);
    let verify = VerifyErrorRecovery::default().encode(false);
    [ModePageSpec::fixed(&read_write), ModePageSpec::fixed(&verify)]
}
