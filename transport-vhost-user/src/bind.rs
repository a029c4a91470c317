//! The socket file: made, replaced if its daemon is dead, removed at the end.

use crate::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket file of ours. Dropping it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Listens at `path`.
    pub(crate) fn bind(path: &Path) -> Result<(UnixListener, Self), Error> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let wrap = |source| Error::Bind { path: path.to_owned(), source };
        let listener = listener.map_err(wrap)?;
        let file = Self { path: path.to_owned(), identity: identity(path).ok() };
        listener.set_nonblocking(true).map_err(wrap)?;
        Ok((listener, file))
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
        let (listener, file) = SocketFile::bind(&path).unwrap();
        let error = SocketFile::bind(&path).unwrap_err();
        assert!(matches!(&error, Error::InUse(other) if *other == path), "{error}");
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = SocketFile::bind(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn only_our_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let (_listener, file) = SocketFile::bind(&ours).unwrap();
        let (_other, other) = SocketFile::bind(&theirs).unwrap();
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
        let error = SocketFile::bind(&path).unwrap_err();
        assert!(matches!(error, Error::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let missing = folder.path().join("no/such/folder");
        assert!(matches!(SocketFile::bind(&missing), Err(Error::Bind { .. })));
    }
}
