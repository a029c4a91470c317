//! Descriptors that the program was started with: those of `--fd`, and those of a service manager (sd_listen_fds(3)): sockets that
//! it has made, and what another daemon has [handed over](crate::handover).

use crate::handover::{self, Handed};
use anyhow::{Context, Result, bail, ensure};
use lunette_transport_vhost_user::Endpoint;
use rustix::fs::fstat;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

/// What came in by descriptors.
#[derive(Default, Debug)]
pub(crate) struct Inherited {
    pub(crate) vhost_user: Vec<FrontEnds>,
    pub(crate) iscsi: Vec<TcpListener>,
    /// Some of these were named on the command line (`--fd`), of this process or of the one that it goes on for.
    pub(crate) by_option: bool,
    /// The control socket.
    pub(crate) control: Option<UnixListener>,
    /// All of these that listen.
    pub(crate) given: GivenSockets,
    /// What another daemon has left.
    pub(crate) handed: Handed,
}

/// Where front ends come from.
#[derive(Debug)]
pub(crate) struct FrontEnds {
    /// What it is called.
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
}

impl From<Endpoint> for FrontEnds {
    fn from(endpoint: Endpoint) -> Self {
        Self { name: endpoint.name(), endpoint }
    }
}

/// Listening sockets that the program was started with, which the next is to be started with too.
#[derive(Default, Debug)]
pub(crate) struct GivenSockets(Vec<(String, OwnedFd)>);

impl GivenSockets {
    pub(crate) fn add(&mut self, name: &str, socket: &OwnedFd) -> Result<()> {
        if socket_acceptconn(socket).unwrap_or(false) {
            self.0.push((name.to_owned(), socket.try_clone()?));
        }
        Ok(())
    }

    /// With what they are called.
    pub(crate) fn all(&self) -> &[(String, OwnedFd)] {
        &self.0
    }

    /// Whether a socket is one of them.
    pub(crate) fn has(&self, socket: BorrowedFd<'_>) -> bool {
        let inode = |socket: BorrowedFd<'_>| fstat(socket).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let wanted = inode(socket);
        self.0.iter().any(|(_, given)| inode(given.as_fd()) == wanted)
    }
}

/// What the service manager calls the control socket (`FileDescriptorName=`).
const CONTROL: &str = "control";

/// What a socket of `--fd` is called where it is handed over.
const BY_OPTION: &str = "fd";

impl Inherited {
    /// Takes the descriptors `numbers`, and those that a service manager says it has passed. Nothing that is started later
    /// gets any of them, or is told of them.
    ///
    /// # Safety
    /// To be called once, before the program has opened anything and has more than one thread.
    pub(crate) unsafe fn take(numbers: &[RawFd]) -> Result<Self> {
        let mut taken = HashSet::new();
        let mut inherited = Self { by_option: !numbers.is_empty(), ..Self::default() };
        for &number in numbers {
            ensure!(taken.insert(number), "--fd {number} is given twice");
            // SAFETY: the caller's promise, and it is not taken yet.
            let socket = unsafe { own(number) }.with_context(|| format!("--fd {number}"))?;
            inherited.given.add(BY_OPTION, &socket)?;
            inherited.vhost_user.push(Endpoint::adopt(socket).context("--fd")?.into());
        }
        let mut kept = Vec::new();
        // SAFETY: the caller's promise.
        let passed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
        for (number, name) in passed.context("cannot take over the sockets of the service manager")? {
            ensure!(
                taken.insert(number),
                "--fd {number} is a socket of the service manager, which is served anyway"
            );
            // SAFETY: as above.
            let socket = unsafe { own(number) }?;
            if handover::is_kept(&name) {
                kept.push((name, socket));
                continue;
            }
            let of = || format!("socket `{name}` of the service manager (descriptor {number})");
            inherited.sort(socket, &name).with_context(of)?;
            tracing::info!("serving {}", of());
        }
        inherited.take_over(Handed::read(kept));
        Ok(inherited)
    }

    /// Takes the sockets that another daemon was started with; what else it has left is taken by those whom it concerns.
    fn take_over(&mut self, mut handed: Handed) {
        for (name, socket) in handed.given() {
            self.by_option |= name == BY_OPTION;
            if let Err(error) = self.sort(socket, &name) {
                tracing::warn!("a socket `{name}` of another process is not served: {error:#}");
            }
        }
        for (name, stream) in handed.connected() {
            self.by_option = true;
            self.vhost_user.push(FrontEnds { name, endpoint: Endpoint::Connected(stream) });
        }
        self.handed = handed;
    }

    /// The TCP socket that listens at `address`.
    pub(crate) fn at_address(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.iscsi.iter().position(|socket| socket.local_addr().is_ok_and(|own| own == address))?;
        Some(self.iscsi.remove(at))
    }

    /// Puts a socket of the service manager where it belongs.
    fn sort(&mut self, socket: OwnedFd, name: &str) -> Result<()> {
        self.given.add(name, &socket)?;
        match (socket_domain(&socket), socket_type(&socket)) {
            (Ok(AddressFamily::INET | AddressFamily::INET6), Ok(SocketType::STREAM)) => {
                ensure!(socket_acceptconn(&socket)?, "it does not listen: say Accept=no in its unit");
                self.iscsi.push(socket.into());
            }
            (Ok(AddressFamily::UNIX), Ok(SocketType::STREAM)) => match Endpoint::adopt(socket)? {
                Endpoint::Connected(_) => bail!("it does not listen: say Accept=no in its unit"),
                Endpoint::Listening(listener) if name == CONTROL => {
                    ensure!(self.control.replace(listener).is_none(), "there is a control socket already");
                }
                listening => self.vhost_user.push(listening.into()),
            },
            _ => bail!("it is neither a Unix (vhost-user) nor a TCP (iSCSI) stream socket"),
        }
        Ok(())
    }
}

/// Takes a descriptor the program was started with.
///
/// # Safety
/// Nothing else in the program uses the descriptor, if it is open.
unsafe fn own(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: only asks, and of a descriptor that is not open just says so.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    ensure!(open, "descriptor {number} is not open");
    // SAFETY: it is open, and ours by the caller's promise.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Puts descriptors where the program finds them that this process is about to become (sd_listen_fds(3)).
///
/// # Safety
/// Nothing else in this process has a descriptor from 3 on that it will use or close.
pub(crate) unsafe fn pass_on(fds: Vec<OwnedFd>) -> Result<()> {
    const FIRST: RawFd = 3;
    let count = RawFd::try_from(fds.len())?;
    // Out of the way of where they go.
    let above = FIRST + count;
    let moved = fds.into_iter().map(|fd| fcntl_dupfd_cloexec(fd, above)).collect::<Result<Vec<_>, _>>()?;
    for (number, fd) in (FIRST..).zip(moved) {
        // SAFETY: nobody else has this number, by the caller's promise.
        let passed = unsafe { libc::dup2(fd.as_raw_fd(), number) };
        ensure!(passed == number, "{}", std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn refusal(socket: impl Into<OwnedFd>) -> String {
        Inherited::default().sort(socket.into(), "any").unwrap_err().to_string()
    }

    #[test]
    fn sockets_of_a_service_manager_go_where_they_belong() {
        let mut inherited = Inherited::default();
        let folder = tempfile::tempdir().unwrap();
        let unix = |name| OwnedFd::from(UnixListener::bind(folder.path().join(name)).unwrap());
        let portal = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = portal.local_addr().unwrap();
        inherited.sort(unix("vm.sock"), "vm.sock").unwrap();
        inherited.sort(portal.into(), "portal").unwrap();
        assert!(inherited.control.is_none());
        inherited.sort(unix("control.sock"), "control").unwrap();
        assert!(inherited.control.is_some());
        let second = inherited.sort(unix("second.sock"), "control").unwrap_err();
        assert!(second.to_string().contains("control socket already"), "{second}");
        assert_eq!((inherited.vhost_user.len(), inherited.iscsi.len()), (1, 1));
        assert!(inherited.at_address(SocketAddr::new(address.ip(), 1)).is_none());
        assert!(inherited.at_address(address).is_some() && inherited.iscsi.is_empty());
    }

    #[test]
    fn other_sockets_are_refused() {
        assert!(refusal(UnixDatagram::unbound().unwrap()).contains("neither a Unix (vhost-user) nor a TCP"));
        assert!(refusal(UnixStream::pair().unwrap().0).contains("Accept=no"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(refusal(connected).contains("Accept=no"));
        assert!(refusal(std::fs::File::open("/dev/null").unwrap()).contains("neither"));
    }
}
