//! Where stores may be.

use crate::config;
use crate::config::values::FilePath;
use anyhow::{Context, Result, anyhow, bail};
use lunette_confine::beneath::{Found, Roots};
use lunette_confine::filter::Mode;
use lunette_confine::opener::Opener;
use lunette_confine::privileges;
use lunette_store_file::{Opener as StoreOpener, Options as StoreOptions};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is settled when the daemon starts. Nothing, where stores may be anywhere.
static ALLOWED: OnceLock<Allowed> = OnceLock::new();

/// The kernel confines files.
static IS_CONFINED: AtomicBool = AtomicBool::new(false);

struct Allowed {
    roots: Roots,
    /// For people.
    text: String,
    /// A process that opens what this one may not.
    helper: Option<Opener>,
}

/// Takes note of the directories of `daemon`, to which that of its `state` belongs. `leaving`: root is about to become another user,
/// and there are such filters; a process stays behind then that opens what that user may not.
///
/// # Safety
/// The program has one thread.
pub(super) unsafe fn settle(
    daemon: &config::Daemon,
    state: &Path,
    leaving: Option<Option<Mode>>,
) -> Result<()> {
    if daemon.allowed_paths.is_empty() {
        return Ok(());
    }
    let directories: Vec<PathBuf> =
        daemon.allowed_paths.iter().map(|path| path.as_path().to_owned()).collect();
    let all = directories.iter().map(PathBuf::as_path).chain([state]);
    let roots = Roots::open(all)
        .map_err(|(path, error)| anyhow!("cannot open {} of `allowed-paths`: {error}", path.display()))?;
    let helper = match leaving {
        Some(mode) if privileges::is_root() => {
            // SAFETY: the caller's promise.
            let helper = unsafe { Opener::start(&directories, mode) };
            Some(helper.context("cannot start the process that opens devices")?)
        }
        _ => None,
    };
    let text: Vec<String> = daemon.allowed_paths.iter().map(FilePath::to_string).collect();
    let _ = ALLOWED.set(Allowed { roots, text: text.join(", "), helper });
    Ok(())
}

impl Allowed {
    /// Opens what is below the directories, and nothing else, whatever happens to names meanwhile.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        match (self.open_here(path, flags), &self.helper) {
            (Err(error), Some(helper))
                if error.kind() == ErrorKind::PermissionDenied && !flags.contains(OFlags::CREATE) =>
            {
                helper.open(path, flags).inspect_err(tell)
            }
            (opened, _) => opened,
        }
    }

    fn open_here(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let opened = if flags.contains(OFlags::CREATE) {
            self.roots.create(path)?
        } else {
            let found = self.roots.find(path)?;
            let open = |found: Found| match flags.contains(OFlags::PATH) {
                true => Ok(found.into_handle()),
                false => found.open(flags),
            };
            found.map(open).transpose()?
        };
        opened.ok_or_else(|| Errno::ACCESS.into())
    }

    /// Why a store may not be at `path`, if so.
    fn refusal(&self, path: &Path) -> Option<String> {
        match self.roots.hold(path) {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "{} is outside the `allowed-paths` of [daemon] ({}), which change only when lunette is started again",
                path.display(),
                self.text
            )),
            // Whoever opens it says so.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // It sees more, and looks itself.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && self.helper.is_some() => None,
            Err(error) => Some(format!(
                "cannot find out whether {} is below the `allowed-paths` of [daemon] ({}): {error}",
                path.display(),
                self.text
            )),
        }
    }
}

/// What is wrong with the other process.
fn tell(error: &io::Error) {
    if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::TimedOut) {
        tracing::error!("{error}");
    }
}

/// Refuses a store that would be somewhere else, to tell why; [opening](opener) it keeps to the directories anyway.
pub(crate) fn check(path: &Path) -> Result<()> {
    let Some(allowed) = ALLOWED.get() else { return Ok(()) };
    let Some(why) = allowed.refusal(path) else { return Ok(()) };
    tracing::warn!(path = %path.display(), allowed = allowed.text, "a store outside allowed-paths is refused");
    bail!(why)
}

/// How long a store is waited for that somebody else has. Whoever is confined does not see who that is, and for somebody unseen, who
/// may be dead, it waits twelve times as long.
pub(crate) fn lock_wait() -> Duration {
    let usual = StoreOptions::default().lock_wait;
    if IS_CONFINED.load(Ordering::Relaxed) { usual / 12 } else { usual }
}

/// From now on files are confined.
pub(super) fn confined() {
    IS_CONFINED.store(true, Ordering::Relaxed);
}

/// Who opens stores, where they may not be anywhere.
pub(crate) fn opener() -> Option<StoreOpener> {
    let allowed = ALLOWED.get()?;
    Some(StoreOpener::new(|path, flags| allowed.open(path, flags)))
}

/// The file, or device, that is at `path`, by name only (`O_PATH`).
pub(crate) fn look(path: &Path) -> io::Result<OwnedFd> {
    match ALLOWED.get() {
        Some(allowed) => allowed.open(path, OFlags::PATH),
        None => Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())?),
    }
}
