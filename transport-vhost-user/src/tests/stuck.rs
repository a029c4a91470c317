//! Front ends whose descriptors never answer: they hold up their own export at most.

use super::*;
use crate::{HandedConnection, Record, Role};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::{CString, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A file system of the front end's own, whose daemon does not answer.
struct Silent {
    point: CString,
    device: Option<OwnedFd>,
}

impl Silent {
    fn mount(at: &Path) -> Option<Self> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR, Mode::empty()).ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options).unwrap();
        let point = CString::new(at.to_str().unwrap()).unwrap();
        // SAFETY: all strings end with a zero.
        let mounted = unsafe {
            libc::mount(c"lunette".as_ptr(), point.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast())
        };
        let error = std::io::Error::last_os_error();
        assert!(mounted == 0 || error.raw_os_error() == Some(libc::EPERM), "{error}");
        (mounted == 0).then_some(Self { point, device: Some(device) })
    }

    fn root(&self) -> OwnedFd {
        rustix::fs::open(self.point.as_c_str(), OFlags::PATH, Mode::empty()).unwrap()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.device = None;
        // SAFETY: the string ends with a zero.
        unsafe { libc::umount2(self.point.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_file_system_of_the_front_end_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut silent) = Silent::mount(folder.path()) else {
        return eprintln!("skipped: mounting takes root and /dev/fuse");
    };
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let message = front.protocol.add_mem_reg(region(1 << 30, 0x1000, 0), silent.root());
    front.send(message);
    // Even its own rings go on.
    for _ in 0..20 {
        assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    }
    assert!(!front.has_reply());
    silent.device = None;
    assert!(front.reply().is_none(), "the connection ends");
}

/// As many exports as there are threads for blocking calls, all stuck.
#[test]
fn file_systems_of_many_front_ends_hold_up_no_other_export() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut silent) = Silent::mount(folder.path()) else {
        return eprintln!("skipped: mounting takes root and /dev/fuse");
    };
    let rig = Rig::ram(Io::Auto);
    let sockets = tempfile::tempdir().unwrap();
    let start_other = |n: usize| {
        let socket = sockets.path().join(n.to_string());
        (start(&rig.reactors, &socket, &rig.targets), FrontEnd::ready(&socket, MEMORY))
    };
    let mut others: Vec<_> = (0..8).map(start_other).collect();
    for (_, front) in &mut others {
        let message = front.protocol.add_mem_reg(region(1 << 30, 0x1000, 0), silent.root());
        front.send(message);
    }
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    silent.device = None;
    for (export, mut front) in others {
        assert!(front.reply().is_none(), "the connection ends");
        export.stop();
    }
}

/// Memory whose first page comes when the value is dropped, and a thread that reads a pipe into it.
struct Reader {
    faults: OwnedFd,
    page: usize,
    thread: Option<std::thread::JoinHandle<()>>,
}

const PAGE: usize = 4096;

/// What userfaultfd(2) is told by ioctl(2): API, REGISTER, ZEROPAGE.
const UFFDIO: [libc::c_ulong; 3] = [0xc018_aa3f, 0xc020_aa00, 0xc020_aa04];

impl Reader {
    /// Waits for the page, and holds the pipe's lock, once this has returned.
    fn start(pipe: std::io::PipeReader) -> Option<Self> {
        // SAFETY: the call takes no address.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            let error = std::io::Error::last_os_error();
            assert!([libc::EPERM, libc::ENOSYS].map(Some).contains(&error.raw_os_error()), "{error}");
            return None;
        }
        // SAFETY: a new descriptor is nobody else's.
        let faults = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: the kernel chooses an address range that is not in use.
        let page = unsafe {
            mmap_anonymous(std::ptr::null_mut(), PAGE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let page = page.unwrap().addr();
        let mut reader = Self { faults, page, thread: None };
        reader.tell(0, &mut [0xaa, 0, 0]);
        reader.tell(1, &mut [page as u64, PAGE as u64, 1, 0]);
        let read = move || {
            // SAFETY: the page is mapped until the thread has been joined.
            let _ = unsafe { libc::read(pipe.as_raw_fd(), page as *mut c_void, 8) };
        };
        reader.thread = Some(std::thread::spawn(read));
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        let mut fds = [PollFd::new(&reader.faults, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "the thread does not read");
        Some(reader)
    }

    fn tell<const N: usize>(&self, what: usize, words: &mut [u64; N]) {
        // SAFETY: the words are as many as the request has, and the range that they name is ours.
        let told = unsafe { libc::ioctl(self.faults.as_raw_fd(), UFFDIO[what], words.as_mut_ptr()) };
        assert_eq!(told, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.tell(2, &mut [self.page as u64, PAGE as u64, 0, 0]);
            thread.join().unwrap();
            // SAFETY: nobody else knows the page.
            unsafe { munmap(self.page as *mut c_void, PAGE) }.unwrap();
        }
    }
}

#[test]
fn a_pipe_whose_lock_is_held_holds_up_no_reactor() {
    use std::io::Write;
    let rig = Rig::ram(Io::Auto);
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("bad");
    let other = start(&rig.reactors, &socket, &rig.targets);
    let mut bad = FrontEnd::ready(&socket, MEMORY);
    let mut ring = bad.start(2, 0, 64);
    bad.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let message = bad.protocol.set_vring_call(2, Some(writer.try_clone().unwrap().into()));
    bad.done(message);
    writer.write_all(&[0; 1]).unwrap();
    drop(writer);
    let Some(reader) = Reader::start(reader) else {
        eprintln!("skipped: userfaultfd(2) may not handle faults of the kernel's");
        return other.stop();
    };
    let used = ring.ring.used_index(&bad.guest);
    for n in 0..3 {
        ring.ring.set_used_event(&bad.guest, used + n);
        bad.offer_command(&ring, 0, DATA, &TEST_UNIT_READY, &[], 0);
        while ring.ring.used_index(&bad.guest) != used + n + 1 {
            std::thread::yield_now();
        }
    }
    // To close it takes the lock, too.
    let message = bad.protocol.set_vring_call(2, None);
    bad.done(message);
    drop(bad);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    for index in [2, 3] {
        let mut ring = front.start(index, u64::from(index) * 0x1_0000, 64);
        front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        held(&rig.reactors, index - 2);
    }
    drop(reader);
    other.stop();
}

/// A connection that waits for long to send the rest when it is closed, and its other end.
fn lingering() -> (OwnedFd, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let long = Some(std::time::Duration::from_secs(1000));
    rustix::net::sockopt::set_socket_linger(&ours, long).unwrap();
    ours.set_nonblocking(true).unwrap();
    while rustix::io::write(&ours, &[0; 4096]).is_ok() {}
    ours.set_nonblocking(false).unwrap();
    (ours.into(), theirs)
}

#[test]
fn descriptors_that_nobody_has_received_hold_up_no_reactor() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let (ours, theirs) = lingering();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (busy, begun) = std::sync::mpsc::channel();
    let second = std::thread::scope(|scope| {
        scope.spawn(|| rig.reactors.call(ReactorId(0), move |_| (busy.send(()), wait.recv())));
        // Nobody must receive the message before we have let go of its descriptor, or that would linger here.
        begun.recv().unwrap();
        let mut second = FrontEnd::connect(&rig.socket, MEMORY);
        let message = second.protocol.set_vring_call(2, Some(ours));
        second.send(message);
        drop(go);
        second
    });
    // Turned away, and closed with what it has sent.
    for _ in 0..20 {
        assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
        held(&rig.reactors, 0);
    }
    drop(theirs);
    let mut second = second;
    assert!(second.reply().is_none());
}

#[test]
fn copies_of_connections_are_closed_where_only_their_export_waits() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    // It reports that it was powered on.
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let (ours, theirs) = lingering();
    let connection = HandedConnection { record: Record::default(), fds: [(Role::Socket, ours)].into() };
    // Neither this thread nor a reactor lingers.
    rig.export.as_ref().unwrap().close(connection);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    drop(theirs);
}

#[test]
fn many_front_ends_are_turned_away_one_by_one() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut seconds: Vec<_> = (0..100).map(|_| FrontEnd::connect(&rig.socket, MEMORY)).collect();
    seconds.iter_mut().for_each(|second| assert!(second.reply().is_none()));
    let message = front.protocol.get_features();
    assert!(matches!(front.ask(message), Some(Reply::Features(_))));
}
