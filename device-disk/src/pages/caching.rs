//! Caching (SBC-4 6.5).

use crate::Disk;
use lunette_engine::ModePageSpec;
use lunette_scsi::mode::Caching;

/// WCE says whether the store has a volatile cache, and can be cleared where it has one.
pub(crate) fn page(disk: &Disk) -> ModePageSpec {
    let cached = Caching { write_cache_enabled: disk.volatile_cache, ..Caching::default() };
    ModePageSpec::new(&cached.encode(false), &cached.encode(false))
}
