//! Who keeps descriptors while no daemon runs: the service manager's store of descriptors, and a `lunette upgrade` that stands in for
//! it. Both are told by the same datagrams (sd_notify(3)): what is to be kept by which name, and what no more.

mod stand_in;

#[cfg(test)]
pub(crate) use stand_in::Kept;
pub(crate) use stand_in::{StandIn, tell};

use crate::stop::Deadline;
use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// How long the custodian may take to make room for one more datagram.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to have read all of them.
const SETTLING: Duration = Duration::from_secs(10);

/// Who keeps descriptors.
#[derive(Debug)]
pub(crate) struct Custodian {
    socket: UnixDatagram,
    /// The names of files: a service manager keeps an open file once, whatever names it is given.
    names: HashMap<Identity, String>,
    /// What it keeps by names that are made here.
    kept: HashMap<String, Held>,
    /// The number of the next descriptor.
    next: u64,
    /// All names by which it keeps something, and how many there may be. It drops what is beyond, and does not say so.
    all: HashSet<String>,
    most: Option<usize>,
    /// It is told nothing later.
    deadline: Option<Deadline>,
}

/// Room that is left for what all else is of no use without: the document, and the mark that it counts once.
const RESERVED: usize = 2;

/// A descriptor that is kept.
#[derive(Debug)]
struct Held {
    identity: Option<Identity>,
    /// How often it was given.
    uses: usize,
}

/// What tells two files apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Identity {
    /// The kernel's number of an eventfd: all have the same inode.
    Event(u64),
    File {
        device: u64,
        inode: u64,
        access: u32,
    },
}

impl Custodian {
    /// The service manager, if it has a store of descriptors. One before systemd 254 does not say so: its unit does
    /// (`Environment=FDSTORE=…`).
    pub(crate) fn manager() -> Option<Result<Self>> {
        let most = std::env::var("FDSTORE").ok()?.parse::<usize>().ok()?;
        let place = std::env::var_os("NOTIFY_SOCKET").filter(|_| most > 0)?;
        let connected = address(place).and_then(|address| Ok(Self::connect(&address, Some(most))?));
        Some(connected.context("the service manager's store of descriptors"))
    }

    /// Another process, which listens at `path`.
    pub(crate) fn heir(path: &Path) -> io::Result<Self> {
        Self::connect(&SocketAddr::from_pathname(path)?, None)
    }

    /// A service manager keeps only so many descriptors.
    pub(crate) fn connect(address: &SocketAddr, most: Option<usize>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(address)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let (names, kept, all) = Default::default();
        Ok(Self { socket, names, kept, next: 0, all, most, deadline: None })
    }

    /// Whether it is a service manager, which passes sockets again that it has made.
    pub(crate) fn is_manager(&self) -> bool {
        self.most.is_some()
    }

    /// What it is not told by then it is not told any more.
    pub(crate) fn end_by(&mut self, deadline: Deadline) {
        self.deadline = Some(deadline);
    }

    /// Has it keep a descriptor, by a name of its own, which is returned.
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`] if it would keep that no more, and others when it cannot be told.
    pub(crate) fn keep(&mut self, fd: BorrowedFd<'_>) -> io::Result<String> {
        self.keep_leaving(fd, RESERVED)
    }

    /// The same of what all else is of no use without: there is room for it.
    pub(crate) fn keep_first(&mut self, fd: BorrowedFd<'_>) -> io::Result<String> {
        self.keep_leaving(fd, 0)
    }

    fn keep_leaving(&mut self, fd: BorrowedFd<'_>, room: usize) -> io::Result<String> {
        let identity = identity(fd);
        if let Some(name) = identity.and_then(|identity| self.names.get(&identity))
            && let Some(kept) = self.kept.get_mut(name)
        {
            kept.uses += 1;
            return Ok(name.clone());
        }
        let name = format!("{DESCRIPTOR}{}", self.next);
        self.next += 1;
        self.store(&name, fd, room)?;
        self.names.extend(identity.map(|identity| (identity, name.clone())));
        self.kept.insert(name.clone(), Held { identity, uses: 1 });
        Ok(name)
    }

    /// It keeps a descriptor already by the name that this number makes, once more than is known.
    pub(crate) fn has(&mut self, number: u64, fd: BorrowedFd<'_>) {
        self.next = self.next.max(number.saturating_add(1));
        let (name, identity) = (format!("{DESCRIPTOR}{number}"), identity(fd));
        self.names.extend(identity.map(|identity| (identity, name.clone())));
        self.has_as(&name);
        self.kept.entry(name).or_insert(Held { identity, uses: 0 }).uses += 1;
    }

    /// It keeps a descriptor already by this name.
    pub(crate) fn has_as(&mut self, name: &str) {
        self.all.insert(name.to_owned());
    }

    /// It need not keep what was [kept](Self::keep) by this name, unless that was given more often.
    pub(crate) fn release(&mut self, name: &str) -> io::Result<()> {
        let Some(kept) = self.kept.get_mut(name) else { return Ok(()) };
        if kept.uses > 1 {
            kept.uses -= 1;
            return Ok(());
        }
        self.forget(name)?;
        let identity = self.kept.remove(name).and_then(|kept| kept.identity);
        identity.into_iter().for_each(|identity| drop(self.names.remove(&identity)));
        Ok(())
    }

    /// Has it keep a descriptor by this name.
    ///
    /// # Errors
    /// As those of [`keep`](Self::keep).
    pub(crate) fn keep_as(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.store(name, fd, RESERVED)
    }

    /// The same of what all else is of no use without.
    pub(crate) fn keep_first_as(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.store(name, fd, 0)
    }

    /// Leaves room for so many others.
    fn store(&mut self, name: &str, fd: BorrowedFd<'_>, room: usize) -> io::Result<()> {
        if let Some(most) = self.most.filter(|most| self.all.len() + room >= *most) {
            let why =
                format!("the service manager keeps {most} descriptors at most (FileDescriptorStoreMax=)");
            return Err(io::Error::new(ErrorKind::StorageFull, why));
        }
        // Not polled: a socket whose other end has gone is to be found by the next daemon.
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(fd))?;
        self.has_as(name);
        Ok(())
    }

    /// It need not keep what has this name any more.
    pub(crate) fn forget(&mut self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)?;
        self.all.remove(name);
        Ok(())
    }

    /// Waits until it has read everything that it was told.
    pub(crate) fn settle(&self) -> Result<()> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", Some(write.as_fd()))?;
        drop(write);
        let patience = self.patience(SETTLING)?;
        let timeout = rustix::event::Timespec::try_from(patience).ok();
        let mut ends = [rustix::event::PollFd::new(&read, rustix::event::PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut ends, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Ok(0) => bail!("it has not answered within {patience:?}"),
                polled => return Ok(polled.map(drop)?),
            }
        }
    }

    /// How long it may take until it has done something for which it has `most`.
    fn patience(&self, most: Duration) -> io::Result<Duration> {
        let left = self.deadline.map_or(most, |deadline| deadline.left().min(most));
        match left.is_zero() {
            true => Err(io::Error::new(ErrorKind::TimedOut, "there is no time left")),
            false => Ok(left),
        }
    }

    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        if self.deadline.is_some() {
            self.socket.set_write_timeout(Some(self.patience(PATIENCE)?))?;
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)
            {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }
}

/// What names of descriptors begin with.
pub(crate) const DESCRIPTOR: char = 'd';

fn address(place: OsString) -> Result<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => Ok(SocketAddr::from_abstract_name(name)?),
        [b'/', ..] => Ok(SocketAddr::from_pathname(place)?),
        _ => Err(anyhow!("NOTIFY_SOCKET={} is no Unix socket", place.display())),
    }
}

/// Nothing, if a file cannot be told from others: it is kept as often as it comes.
fn identity(fd: BorrowedFd<'_>) -> Option<Identity> {
    let stat = fstat(fd).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::Socket => {}
        // Memory.
        FileType::RegularFile if stat.st_size > 0 => {}
        _ => return event(fd).map(Identity::Event),
    }
    let access = fcntl_getfl(fd).ok()? & OFlags::RWMODE;
    Some(Identity::File { device: stat.st_dev, inode: stat.st_ino, access: access.bits() })
}

/// The number of an eventfd.
fn event(fd: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("eventfd-id:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn the_same_file_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut custodian = Custodian::heir(&path).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (one, other) = (event(), event());
        let memory =
            std::fs::File::from(rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(1).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut names = Vec::new();
        for _ in 0..2 {
            let fds = [one.as_fd(), other.as_fd(), memory.as_fd(), reader.as_fd(), writer.as_fd()];
            names.push(fds.map(|fd| custodian.keep(fd.try_clone_to_owned().unwrap().as_fd()).unwrap()));
        }
        assert_eq!(names[0], ["d0", "d1", "d2", "d3", "d4"]);
        assert_eq!(names[0], names[1]);
        socket.set_nonblocking(true).unwrap();
        let mut texts = Vec::new();
        let mut bytes = [0; 100];
        while let Ok(length) = socket.recv(&mut bytes) {
            texts.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        assert_eq!(texts.len(), 5);
        assert_eq!(texts[4], "FDSTORE=1\nFDNAME=d4\nFDPOLL=0");
        for left in [1, 0] {
            custodian.release("d0").unwrap();
            let forgotten = socket.recv(&mut bytes).map(|length| bytes[..length].to_vec());
            assert_eq!(forgotten.ok(), (left == 0).then(|| b"FDSTOREREMOVE=1\nFDNAME=d0".to_vec()));
        }
        custodian.release("d0").unwrap();
        // What another process has given is known, and no name is given twice.
        custodian.has(7, one.as_fd());
        assert_eq!(custodian.keep(one.as_fd()).unwrap(), "d7");
        assert_eq!(custodian.keep(event().as_fd()).unwrap(), "d8");
    }

    #[test]
    fn a_full_store_has_room_for_what_all_else_needs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut custodian = Custodian::connect(&SocketAddr::from_pathname(&path).unwrap(), Some(5)).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let events = [event(), event(), event(), event()];
        // Another process has given this one.
        custodian.has(7, events[0].as_fd());
        assert_eq!(custodian.keep(events[1].as_fd()).unwrap(), "d8");
        assert_eq!(custodian.keep(events[1].as_fd()).unwrap(), "d8", "it is there");
        custodian.keep_as("g1", event().as_fd()).unwrap();
        for full in [custodian.keep(events[2].as_fd()).map(drop), custodian.keep_as("g2", events[2].as_fd())]
        {
            let error = full.unwrap_err();
            assert!(error.kind() == ErrorKind::StorageFull && error.to_string().contains("5 descriptors"));
        }
        custodian.keep_first(events[2].as_fd()).unwrap();
        custodian.keep_first_as("state", event().as_fd()).unwrap();
        assert!(custodian.keep_first(events[3].as_fd()).is_err());
        // What it keeps no more leaves room.
        for name in ["g1", "state"] {
            custodian.forget(name).unwrap();
        }
        custodian.release("d8").unwrap();
        assert!(custodian.keep(events[3].as_fd()).is_err(), "it was given twice");
        custodian.release("d8").unwrap();
        custodian.keep(events[3].as_fd()).unwrap();
        while manager.recv(&mut [0; 100]).is_ok() {}
        // Another program has as much room as it is given descriptors.
        let mut heir = Custodian::heir(&path).unwrap();
        assert!(events.iter().all(|event| heir.keep(event.as_fd()).is_ok()));
    }

    #[test]
    fn nothing_is_said_when_the_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut custodian = Custodian::heir(&path).unwrap();
        custodian.end_by(Deadline::after(Duration::from_secs(1000)));
        custodian.forget("d0").unwrap();
        custodian.end_by(Deadline::after(Duration::ZERO));
        assert_eq!(custodian.forget("d1").unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(custodian.settle().is_err());
        socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 100];
        assert_eq!(socket.recv(&mut bytes).unwrap(), "FDSTOREREMOVE=1\nFDNAME=d0".len());
        assert!(socket.recv(&mut bytes).is_err());
    }

    #[test]
    fn nobody_listens_or_what_is_said_is_no_socket() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Custodian::heir(&folder.path().join("none")).is_err());
        assert!(address("vsock:2:1".into()).unwrap_err().to_string().contains("is no Unix socket"));
        assert!(address("/run/notify".into()).is_ok() && address("@notify".into()).is_ok());
    }
}
