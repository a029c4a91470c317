//! The state directory: what is not configuration, and outlives the program. The identities that were made once, what units
//! save for themselves, and how far the generation of the control socket has come.
//!
//! Everything is kept in files that are replaced as a whole ([`file`]), so that after a crash or a power loss there is what was
//! saved last, or what was there before it; what somebody was told is saved is there. Damaged files are refused.

mod failure;
mod file;
mod files;
mod generation;
mod holder;
mod identity;
mod ledger;
mod locks;
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;
mod unit;

pub(crate) use identity::{Key, MAX_SERIAL, PortRole, Record, random};
pub(crate) use locks::number;
pub(crate) use unit::UnitState;

use anyhow::{Context, Result, bail};
use file::Folder;
use files::{Files, LockFile, System};
use holder::Holder;
use ledger::Ledger;
use locks::Locks;
use lunette_scsi::Naa;
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most identities that are kept for units which nobody serves and which have saved nothing.
const MOST_UNUSED: usize = if cfg!(test) { 4 } else { 16384 };
/// After how many more it is looked at again whether there are too many.
const MANY_MORE: usize = MOST_UNUSED / 4;

/// The file that is locked while anything changes that is not a unit's.
const LOCK: &str = "lock";

/// How often, and in what steps, it is tried to lock it: to change something takes a moment, so who has it for half a minute has been
/// stopped. After how many people are told.
const TRIES: u32 = 3000;
const STEP: Duration = Duration::from_millis(10);
const TELL_AFTER: u32 = 100;

/// The directory; several daemons may share one.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: Folder,
    units: Folder,
    /// Held by whoever changes what is not a unit's.
    lock: Box<dyn LockFile>,
    locks: Arc<Locks>,
    /// This process.
    own: Holder,
    ledger: Mutex<Ledger>,
    /// How many units have been locked, and how many of them when the directory of their files was synced last.
    locked: AtomicU64,
    synced: AtomicU64,
}

impl StateDir {
    /// The variable of the environment that says where it is.
    pub(crate) const VARIABLE: &str = "LUNETTE_STATE_DIR";

    /// The default place: `$LUNETTE_STATE_DIR`, else `/var/lib/lunette` for root, else under `$XDG_STATE_HOME`. A variable
    /// that is set to nothing is not set.
    pub(crate) fn default_path() -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable(Self::VARIABLE) {
            return path.into();
        }
        if rustix::process::geteuid().is_root() {
            return "/var/lib/lunette".into();
        }
        let home = || Path::new(&variable("HOME").unwrap_or_else(|| ".".into())).join(".local/state");
        variable("XDG_STATE_HOME").map_or_else(home, PathBuf::from).join("lunette")
    }

    /// Where it is for a daemon that is told this, or nothing.
    pub(crate) fn place(told: Option<&Path>) -> PathBuf {
        told.map_or_else(Self::default_path, Path::to_owned)
    }

    /// Opens the directory, making it if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_on(Arc::new(System), path)
            .with_context(|| format!("cannot make the state directory {}", path.display()))
    }

    /// Makes the directory, so that it is still there after a power loss.
    pub(crate) fn make(path: &Path) -> io::Result<()> {
        let files: Arc<dyn Files> = Arc::new(System);
        Folder::open(&files, path).map(drop)
    }

    fn open_on(files: Arc<dyn Files>, path: &Path) -> io::Result<Self> {
        let folder = Folder::open(&files, path)?;
        let units = Folder::open(&files, &path.join("units"))?;
        let ledger = Mutex::new(Ledger::new(Folder::open(&files, &path.join("identities"))?));
        let lock = files.open_locks(&path.join(LOCK))?;
        let locks = Arc::new(Locks::new(&files, path));
        let (locked, synced) = Default::default();
        let own = Holder::own();
        Ok(Self(Arc::new(Shared { folder, units, lock, locks, own, ledger, locked, synced })))
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        self.0.folder.path()
    }

    /// Locks the unit whose kept world-wide name is `naa`. Returns its state. Of many units all are to be locked before that
    /// of the first is loaded: then their directory is synced once.
    pub(crate) fn unit(&self, naa: Naa) -> Result<UnitState> {
        let lock = self.0.locks.take(naa)?;
        let number = self.0.locked.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(UnitState::new(self.clone(), naa, lock, number))
    }

    /// The same without waiting; nothing if somebody serves the unit.
    pub(crate) fn try_unit(&self, naa: Naa) -> Result<Option<UnitState>> {
        let Some(lock) = self.0.locks.try_take(naa)? else { return Ok(None) };
        let number = self.0.locked.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Some(UnitState::new(self.clone(), naa, lock, number)))
    }

    /// Who serves the unit whose kept world-wide name is `naa`, in words, if anybody does.
    pub(crate) fn holder(&self, naa: Naa) -> Option<String> {
        if self.0.locks.is_free(naa) {
            return None;
        }
        let told = holder::read(self.units(), naa);
        Some(told.map_or_else(|| "another lunette".to_owned(), |holder| holder.to_string()))
    }

    /// Whether this process serves the unit whose kept world-wide name is `naa`.
    pub(crate) fn holds(&self, naa: Naa) -> bool {
        self.0.locks.holds(naa)
    }

    /// What is saved of a unit by now, which is locked by this process.
    pub(crate) fn saved(&self, naa: Naa) -> Result<Option<Vec<u8>>> {
        Ok(unit::saved(self.units(), naa)?)
    }

    /// Bytes of the store of the unit whose kept world-wide name is `naa` are lost: the next process will know, also after a kill or
    /// a power loss. Who cannot keep that logs it.
    pub(crate) fn keep_failure(&self, naa: Naa) {
        if let Err(error) = failure::write(self.units(), naa) {
            tracing::error!(
                "that data of {naa} may be lost is not kept, and the next process may flush it: {error}"
            );
        }
    }

    /// The unit whose kept world-wide name is `naa`, which is locked by this process, ends in order.
    pub(crate) fn forget_failure(&self, naa: Naa) {
        if let Err(error) = failure::clear(self.units(), naa) {
            tracing::warn!("flushes of {naa} may go on failing after the next start: {error}");
        }
    }

    fn units(&self) -> &Folder {
        &self.0.units
    }

    /// What whoever served the unit with this number before has renamed survives a power loss when this returns: he may have
    /// been killed before he could see to that.
    fn settle_unit(&self, number: u64) -> io::Result<()> {
        let (locked, synced) = (&self.0.locked, &self.0.synced);
        if synced.load(Ordering::Acquire) < number {
            let all = locked.load(Ordering::Acquire);
            self.0.units.sync()?;
            synced.fetch_max(all, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Where the generation begins to count that changes by the control socket have: it is larger than ever before. What stands
    /// against that is logged: no disk waits for a number.
    pub(crate) fn generation(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or_default();
        let (first, kept) = match self.turn() {
            Ok(_turn) => generation::begin(&self.0.folder, now),
            Err(error) => (now, Err(error)),
        };
        if let Err(why) = kept {
            tracing::error!(
                "the generation of the configuration is not kept, and the next start may begin with a smaller one: {why:#}"
            );
        }
        first
    }

    /// The identities for `keys`, in their order: the kept ones, and new ones, which are kept from now on. No record is
    /// given to two keys, nor that of a unit that is served here already unless the key has its name, and what the empty key
    /// stands for gets a new identity each time.
    pub(crate) fn identities(&self, keys: &[Key]) -> Result<Vec<Record>> {
        let mut turn = self.turn()?;
        turn.ledger.refresh()?;
        let found = turn.ledger.find(keys, |naa| self.0.locks.holds(naa));
        let mut changed = Vec::new();
        let mut records = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            let record = match found {
                Some(record) if record.key == *key => record.clone(),
                Some(record) => Record { key: key.clone(), ..record.clone() },
                None => Record::new(key.clone())?,
            };
            if record.lasts() && found != Some(&record) {
                changed.push(record.clone());
            }
            records.push(record);
        }
        if !changed.is_empty() {
            let unused = self.unused(&mut turn.ledger, &records);
            turn.ledger.change(changed, unused)?;
        }
        Ok(records)
    }

    /// The oldest of those units that nobody serves, if there are too many; `needed` are about to be served.
    fn unused(&self, ledger: &mut Ledger, needed: &[Record]) -> Vec<Naa> {
        if ledger.len() < ledger.many {
            return Vec::new();
        }
        let needed: HashSet<Naa> = needed.iter().map(|record| record.naa).collect();
        let is_unused = |record: &&Record| {
            let naa = record.naa;
            record.is_of_unit() && !needed.contains(&naa) && self.0.locks.is_free(naa) && !self.has_saved(naa)
        };
        let mut unused: Vec<Naa> =
            ledger.oldest().into_iter().filter(is_unused).map(|record| record.naa).collect();
        unused.truncate(unused.len().saturating_sub(MOST_UNUSED));
        // To look takes long, and not all of them may be of no use.
        ledger.many = ledger.len() - unused.len() + MANY_MORE;
        unused
    }

    /// Whether the unit has, or may have, saved anything.
    fn has_saved(&self, naa: Naa) -> bool {
        let path = self.units().path().join(unit::file_of(naa));
        let read = self.0.units.files().read(&path, 0);
        !read.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    /// Has nobody else change what is not a unit's.
    fn turn(&self) -> Result<Turn<'_>> {
        let ledger = self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = &*self.0.lock;
        let path = || self.path().join(LOCK);
        let pause = |tries| {
            if tries == TELL_AFTER {
                tracing::warn!("waiting for another lunette, which has locked {}", path().display());
            }
            std::thread::sleep(STEP);
        };
        match wait_for(|| lock.try_lock(0), pause)
            .with_context(|| format!("cannot lock {}", path().display()))?
        {
            true => Ok(Turn { ledger, lock }),
            false => bail!("another lunette has locked {} and does not go on", path().display()),
        }
    }
}

/// Tries until that succeeds, and says whether it has; waits in between with `pause`, which is told how often it was tried.
fn wait_for(try_it: impl Fn() -> io::Result<bool>, pause: impl Fn(u32)) -> io::Result<bool> {
    for tries in 1..=TRIES {
        if try_it()? {
            return Ok(true);
        }
        pause(tries);
    }
    Ok(false)
}

/// While it lives nobody else changes what is not a unit's.
struct Turn<'a> {
    ledger: MutexGuard<'a, Ledger>,
    lock: &'a dyn LockFile,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lock.unlock(0);
    }
}
