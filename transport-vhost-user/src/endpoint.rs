//! Where front ends come from: a path, or a socket that somebody else has made.

use crate::bind::{Access, SocketFile};
use crate::client::{Client, Peer};
use crate::error::Error;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, getpeername, getsockname};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where front ends come from.
#[derive(Debug)]
pub enum Endpoint {
    /// A socket that is made at a path, and removed at the end.
    Path {
        /// The path.
        path: PathBuf,
        /// Who may connect.
        access: Access,
    },
    /// The socket of a front end that listens. It is connected to whenever nobody is connected, for as long as that takes.
    Client {
        /// The path.
        path: PathBuf,
        /// Number of the user who has to listen there, if that matters.
        user: Option<u32>,
    },
    /// A socket that listens already. Its file, if it has one, is left to whoever made it.
    Listening(UnixListener),
    /// The front end itself. The export ends with it.
    Connected(UnixStream),
}

/// A listening socket, one that listens elsewhere, or the only front end there will be.
pub(crate) enum Entrance {
    Listening(UnixListener),
    Client(Client),
    Connected(UnixStream),
}

impl Endpoint {
    /// A socket at `path` for the daemon's own user.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::Path { path: path.into(), access: Access::default() }
    }

    /// Takes over a socket that listens or is connected.
    ///
    /// # Errors
    /// When the descriptor is nothing of the kind.
    pub fn adopt(socket: OwnedFd) -> Result<Self, Error> {
        let refuse = |why| Err(Error::Unsuitable { descriptor: socket.as_raw_fd(), why });
        match (socket_domain(&socket), socket_type(&socket)) {
            (Ok(AddressFamily::UNIX), Ok(SocketType::STREAM)) => {}
            (Ok(_), Ok(_)) => return refuse("is no Unix stream socket"),
            _ => return refuse("is no socket"),
        }
        if socket_acceptconn(&socket).unwrap_or(false) {
            Ok(Self::Listening(socket.into()))
        } else if getpeername(&socket).is_ok() {
            Ok(Self::Connected(socket.into()))
        } else {
            refuse("is a socket that neither listens nor is connected")
        }
    }

    /// What it is called: the socket's absolute path or abstract name (`@name`), or `fd:N` where it has neither.
    pub fn name(&self) -> String {
        match self {
            Self::Path { path, .. } | Self::Client { path, .. } => absolute(path).display().to_string(),
            Self::Listening(listener) => name_of(listener.as_fd()),
            Self::Connected(stream) => name_of(stream.as_fd()),
        }
    }

    /// The path of the socket that is made for it.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Path { path, .. } => Some(absolute(path)),
            Self::Client { .. } | Self::Listening(_) | Self::Connected(_) => None,
        }
    }

    /// Opens it, and gives the file that it has made; or goes on with the socket at its path that another process has made, and
    /// the file of that.
    pub(crate) fn open(
        self,
        made: Option<(UnixListener, (u64, u64))>,
    ) -> Result<(Entrance, Option<SocketFile>), Error> {
        match self {
            Self::Path { path, access } => {
                let path = absolute(&path);
                if let Some((listener, identity)) = made
                    && let Some(file) = SocketFile::keep(&path, &access, identity)
                    && listener.set_nonblocking(true).is_ok()
                {
                    return Ok((Entrance::Listening(listener), Some(file)));
                }
                let (listener, file) = SocketFile::bind(&path, &access)?;
                Ok((Entrance::Listening(listener), Some(file)))
            }
            Self::Client { path, user } => {
                let peer = Peer { path: absolute(&path), user };
                Ok((Entrance::Client(Client::new(peer)), None))
            }
            Self::Listening(listener) => {
                let descriptor = listener.as_raw_fd();
                listener
                    .set_nonblocking(true)
                    .map_err(|_| Error::Unsuitable { descriptor, why: "cannot be made non-blocking" })?;
                Ok((Entrance::Listening(listener), None))
            }
            Self::Connected(stream) => Ok((Entrance::Connected(stream), None)),
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn name_of(socket: BorrowedFd<'_>) -> String {
    let address = getsockname(socket).ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
    let name = address.and_then(|address| match (address.path_bytes(), address.abstract_name()) {
        (Some(path), _) => Some(String::from_utf8_lossy(path).into_owned()),
        (None, Some(name)) if !name.is_empty() => Some(format!("@{}", String::from_utf8_lossy(name))),
        _ => None,
    });
    name.unwrap_or_else(|| format!("fd:{}", socket.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    fn refusal(socket: impl Into<OwnedFd>) -> String {
        Endpoint::adopt(socket.into()).unwrap_err().to_string()
    }

    #[test]
    fn what_listens_and_what_is_connected_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let listening = Endpoint::adopt(UnixListener::bind(&path).unwrap().into()).unwrap();
        assert!(matches!(listening, Endpoint::Listening(_)));
        assert_eq!(listening.name(), path.display().to_string());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        let connected = Endpoint::adopt(ours.into()).unwrap();
        assert!(matches!(connected, Endpoint::Connected(_)));
        assert_eq!(connected.name(), format!("fd:{number}"));
    }

    #[test]
    fn an_abstract_name_is_a_name() {
        let name = format!("lunette-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listening = Endpoint::adopt(UnixListener::bind_addr(&address).unwrap().into()).unwrap();
        assert_eq!(listening.name(), format!("@{name}"));
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(refusal(file).contains("is no socket"));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(refusal(tcp).contains("no Unix stream socket"));
        let (datagrams, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert!(refusal(datagrams).contains("no Unix stream socket"));
        let idle = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        assert!(refusal(idle).contains("neither listens nor is connected"));
    }
}
