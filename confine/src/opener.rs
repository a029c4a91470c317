//! A process that opens what the daemon has no right to open itself: block devices and files of others below the allowed
//! directories.
//!
//! It is forked before the daemon gives up its rights, keeps one of them (to open files whatever their mode says), has neither the
//! daemon's memory after that nor its descriptors, and does nothing but look at a path, open it and hand over the descriptor. What
//! is allowed it checks itself: it does not trust the daemon. It ends with the daemon, and is not started again.
//!
//! A block device is handed over only to who claims it, which the kernel refuses while it is mounted or otherwise in use, or to read
//! what somebody has claimed and locked: nobody writes below a file system by its means.

use crate::Kinds;
use crate::beneath::Roots;
use crate::files::{self, Places, Use};
use crate::filter::{self, Mode};
use crate::privileges::{self, Capabilities};
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
    sockopt,
};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a device may take to be opened.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest path that the kernel takes, and what stands before it in a request.
const LONGEST: usize = HEAD + 4096;
/// The number of the request, and how the file is opened.
const HEAD: usize = 5;
const WRITE: u8 = 1;
const EXCLUSIVE: u8 = 2;
const LOOK: u8 = 4;

/// The daemon's end.
#[derive(Debug)]
pub struct Opener(Mutex<Line>);

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// The last request.
    last: u32,
}

impl Opener {
    /// Forks a process that opens what is below `roots`; `mode` says whether it is confined besides.
    ///
    /// # Safety
    /// The process has one thread.
    ///
    /// # Errors
    /// When there can be no such process.
    pub unsafe fn start(roots: &[PathBuf], mode: Option<Mode>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let parent = std::process::id();
        // SAFETY: there is one thread, by the caller's promise, so the child may do whatever the parent may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                let code = match serve_all(its, roots, mode, parent) {
                    Ok(()) => 0,
                    Err(error) => {
                        tracing::error!("the opener of devices has ended: {error}");
                        1
                    }
                };
                // SAFETY: ends the process, without what the parent wants done at its end.
                unsafe { libc::_exit(code) }
            }
            _ => {
                drop(its);
                for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
                    sockopt::set_socket_timeout(&ours, direction, Some(PATIENCE))?;
                }
                // It is ready, or tells what it lacks.
                receive(ours.as_fd())?.1?;
                Ok(Self(Mutex::new(Line { socket: ours, last: 0 })))
            }
        }
    }

    /// Opens an existing file or device below the roots, to read or, with [`OFlags::RDWR`], to write too, or, with
    /// [`OFlags::PATH`], only to look at it; of the other flags [`OFlags::EXCL`] counts.
    ///
    /// # Errors
    /// `EACCES` when it is below no root, `EPERM` when it is a block device that is neither to be claimed nor both to be read and
    /// locked by somebody, what the kernel says when it cannot be opened, and otherwise when the process has ended or does not
    /// answer.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = std::path::absolute(path)?;
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.last = line.last.wrapping_add(1);
        let how = if flags.contains(OFlags::RDWR) { WRITE } else { 0 }
            | if flags.contains(OFlags::EXCL) { EXCLUSIVE } else { 0 }
            | if flags.contains(OFlags::PATH) { LOOK } else { 0 };
        let request = [&line.last.to_ne_bytes()[..], &[how], path.as_os_str().as_bytes()].concat();
        if request.len() > LONGEST {
            return Err(Errno::NAMETOOLONG.into());
        }
        retry_on_intr(|| send(&line.socket, &request, SendFlags::NOSIGNAL)).map_err(lost)?;
        loop {
            let (number, answer) = receive(line.socket.as_fd())?;
            // The answer to a request that nobody waits for any more.
            if number == line.last {
                return answer?.ok_or_else(gone);
            }
        }
    }
}

/// Why there is no answer.
fn lost(error: Errno) -> io::Error {
    match error {
        Errno::AGAIN => io::Error::new(io::ErrorKind::TimedOut, "opening it takes too long"),
        _ => gone(),
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process that opens devices has ended: start lunette again")
}

/// An answer: the number of the request, and a descriptor, or an error, or neither when it is ready.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(u32, io::Result<Option<OwnedFd>>)> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let message = message.map_err(lost)?;
    if message.bytes != bytes.len() {
        return Err(gone());
    }
    let [a, b, c, d, e, f, g, h] = bytes;
    let (number, errno) = (u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    let answer = match errno {
        // There was one, and no room for it.
        0 if message.flags.contains(ReturnFlags::CTRUNC) => Err(Errno::MFILE.into()),
        0 => Ok(descriptor),
        errno => Err(io::Error::from_raw_os_error(errno)),
    };
    Ok((number, answer))
}

/// What the process does, until the daemon has ended.
fn serve_all(socket: OwnedFd, roots: &[PathBuf], mode: Option<Mode>, parent: u32) -> io::Result<()> {
    let prepare = || {
        settle(&socket, parent)?;
        Roots::open(roots.iter().map(PathBuf::as_path)).map_err(|(_, error)| error)
    };
    let roots_here = prepare().inspect_err(|error| drop(reply(&socket, [0; 4], Err(error))))?;
    if let Some(mode) = mode {
        confine(roots, mode);
    }
    reply(&socket, [0; 4], Ok(None))?;
    let mut request = [0; LONGEST];
    loop {
        match recv(&socket, &mut request, RecvFlags::empty()) {
            Ok((0, _)) => return Ok(()),
            Ok((length, _)) => answer(&socket, &roots_here, request.get(..length).unwrap_or_default())?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn confine(roots: &[PathBuf], mode: Mode) {
    let files = roots.iter().map(|root| (root.clone(), Use::Open)).collect();
    if let Err(error) = files::confine(&Places { files, abstract_sockets: false }) {
        tracing::warn!("the opener of devices is not confined to its files by the kernel: {error}");
    }
    if let Err(error) = filter::begin(mode, Kinds::OPENER) {
        tracing::warn!("the system calls of the opener of devices are not filtered: {error}");
    }
}

/// Leaves everything of the daemon behind but the socket and the log.
fn settle(socket: &OwnedFd, parent: u32) -> io::Result<()> {
    // What stops the daemon may be sent to all its processes; this one is wanted until the end.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler is called.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let _ = rustix::thread::set_name(c"lunette-opener");
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    drop(null);
    for descriptor in
        open_descriptors()?.into_iter().filter(|number| *number > 2 && *number != socket.as_raw_fd())
    {
        // SAFETY: nothing here uses it: what the daemon had open is the daemon's. (One that is closed already is another's no more.)
        unsafe { libc::close(descriptor) };
    }
    privileges::drop_to(None, Capabilities::DAC_OVERRIDE)
}

fn answer(socket: &OwnedFd, roots: &Roots, request: &[u8]) -> io::Result<()> {
    let Some((&[a, b, c, d, how], path)) = request.split_first_chunk::<HEAD>() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let opened = open(roots, how, Path::new(OsStr::from_bytes(path)));
    reply(socket, [a, b, c, d], opened.as_ref().map(Some))
}

/// Tells the daemon, in answer to the request of this number.
fn reply(socket: &OwnedFd, number: [u8; 4], opened: Result<Option<&OwnedFd>, &io::Error>) -> io::Result<()> {
    let errno = opened.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    let bytes = [number, errno.to_ne_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = opened.ok().flatten().map(AsFd::as_fd).into_iter().collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The numbers of this process's descriptors, by the only means that all kernels have.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    entries
        .map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())))
        .filter_map(Result::transpose)
        .collect()
}

fn open(roots: &Roots, how: u8, path: &Path) -> io::Result<OwnedFd> {
    let found = roots.find(path)?.ok_or(Errno::ACCESS)?;
    if how & LOOK != 0 {
        return Ok(found.into_handle());
    }
    let (writes, claims) = (how & WRITE != 0, how & EXCLUSIVE != 0);
    let mut flags = if writes { OFlags::RDWR } else { OFlags::RDONLY };
    flags.set(OFlags::EXCL, claims);
    if !found.is_block_device() || claims {
        return found.open(flags);
    }
    if writes {
        return Err(Errno::PERM.into());
    }
    let opened = found.open(flags)?;
    if is_locked(&opened)? { Ok(opened) } else { Err(Errno::PERM.into()) }
}

/// Whether another open file has a lock on it.
fn is_locked(file: &OwnedFd) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid value: the whole file, from its start.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the kernel reads and writes a `flock` at the address.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}
