//! Descriptors are looked at before the message that they came with.
//!
//! A front end can hand over a file of a file system that it serves itself (FUSE). Whatever is done with such a file, even
//! closing it, waits for the front end. So all descriptors but eventfds are looked at [aside](crate::aside), and held for as
//! long as their message is worked on, so that nothing before the end of that is the last to close one.
//!
//! They pass what earlier messages have left to be closed there: no more is left than there is room for in the messages.

use super::{Connection, EndReason, State, Step, Token};
use crate::aside::{Aside, Foreign};
use crate::notify::Kind;
use lunette_store::Cx;
use lunette_vhost_user::MAX_FDS;
use rustix::fs::{FileType, Stat, fcntl_get_seals, fstat, fstatfs, major, minor, readlink};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that wait for what becomes of their descriptors.
pub(super) struct Vetting {
    bytes: Vec<u8>,
    verdict: Arc<Mutex<Verdict>>,
}

type Verdict = Option<Result<Vetted, &'static str>>;

struct Vetted {
    fds: Vec<OwnedFd>,
    /// The same open files.
    held: Vec<Foreign>,
}

impl Connection {
    /// Takes in bytes with the descriptors beside them.
    pub(super) fn take_in(
        &self,
        state: &mut State,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        cx: &mut dyn Cx,
    ) -> Result<Step, EndReason> {
        if fds.iter().all(|fd| Kind::of(fd) == Kind::Event) && fds.len() <= MAX_FDS {
            state.decoder.feed(bytes, fds);
            return Ok(Step::Again);
        }
        if fds.len() > MAX_FDS {
            self.dispose(fds);
            return Err(Some("a message carries too many descriptors".to_owned()));
        }
        let verdict = Arc::<Mutex<Verdict>>::default();
        state.vetting = Some(Vetting { bytes: bytes.to_vec(), verdict: verdict.clone() });
        let aside = self.place.aside.clone();
        let look = move || {
            let vetted = vet_all(fds, &aside);
            *verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(vetted);
            Ok(0)
        };
        self.place.aside.run(look, self.id(Token::Vetted), cx);
        Ok(Step::Wait)
    }

    /// Closes descriptors that nobody has looked at.
    pub(super) fn dispose(&self, fds: Vec<OwnedFd>) {
        self.place.aside.post(move || drop(fds));
    }

    pub(super) fn vetted(&self, state: &mut State) -> Result<(), EndReason> {
        let Some(Vetting { bytes, verdict }) = state.vetting.take() else { return Ok(()) };
        let verdict = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        let vetted = verdict.expect("given before we were told");
        let Vetted { fds, held } = vetted.map_err(|why| Some(why.to_owned()))?;
        state.decoder.feed(&bytes, fds);
        state.held.extend(held);
        Ok(())
    }
}

fn vet_all(fds: Vec<OwnedFd>, aside: &Aside) -> Result<Vetted, &'static str> {
    fds.iter().try_for_each(vet)?;
    let held: Result<_, _> = fds.iter().map(|fd| Ok(Foreign::new(fd.try_clone()?, aside))).collect();
    let held = held.map_err(|_: std::io::Error| "too many descriptors are open")?;
    Ok(Vetted { fds, held })
}

/// File systems of the kernel's own that guest memory may be on, with which a page may wait for a disk but never for a
/// process or a network. Not overlayfs, which does not tell what is below it.
const FILE_SYSTEMS: [u32; 7] = [
    0x0102_1994, // tmpfs
    0x9584_58f6, // hugetlbfs
    0x8584_58f6, // ramfs
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
];

pub(super) fn vet(fd: &OwnedFd) -> Result<(), &'static str> {
    // Only files in memory know of seals.
    if Kind::of(fd) != Kind::Other || fcntl_get_seals(fd).is_ok() {
        return Ok(());
    }
    let stat = fstat(fd).map_err(|_| "a descriptor cannot be looked at")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if is_memory(&stat) => Ok(()),
        FileType::CharacterDevice => Err("a descriptor is of a device that is no memory (DAX)"),
        FileType::RegularFile => {
            let file_system = fstatfs(fd).map_err(|_| "a descriptor cannot be looked at")?;
            match FILE_SYSTEMS.contains(&(file_system.f_type as u32)) {
                true => Ok(()),
                false => Err("a descriptor is of a file on a file system that guest memory must not be on: \
                              use memfd, hugetlbfs, tmpfs, ext4, XFS, Btrfs or F2FS"),
            }
        }
        _ => Err("a descriptor is neither an eventfd nor a pipe nor a Unix socket nor memory"),
    }
}

/// Whether a descriptor would be let in.
#[cfg(test)]
pub(crate) fn is_vetted(fd: &OwnedFd) -> bool {
    vet(fd).is_ok()
}

/// Whether a device is memory that can be mapped (device DAX). Drivers of others may make whoever touches it wait.
fn is_memory(stat: &Stat) -> bool {
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    let subsystem = readlink(format!("/sys/dev/char/{major}:{minor}/subsystem"), Vec::new());
    subsystem.is_ok_and(|path| path.as_bytes().ends_with(b"/dax"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memfd;
    use std::fs::File;

    fn of(path: &str) -> Result<(), &'static str> {
        vet(&File::open(path).unwrap().into())
    }

    #[test]
    fn memory_is_let_in() {
        assert_eq!(vet(&memfd(8)), Ok(()));
        let (_reader, writer) = std::io::pipe().unwrap();
        assert_eq!(vet(&writer.into()), Ok(()));
    }

    #[test]
    fn files_of_other_file_systems_and_devices_are_not() {
        assert!(of("/proc/self/status").unwrap_err().contains("file system"));
        assert!(of("/dev/null").unwrap_err().contains("device"));
        assert!(of("/").unwrap_err().contains("neither"));
    }
}
