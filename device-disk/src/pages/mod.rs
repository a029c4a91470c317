//! What a disk says of itself: vital product data and mode pages, one file a page.

use crate::Disk;
use lunette_engine::{LogicalUnit, ModePageSpec};
use lunette_scsi::VpdPage;
use lunette_scsi::log::{LogPageCode, LogParameter};

mod block_device_characteristics;
mod block_limits;
mod caching;
mod error_recovery;
mod logical_block_provisioning;
mod power_condition;
mod provisioning_room;
mod provisioning_threshold;
mod start_stop_cycles;
mod temperature;

pub(crate) use block_limits::MAX_UNMAP_DESCRIPTORS;
pub(crate) use provisioning_threshold::{SET_EXPONENT, in_sets, threshold};

/// The codes of the vital product data pages, ascending.
pub(crate) const VPD_PAGES: &[u8] = &[
    VpdPage::POWER_CONDITION.0,
    VpdPage::BLOCK_LIMITS.0,
    VpdPage::BLOCK_DEVICE_CHARACTERISTICS.0,
    VpdPage::LOGICAL_BLOCK_PROVISIONING.0,
];

/// A vital product data page, whole.
pub(crate) fn vpd_page(disk: &Disk, code: u8, unit: &LogicalUnit) -> Option<Vec<u8>> {
    Some(match VpdPage(code) {
        VpdPage::POWER_CONDITION => power_condition::page(disk),
        VpdPage::BLOCK_LIMITS => block_limits::page(disk, unit),
        VpdPage::BLOCK_DEVICE_CHARACTERISTICS => block_device_characteristics::page(disk),
        VpdPage::LOGICAL_BLOCK_PROVISIONING => logical_block_provisioning::page(disk, unit),
        _ => return None,
    })
}

/// The codes of the log pages of a disk.
pub(crate) const LOG_PAGES: &[LogPageCode] =
    &[LogPageCode::TEMPERATURE, LogPageCode::START_STOP_CYCLE_COUNTER];

/// The same of a thin disk.
pub(crate) const THIN_LOG_PAGES: &[LogPageCode] = &[
    LogPageCode::LOGICAL_BLOCK_PROVISIONING,
    LogPageCode::TEMPERATURE,
    LogPageCode::START_STOP_CYCLE_COUNTER,
];

/// The parameters of a log page.
pub(crate) fn log_page(disk: &Disk, code: LogPageCode) -> Option<Vec<LogParameter>> {
    Some(match code {
        LogPageCode::LOGICAL_BLOCK_PROVISIONING => provisioning_room::page(disk),
        LogPageCode::TEMPERATURE => temperature::page(),
        LogPageCode::START_STOP_CYCLE_COUNTER => start_stop_cycles::page(disk),
        _ => return None,
    })
}

/// The mode pages.
pub(crate) fn mode_pages(disk: &Disk, unit: &LogicalUnit) -> Vec<ModePageSpec> {
    let threshold = provisioning_threshold::page(disk, unit);
    error_recovery::pages().into_iter().chain([caching::page(disk)]).chain(threshold).collect()
}
