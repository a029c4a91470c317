//! Who serves which unit: daemons may share a state directory, but not a unit.
//!
//! A unit is a byte of one of a few files, which the daemon that serves it has locked. So locks cost no descriptor each. The
//! kernel looks at all locks of a file for each new one, so there are several files.

use super::files::{Files, LockFile};
use anyhow::{Context, Result, bail};
use lunette_scsi::Naa;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How many files there are.
const FILES: usize = 64;

/// A daemon that has just been killed may still be ending.
const TRIES: u32 = 100;
const STEP: Duration = Duration::from_millis(10);

/// All locks of this program in a state directory.
#[derive(Debug)]
pub(crate) struct Locks {
    files: Arc<dyn Files>,
    directory: PathBuf,
    open: [OnceLock<Box<dyn LockFile>>; FILES],
    held: Mutex<HashSet<u64>>,
}

impl Locks {
    pub(crate) fn new(files: &Arc<dyn Files>, directory: &Path) -> Self {
        let open = [const { OnceLock::new() }; FILES];
        Self { files: files.clone(), directory: directory.join("locks"), open, held: Mutex::default() }
    }

    /// Locks the unit that is known by `naa`, which is locally assigned; waits a moment if somebody else has it.
    pub(crate) fn take(self: &Arc<Self>, naa: Naa) -> Result<UnitLock> {
        for _ in 0..TRIES {
            if let Some(lock) = self.try_take(naa)? {
                return Ok(lock);
            }
            if self.holds(naa) {
                break;
            }
            std::thread::sleep(STEP);
        }
        let path = self.path(number(naa));
        bail!("another lunette serves the same logical unit: it has locked {naa} in {}", path.display())
    }

    /// The same without waiting; nothing if somebody has it.
    pub(crate) fn try_take(self: &Arc<Self>, naa: Naa) -> Result<Option<UnitLock>> {
        let offset = number(naa);
        let path = self.path(offset);
        let file = self.file(offset).with_context(|| format!("cannot open {}", path.display()))?;
        let mut held = self.held();
        let is_free = !held.contains(&offset)
            && file.try_lock(offset).with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(is_free.then(|| {
            held.insert(offset);
            UnitLock { locks: self.clone(), offset }
        }))
    }

    /// Whether this program serves the unit.
    pub(crate) fn holds(&self, naa: Naa) -> bool {
        self.held().contains(&number(naa))
    }

    /// Whether nobody serves the unit.
    pub(crate) fn is_free(&self, naa: Naa) -> bool {
        let offset = number(naa);
        // To lock it, if only for a moment, would keep others from taking it just then.
        let held = self.held();
        let is_locked = || self.file(offset).and_then(|file| file.is_locked(offset));
        !held.contains(&offset) && matches!(is_locked(), Ok(false))
    }

    fn held(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, offset: u64) -> PathBuf {
        self.directory.join(format!("{:02x}", offset % FILES as u64))
    }

    fn file(&self, offset: u64) -> std::io::Result<&dyn LockFile> {
        let cell = &self.open[(offset % FILES as u64) as usize];
        if let Some(file) = cell.get() {
            return Ok(&**file);
        }
        // They hold nothing, so they need not survive a power loss.
        match self.files.make_directory(&self.directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = self.files.open_locks(&self.path(offset))?;
        Ok(&**cell.get_or_init(|| file))
    }
}

/// The number that the name is; no other name has the same.
pub(crate) fn number(naa: Naa) -> u64 {
    naa.as_bytes().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A unit that is locked until this is dropped.
#[derive(Debug)]
pub(crate) struct UnitLock {
    locks: Arc<Locks>,
    offset: u64,
}

impl Drop for UnitLock {
    fn drop(&mut self) {
        // Still locked, so that nobody here takes it in between.
        let mut held = self.locks.held();
        if let Ok(file) = self.locks.file(self.offset) {
            file.unlock(self.offset);
        }
        held.remove(&self.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::System;
    use super::*;

    #[test]
    fn a_unit_is_served_once() {
        let temporary = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(System);
        let [here, there] = [(); 2].map(|()| Arc::new(Locks::new(&files, temporary.path())));
        // In one file, and in another.
        let [a, b, c] = [5, 5 + FILES as u64, 6].map(Naa::locally_assigned);
        let locks = [here.take(a).unwrap(), here.take(b).unwrap(), there.take(c).unwrap()];
        for (who, naa) in [(&here, a), (&there, a), (&there, b), (&here, c)] {
            let error = who.take(naa).unwrap_err().to_string();
            assert!(error.contains("another lunette serves the same logical unit"), "{error}");
        }
        assert_eq!([a, b, c].map(|naa| here.holds(naa)), [true, true, false]);
        drop(locks);
        there.take(a).unwrap();
        there.take(b).unwrap();
        here.take(c).unwrap();
        assert!(![a, b, c].iter().any(|naa| here.holds(*naa) || there.holds(*naa)));
    }

    #[test]
    fn who_looks_whether_a_unit_is_free_keeps_nobody_from_taking_it() {
        let temporary = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(System);
        let [here, there] = [(); 2].map(|()| Arc::new(Locks::new(&files, temporary.path())));
        let naa = Naa::locally_assigned(5);
        let lock = here.take(naa).unwrap();
        assert!(!here.is_free(naa) && !there.is_free(naa));
        drop(lock);
        assert!(here.is_free(naa) && there.is_free(naa));
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (looks, is_done) = (here.clone(), done.clone());
        let looking = std::thread::spawn(move || {
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                looks.is_free(naa);
            }
        });
        let taken = (0..2000).all(|_| there.try_take(naa).unwrap().is_some());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join().unwrap();
        assert!(taken);
    }

    #[test]
    fn locks_end_with_the_daemon() {
        let temporary = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(System);
        let naa = Naa::locally_assigned(5);
        let here = Arc::new(Locks::new(&files, temporary.path()));
        assert!(here.file(number(naa)).unwrap().try_lock(number(naa)).unwrap());
        drop(here);
        Arc::new(Locks::new(&files, temporary.path())).take(naa).unwrap();
    }
}
