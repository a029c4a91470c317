//! Who keeps descriptors while no daemon runs: the service manager's store of descriptors, and a `lunette upgrade` that stands in for
//! it. Both are told by the same datagrams (sd_notify(3)): what is to be kept by which name, and what no more.

mod stand_in;

#[cfg(test)]
pub(crate) use stand_in::Kept;
pub(crate) use stand_in::StandIn;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSlice};
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
    /// It is a service manager.
    is_manager: bool,
    /// The names of files: a service manager keeps an open file once, whatever names it is given.
    names: HashMap<Identity, String>,
    /// What it keeps by names that are made here.
    kept: HashMap<String, Held>,
    /// The number of the next descriptor.
    next: u64,
}

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
        let most = std::env::var("FDSTORE").ok()?.parse::<u64>().ok()?;
        let place = std::env::var_os("NOTIFY_SOCKET").filter(|_| most > 0)?;
        let connected = address(place).and_then(|address| Ok(Self::connect(&address, true)?));
        Some(connected.context("the service manager's store of descriptors"))
    }

    /// Another process, which listens at `path`.
    pub(crate) fn heir(path: &Path) -> io::Result<Self> {
        Self::connect(&SocketAddr::from_pathname(path)?, false)
    }

    fn connect(address: &SocketAddr, is_manager: bool) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(address)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, is_manager, names: HashMap::new(), kept: HashMap::new(), next: 0 })
    }

    /// Whether it is a service manager, which passes sockets again that it has made.
    pub(crate) fn is_manager(&self) -> bool {
        self.is_manager
    }

    /// Has it keep a descriptor, by a name of its own, which is returned.
    pub(crate) fn keep(&mut self, fd: BorrowedFd<'_>) -> io::Result<String> {
        let identity = identity(fd);
        if let Some(name) = identity.and_then(|identity| self.names.get(&identity))
            && let Some(kept) = self.kept.get_mut(name)
        {
            kept.uses += 1;
            return Ok(name.clone());
        }
        let name = format!("{DESCRIPTOR}{}", self.next);
        self.next += 1;
        self.keep_as(&name, fd)?;
        self.names.extend(identity.map(|identity| (identity, name.clone())));
        self.kept.insert(name.clone(), Held { identity, uses: 1 });
        Ok(name)
    }

    /// It keeps a descriptor already by the name that this number makes, once more than is known.
    pub(crate) fn has(&mut self, number: u64, fd: BorrowedFd<'_>) {
        self.next = self.next.max(number.saturating_add(1));
        let (name, identity) = (format!("{DESCRIPTOR}{number}"), identity(fd));
        self.names.extend(identity.map(|identity| (identity, name.clone())));
        self.kept.entry(name).or_insert(Held { identity, uses: 0 }).uses += 1;
    }

    /// It need not keep what was [kept](Self::keep) by this name, unless that was given more often.
    pub(crate) fn release(&mut self, name: &str) -> io::Result<()> {
        let Some(kept) = self.kept.get_mut(name) else { return Ok(()) };
        kept.uses -= 1;
        if kept.uses > 0 {
            return Ok(());
        }
        let identity = self.kept.remove(name).and_then(|kept| kept.identity);
        identity.into_iter().for_each(|identity| drop(self.names.remove(&identity)));
        self.forget(name)
    }

    /// Has it keep a descriptor by this name.
    pub(crate) fn keep_as(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        // Not polled: a socket whose other end has gone is to be found by the next daemon.
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(fd))
    }

    /// It need not keep what has this name any more.
    pub(crate) fn forget(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)
    }

    /// Waits until it has read everything that it was told.
    pub(crate) fn settle(&self) -> Result<()> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", Some(write.as_fd()))?;
        drop(write);
        let timeout = rustix::event::Timespec::try_from(SETTLING).ok();
        let mut ends = [rustix::event::PollFd::new(&read, rustix::event::PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut ends, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Ok(0) => bail!("it has not answered within {SETTLING:?}"),
                polled => return Ok(polled.map(drop)?),
            }
        }
    }

    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
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
    fn nobody_listens_or_what_is_said_is_no_socket() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Custodian::heir(&folder.path().join("none")).is_err());
        assert!(address("vsock:2:1".into()).unwrap_err().to_string().contains("is no Unix socket"));
        assert!(address("/run/notify".into()).is_ok() && address("@notify".into()).is_ok());
    }
}
