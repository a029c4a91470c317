//! Read-Write Error Recovery (SBC-4 6.5).

use lunette_engine::ModePageSpec;
use lunette_scsi::mode::ReadWriteErrorRecovery;

/// The store recovers as it can; there is nothing to set.
pub(crate) fn page() -> ModePageSpec {
    let page = ReadWriteErrorRecovery::default().encode(false);
    ModePageSpec::fixed(&page)
}
