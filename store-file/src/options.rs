//! How to open a file, and why that can fail.

use rustix::fs::OFlags;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How to open a file or block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Only read. Several may have the same bytes open if all of them only read.
    pub read_only: bool,
    /// Go past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Always read and write inline (`true`) or never (`false`), instead of inline where it cannot block.
    pub inline: Option<bool>,
    /// Create a sparse file of this many bytes if there is none. An existing one must have this size.
    pub create_size: Option<u64>,
    /// The unit of offsets and lengths in bytes; a power of two.
    pub logical_block: u32,
    /// Whether there are moving parts, instead of what the kernel says.
    pub rotational: Option<bool>,
    /// How long to wait for another process to let go of the same bytes; twelve times as long when no living process is
    /// seen to have them, because a daemon that was killed holds its lock until the kernel has finished the last of its I/O.
    pub lock_wait: Duration,
    /// Who opens, and looks, instead of this library.
    pub opener: Option<Opener>,
}

/// Opens files and devices by their paths, with these flags of open(2): to read or to write too; `O_EXCL` to claim a block device;
/// `O_CREAT | O_EXCL` to make a regular file, with a mode of 0600; `O_PATH` to look only. What is neither a regular file nor a block
/// device it refuses with `ENOTBLK`.
#[derive(Clone)]
pub struct Opener(Arc<Open>);

type Open = dyn Fn(&Path, OFlags) -> io::Result<OwnedFd> + Send + Sync;

impl Opener {
    /// One that opens by `open`.
    pub fn new(open: impl Fn(&Path, OFlags) -> io::Result<OwnedFd> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    /// Opens `path`.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        (self.0)(path, flags)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

impl PartialEq for Opener {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Opener {}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            direct: false,
            inline: None,
            create_size: None,
            logical_block: 512,
            rotational: None,
            lock_wait: Duration::from_secs(5),
            opener: None,
        }
    }
}

/// Why a file cannot be a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system refuses.
    #[error("cannot {what} {}: {}", path.display(), reason(error))]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// There is no such file.
    #[error("{} does not exist (size=… creates it)", .0.display())]
    Missing(PathBuf),
    /// There is no such file, and it was to be read only: an empty one is of no use.
    #[error("{} does not exist, and is created only where it may be written", .0.display())]
    MissingReadOnly(PathBuf),
    /// A symbolic link that leads nowhere; nothing is created at its end.
    #[error("{} is a symbolic link to a file that does not exist", .0.display())]
    DanglingLink(PathBuf),
    /// A directory, socket, character device and so on.
    #[error("{} is not a regular file or block device", .0.display())]
    NotStorage(PathBuf),
    /// Without any bytes.
    #[error("{} is empty (size=… gives it a size)", .0.display())]
    Empty(PathBuf),
    /// Not of the size that was asked for.
    #[error(
        "{} has {actual} bytes, not the {wanted} of size=; leave size= out to use it as it is",
        path.display()
    )]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        actual: u64,
        /// The size of [`Options::create_size`].
        wanted: u64,
    },
    /// Not a whole number of blocks.
    #[error(
        "the size of {}, {size} bytes, is not a multiple of the block size {block}: {} bytes are left over",
        path.display(),
        size % u64::from(*block)
    )]
    PartialBlock {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The block size in bytes.
        block: u32,
    },
    /// Somebody else has the same bytes open.
    #[error("{} is in use by {}", path.display(), holder(*pid))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process, if it can be found.
        pid: Option<u32>,
    },
    /// A mounted block device.
    #[error("{} is in use: mounted on {at}", path.display())]
    Mounted {
        /// The device.
        path: PathBuf,
        /// The mount point.
        at: String,
    },
    /// No direct I/O there.
    #[error("{} cannot do direct I/O on its file system; leave out direct=on", .0.display())]
    NoDirect(PathBuf),
    /// Direct I/O needs larger blocks.
    #[error("direct I/O on {} needs a block size of at least {needed} bytes, not {block}", path.display())]
    DirectBlock {
        /// The file.
        path: PathBuf,
        /// The smallest block size in bytes that works.
        needed: u32,
        /// The block size in bytes that was asked for.
        block: u32,
    },
    /// hugetlbfs has no `write`.
    #[error("{} lies on hugetlbfs, where files can only be read", .0.display())]
    HugePages(PathBuf),
    /// Options that exclude each other or make no sense.
    #[error("{}: {why}", path.display())]
    Options {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => "this process already".to_owned(),
        Some(pid) => format!("another process (pid {pid})"),
        None => "another process or the kernel".to_owned(),
    }
}

/// The text of an error without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
