//! Start-Stop Cycle Counter, as a log page (SPC-4 7.3).

use crate::Disk;
use lunette_scsi::log::LogParameter;

/// Parameter code: how often the disk was started after it had stopped.
const ACCUMULATED: u16 = 0x0004;

/// Since the program has begun to serve the disk. There are no dates, and there is no number of cycles that it should bear.
pub(crate) fn page(disk: &Disk) -> Vec<LogParameter> {
    vec![LogParameter::binary(ACCUMULATED, disk.condition.cycles().to_be_bytes())]
}
