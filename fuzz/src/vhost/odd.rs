//! Descriptors that a monitor may hand over in place of the right ones.

use super::memory::Memory;
use crate::input::Input;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open};
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Any descriptor; some are of the guest's memory.
pub(super) fn any_fd(memory: &Memory, input: &mut Input<'_>) -> OwnedFd {
    match input.below(16) {
        0 => eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"),
        1 => full_eventfd(),
        2 => std::io::pipe().expect("a pipe").1.into(),
        3 => std::io::pipe().expect("a pipe").0.into(),
        4 => UnixStream::pair().expect("sockets").0.into(),
        5 => UdpSocket::bind("127.0.0.1:0").expect("a socket").into(),
        6 => File::open("/dev/null").expect("/dev/null can be opened").into(),
        7 => File::open("/").expect("the root can be opened").into(),
        8 => File::open("/proc/self/maps").expect("a file of /proc").into(),
        9 => reopened(memory, OFlags::RDONLY),
        10 => reopened(memory, OFlags::PATH),
        11 => sealed(SealFlags::WRITE | SealFlags::SHRINK),
        12 => sealed(SealFlags::SHRINK | SealFlags::GROW),
        _ => memory.fd(),
    }
}

/// Memory for a dirty log.
pub(super) fn log() -> OwnedFd {
    let fd = memfd_create("lunette-fuzz-log", MemfdFlags::CLOEXEC).expect("a memory file");
    ftruncate(&fd, 0x2000).expect("a memory file");
    fd
}

/// One that cannot be written to without waiting.
fn full_eventfd() -> OwnedFd {
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).expect("room in the counter");
    fd
}

/// The guest's memory with other rights.
fn reopened(memory: &Memory, access: OFlags) -> OwnedFd {
    let fd = memory.fd();
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path, access | OFlags::CLOEXEC, Mode::empty()).expect("a file that is open")
}

/// Memory that cannot be changed in some ways.
fn sealed(seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("lunette-fuzz-sealed", flags).expect("a memory file");
    ftruncate(&fd, 0x2_0000).expect("a memory file");
    fcntl_add_seals(&fd, seals).expect("a file that can be sealed");
    fd
}
