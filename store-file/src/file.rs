//! A file as the whole program shares it.

use crate::attached::Attached;
use crate::lock::{self, Patience};
use crate::open::Opened;
use crate::probe::{Discarding, Inline, Probed};
use crate::witness::Witness;
use crate::{OpenError, Options, open, probe, size};
use lunette_store::{Backing, Caps, Cx, FileOp, IoError, Lane, Room, Store, attach_relay};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::Duration;

/// An open and locked file or block device.
///
/// The lock is held until the last clone and every handle is gone, and the reactors of the handles have had a turn.
#[derive(Clone, Debug)]
pub struct File {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    fd: OwnedFd,
    /// `None` where no write comes back before its bytes are where they are kept.
    pub(crate) witness: Option<Witness>,
    /// How many durable writes have begun, and what came of them is not known here yet.
    durable_writes: AtomicUsize,
    path: PathBuf,
    created: bool,
    pub(crate) probed: Probed,
    /// For reads, and direct writes, that block a thread.
    pub(crate) workers: Lane,
    /// For other writes that do, and for holes.
    pub(crate) writer: Lane,
    /// For what waits for the device.
    pub(crate) syncer: Lane,
    /// What [`Probed`] promised may turn out to be missing.
    punch: AtomicBool,
    zero_range: AtomicBool,
    cached_reads: AtomicBool,
    failed: OnceLock<IoError>,
    keeper: OnceLock<Keeper>,
    /// That it has failed is known beyond this process, as far as that can be.
    kept: Once,
    /// Has the size changed by one at a time.
    pub(crate) resizing: Mutex<()>,
}

/// Has whoever opens the file next know that it has failed.
struct Keeper(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

impl File {
    /// Opens `path`, or creates it if [`Options::create_size`] says so, and locks it. Blocks for as long as somebody else
    /// holds the lock, up to [`Options::lock_wait`].
    ///
    /// # Errors
    /// See [`OpenError`]; nothing stays open or locked then, and a file that was created is removed again.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let opened = open::open(path, options)?;
        let examine = || {
            let probed = probe::probe(path, &opened, options)?;
            let loses = !probed.caps.read_only && !probed.memory && probed.direct.is_none();
            let witness = loses.then(|| Witness::open(path, &opened.stat, options)).transpose()?;
            Ok((probed, witness))
        };
        let (probed, witness) = examine().inspect_err(|_| {
            if opened.created {
                open::remove(path);
            }
        })?;
        let shared = Shared::new(path, opened, probed, witness);
        let lanes = [&shared.writer, &shared.syncer, &shared.workers].map(Lane::number);
        tracing::debug!(path = %path.display(), probed = ?shared.probed, ?lanes, "opened");
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Waits until no read of a predecessor is under way any more, one of the same number: a file that is only read is open
    /// beside those of others, also of dead ones. No two that are alive may have the same number; this one has it from now on.
    /// The wait is up to that of [`Options::lock_wait`].
    ///
    /// # Errors
    /// [`OpenError::InUse`] if somebody has the number for longer than that; [`OpenError::System`].
    pub fn succeed(&self, number: u64, lock_wait: Duration) -> Result<(), OpenError> {
        // Who writes has nobody beside it.
        if !self.shared.probed.caps.read_only {
            return Ok(());
        }
        let Shared { path, .. } = &*self.shared;
        lock::take_place(self.shared.borrow(), path, number, &mut Patience::new(lock_wait))
    }

    /// Whether there was no file, and opening it has created one.
    pub fn was_created(&self) -> bool {
        self.shared.created
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// How reads and writes are done, for people: "inline", "direct" and so on.
    pub fn mode(&self) -> &'static str {
        match (self.shared.probed.inline, self.shared.probed.direct) {
            (Inline::Always, _) => "inline",
            (Inline::Cached, _) => "page cache, cached reads inline",
            (Inline::Never, None) => "page cache",
            (Inline::Never, Some(_)) => "direct",
        }
    }
}

impl Backing for File {
    fn caps(&self) -> &Caps {
        &self.shared.probed.caps
    }

    fn lane(&self) -> Option<&Lane> {
        Some(&self.shared.workers)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.shared.fd())
    }

    /// A file takes room of its file system; what a device takes, nobody knows.
    fn room(&self) -> Result<Room, IoError> {
        let fd = self.shared.borrow();
        if self.shared.probed.discarding != Discarding::Punch {
            return Err(IoError::Unsupported);
        }
        let system = rustix::fs::fstatvfs(fd)?;
        let used = u64::try_from(rustix::fs::fstat(fd)?.st_blocks).unwrap_or(0).saturating_mul(512);
        Ok(Room { free: system.f_bavail.saturating_mul(system.f_frsize), used })
    }

    /// A file that is open for writing; a device has the size that its makers give it.
    fn is_resizable(&self) -> bool {
        !self.shared.probed.block_device && !self.shared.probed.caps.read_only
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        self.shared.resize(size)
    }

    fn measure(&self) -> Result<u64, IoError> {
        Ok(size::of(self.shared.borrow(), self.shared.probed.block_device)?)
    }

    fn has_failed(&self) -> bool {
        self.shared.failure().is_some()
    }

    fn set_failed(&self) {
        self.shared.fail(IoError::Os(libc::EIO));
        self.shared.keep_failure();
    }

    fn keep_failure(&self, keep: Box<dyn Fn() + Send + Sync>) {
        // The first counts: there is one unit of a file.
        let _ = self.shared.keeper.set(Keeper(keep));
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        attach_relay(cx, Attached::new(self.shared.clone()))
    }
}

impl Shared {
    pub(crate) fn new(path: &Path, opened: Opened, probed: Probed, witness: Option<Witness>) -> Self {
        Self {
            created: opened.created,
            fd: opened.fd,
            witness,
            durable_writes: AtomicUsize::new(0),
            path: path.to_owned(),
            punch: AtomicBool::new(probed.can_punch || probed.discarding == Discarding::Punch),
            zero_range: AtomicBool::new(probed.can_zero_range),
            cached_reads: AtomicBool::new(probed.inline == Inline::Cached),
            failed: OnceLock::new(),
            keeper: OnceLock::new(),
            kept: Once::new(),
            resizing: Mutex::default(),
            workers: Lane::wide(),
            writer: Lane::new(),
            syncer: Lane::new(),
            probed,
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// A durable write is about to begin, which may be told of bytes that were lost before.
    pub(crate) fn durable_write_begins(&self) {
        self.durable_writes.fetch_add(1, Ordering::AcqRel);
    }

    /// It is known here what it was told.
    pub(crate) fn durable_write_is_over(&self) {
        self.durable_writes.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether one may have been told of bytes that nobody here knows of yet.
    pub(crate) fn has_durable_writes(&self) -> bool {
        self.durable_writes.load(Ordering::Acquire) > 0
    }

    /// Where an operation is carried out that the kernel cannot do by itself: its own workers are shared by all files of a
    /// reactor, which must not wait for a file system that stalls. A file system takes a lock for each buffered write, so a
    /// single thread is as fast as many, and one that waits for the device must not hold them up.
    pub(crate) fn lane(&self, op: &FileOp<'_>) -> Option<&Lane> {
        match op {
            FileOp::Sync { .. } => Some(&self.syncer),
            FileOp::Allocate { .. } => Some(&self.writer),
            FileOp::Read { .. } => self.probed.reads_block.then_some(&self.workers),
            FileOp::Write { .. } if self.probed.direct.is_some() => {
                self.probed.reads_block.then_some(&self.workers)
            }
            FileOp::Write { durable: true, .. } => Some(&self.syncer),
            FileOp::Write { .. } => self.probed.writes_block.then_some(&self.writer),
        }
    }

    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn can_punch(&self) -> bool {
        self.punch.load(Ordering::Relaxed)
    }

    pub(crate) fn cannot_punch(&self) {
        self.punch.store(false, Ordering::Relaxed);
    }

    pub(crate) fn can_zero_range(&self) -> bool {
        self.zero_range.load(Ordering::Relaxed)
    }

    pub(crate) fn cannot_zero_range(&self) {
        self.zero_range.store(false, Ordering::Relaxed);
    }

    pub(crate) fn can_read_cached(&self) -> bool {
        self.cached_reads.load(Ordering::Relaxed)
    }

    pub(crate) fn cannot_read_cached(&self) {
        self.cached_reads.store(false, Ordering::Relaxed);
    }

    /// The error of the first flush that failed. The kernel reports lost pages once and then calls the file clean, so no
    /// later flush may be believed.
    pub(crate) fn failure(&self) -> Option<IoError> {
        self.failed.get().copied()
    }

    /// Whether a failure is still to be [kept](Self::keep_failure) before anybody is told of it.
    pub(crate) fn is_untold(&self) -> bool {
        self.failure().is_some() && self.keeper.get().is_some() && !self.kept.is_completed()
    }

    /// Has the failure be known beyond this process. May block.
    pub(crate) fn keep_failure(&self) {
        if let Some(Keeper(keep)) = self.keeper.get() {
            self.kept.call_once(keep);
        }
    }

    pub(crate) fn fail(&self, error: IoError) -> IoError {
        if self.failed.set(error).is_ok() {
            let path = self.path.display();
            tracing::error!(%path, %error, "data may be lost: no flush will succeed until the file is opened again");
        }
        error
    }
}
