//! The other way round: the front end listens, and the export connects to it, again and again.

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::fs;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The pauses between two attempts: the first is up to this long, each is up to twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// None is longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(3200);

/// Where a front end listens.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) path: PathBuf,
    /// Number of the user who has to listen there, if that matters.
    pub(crate) user: Option<u32>,
}

/// What an attempt has come to.
pub(crate) type Outcome = Result<UnixStream, String>;

/// Connects, one attempt after the other.
pub(crate) struct Client {
    peer: Peer,
    /// Attempts since a front end has last spoken.
    attempts: u32,
    /// Where the one under way leaves what it comes to.
    under_way: Option<Arc<Mutex<Option<Outcome>>>>,
    /// What the last one has failed of.
    trouble: Option<String>,
}

impl Client {
    pub(crate) fn new(peer: Peer) -> Self {
        Self { peer, attempts: 0, under_way: None, trouble: None }
    }

    /// Who has to listen there from the next attempt on.
    pub(crate) fn set_user(&mut self, user: Option<u32>) {
        self.peer.user = user;
    }

    /// What makes the next attempt, on a thread that may wait for names of files; nothing if one is under way.
    pub(crate) fn attempt(&mut self) -> Option<impl FnOnce() + Send + 'static> {
        if self.under_way.is_some() {
            return None;
        }
        let outcome = Arc::<Mutex<Option<Outcome>>>::default();
        self.under_way = Some(outcome.clone());
        let peer = self.peer.clone();
        Some(move || *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer.connect()))
    }

    #[cfg(test)]
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// What the attempt that was under way has come to.
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        self.under_way.take()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What is to be dropped where the attempt that is under way has ended.
    pub(crate) fn leave(&mut self) -> impl Send + 'static + use<> {
        self.under_way.take()
    }

    /// Notes why an attempt has failed; whether that is something else than before.
    pub(crate) fn failed(&mut self, why: &str) -> bool {
        let is_new = self.trouble.as_deref() != Some(why);
        self.trouble = Some(why.to_owned());
        is_new
    }

    /// A front end was there.
    pub(crate) fn succeeded(&mut self) {
        (self.attempts, self.trouble) = (0, None);
    }

    /// How long to wait now.
    pub(crate) fn pause(&mut self) -> Duration {
        let most = pause_after(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        // Many that have lost the same host come back one by one.
        let random = RandomState::new().hash_one(self.attempts) as u32;
        most / 2 + (most / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// The longest pause after so many attempts.
fn pause_after(attempts: u32) -> Duration {
    let factor = 1_u32.checked_shl(attempts).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

impl Peer {
    fn connect(&self) -> Outcome {
        self.try_to_connect().map_err(|why| format!("cannot connect to {}: {why}", self.path.display()))
    }

    fn try_to_connect(&self) -> Outcome {
        let address = SocketAddrUnix::new(&self.path).map_err(|error| error.to_string())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.map_err(|error| error.to_string())?;
        connect(&socket, &address).map_err(|error| format!("{error}{}", self.hint(error)))?;
        self.check_user(&socket)?;
        Ok(socket.into())
    }

    /// Of the user who has called listen(2): with the file alone nobody knows who takes what is sent there.
    fn check_user(&self, socket: &OwnedFd) -> Result<(), String> {
        let Some(wanted) = self.user else { return Ok(()) };
        let peer = socket_peercred(socket).map_err(|error| error.to_string())?;
        match peer.uid.as_raw() {
            user if user == wanted => Ok(()),
            user => Err(format!("user {user} listens there, not user {wanted}, the `owner`")),
        }
    }

    /// What an error means here.
    fn hint(&self, error: Errno) -> String {
        let data = fs::symlink_metadata(&self.path);
        match error {
            Errno::NOENT => " (the virtual machine monitor has not made its socket yet?)".into(),
            Errno::CONNREFUSED if data.as_ref().is_ok_and(|data| !data.file_type().is_socket()) => {
                " (there is a file that is not a socket)".into()
            }
            Errno::CONNREFUSED => " (nobody listens there any more, or not yet)".into(),
            Errno::AGAIN => " (others wait there already)".into(),
            Errno::ACCESS => {
                let (user, group) =
                    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                let socket = match data {
                    Ok(data) => format!(
                        "the socket belongs to user {}, group {}, with mode {:04o}",
                        data.uid(),
                        data.gid(),
                        data.mode() & 0o7777
                    ),
                    Err(_) => "a directory does not let it through".into(),
                };
                format!(
                    " (lunette is user {user}, group {group}, which has to be able to write to the socket; {socket})"
                )
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    fn peer(path: &Path, user: Option<u32>) -> Peer {
        Peer { path: path.to_owned(), user }
    }

    #[test]
    fn pauses_become_longer_up_to_a_bound_and_short_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut client = Client::new(peer(&folder.path().join("vm.sock"), None));
        let mut most = FIRST_PAUSE;
        for attempts in 0..40 {
            assert_eq!(pause_after(attempts), most);
            let pause = client.pause();
            assert!((most / 2..=most).contains(&pause), "{attempts}: {pause:?}");
            most = (most * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(most, LONGEST_PAUSE);
        client.succeeded();
        assert!(client.pause() <= FIRST_PAUSE);
    }

    #[test]
    fn one_attempt_is_under_way_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut client = Client::new(peer(&folder.path().join("vm.sock"), None));
        let attempt = client.attempt().unwrap();
        assert!(client.attempt().is_none());
        attempt();
        assert!(client.outcome().unwrap().is_err());
        assert!(client.outcome().is_none());
        assert!(client.attempt().is_some());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let why = |user| peer(&path, user).connect().unwrap_err();
        assert!(why(None).contains("has not made its socket yet"), "{}", why(None));
        fs::write(&path, "").unwrap();
        assert!(why(None).contains("not a socket"), "{}", why(None));
        fs::remove_file(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(why(None).contains("nobody listens"), "{}", why(None));
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        peer(&path, None).connect().unwrap();
        let own = rustix::process::geteuid().as_raw();
        peer(&path, Some(own)).connect().unwrap();
        let expected = format!("user {own} listens there, not user {}", own + 1);
        assert!(why(Some(own + 1)).contains(&expected), "{}", why(Some(own + 1)));
        let long = folder.path().join("x".repeat(200));
        assert!(peer(&long, None).connect().is_err());
    }

    /// Whoever is nobody is told what to do; root may do everything.
    #[test]
    fn whom_the_file_does_not_let_in_is_told_who_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let data = fs::symlink_metadata(&path).unwrap();
        let hint = peer(&path, None).hint(Errno::ACCESS);
        for part in [format!("belongs to user {}", data.uid()), "has to be able to write".into()] {
            assert!(hint.contains(&part), "{hint}");
        }
    }
}
