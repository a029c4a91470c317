//! Who else has the same bytes open.
//!
//! An open-file lock covers the whole file, exclusive for writers and shared for readers, and a block device is claimed
//! (`O_EXCL`) besides, which a mounted one refuses. The kernel drops both only when the last I/O on the open file has let
//! go of it, so whoever gets the lock after a crash writes after everything the dead process had begun.
//!
//! A reader gets its lock beside one that is dead, whose reads may still come to the memory of a virtual machine. So it
//! also has a *place*: a byte beyond all files, which it locks, shared too, by a number that is that of no other user of the
//! same bytes but of its predecessor, and only when nobody has it.
//!
//! Such a lock belongs to an open file, not to a process. A busy one is tried again for a while, longer when no living
//! process is seen to have it, and then refused: waiting too short is never unsafe, it only starts nothing.

use crate::open::Seen;
use crate::sys::{self, Range};
use crate::{OpenError, Opener, Options};
use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, Stat, StatxFlags, makedev};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(10);

/// How much longer to wait for I/O that a dead process has left behind, which ends by itself, than for a living one.
const DEAD_WAIT_FACTOR: u128 = 12;

/// How often to try again.
pub(crate) struct Patience {
    left_for_living: u128,
    left_for_dead: u128,
    waiting: bool,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        let tries = wait.as_millis().div_ceil(STEP.as_millis());
        Self { left_for_living: tries, left_for_dead: tries * DEAD_WAIT_FACTOR, waiting: false }
    }

    /// Waits a little for who has a lock there; `false` when it has waited long enough, or that is this very process.
    fn wait(&mut self, path: &Path, place: Option<Range>) -> bool {
        let holder = holder(path, place);
        let left = if holder.is_some() { &mut self.left_for_living } else { &mut self.left_for_dead };
        if *left == 0 || holder == Some(std::process::id()) {
            return false;
        }
        *left -= 1;
        if !std::mem::replace(&mut self.waiting, true) {
            tracing::info!(path = %path.display(), "in use: waiting for it to be let go");
        }
        std::thread::sleep(STEP);
        true
    }
}

/// Opens what was seen at `path`, and locks it.
pub(crate) fn open(
    path: &Path,
    seen: &Seen,
    options: &Options,
    patience: &mut Patience,
) -> Result<OwnedFd, OpenError> {
    let fd = match FileType::from_raw_mode(seen.stat.st_mode) {
        FileType::BlockDevice => claim(path, seen, options, patience)?,
        _ => seen.open(path, flags(options), options).map_err(|error| failed("open", path, error))?,
    };
    lock(&fd, path, options, patience)?;
    Ok(fd)
}

/// Opens a file, or has it opened.
pub(crate) fn open_file(path: &Path, flags: OFlags, opener: Option<&Opener>) -> io::Result<OwnedFd> {
    match opener {
        Some(opener) => opener.open(path, flags),
        None => Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?),
    }
}

/// Locks an open file.
pub(crate) fn lock(
    fd: &OwnedFd,
    path: &Path,
    options: &Options,
    patience: &mut Patience,
) -> Result<(), OpenError> {
    let range = if options.read_only { Range::BYTES } else { Range::ALL };
    loop {
        match sys::lock(fd.as_fd(), range, !options.read_only) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(failed("lock", path, error));
            }
            Err(_) if patience.wait(path, None) => {}
            Err(_) => return Err(in_use(path, None)),
        }
    }
}

/// Gives a reader the place with this number, when nobody has it.
pub(crate) fn take_place(
    fd: BorrowedFd<'_>,
    path: &Path,
    number: u64,
    patience: &mut Patience,
) -> Result<(), OpenError> {
    let place = Range::place(number);
    while sys::has_reader(fd, place).map_err(|error| failed("look at the locks of", path, error))? {
        if !patience.wait(path, Some(place)) {
            return Err(in_use(path, Some(place)));
        }
    }
    sys::lock(fd, place, false).map_err(|error| failed("lock", path, error))
}

/// Opens a block device that nobody else has claimed. Readers may share it with one that has: the first reader's claim
/// keeps writers away for all of them.
fn claim(path: &Path, seen: &Seen, options: &Options, patience: &mut Patience) -> Result<OwnedFd, OpenError> {
    let open = |flags| seen.open(path, flags, options);
    loop {
        match open(flags(options) | OFlags::EXCL) {
            Ok(fd) => return Ok(fd),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {}
            Err(error) => return Err(failed("open", path, error)),
        }
        if let Some(at) = mounted_on(&seen.stat) {
            let path = path.to_owned();
            return Err(OpenError::Mounted { path, at });
        }
        if options.read_only {
            let fd = open(flags(options)).map_err(|error| failed("open", path, error))?;
            if sys::has_reader(fd.as_fd(), Range::ALL).unwrap_or(false) {
                return Ok(fd);
            }
        }
        if !patience.wait(path, None) {
            return Err(in_use(path, None));
        }
    }
}

fn flags(options: &Options) -> OFlags {
    let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    access | OFlags::CLOEXEC | OFlags::NOCTTY
}

pub(crate) fn failed(what: &'static str, path: &Path, error: impl Into<io::Error>) -> OpenError {
    OpenError::System { what, path: path.to_owned(), error: error.into() }
}

fn in_use(path: &Path, place: Option<Range>) -> OpenError {
    OpenError::InUse { path: path.to_owned(), pid: holder(path, place) }
}

/// A process that has a lock on the file, or a place, this one first. Only those whose open files we may look at are found.
fn holder(path: &Path, place: Option<Range>) -> Option<u32> {
    let file = identity(path)?;
    let own = std::process::id();
    let others = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    std::iter::once(own).chain(others.filter(|pid| *pid != own)).find(|pid| has_locked(*pid, file, place))
}

fn has_locked(pid: u32, file: (Dev, u64), place: Option<Range>) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.flatten()
        .filter(|entry| identity(&entry.path()) == Some(file))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|fd| std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok())
        .any(|info| info.lines().any(|line| is_lock(line, place)))
}

/// Whether a line of `fdinfo` is about a lock, or that of a place. (proc(5): number, kind, ..., first and last byte.)
fn is_lock(line: &str, place: Option<Range>) -> bool {
    let Some(lock) = line.strip_prefix("lock:") else { return false };
    place.is_none_or(|place| lock.split_whitespace().nth_back(1) == Some(&place.begin().to_string()))
}

/// The file itself, which may have several names, or the device, which may have several nodes. Asks no server, as other
/// processes may have files open on one that does not answer.
fn identity(path: &Path) -> Option<(Dev, u64)> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
    Some(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::BlockDevice => (makedev(stat.stx_rdev_major, stat.stx_rdev_minor), 0),
        _ => (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
    })
}

/// Where the block device is mounted, if it is.
fn mounted_on(stat: &Stat) -> Option<String> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let device = format!("{major}:{minor}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // proc_pid_mountinfo(5): identity, parent, device, root, mount point, ...
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == device).then_some(())?;
        fields.nth(1).map(str::to_owned)
    })
}
