//! Where stores may be.

use crate::config;
use crate::config::values::FilePath;
use anyhow::{Context, Result, anyhow, bail};
use lunette_confine::beneath::Roots;
use lunette_confine::filter::Mode;
use lunette_confine::opener::Opener;
use lunette_confine::privileges;
use lunette_store_file::{Opener as StoreOpener, Options as StoreOptions};
use std::io::ErrorKind;
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
    opener: Option<StoreOpener>,
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
    let opener = match leaving {
        Some(mode) if privileges::is_root() => {
            // SAFETY: the caller's promise.
            let opener = unsafe { Opener::start(&directories, mode) };
            let opener = opener.context("cannot start the process that opens devices")?;
            Some(StoreOpener::new(move |path, flags| opener.open(path, flags).inspect_err(tell)))
        }
        _ => None,
    };
    let text: Vec<String> = daemon.allowed_paths.iter().map(FilePath::to_string).collect();
    let _ = ALLOWED.set(Allowed { roots, text: text.join(", "), opener });
    Ok(())
}

/// What is wrong with the other process.
fn tell(error: &std::io::Error) {
    if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::TimedOut) {
        tracing::error!("{error}");
    }
}

/// Refuses a store that would be somewhere else.
pub(crate) fn check(path: &Path) -> Result<()> {
    let Some(allowed) = ALLOWED.get() else { return Ok(()) };
    // What is not there is told by whoever opens it.
    if allowed.roots.hold(path).is_ok_and(|held| !held) {
        tracing::warn!(path = %path.display(), allowed = allowed.text, "a store outside allowed-paths is refused");
        bail!(
            "{} is outside the `allowed-paths` of [daemon] ({}), which change only when lunette is started again",
            path.display(),
            allowed.text
        );
    }
    Ok(())
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

/// Who opens what the daemon may not open itself.
pub(crate) fn opener() -> Option<StoreOpener> {
    ALLOWED.get()?.opener.clone()
}
