//! Descriptors are looked at before the message that they came with.
//!
//! A front end can hand over a file of a file system that it serves itself (FUSE). Whatever is done with such a file, even
//! closing it, waits for the front end. So files are looked at, and closed if they are refused, where that holds up nobody
//! but this connection. After that a descriptor is an eventfd, a pipe, a Unix socket, or a file of the kernel's own.

use super::{Connection, EndReason, State, Step, Token};
use crate::notify::Kind;
use lunette_store::Cx;
use rustix::fs::{FileType, fcntl_get_seals, fstat, fstatfs};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that wait for what becomes of their descriptors.
pub(super) struct Vetting {
    bytes: Vec<u8>,
    verdict: Arc<Mutex<Verdict>>,
}

type Verdict = Option<Result<Vec<OwnedFd>, &'static str>>;

impl Connection {
    /// Takes in bytes with the descriptors beside them.
    pub(super) fn take_in(
        &self,
        state: &mut State,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        cx: &mut dyn Cx,
    ) -> Step {
        if fds.iter().all(is_harmless) {
            state.decoder.feed(bytes, fds);
            return Step::Again;
        }
        let verdict = Arc::<Mutex<Verdict>>::default();
        state.vetting = Some(Vetting { bytes: bytes.to_vec(), verdict: verdict.clone() });
        let vet = move || {
            let vetted = fds.iter().try_for_each(vet).map(|()| fds);
            *verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(vetted);
            Ok(0)
        };
        cx.blocking(Box::new(vet), self.id(Token::Vetted));
        Step::Wait
    }

    /// Closes descriptors that nobody has looked at.
    pub(super) fn dispose(&self, fds: Vec<OwnedFd>, cx: &mut dyn Cx) {
        let close = move || {
            drop(fds);
            Ok(0)
        };
        cx.blocking(Box::new(close), self.id(Token::Disposed));
    }

    pub(super) fn vetted(&self, state: &mut State) -> Result<(), EndReason> {
        let Some(Vetting { bytes, verdict }) = state.vetting.take() else { return Ok(()) };
        let verdict = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fds = verdict.unwrap_or(Err("there is no thread to look at a descriptor"));
        state.decoder.feed(&bytes, fds.map_err(|why| Some(why.to_owned()))?);
        Ok(())
    }
}

/// Whether the descriptor can be seen to be none that anybody serves. Asks no file system.
fn is_harmless(fd: &OwnedFd) -> bool {
    // Only files in memory know of seals.
    Kind::of(fd) != Kind::Other || fcntl_get_seals(fd).is_ok()
}

fn vet(fd: &OwnedFd) -> Result<(), &'static str> {
    const FUSE: u32 = 0x6573_5546;
    let file_system = fstatfs(fd).map_err(|_| "a descriptor cannot be looked at")?;
    if file_system.f_type as u32 == FUSE {
        return Err("a descriptor is of a file system that a process serves (FUSE)");
    }
    let stat = fstat(fd).map_err(|_| "a descriptor cannot be looked at")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => Ok(()),
        _ => Err("a descriptor is neither an eventfd nor a pipe nor a Unix socket nor memory"),
    }
}
