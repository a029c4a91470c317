//! What is left when a front end has gone, and what is missing before one comes.

use super::*;
use crate::connection::Connection;
use crate::local::Local;
use lunette_store::Cx;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};

/// What the only connection says; `None` if there is none.
fn of_connection<T: Send + 'static>(
    rig: &Rig,
    ask: impl FnOnce(&Connection) -> T + Send + 'static,
) -> Option<T> {
    let ask = move |cx: &mut dyn Cx| Some(ask(&**Local::on(cx).connections.borrow().values().next()?));
    rig.reactors.call(ReactorId(0), ask).unwrap()
}

fn wait_until(rig: &Rig, what: fn(&Connection) -> bool) {
    while !of_connection(rig, what).unwrap() {
        std::thread::yield_now();
    }
}

/// Has the export's lane wait from where it is now, until the sender is dropped.
fn hold_lane(rig: &Rig) -> Sender<()> {
    let (go, wait) = channel();
    of_connection(rig, Connection::aside).unwrap().post(move || _ = wait.recv());
    // Posted messages are in order.
    of_connection(rig, |_| ());
    go
}

fn is_mapped(file: &OwnedFd) -> bool {
    let inode = rustix::fs::fstat(file).unwrap().st_ino.to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| line.contains("memfd:") && line.split_whitespace().nth(4) == Some(&inode))
}

#[test]
fn memory_that_is_mapped_when_its_front_end_has_gone_is_unmapped_aside() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let extra = memfd(0x1000);
    // The file is looked at, then mapped, then unmapped; in between the lane is held.
    let looked_at = hold_lane(&rig);
    let message = front.protocol.add_mem_reg(region(1 << 30, 0x1000, 0), extra.try_clone().unwrap());
    front.send(message);
    wait_until(&rig, Connection::is_busy);
    let mapped = hold_lane(&rig);
    drop(looked_at);
    wait_until(&rig, Connection::is_mapping);
    front.hang_up();
    wait_until(&rig, Connection::has_noticed_its_end);
    let unmapped = hold_lane(&rig);
    assert!(!is_mapped(&extra));
    drop(mapped);
    wait_until(&rig, |connection| !connection.is_mapping());
    // The map has come back.
    of_connection(&rig, |_| ()).unwrap();
    assert!(is_mapped(&extra), "unmapped on a reactor");
    drop(unmapped);
    while of_connection(&rig, |_| ()).is_some() {
        std::thread::yield_now();
    }
    assert!(!is_mapped(&extra));
}

/// Has the kernel refuse a system call to this thread.
fn refuse(call: libc::c_long) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the filter is as long as said, and is copied.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(refused, "{}", std::io::Error::last_os_error());
}

#[test]
fn nothing_is_exported_where_eventfds_cannot_be_raised() {
    let rig = Rig::ram(Io::Auto);
    let folder = tempfile::tempdir().unwrap();
    // What was made for a reactor is kept, so these are nobody's.
    for (call, reactor) in [(libc::SYS_io_setup, 998), (libc::SYS_io_submit, 999)] {
        let socket = folder.path().join("other");
        let export = VhostUserExport::new(Options::new(&socket), rig.targets.clone());
        let poster = rig.reactors.poster();
        let start = move || {
            refuse(call);
            export.start(poster, &[ReactorId(reactor)]).err()
        };
        let error = std::thread::spawn(start).join().unwrap().unwrap();
        assert!(matches!(error, Error::NoAsyncIo(_)), "{error}");
        assert!(error.to_string().contains("fs.aio-max-nr"), "{error}");
        assert!(!socket.exists());
    }
}
