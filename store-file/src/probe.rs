//! What an open file can do, found out once.

use crate::lock::failed;
use crate::open::Opened;
use crate::sys;
use crate::{OpenError, Options};
use lunette_store::{Caps, Discard, Memory, Sg};
use rustix::fs::{AtFlags, Dev, FallocateFlags, OFlags, StatxFlags};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Longest single read or write in bytes.
const MAX_TRANSFER: u64 = 32 << 20;

/// Magic numbers of `statfs(2)`.
mod magic {
    pub(super) const TMPFS: u32 = 0x0102_1994;
    pub(super) const RAMFS: u32 = 0x8584_58f6;
    pub(super) const HUGETLBFS: u32 = 0x9584_58f6;
    pub(super) const EXT: u32 = 0xef53;
    pub(super) const XFS: u32 = 0x5846_5342;
    pub(super) const BTRFS: u32 = 0x9123_683e;
    pub(super) const F2FS: u32 = 0xf2f5_2010;
}

/// When to read and write without the reactor's help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Inline {
    /// Always: memory, or by the user's wish.
    Always,
    /// Reads that find all their bytes in the page cache.
    Cached,
    /// Never.
    Never,
}

/// How a range is discarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Discarding {
    /// Not at all.
    No,
    /// By punching a hole, which reads as zero.
    Punch,
    /// By `BLKDISCARD`.
    Device,
}

/// What memory and offsets direct I/O needs; powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Alignment {
    /// Of addresses, in bytes.
    pub(crate) memory: u32,
    /// Of offsets and lengths, in bytes.
    pub(crate) offset: u32,
}

#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) caps: Caps,
    pub(crate) block_device: bool,
    /// The bytes are kept in memory, not on a device.
    pub(crate) memory: bool,
    pub(crate) inline: Inline,
    pub(crate) direct: Option<Alignment>,
    /// Reading blocks a thread: the file system has no other way. (Direct writes do so as well then.)
    pub(crate) reads_block: bool,
    /// The same of writing.
    pub(crate) writes_block: bool,
    pub(crate) discarding: Discarding,
    /// Ranges for `fallocate` are multiples of this many bytes.
    pub(crate) sector: u32,
    pub(crate) can_punch: bool,
    pub(crate) can_zero_range: bool,
}

pub(crate) fn probe(path: &Path, opened: &Opened, options: &Options) -> Result<Probed, OpenError> {
    let system = rustix::fs::fstatfs(&opened.fd)
        .map_err(|error| failed("look at the file system of", path, error))?
        .f_type as u32;
    if system == magic::HUGETLBFS && !opened.block_device && !options.read_only {
        return Err(OpenError::HugePages(path.to_owned()));
    }
    forget_access_times(opened);
    let in_memory = [magic::TMPFS, magic::RAMFS, magic::HUGETLBFS].contains(&system);
    let memory = in_memory && !opened.block_device;
    let reads_block = !reads_without_waiting(opened);
    let direct = match options.direct && !memory {
        true => Some(go_direct(path, opened, options)?),
        false => None,
    };
    let mut probed = Probed {
        caps: base_caps(opened, options, memory),
        block_device: opened.block_device,
        memory,
        inline: match options.inline {
            Some(true) => Inline::Always,
            Some(false) => Inline::Never,
            None if memory => Inline::Always,
            None if direct.is_none() && !reads_block => Inline::Cached,
            None => Inline::Never,
        },
        direct,
        reads_block,
        writes_block: direct.is_none() && !writes_without_waiting(opened),
        discarding: Discarding::No,
        sector: 1,
        can_punch: false,
        can_zero_range: false,
    };
    if !options.read_only {
        if opened.block_device {
            probe_device(&mut probed, opened);
        } else {
            probe_file(&mut probed, opened, system);
        }
    }
    Ok(probed)
}

fn base_caps(opened: &Opened, options: &Options, memory: bool) -> Caps {
    let device = device(opened);
    let logical_block = options.logical_block;
    let physical_block = if opened.block_device {
        rustix::fs::ioctl_blkpbszget(&opened.fd).unwrap_or(0)
    } else {
        u32::try_from(opened.stat.st_blksize).unwrap_or(0)
    };
    let usable = physical_block.is_power_of_two() && physical_block <= 64 << 10;
    let physical_block = if usable { physical_block } else { 4096 };
    Caps {
        size: opened.size.into(),
        read_only: options.read_only,
        logical_block,
        physical_block: physical_block.max(logical_block),
        max_transfer: MAX_TRANSFER,
        volatile_cache: true,
        discard: None,
        fast_zero: false,
        rotational: options.rotational.unwrap_or_else(|| !memory && queue(device, "rotational") == Some(1)),
    }
}

/// The block device itself, or the one that the file's file system says it is on.
fn device(opened: &Opened) -> Dev {
    if opened.block_device { opened.stat.st_rdev } else { opened.stat.st_dev }
}

/// A number that sysfs says about the queue of a block device; a partition has its disk's.
fn queue(device: Dev, name: &str) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    ["queue", "../queue"].iter().find_map(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/{name}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    })
}

/// Whether reads that find nothing in the page cache say so instead of waiting.
fn reads_without_waiting(opened: &Opened) -> bool {
    let block = Memory::zeroed(512);
    match sys::read_cached(opened.fd.as_fd(), 0, Sg::new(&[block.seg()])) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Whether writes that would wait say so instead. Asked with bytes that do not exist, so that nothing is written.
fn writes_without_waiting(opened: &Opened) -> bool {
    matches!(sys::write_nothing(opened.fd.as_fd()).raw_os_error(), Some(libc::EFAULT | libc::EAGAIN))
}

/// Has no read wait until the file system has noted its time. Only a file's owner may ask for that, and others do without.
fn forget_access_times(opened: &Opened) {
    let _ = rustix::fs::fcntl_getfl(&opened.fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(&opened.fd, flags | OFlags::NOATIME));
}

fn go_direct(path: &Path, opened: &Opened, options: &Options) -> Result<Alignment, OpenError> {
    let no_direct = || OpenError::NoDirect(path.to_owned());
    let alignment = direct_alignment(opened).ok_or_else(no_direct)?;
    let block = options.logical_block;
    if block < alignment.offset {
        return Err(OpenError::DirectBlock { path: path.to_owned(), needed: alignment.offset, block });
    }
    rustix::fs::fcntl_getfl(&opened.fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(&opened.fd, flags | OFlags::DIRECT))
        .map_err(|_| no_direct())?;
    Ok(alignment)
}

/// `None` if the kernel says that there is no direct I/O here. A kernel that says nothing is guessed at.
fn direct_alignment(opened: &Opened) -> Option<Alignment> {
    let asked = StatxFlags::DIOALIGN;
    match rustix::fs::statx(&opened.fd, c"", AtFlags::EMPTY_PATH, asked) {
        Ok(answer) if answer.stx_mask & asked.bits() != 0 => {
            let (memory, offset) = (answer.stx_dio_mem_align, answer.stx_dio_offset_align);
            let usable = memory.is_power_of_two() && offset.is_power_of_two();
            usable.then_some(Alignment { memory, offset })
        }
        _ => {
            let sector = match opened.block_device {
                true => rustix::fs::ioctl_blksszget(&opened.fd).ok(),
                false => {
                    queue(device(opened), "logical_block_size").and_then(|size| u32::try_from(size).ok())
                }
            };
            let sector = sector.filter(|size| size.is_power_of_two()).unwrap_or(4096);
            Some(Alignment { memory: sector, offset: sector })
        }
    }
}

fn probe_device(probed: &mut Probed, opened: &Opened) {
    let number = |name| queue(opened.stat.st_rdev, name).unwrap_or(0);
    let sector = rustix::fs::ioctl_blksszget(&opened.fd).unwrap_or(512);
    probed.sector = sector;
    probed.can_zero_range = true;
    probed.can_punch = number("write_zeroes_max_bytes") > 0;
    probed.caps.fast_zero = probed.can_punch;
    if number("discard_max_bytes") > 0 {
        let granularity = u32::try_from(number("discard_granularity")).unwrap_or(0);
        probed.discarding = Discarding::Device;
        probed.caps.discard = Some(Discard {
            granularity: granularity.max(sector).max(probed.caps.logical_block),
            reads_zero: false,
        });
    }
}

fn probe_file(probed: &mut Probed, opened: &Opened, system: u32) {
    // A hole beyond the end changes nothing.
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let length = u64::from(probed.caps.physical_block);
    probed.can_punch = rustix::fs::fallocate(&opened.fd, punch, opened.size, length).is_ok();
    // Zeroing a range cannot be tried without leaving traces, so what is known about file systems must do.
    let zeroing = [magic::EXT, magic::XFS, magic::BTRFS, magic::F2FS];
    probed.can_zero_range = zeroing.contains(&system);
    probed.caps.fast_zero = probed.can_zero_range || (probed.memory && probed.can_punch);
    if probed.can_punch {
        probed.discarding = Discarding::Punch;
        probed.caps.discard = Some(Discard { granularity: probed.caps.physical_block, reads_zero: true });
    }
}
