//! A disk image that a PC's firmware boots: a partition table, a FAT file system, syslinux, a kernel and an initramfs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tools;

const SECTOR: u32 = 512;
/// Where the partition begins, in sectors: at 1 MiB.
const START: u32 = 2048;
/// How long it is: 47 MiB.
const LENGTH: u32 = 96256;

/// The size of the image in bytes; what is behind the partition is free.
pub const SIZE: u64 = 64 << 20;

/// The code of the master boot record, which looks for the active partition.
const BOOT_CODE: &str = "/usr/lib/syslinux/mbr/mbr.bin";

/// Writes the image to `file`.
pub(super) fn write(file: &Path, kernel: &Path, initramfs: &Path, append: &str) -> Result<()> {
    let image = fs::File::create(file)?;
    image.set_len(SIZE)?;
    let code = fs::read(BOOT_CODE)
        .with_context(|| format!("cannot read {BOOT_CODE}: Debian's package syslinux-common has it"))?;
    image.write_all_at(&code, 0)?;
    image.write_all_at(&partition_entry(), 446)?;
    image.write_all_at(&[0x55, 0xaa], 510)?;

    let folder = tools::temp_dir()?;
    let config = folder.path().join("syslinux.cfg");
    fs::write(
        &config,
        format!(
            "SERIAL 0 115200\nDEFAULT linux\nLABEL linux\nKERNEL linux\nINITRD initramfs\nAPPEND {append}\n"
        ),
    )?;
    let partition = format!("{}@@{}", file.display(), START * SECTOR);
    let (start, length) = (START.to_string(), LENGTH.to_string());
    // The geometry is what firmware makes up for disks of this size.
    let geometry = ["-h", "16", "-s", "63", "-H", &start, "-T", &length];
    tools::output("mformat", ["-i", &partition].iter().chain(&geometry).chain(&["::"]))?.ok()?;
    for (source, name) in [(kernel, "::linux"), (initramfs, "::initramfs"), (&config, "::syslinux.cfg")] {
        let source = source.to_str().context("a path is not UTF-8")?;
        tools::output("mcopy", ["-i", &partition, source, name])?.ok()?;
    }
    let mut install = tools::command("syslinux")?;
    install.args(["--install", "--offset", &(START * SECTOR).to_string()]).arg(file);
    tools::run(&mut install, tools::LIMIT)?.ok()?;
    Ok(())
}

/// An active partition of FAT16, found by its block addresses.
fn partition_entry() -> [u8; 16] {
    let mut entry = [0; 16];
    let no_geometry = [0xfe, 0xff, 0xff];
    entry[0] = 0x80;
    entry[1..4].copy_from_slice(&no_geometry);
    entry[4] = 0x0e;
    entry[5..8].copy_from_slice(&no_geometry);
    entry[8..12].copy_from_slice(&START.to_le_bytes());
    entry[12..].copy_from_slice(&LENGTH.to_le_bytes());
    entry
}
