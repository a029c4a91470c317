//! The file that all vhost-user daemons serve.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fstatfs};

use crate::load::pattern::{self, BLOCK};
use crate::peers::target_directory;
use crate::run::Settings;

/// Bytes of the file.
pub(crate) const SIZE: u64 = 1 << 30;
const CHUNK: usize = 1 << 20;

/// The file, allocated, filled with the pattern, and on the disk.
pub(crate) fn filled(settings: &Settings) -> Result<PathBuf> {
    let directory = target_directory()?.join("bench");
    fs::create_dir_all(&directory)?;
    let path = directory.join("disk.img");
    if !is_filled(&path) {
        eprintln!("filling {}", path.display());
        fill(&path, settings.generation()).with_context(|| format!("cannot fill {}", path.display()))?;
    }
    Ok(path)
}

/// The same, in the page cache: the first `apart` bytes page by page, the rest as the kernel thinks fit.
///
/// A write makes the file system look at every block of the folio it goes to, which may be hundreds of pages. That costs all
/// daemons alike, and several times what a daemon does.
pub(crate) fn in_page_cache(apart: u64, settings: &Settings) -> Result<PathBuf> {
    let path = filled(settings)?;
    // Dirty pages would stay.
    settle(&path)?;
    let mut file = File::open(&path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut page = [0; 4096];
    for offset in (0..apart).step_by(page.len()) {
        file.read_exact_at(&mut page, offset)?;
    }
    fadvise(&file, 0, None, Advice::Normal)?;
    let mut chunk = vec![0; CHUNK];
    while file.read(&mut chunk)? > 0 {}
    Ok(path)
}

/// Whether the file is whole. The last block is written last.
fn is_filled(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut last = [0; 8];
    let right_size = file.metadata().is_ok_and(|metadata| metadata.len() == SIZE);
    right_size
        && file.read_exact_at(&mut last, SIZE - BLOCK as u64).is_ok()
        && pattern::read_stamp(u64::from_le_bytes(last)).0 == SIZE / BLOCK as u64 - 1
}

fn fill(path: &Path, generation: u8) -> Result<()> {
    let mut file = File::create(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
    let mut chunk = vec![0; CHUNK];
    for lba in (0..SIZE / BLOCK as u64).step_by(CHUNK / BLOCK) {
        pattern::fill(&mut chunk, lba, generation);
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Writes dirty pages back, so that no run pays for the one before it.
pub(crate) fn settle(path: &Path) -> Result<()> {
    OpenOptions::new().write(true).open(path)?.sync_all().context("cannot sync the disk file")
}

/// The name of the file's file system, for the report.
pub(crate) fn file_system(path: &Path) -> Result<String> {
    let kind = fstatfs(File::open(path)?)?.f_type;
    Ok(match kind {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x794c_7630 => "overlayfs".into(),
        other => format!("file system {other:#x}"),
    })
}
