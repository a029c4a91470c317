//! Guest scripts that hold for a disk whatever brings it to the guest.

use anyhow::Result;

use crate::guest::Guest;
use crate::tools;

/// Fails unless the host, and so every guest, has what the scripts call.
pub fn need_tools() -> Result<()> {
    tools::need(["sg_inq", "fio", "mkfs.ext4", "blkdiscard", "fstrim"])
}

/// Uses a writable disk in every way a user would, and checks its data. What is on
/// it is lost.
pub fn disk(guest: &mut Guest, lun: u32) -> Result<()> {
    on_lun(guest, lun, include_str!("../scripts/disk.sh"))
}

/// Uses the pages and maintenance commands of a writable disk.
pub fn maintenance(guest: &mut Guest, lun: u32) -> Result<()> {
    on_lun(guest, lun, include_str!("../scripts/maintenance.sh"))
}

/// Has a writable disk copy to another, and to itself. What is on them is lost.
pub fn copies(guest: &mut Guest, lun: u32, other: u32) -> Result<()> {
    tools::need(["sg_xcopy", "sg_copy_results"])?;
    on_lun(guest, lun, &format!("other=$(disk {other})\n{}", include_str!("../scripts/copy.sh")))
}

/// Checks that a read-only disk can be read, says so, and refuses writes.
pub fn read_only_disk(guest: &mut Guest, lun: u32) -> Result<()> {
    on_lun(guest, lun, include_str!("../scripts/read_only.sh"))
}

/// Keeps every queue of a writable disk busy from all processors, and checks the data, while
/// the logical unit is reset. What is on it is lost.
pub fn resets_under_load(guest: &mut Guest, lun: u32) -> Result<()> {
    let resets = if tools::full() { 100 } else { 8 };
    on_lun(guest, lun, &format!("resets={resets}\n{}", include_str!("../scripts/resets.sh")))
}

/// Runs a script with `$disk` set to the block device of a logical unit.
pub fn on_lun(guest: &mut Guest, lun: u32, script: &str) -> Result<()> {
    guest.check(&format!("disk=$(disk {lun})\n{script}"))?;
    Ok(())
}
