//! What another daemon would need to go on with virtual machines if this one were killed: kept current at the service manager.

use super::document::{self, GUEST};
use super::give::{guest, release};
use crate::custodian::Custodian;
use anyhow::{Result, anyhow};
use lunette_reactor::Workers;
use lunette_transport_vhost_user::{HandedConnection, Handle, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::Duration;

/// How long a reactor may take to tell where a connection stands.
const ANSWER: Duration = Duration::from_secs(10);

/// Keeps it current. Nobody waits for that: a thread of its own does it.
pub(crate) struct Recorder {
    books: Mutex<Option<Books>>,
    due: Mutex<Due>,
    changed: Condvar,
}

/// What is to be looked at.
#[derive(Default)]
struct Due {
    exports: BTreeSet<String>,
    /// Those that could not be looked at or kept: again when nothing else is due.
    failed: BTreeSet<String>,
    /// The one that was looked at last: those behind it are next, so that each has its turn.
    last: String,
    handles: HashMap<String, Weak<Handle>>,
    /// All exports that there are at the start are among these.
    all_known: bool,
}

/// What the custodian has by now.
pub(crate) struct Books {
    custodian: Custodian,
    /// By the names of exports.
    guests: HashMap<String, Kept>,
    /// The number of the next record.
    next: u64,
}

/// What it has of a guest.
pub(super) struct Kept {
    /// The name of its record.
    pub(super) record: String,
    /// The names of its descriptors.
    pub(super) descriptors: Vec<String>,
}

impl Recorder {
    /// One that goes on with what the custodian has already.
    pub(crate) fn start(books: Books) -> Arc<Self> {
        let books = Mutex::new(Some(books));
        let recorder = Arc::new(Self { books, due: Mutex::default(), changed: Condvar::new() });
        let worker = Arc::downgrade(&recorder);
        // The thread outlives this: it ends with the process.
        Workers::new("custody", 1).run(Box::new(move || Self::work(&worker)));
        recorder
    }

    /// Looks at an export from now on.
    pub(crate) fn watch(&self, handle: &Arc<Handle>) {
        self.due().handles.insert(handle.name().to_owned(), Arc::downgrade(handle));
        self.note(handle.name());
    }

    /// All exports are [watched](Self::watch) that there are at the start: what is kept of others is of no use.
    pub(crate) fn settle(&self) {
        let exports: Vec<_> = self.books().iter().flat_map(|books| books.guests.keys().cloned()).collect();
        let mut due = self.due();
        due.all_known = true;
        due.exports.extend(exports);
        self.changed.notify_one();
    }

    /// Something has been agreed on, or a connection has ended.
    pub(crate) fn note(&self, export: &str) {
        self.due().exports.insert(export.to_owned());
        self.changed.notify_one();
    }

    /// Keeps nothing current any more. What is kept already stays until it is [cleared](Books::clear).
    pub(crate) fn end(&self) -> Option<Books> {
        self.books().take()
    }

    fn work(this: &Weak<Self>) {
        while let Some(recorder) = this.upgrade() {
            let Some((export, handle)) = recorder.next() else { continue };
            recorder.look(&export, handle);
        }
    }

    /// What is to be looked at next; nothing now and then.
    fn next(&self) -> Option<(String, Option<Arc<Handle>>)> {
        let due = self.due();
        let waited = self.changed.wait_timeout_while(due, ANSWER, |due| due.exports.is_empty());
        let (mut due, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let failed = std::mem::take(&mut due.failed);
            due.exports.extend(failed);
        }
        let export = due.take()?;
        let handle = due.handles.get(&export).map(Weak::upgrade);
        if matches!(handle, Some(None)) {
            due.handles.remove(&export);
        }
        // What has not been started yet says so when it is.
        let is_known = handle.is_some() || due.all_known;
        is_known.then(|| (export, handle.flatten()))
    }

    fn look(&self, export: &str, handle: Option<Arc<Handle>>) {
        let snapshot = handle.map_or(Some(Snapshot::Nothing), |handle| {
            let (tell, told) = mpsc::channel();
            handle.snapshot(move |snapshot| drop(tell.send(snapshot)));
            told.recv_timeout(ANSWER).ok()
        });
        let mut books = self.books();
        let Some(books) = &mut *books else { return };
        let done = match snapshot {
            Some(Snapshot::Connection(connection)) => books.keep(export, *connection),
            Some(Snapshot::Nothing) => books.forget(export),
            // It says so when it has settled.
            Some(Snapshot::Unsettled) => Ok(()),
            None => Err(anyhow!("its reactor does not answer")),
        };
        if let Err(error) = done {
            tracing::warn!(export, "what would be needed after a kill is not kept: {error:#}");
            self.due().failed.insert(export.to_owned());
        }
    }

    fn books(&self) -> MutexGuard<'_, Option<Books>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    /// Whose turn it is.
    fn take(&mut self) -> Option<String> {
        let behind = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
        let next = self.exports.range::<str, _>(behind).next().or_else(|| self.exports.first())?.clone();
        self.exports.remove(&next);
        self.last.clone_from(&next);
        Some(next)
    }
}

impl Books {
    /// With what the custodian has already, and numbers of records from `next` on.
    pub(super) fn new(custodian: Custodian, guests: HashMap<String, Kept>, next: u64) -> Self {
        Self { custodian, guests, next }
    }

    /// The custodian, and from which number on records can be kept there beside those that there are.
    pub(crate) fn custodian(&mut self) -> (&mut Custodian, u64) {
        (&mut self.custodian, self.next)
    }

    /// Has nothing kept any more of what was kept current.
    pub(crate) fn clear(mut self) {
        let exports: Vec<_> = self.guests.keys().cloned().collect();
        for export in exports {
            if let Err(error) = self.forget(&export) {
                tracing::warn!(export, "the service manager may keep what is out of date: {error:#}");
            }
        }
        // It does not listen to a process that has ended.
        if let Err(error) = self.custodian.settle() {
            tracing::warn!("the service manager may keep what is out of date: {error:#}");
        }
    }

    /// The new record is there before the old one goes.
    fn keep(&mut self, export: &str, connection: HandedConnection) -> Result<()> {
        let guest = guest(export, connection, &mut self.custodian)?;
        let record = format!("{GUEST}{}", self.next);
        self.next += 1;
        let kept = document::write(&guest).and_then(|file| self.custodian.keep_as(&record, file.as_fd()));
        if let Err(error) = kept {
            release(guest.descriptors.values(), &mut self.custodian);
            return Err(error.into());
        }
        self.forget(export)?;
        let descriptors = guest.descriptors.into_values().collect();
        self.guests.insert(export.to_owned(), Kept { record, descriptors });
        Ok(())
    }

    fn forget(&mut self, export: &str) -> Result<()> {
        let Some(Kept { record, descriptors }) = self.guests.remove(export) else { return Ok(()) };
        // First, so that nobody finds one whose descriptors are missing.
        self.custodian.forget(&record)?;
        descriptors.iter().try_for_each(|name| self.custodian.release(name))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_export_has_its_turn() {
        let mut due = Due::default();
        let mut turns = Vec::new();
        due.exports.extend(["a", "b", "c"].map(str::to_owned));
        for _ in 0..4 {
            turns.extend(due.take());
            // It is never quiet.
            due.exports.insert("a".to_owned());
        }
        assert_eq!(turns, ["a", "b", "c", "a"]);
    }
}
