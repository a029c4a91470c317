//! The socket file: made, replaced if its daemon is dead, removed at the end.

use crate::Error;
use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, chmod, chownat, fchmod, flock, fstat, open,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who may connect to a socket: those who may write to its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Permission bits, whatever the umask is.
    pub mode: u32,
    /// User number of the owner; otherwise the daemon's.
    pub user: Option<u32>,
    /// Number of the group; otherwise the daemon's, or that of the directory.
    pub group: Option<u32>,
}

/// The owner alone: whoever connects can read and write the disks.
impl Default for Access {
    fn default() -> Self {
        Self { mode: 0o600, user: None, group: None }
    }
}

/// A socket file of ours. Dropping it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

/// The kernel lets go of the sockets of a daemon that was killed after that has ended: so often, at such intervals, one that
/// listens is asked again.
const PROBES: u32 = 10;
const PROBE_STEP: Duration = Duration::from_millis(100);

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

impl SocketFile {
    /// Listens at `path`. Nobody can connect before the file has its mode and owner.
    ///
    /// # Errors
    /// When another process listens there, or nothing can.
    pub fn bind(path: &Path, access: &Access) -> Result<(UnixListener, Self), Error> {
        let wrap = |source: io::Error| Error::Bind { path: path.to_owned(), source };
        let _lock = lock(path);
        let socket = match bind_at(path, access) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                bind_at(path, access)
            }
            bound => bound,
        };
        let socket = socket.map_err(wrap)?;
        let file = Self { path: path.to_owned(), identity: identity(path).ok() };
        give(path, access)?;
        listen(&socket, BACKLOG).map_err(|error| wrap(error.into()))?;
        Ok((socket.into(), file))
    }
}

/// Keeps other daemons from taking a socket in the same folder for dead that does not listen yet, or from removing one that
/// has just taken a dead one's place. Without the lock if somebody else does not let it go, or the folder cannot be opened.
fn lock(path: &Path) -> Option<OwnedFd> {
    const TRIES: u32 = 1000;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A name alone has the parent "".
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = open(folder, flags, Mode::empty()).ok()?;
    for _ in 0..TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return None,
        }
    }
    tracing::warn!(path = %path.display(), "somebody keeps the folder locked: going on without the lock");
    None
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// A socket that does not listen yet, so that connecting to it fails.
fn bind_at(path: &Path, access: &Access) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = new_socket()?;
    // Linux makes the file with the mode of the socket, less the umask.
    fchmod(&socket, Mode::from_raw_mode(access.mode))?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// Sets the owner and then the mode of the socket at `path`, but not of what somebody may have put in its place.
pub(crate) fn give(path: &Path, access: &Access) -> Result<(), Error> {
    let wrap = |error: rustix::io::Errno| Error::Bind { path: path.to_owned(), source: error.into() };
    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(wrap)?;
    let kind = rustix::fs::FileType::from_raw_mode(fstat(&file).map_err(wrap)?.st_mode);
    if !kind.is_socket() {
        return Err(Error::NotASocket(path.to_owned()));
    }
    let (user, group) = (access.user.map(Uid::from_raw), access.group.map(Gid::from_raw));
    if user.is_some() || group.is_some() {
        chownat(&file, "", user, group, AtFlags::EMPTY_PATH)
            .map_err(|error| Error::Owner { path: path.to_owned(), source: error.into() })?;
    }
    chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(access.mode)).map_err(wrap)
}

impl SocketFile {
    /// Leaves the file to who listens from now on. Returns which it is: device and inode.
    pub(crate) fn leave(mut self) -> Option<(u64, u64)> {
        self.identity.take()
    }

    /// Looks after a socket file that another process has [left](Self::leave), if it is still there, and gives it to those who
    /// should have it.
    pub(crate) fn keep(path: &Path, access: &Access, identity: (u64, u64)) -> Option<Self> {
        let _lock = lock(path);
        let identity = Some(identity);
        if self::identity(path).ok() != identity {
            return None;
        }
        let file = Self { path: path.to_owned(), identity };
        if let Err(error) = give(path, access) {
            tracing::warn!("who may connect stays as it was: {error}");
        }
        Some(file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some()
            && identity(&self.path).ok() == self.identity
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a socket at which nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let wrap = |source| Error::Bind { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(wrap)?;
    if !metadata.file_type().is_socket() {
        return Err(Error::NotASocket(path.to_owned()));
    }
    let address = SocketAddrUnix::new(path).map_err(|error| wrap(error.into()))?;
    for _ in 0..PROBES {
        let probe = new_socket().map_err(wrap)?;
        let answer = connect(&probe, &address);
        // At once, so that a daemon that lives has it for no guest.
        drop(probe);
        match answer {
            Err(Errno::CONNREFUSED) => {
                tracing::info!(path = %path.display(), "replacing the socket of a daemon that has ended");
                return fs::remove_file(path).map_err(wrap);
            }
            // It listens, whether it accepts or not.
            Ok(()) | Err(Errno::AGAIN) => std::thread::sleep(PROBE_STEP),
            Err(error) => return Err(wrap(error.into())),
        }
    }
    Err(Error::InUse(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_that_dies_late_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let dying = UnixListener::bind(&path).unwrap();
        let death = std::thread::spawn(move || drop(dying.accept()));
        SocketFile::bind(&path, &Access::default()).unwrap();
        death.join().unwrap();
    }

    #[test]
    fn a_live_socket_is_left_alone_and_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let (listener, file) = SocketFile::bind(&path, &Access::default()).unwrap();
        let error = SocketFile::bind(&path, &Access::default()).unwrap_err();
        assert!(matches!(&error, Error::InUse(other) if *other == path), "{error}");
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = SocketFile::bind(&path, &Access::default()).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_daemon_that_does_not_listen_yet_is_not_taken_for_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let locked = lock(&path).unwrap();
        let first = bind_at(&path, &Access::default()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| SocketFile::bind(&path, &Access::default()));
            // Long enough for it to find the first, if nothing kept it from that.
            for _ in 0..100 {
                std::thread::sleep(Duration::from_millis(1));
            }
            listen(&first, BACKLOG).unwrap();
            drop(locked);
            assert!(matches!(second.join().unwrap(), Err(Error::InUse(_))));
        });
    }

    #[test]
    fn a_daemon_that_does_not_accept_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let busy = bind_at(&path, &Access::default()).unwrap();
        listen(&busy, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let error = SocketFile::bind(&path, &Access::default()).unwrap_err();
        assert!(matches!(error, Error::InUse(_)), "{error}");
    }

    #[test]
    fn only_our_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let (_listener, file) = SocketFile::bind(&ours, &Access::default()).unwrap();
        let (_other, other) = SocketFile::bind(&theirs, &Access::default()).unwrap();
        fs::rename(&theirs, &ours).unwrap();
        drop(file);
        assert!(ours.exists());
        drop(other);
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::bind(&path, &Access::default()).unwrap_err();
        assert!(matches!(error, Error::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let missing = folder.path().join("no/such/folder");
        assert!(matches!(SocketFile::bind(&missing, &Access::default()), Err(Error::Bind { .. })));
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_mode_is_as_asked_whatever_the_umask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let (_listener, file) = SocketFile::bind(&path, &Access::default()).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(file);
        // No usual umask leaves this.
        let open = Access { mode: 0o666, ..Access::default() };
        let _listener = SocketFile::bind(&path, &open).unwrap();
        assert_eq!(mode(&path), 0o666);
    }

    #[test]
    fn before_it_listens_nobody_can_connect_and_few_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let _socket = bind_at(&path, &Access { mode: 0o400, ..Access::default() }).unwrap();
        assert_eq!(mode(&path) & !0o400, 0);
        let error = UnixStream::connect(&path).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied),
            "{error}"
        );
    }

    #[test]
    fn an_owner_is_set_or_refused_and_then_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let access = Access { user: Some(12345), group: Some(12346), ..Access::default() };
        let root = rustix::process::geteuid().is_root();
        match SocketFile::bind(&path, &access) {
            Ok((_listener, _file)) => {
                let data = fs::symlink_metadata(&path).unwrap();
                assert_eq!((data.uid(), data.gid(), mode(&path)), (12345, 12346, 0o600));
            }
            Err(error) => {
                assert!(!root && matches!(error, Error::Owner { .. }), "{error}");
                assert!(!path.exists());
            }
        }
    }

    #[test]
    fn only_a_socket_is_given_away() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let before = mode(&file);
        for path in [&file, &link] {
            let open = Access { mode: 0o666, ..Access::default() };
            assert!(matches!(give(path, &open), Err(Error::NotASocket(_))));
        }
        assert_eq!(mode(&file), before);
    }
}
