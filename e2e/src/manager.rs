//! A stand-in for systemd as far as a daemon sees it: it passes sockets (sd_listen_fds(3)), receives notifications with the
//! credentials of their sender (sd_notify(3)), keeps descriptors in a store for the next start, and watches.

use crate::daemon::{self, Daemon, Lunette};
use crate::tools::LIMIT;
use anyhow::{Context, Result, bail, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The manager of one daemon at a time.
pub struct Manager {
    /// Read by a thread, as the daemon may wait until that is done.
    socket: Arc<UnixDatagram>,
    told: Receiver<Result<Told>>,
    passed: Vec<(String, Arc<OwnedFd>)>,
    watchdog: Option<u64>,
    store: Arc<Store>,
    /// The daemon is told that there is a store.
    has_store: bool,
}

/// What the daemon has said at once.
#[derive(Debug)]
pub struct Told {
    /// Who has said it.
    pub pid: u32,
    /// The lines.
    pub text: String,
}

impl Told {
    /// The value of an assignment.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Descriptors by name.
#[derive(Default)]
struct Store(Mutex<BTreeMap<String, Vec<Arc<OwnedFd>>>>);

impl Store {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Arc<OwnedFd>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, told: &Told, descriptors: Vec<OwnedFd>) -> Result<()> {
        let name = told.value("FDNAME").unwrap_or("stored").to_owned();
        if told.value("FDSTORE") == Some("1") {
            let mut all = self.all();
            let kept = all.entry(name).or_default();
            for descriptor in descriptors {
                kept.push(daemon::to_inherit(descriptor)?);
            }
        } else if told.value("FDSTOREREMOVE") == Some("1") {
            self.all().remove(&name);
        } else if told.value("BARRIER") != Some("1") {
            ensure!(descriptors.is_empty(), "descriptors that are not for the store: {told:?}");
        }
        Ok(())
    }
}

impl Manager {
    /// One that listens in the directory of `lunette`.
    pub fn new(lunette: &Lunette<'_>) -> Result<Self> {
        let socket = Arc::new(UnixDatagram::bind(lunette.path("notify"))?);
        sockopt::set_socket_passcred(&*socket, true)?;
        let ((tell, told), store) = (mpsc::channel(), Arc::<Store>::default());
        let (source, kept) = (socket.clone(), store.clone());
        std::thread::spawn(move || {
            loop {
                match receive(&source, &kept) {
                    Ok(None) => return,
                    Ok(Some(told)) => _ = tell.send(Ok(told)),
                    Err(error) => _ = tell.send(Err(error)),
                }
            }
        });
        Ok(Self { socket, told, passed: Vec::new(), watchdog: None, store, has_store: false })
    }

    /// Passes a socket, which the daemon is told to be called `name`.
    pub fn pass(mut self, name: &str, socket: impl AsFd) -> Result<Self> {
        self.passed.push((name.to_owned(), daemon::to_inherit(socket)?));
        Ok(self)
    }

    /// Expects a sign of life in each so many microseconds. (Nobody is ended for a missing one.)
    pub fn watch(mut self, microseconds: u64) -> Self {
        self.watchdog = Some(microseconds);
        self
    }

    /// Has a store, and tells the daemon so.
    pub fn storing(mut self) -> Self {
        self.has_store = true;
        self
    }

    /// The names of what the daemon has stored.
    pub fn stored(&self) -> Vec<String> {
        self.store.all().keys().cloned().collect()
    }

    /// Puts something else into the store than the daemon has.
    pub fn replace(&self, name: &str, descriptor: impl AsFd) -> Result<()> {
        self.store.all().insert(name.to_owned(), vec![daemon::to_inherit(descriptor)?]);
        Ok(())
    }

    /// The daemon as this manager starts it. (Other shells know no descriptors above 9.)
    pub fn manage<'a>(&self, lunette: &Lunette<'a>) -> Lunette<'a> {
        let mut lunette = lunette.clone();
        let mut script = String::new();
        let mut names = Vec::new();
        let stored = self.store.all();
        let stored = stored.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)));
        let passed = self.passed.iter().map(|(name, socket)| (name, socket));
        let all: Vec<_> = passed.chain(stored).collect();
        // Those that are moved first must not be where others go, so all go up first.
        let above = 1000;
        for (number, (_, descriptor)) in (above..).zip(&all) {
            script += &format!("exec {number}<&{0} {0}<&-\n", descriptor.as_raw_fd());
        }
        for (number, (name, descriptor)) in (3..).zip(all) {
            script += &format!("exec {number}<&{0} {0}<&-\n", number - 3 + above);
            names.push(name.as_str());
            lunette = lunette.inherits(Arc::clone(descriptor));
        }
        script += &format!("export NOTIFY_SOCKET='{}'\n", lunette.path("notify").display());
        if !names.is_empty() {
            let (count, names) = (names.len(), names.join(":"));
            script += &format!("export LISTEN_FDS={count} LISTEN_FDNAMES='{names}' LISTEN_PID=$$\n");
        }
        if let Some(time) = self.watchdog {
            script += &format!("export WATCHDOG_USEC={time} WATCHDOG_PID=$$\n");
        }
        if self.has_store {
            script += "export FDSTORE=10000\n";
        }
        script += "exec \"$@\"";
        lunette.wrapped(["bash", "-c", &script, "manager"])
    }

    /// Ends a daemon and starts another in its place, as `systemctl restart` does.
    pub fn restart(&self, daemon: Daemon, lunette: &Lunette<'_>) -> Result<Daemon> {
        daemon.stop()?;
        self.manage(lunette).start()
    }

    /// The next that the daemon says; signs of life, and what is about the store, are left out.
    pub fn told(&self) -> Result<Told> {
        loop {
            let told = self.next()?;
            let others = ["FDSTORE", "FDSTOREREMOVE", "BARRIER"];
            if told.text.trim() != "WATCHDOG=1" && others.iter().all(|name| told.value(name).is_none()) {
                return Ok(told);
            }
        }
    }

    /// Waits for a sign of life.
    pub fn is_alive(&self) -> Result<()> {
        while self.next()?.value("WATCHDOG") != Some("1") {}
        Ok(())
    }

    fn next(&self) -> Result<Told> {
        match self.told.recv_timeout(LIMIT) {
            Ok(told) => told,
            Err(_) => bail!("the service manager is told nothing"),
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// What is said next; nothing, if nobody listens any more.
fn receive(socket: &UnixDatagram, store: &Store) -> Result<Option<Told>> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let slice = &mut [IoSliceMut::new(&mut bytes)];
    let Ok(received) = recvmsg(socket, slice, &mut ancillary, RecvFlags::CMSG_CLOEXEC) else {
        return Ok(None);
    };
    let (mut pid, mut descriptors) = (None, Vec::new());
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                pid = Some(credentials.pid.as_raw_nonzero().get().unsigned_abs());
            }
            RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
            _ => {}
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let text = bytes.get(..received.bytes).unwrap_or_default();
    let pid = pid.context("a notification without credentials")?;
    let told = Told { pid, text: String::from_utf8_lossy(text).trim().to_owned() };
    store.keep(&told, descriptors)?;
    Ok(Some(told))
}
