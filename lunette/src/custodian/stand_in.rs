//! A stand-in for a service manager's store of descriptors.

use crate::state::random;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg, sockopt};
use rustix::process::{Pid, geteuid};
use std::fs::{self, DirBuilder};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// After how long without a word people are told so.
const LONG: Duration = Duration::from_secs(15);

/// What was handed over, with its names.
pub(crate) type Kept = Vec<(String, OwnedFd)>;

/// Tells people. Whether they still listen is not our concern: a terminal may have gone, and what is handed over must not go with it.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "lunette: {text}");
}

/// Keeps what the process `of` hands over, as a service manager's store does.
pub(crate) struct StandIn {
    socket: UnixDatagram,
    path: PathBuf,
    /// Where that is, and nothing else.
    folder: PathBuf,
    /// Whose they are: others are not listened to.
    of: Pid,
}

impl StandIn {
    /// Of a process of the user `uid`.
    pub(crate) fn listen(of: Pid, uid: u32) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("lunette-upgrade-{:016x}", random()?));
        DirBuilder::new().mode(0o700).create(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join("socket");
        let socket = UnixDatagram::bind(&path).inspect_err(|_| drop(fs::remove_dir(&folder)));
        let socket = socket.with_context(|| path.display().to_string())?;
        let stand_in = Self { socket, path, folder, of };
        sockopt::set_socket_passcred(&stand_in.socket, true)?;
        stand_in.socket.set_nonblocking(true)?;
        if uid != geteuid().as_raw() {
            chown(&stand_in.path, Some(uid), None)?;
            chown(&stand_in.folder, Some(uid), None)?;
        }
        Ok(stand_in)
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All that comes until the daemon says that it is all; nothing if it ends before. People are told if it takes long.
    pub(crate) fn collect(&self, process: &OwnedFd) -> Result<Option<Kept>> {
        let mut kept = Kept::new();
        let long = Timespec::try_from(LONG).ok();
        loop {
            let mut ends = [&self.socket as &dyn AsFd, process]
                .map(|end| PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN));
            match poll(&mut ends, long.as_ref()) {
                Err(Errno::INTR) => continue,
                Ok(0) => {
                    let pid = self.of.as_raw_nonzero();
                    tell(&format!("the daemon, process {pid}, has not handed everything over yet"));
                    continue;
                }
                polled => polled?,
            };
            let has_ended = !ends[1].revents().is_empty();
            loop {
                match self.receive(&mut kept) {
                    Ok(Told::All) => return Ok(Some(kept)),
                    Ok(Told::Some) => {}
                    Err(Errno::AGAIN) if has_ended => return Ok(None),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error).context("cannot receive what is handed over"),
                }
            }
        }
    }

    fn receive(&self, kept: &mut Kept) -> Result<Told, Errno> {
        let mut bytes = [0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
        let length = received.bytes;
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // What it belongs to is done without.
            tell("a descriptor is lost, as too many are open");
        }
        let (mut fd, mut is_its) = (None, false);
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(mut rights) => fd = rights.next(),
                RecvAncillaryMessage::ScmCredentials(credentials) => is_its = credentials.pid == self.of,
                _ => {}
            }
        }
        let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        match (value("FDSTORE"), value("FDNAME"), fd) {
            _ if !is_its => {}
            _ if value("BARRIER").is_some() => return Ok(Told::All),
            (Some("1"), Some(name), Some(fd)) => kept.push((name.to_owned(), fd)),
            _ => {}
        }
        Ok(Told::Some)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// What a datagram says.
enum Told {
    Some,
    All,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custodian::Custodian;
    use rustix::process::getpid;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_daemon_is_listened_to() {
        let own = geteuid().as_raw();
        let file = || std::fs::File::open("/dev/null").unwrap();
        let (stand_in, other) =
            (StandIn::listen(getpid(), own).unwrap(), StandIn::listen(Pid::INIT, own).unwrap());
        for to in [&stand_in, &other] {
            let mut custodian = Custodian::heir(&to.path).unwrap();
            assert_eq!(custodian.keep(file().as_fd()).unwrap(), "d0");
            let settled = std::thread::spawn(move || custodian.settle());
            let mut kept = Kept::new();
            let told = loop {
                match to.receive(&mut kept) {
                    Err(Errno::AGAIN) => std::thread::yield_now(),
                    told => break told,
                }
            };
            assert!(matches!(told, Ok(Told::Some)));
            assert_eq!(kept.len(), usize::from(std::ptr::eq(to, &stand_in)));
            while matches!(to.receive(&mut kept), Err(Errno::AGAIN)) {
                std::thread::yield_now();
            }
            settled.join().unwrap().unwrap();
        }
        let folder = stand_in.folder.clone();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        drop(stand_in);
        assert!(!folder.exists());
    }
}
