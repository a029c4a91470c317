//! Who is at the other end of a Unix socket, as the kernel says.

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The process that has connected, as it was then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Process number; 0 if it cannot be seen from here.
    pub pid: i32,
    /// Effective user number.
    pub uid: u32,
    /// All its groups, the effective one first.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Those of this process, as its peers see them.
    pub fn own() -> Self {
        let gid = rustix::process::getegid().as_raw();
        let more = rustix::process::getgroups().unwrap_or_default();
        let groups = std::iter::once(gid).chain(more.into_iter().map(|gid| gid.as_raw())).collect();
        Self { pid: rustix::process::getpid().as_raw_pid(), uid: rustix::process::geteuid().as_raw(), groups }
    }

    /// Those of the peer of a connected Unix socket (SO_PEERCRED and SO_PEERGROUPS, unix(7)).
    ///
    /// # Errors
    /// When it is not such a socket.
    pub fn of_peer(socket: &impl AsFd) -> io::Result<Self> {
        let peer = socket_peercred(socket)?;
        let mut groups = vec![peer.gid.as_raw()];
        groups.extend(supplementary_groups(socket)?);
        Ok(Self { pid: peer.pid.as_raw_pid(), uid: peer.uid.as_raw(), groups })
    }

    /// Whether it belongs to one of `groups`.
    pub(crate) fn is_in(&self, groups: &[u32]) -> bool {
        self.groups.iter().any(|group| groups.contains(group))
    }
}

/// Most supplementary groups that a process can have (NGROUPS_MAX).
const MOST: usize = 65536;

fn supplementary_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; 64];
    loop {
        match peer_groups(socket, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // They do not fit.
            Err(Errno::RANGE) if groups.len() < MOST => groups.resize(MOST, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fills `groups`; returns how many there are.
#[expect(unsafe_code, reason = "no crate has a wrapper for SO_PEERGROUPS")]
fn peer_groups(socket: &impl AsFd, groups: &mut [u32]) -> Result<usize, Errno> {
    let mut length = size_of_val(groups) as libc::socklen_t;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `length` bytes, the size of `groups`,
    // whose values may be any, and the length.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(length as usize / size_of::<libc::gid_t>()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_is_who_has_connected() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Credentials::of_peer(&here).unwrap();
        assert_eq!(peer, Credentials::own());
    }

    #[test]
    fn what_is_no_unix_socket_has_no_peer() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Credentials::of_peer(&file).is_err());
    }

    #[test]
    fn more_groups_than_there_is_room_for_are_noticed() {
        let (here, _there) = UnixStream::pair().unwrap();
        let all = supplementary_groups(&here).unwrap();
        if !all.is_empty() {
            assert_eq!(peer_groups(&here, &mut []), Err(Errno::RANGE));
        }
    }
}
