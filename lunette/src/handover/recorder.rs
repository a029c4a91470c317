//! What another daemon would need to go on with virtual machines if this one were killed: kept current at the service manager.

use super::document::{self, GUEST};
use super::give::{guest, release};
use crate::custodian::Custodian;
use crate::stop::Deadline;
use anyhow::{Result, anyhow};
use lunette_reactor::Workers;
use lunette_transport_vhost_user::{HandedConnection, Handle, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
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
    /// Those of which people know.
    told: BTreeSet<String>,
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
    /// What it need not keep any more, and may not know so far.
    old: Vec<Kept>,
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
        let snapshot = handle.as_ref().map_or(Some(Snapshot::Nothing), snapshot);
        let done = self.books().as_mut().map_or(Ok(()), |books| match &snapshot {
            Some(Snapshot::Connection(connection)) => books.keep(export, connection),
            Some(Snapshot::Nothing) => books.forget(export),
            // It says so when it has settled.
            Some(Snapshot::Unsettled) => Ok(()),
            None => Err(anyhow!("its reactor does not answer")),
        });
        if let (Some(Snapshot::Connection(connection)), Some(handle)) = (snapshot, handle) {
            handle.close(*connection);
        }
        let mut due = self.due();
        match done {
            Ok(()) => drop(due.told.remove(export)),
            Err(error) => {
                // It is tried again and again.
                if due.told.insert(export.to_owned()) {
                    tracing::warn!("{export} would not survive a kill: {error:#}");
                }
                due.failed.insert(export.to_owned());
            }
        }
    }

    fn books(&self) -> MutexGuard<'_, Option<Books>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the connection of an export stands, if its reactor answers in time.
fn snapshot(handle: &Arc<Handle>) -> Option<Snapshot> {
    let (tell, told) = mpsc::channel();
    let closing = handle.clone();
    handle.snapshot(move |snapshot| {
        // Nobody waits any more. This is a reactor, which waits for no front end.
        if let Err(mpsc::SendError(Snapshot::Connection(connection))) = tell.send(snapshot) {
            closing.close(*connection);
        }
    });
    told.recv_timeout(ANSWER).ok()
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
        Self { custodian, guests, old: Vec::new(), next }
    }

    /// The custodian, and from which number on records can be kept there beside those that there are.
    pub(crate) fn custodian(&mut self) -> (&mut Custodian, u64) {
        (&mut self.custodian, self.next)
    }

    /// Has nothing kept any more of what was kept current.
    pub(crate) fn clear(mut self, deadline: Deadline) {
        self.custodian.end_by(deadline);
        self.old.extend(self.guests.drain().map(|(_, kept)| kept));
        // It does not listen to a process that has ended.
        if let Err(error) = self.sweep().and_then(|()| self.custodian.settle()) {
            tracing::warn!("the service manager may keep what is out of date: {error:#}");
        }
    }

    /// The new record is there before the old one goes, unless there is no room for both: the old one is of no use any more.
    fn keep(&mut self, export: &str, connection: &HandedConnection) -> Result<()> {
        match self.add(export, connection) {
            Err(error) if error.kind() == ErrorKind::StorageFull && self.guests.contains_key(export) => {
                self.forget(export)?;
                self.add(export, connection)?;
            }
            added => added?,
        }
        self.sweep()
    }

    /// Has a record kept, and knows the one before as old.
    fn add(&mut self, export: &str, connection: &HandedConnection) -> io::Result<()> {
        let guest = guest(export, connection, &mut self.custodian)?;
        let record = format!("{GUEST}{}", self.next);
        self.next += 1;
        let kept = document::write(&guest).and_then(|file| self.custodian.keep_as(&record, file.as_fd()));
        if let Err(error) = kept {
            release(guest.descriptors.values(), &mut self.custodian);
            return Err(error);
        }
        let descriptors = guest.descriptors.into_values().collect();
        self.old.extend(self.guests.insert(export.to_owned(), Kept { record, descriptors }));
        Ok(())
    }

    fn forget(&mut self, export: &str) -> Result<()> {
        self.old.extend(self.guests.remove(export));
        self.sweep()
    }

    /// Has it forget what is old. What it cannot be told now it is told the next time.
    fn sweep(&mut self) -> Result<()> {
        while let Some(kept) = self.old.last_mut() {
            // First, so that nobody finds one whose descriptors are missing.
            self.custodian.forget(&kept.record)?;
            while let Some(name) = kept.descriptors.last() {
                self.custodian.release(name)?;
                kept.descriptors.pop();
            }
            self.old.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_transport_vhost_user::{Record, Role};

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

    #[test]
    fn what_could_not_be_forgotten_is_forgotten_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let told = || {
            let mut bytes = [0; 100];
            let length = manager.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
        };
        let mut custodian = Custodian::heir(&path).unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        custodian.has(3, event.as_fd());
        let kept = Kept { record: "g0".to_owned(), descriptors: vec!["d3".to_owned()] };
        let mut books = Books::new(custodian, [("vm".to_owned(), kept)].into(), 1);
        books.custodian.end_by(Deadline::after(Duration::ZERO));
        for _ in 0..2 {
            assert!(books.forget("vm").is_err());
        }
        assert_eq!(told(), None);
        books.custodian.end_by(Deadline::after(Duration::from_secs(1000)));
        for _ in 0..2 {
            books.forget("vm").unwrap();
        }
        let all: Vec<_> = std::iter::from_fn(told).collect();
        assert_eq!(all, ["FDSTOREREMOVE=1\nFDNAME=g0", "FDSTOREREMOVE=1\nFDNAME=d3"]);
    }

    #[test]
    fn a_record_gives_way_to_the_next_where_there_is_no_room_for_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let told = || {
            let mut bytes = [0; 100];
            let length = manager.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(bytes.get(..length)?).replace("\nFDPOLL=0", ""))
        };
        let address = std::os::unix::net::SocketAddr::from_pathname(&path).unwrap();
        let mut books = Books::new(Custodian::connect(&address, Some(5)).unwrap(), HashMap::new(), 0);
        let connection = || {
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
            HandedConnection { record: Record::default(), fds: [(Role::Kick(0), event)].into() }
        };
        let (first, second) = (connection(), connection());
        books.keep("vm", &first).unwrap();
        books.keep("vm", &second).unwrap();
        let all: Vec<_> = std::iter::from_fn(told).collect();
        let (add, remove) =
            (|name| format!("FDSTORE=1\nFDNAME={name}"), |name| format!("FDSTOREREMOVE=1\nFDNAME={name}"));
        let expected =
            [add("d0"), add("g0"), add("d1"), remove("d1"), remove("g0"), remove("d0"), add("d2"), add("g2")];
        assert_eq!(all, expected);
        // It is no way to make room at the cost of others.
        let error = books.keep("other", &first).unwrap_err();
        assert!(error.to_string().contains("5 descriptors"), "{error}");
        assert_eq!(books.guests.keys().collect::<Vec<_>>(), ["vm"]);
    }
}
