//! The socket file: made, replaced if its daemon is dead, removed at the end.

use crate::Error;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmod, chownat, fchmod, fstat, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

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
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

impl SocketFile {
    /// Listens at `path`. Nobody can connect before the file has its mode and owner.
    pub(crate) fn bind(path: &Path, access: &Access) -> Result<(UnixListener, Self), Error> {
        let wrap = |source: io::Error| Error::Bind { path: path.to_owned(), source };
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

/// A socket that does not listen yet, so that connecting to it fails.
fn bind_at(path: &Path, access: &Access) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux makes the file with the mode of the socket, less the umask.
    fchmod(&socket, Mode::from_raw_mode(access.mode))?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// Sets the owner and then the mode of the socket at `path`, but not of what somebody may have put in its place.
fn give(path: &Path, access: &Access) -> Result<(), Error> {
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
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a daemon that has ended");
            fs::remove_file(path).map_err(wrap)
        }
        Err(error) => Err(wrap(error)),
        Ok(_) => Err(Error::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
