//! A stand-in for systemd as far as a daemon sees it: it passes sockets (sd_listen_fds(3)), receives notifications with the
//! credentials of their sender and the descriptors for its store (sd_notify(3)), and watches.

use crate::daemon::{self, Lunette};
use crate::tools::LIMIT;
use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// The manager of one daemon.
pub struct Manager {
    socket: UnixDatagram,
    passed: Vec<(String, Arc<OwnedFd>)>,
    watchdog: Option<u64>,
    /// What the daemon has stored, by name.
    pub store: BTreeMap<String, Vec<OwnedFd>>,
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

impl Manager {
    /// One that listens in the directory of `lunette`.
    pub fn new(lunette: &Lunette<'_>) -> Result<Self> {
        let socket = UnixDatagram::bind(lunette.path("notify"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(Self { socket, passed: Vec::new(), watchdog: None, store: BTreeMap::new() })
    }

    /// Passes a socket, which the daemon is told to be called `name`.
    pub fn pass(mut self, name: &str, socket: impl AsFd) -> Result<Self> {
        self.passed.push((name.to_owned(), daemon::to_inherit(socket)?));
        Ok(self)
    }

    /// Expects a sign of life in each so many microseconds. (Nobody is ended for a missing one.)
    pub fn watch(self, microseconds: u64) -> Self {
        Self { watchdog: Some(microseconds), ..self }
    }

    /// The daemon as this manager starts it. (Other shells know no descriptors above 9.)
    pub fn manage<'a>(&self, lunette: &Lunette<'a>) -> Lunette<'a> {
        let mut lunette = lunette.clone();
        let mut script = String::new();
        let mut names = Vec::new();
        for (number, (name, socket)) in (3..).zip(&self.passed) {
            script += &format!("exec {number}<&{0} {0}<&-\n", socket.as_raw_fd());
            names.push(name.as_str());
            lunette = lunette.inherits(Arc::clone(socket));
        }
        script += &format!("export NOTIFY_SOCKET='{}'\n", lunette.path("notify").display());
        if !names.is_empty() {
            let (count, names) = (names.len(), names.join(":"));
            script += &format!("export LISTEN_FDS={count} LISTEN_FDNAMES='{names}' LISTEN_PID=$$\n");
        }
        if let Some(time) = self.watchdog {
            script += &format!("export WATCHDOG_USEC={time} WATCHDOG_PID=$$\n");
        }
        script += "exec \"$@\"";
        lunette.wrapped(["bash", "-c", &script, "manager"])
    }

    /// The next that the daemon says; signs of life are left out. Descriptors go to the store.
    pub fn told(&mut self) -> Result<Told> {
        loop {
            let told = self.receive()?;
            if told.text.trim() != "WATCHDOG=1" {
                return Ok(told);
            }
        }
    }

    /// Waits for a sign of life.
    pub fn is_alive(&mut self) -> Result<()> {
        while self.receive()?.value("WATCHDOG") != Some("1") {}
        Ok(())
    }

    fn receive(&mut self) -> Result<Told> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = received.context("the service manager is told nothing")?.bytes;
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
        let pid = pid.context("a notification without credentials")?;
        let told = Told { pid, text: String::from_utf8_lossy(&bytes[..length]).trim().to_owned() };
        self.keep(&told, descriptors)?;
        Ok(told)
    }

    fn keep(&mut self, told: &Told, descriptors: Vec<OwnedFd>) -> Result<()> {
        let name = told.value("FDNAME").unwrap_or("stored").to_owned();
        if told.value("FDSTORE") == Some("1") {
            self.store.entry(name).or_default().extend(descriptors);
        } else {
            ensure!(descriptors.is_empty(), "descriptors that are not for the store: {told:?}");
            if told.value("FDSTOREREMOVE") == Some("1") {
                self.store.remove(&name);
            }
        }
        Ok(())
    }
}
