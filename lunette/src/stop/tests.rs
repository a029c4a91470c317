//! What does not answer, and what is flushed all the same.

use super::*;
use crate::config::values::Place;
use crate::config::{Document, Model, Target};
use crate::inherited::Inherited;
use crate::iscsi::Plan;
use crate::running::Basis;
use crate::state::StateDir;
use crate::units::Unit;
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::Identity;
use lunette_reactor::Options as ReactorOptions;
use lunette_scsi::Naa;
use lunette_store::ram::Ram;
use lunette_store::{Caps, local_or_insert};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;
use std::cell::RefCell;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More than a test takes.
const LONG: Duration = Duration::from_secs(1000);

/// When a flush is answered.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    AtOnce,
    Never,
    /// As soon as another one is answered at once.
    Late,
}

/// Counts flushes.
#[derive(Clone)]
struct Counting {
    caps: Caps,
    flushes: Arc<AtomicUsize>,
    answer: Answer,
}

/// Flushes that are to be answered late.
#[derive(Default)]
struct Late(RefCell<Vec<IoId>>);

impl Backing for Counting {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

impl Store for Counting {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        assert!(matches!(op, Op::Flush));
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let late = local_or_insert::<Late>(cx, |_| Rc::default());
        match self.answer {
            Answer::Never => {}
            Answer::Late => late.0.borrow_mut().push(id),
            Answer::AtOnce => {
                late.0.take().into_iter().for_each(|id| cx.complete(id, Ok(0)));
                return Submit::Done(Ok(0));
            }
        }
        Submit::Queued
    }
}

/// `some` units that answer like that before `others` that answer at once, and how many flushes the others have seen.
fn units(some: u32, answer: Answer, others: u32) -> (Units, Arc<AtomicUsize>) {
    let flushed = Arc::new(AtomicUsize::new(0));
    let unit = |lun: u32| {
        let caps = Backing::caps(&Ram::new(1 << 20).unwrap()).clone();
        let store = match lun < some {
            true => Counting { caps, flushes: Arc::default(), answer },
            false => Counting { caps, flushes: flushed.clone(), answer: Answer::AtOnce },
        };
        let disk = Disk::new(&DiskOptions::default(), Backing::caps(&store)).unwrap();
        let identity = Identity::new(lun.to_string(), Naa::locally_assigned(lun.into()));
        let unit = LogicalUnit::new(format!("lun{lun}"), identity, Box::new(disk), Some(Arc::new(store)));
        let place = Some(Place { target: 0, lun });
        let record = json!({ "serial": "1", "naa": Naa::locally_assigned(lun.into()).to_string() });
        let record = serde_json::from_value(record).unwrap();
        (
            Name::of(&format!("lun{lun:04}")),
            Unit { unit, description: String::new(), queues: Vec::new(), place, record },
        )
    };
    ((0..some + others).map(unit).collect(), flushed)
}

fn reactors() -> &'static Reactors {
    let options = ReactorOptions { reactors: 1, pin: false, ..ReactorOptions::default() };
    Box::leak(Box::new(Reactors::start(&options).unwrap()))
}

/// Serves `units` at a socket in `folder` and to iSCSI.
fn running(units: Units, folder: &Path, reactors: &'static Reactors) -> Arc<Running> {
    let socket = |name: &str| crate::socket::at_path(folder.join(name).to_str().unwrap()).unwrap();
    let model = Model::from(Document {
        portals: vec!["127.0.0.1:0".parse().unwrap()],
        targets: vec![Target::new("iqn.2026-11.dev.lunette:test".parse().unwrap())],
        vhost_user: ["a", "b"].map(socket).into(),
        ..Document::default()
    });
    let plan = Plan::new(&model).unwrap();
    let events = lunette_control::Feed::new(std::time::SystemTime::now, 0).unwrap().events();
    let state = StateDir::open(folder).unwrap();
    let basis = Basis { reactors, state, events, keeper: None, all_ended: Box::new(|| ()), recorder: None };
    Running::start(model, plan, units, Inherited::default(), basis).unwrap()
}

/// A connection that waits for long to send the rest when it is closed, and its other end.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    set_socket_linger(&ours, Some(LONG)).unwrap();
    ours.set_nonblocking(true).unwrap();
    while rustix::io::write(&ours, &[0; 4096]).is_ok() {}
    ours.set_nonblocking(false).unwrap();
    (ours.into(), theirs)
}

/// A front end that has handed over a descriptor which cannot be closed for now, and what lets it be.
fn stuck_front_end(socket: &Path, reactors: &Reactors) -> (UnixStream, TcpStream) {
    let front = UnixStream::connect(socket).unwrap();
    // The last to close the descriptor must not be this thread.
    let (go, wait) = mpsc::channel::<()>();
    reactors.poster().post(ReactorId(0), Box::new(move |_| _ = wait.recv()));
    let (fd, other_end) = lingering();
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&front, &[IoSlice::new(&[0; 12])], &mut control, SendFlags::NOSIGNAL).unwrap();
    drop(fd);
    drop(go);
    let mut unread: i32 = 1;
    while unread > 0 {
        // SAFETY: the kernel writes a number at the address.
        let asked = unsafe { libc::ioctl(front.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
        assert_eq!(asked, 0);
    }
    (front, other_end)
}

#[test]
fn a_stuck_export_is_named_and_keeps_no_unit_from_being_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let (units, flushed) = units(0, Answer::Never, 3);
    let reactors = reactors();
    let running = running(units, folder.path(), reactors);
    let (_front, other_end) = stuck_front_end(&folder.path().join("b"), reactors);
    let error = stop(&running, Duration::ZERO, Deadline::after(LONG)).unwrap_err();
    assert!(error.to_string().contains(folder.path().join("b").to_str().unwrap()), "{error}");
    assert_eq!(flushed.load(Ordering::SeqCst), 3);
    // Once it answers, all end well.
    drop(other_end);
    stop(&running, LONG, Deadline::after(LONG)).unwrap();
}

#[test]
fn everything_is_told_to_stop_before_anything_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (units, _) = units(0, Answer::Never, 1);
    let reactors = reactors();
    let running = running(units, folder.path(), reactors);
    let (_front, other_end) = stuck_front_end(&folder.path().join("a"), reactors);
    let later = folder.path().join("b");
    let release = std::thread::spawn(move || {
        while later.exists() {
            std::thread::yield_now();
        }
        drop(other_end);
    });
    stop(&running, LONG, Deadline::after(LONG)).unwrap();
    release.join().unwrap();
}

#[test]
fn all_of_an_end_fits_into_the_time_of_the_unit() {
    let unit = include_str!("../../../packaging/systemd/lunette.service");
    let limit = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let limit = Duration::from_secs(limit.parse().unwrap());
    let longest = exports_time(LONGEST);
    assert!(whole(longest, true) < limit && whole(longest, false) < Duration::from_secs(90));
    let soon = Deadline::after(Duration::ZERO);
    assert!(soon.within(LONG).left().is_zero());
    assert!(Deadline::after(LONG).within(Duration::ZERO).left().is_zero());
}

#[test]
fn nothing_is_handed_over_when_the_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (units, _) = units(0, Answer::Never, 1);
    let running = running(units, folder.path(), reactors());
    let place = folder.path().join("custodian");
    let listens = std::os::unix::net::UnixDatagram::bind(&place).unwrap();
    let mut custodian = Custodian::heir(&place).unwrap();
    let given = GivenSockets::default();
    let over = Deadline::after(Duration::ZERO);
    let error = hand_over(&running, &given, (&mut custodian, 0), LONG, over).unwrap_err();
    assert!(format!("{error:#}").contains("no time left"), "{error:#}");
    listens.set_nonblocking(true).unwrap();
    assert!(listens.recv(&mut [0]).is_err(), "it is told nothing");
    stop(&running, LONG, Deadline::after(LONG)).unwrap();
}

#[test]
fn units_that_cannot_be_flushed_hold_up_no_other() {
    let (units, flushed) = units(3, Answer::Never, 10);
    let reactors = reactors();
    let error = flush(&units, reactors, Deadline::after(Duration::ZERO)).unwrap_err();
    assert!(format!("{error:#}").starts_with("cannot flush lun0000: "), "{error:#}");
    reactors.call(ReactorId(0), |_| ());
    assert_eq!(flushed.load(Ordering::SeqCst), 10);
}

#[test]
fn more_units_are_flushed_than_at_a_time() {
    let reactors = reactors();
    for (slow, others) in [(0, 200), (2 * AT_A_TIME as u32, 1)] {
        let (all, flushed) = units(slow, Answer::Late, others);
        flush(&all, reactors, Deadline::after(LONG)).unwrap();
        assert_eq!(flushed.load(Ordering::SeqCst), others as usize);
    }
}

/// A unit whose store is a file at `path`.
fn unit_of_file(path: &Path) -> Units {
    use lunette_store_file::{File, Options as FileOptions};
    let options = FileOptions { create_size: Some(1 << 20), ..FileOptions::default() };
    let file = File::open(path, &options).unwrap();
    let disk = Disk::new(&DiskOptions::default(), Backing::caps(&file)).unwrap();
    let identity = Identity::new("1", Naa::locally_assigned(1));
    let unit = LogicalUnit::new("a", identity, Box::new(disk), Some(Arc::new(file)));
    let record = json!({ "serial": "1", "naa": Naa::locally_assigned(1).to_string() });
    let record = serde_json::from_value(record).unwrap();
    let unit = Unit { unit, description: String::new(), queues: Vec::new(), place: None, record };
    Units::from([(Name::of("a"), unit)])
}

#[test]
fn that_a_flush_has_failed_is_forgotten_when_who_goes_on_is_sure_to_know_it() {
    use crate::custodian::StandIn;
    use rustix::process::{PidfdFlags, geteuid, getpid, pidfd_open};
    let folder = tempfile::tempdir().unwrap();
    let units = unit_of_file(&folder.path().join("image"));
    units[&Name::of("a")].unit.backing().unwrap().set_failed();
    let running = running(units, folder.path(), reactors());
    let note = folder.path().join(format!("units/{}.failed", Naa::locally_assigned(1)));
    std::fs::write(&note, "").unwrap();
    for is_manager in [false, true] {
        let stand_in = StandIn::listen(getpid(), geteuid().as_raw()).unwrap();
        let place = std::os::unix::net::SocketAddr::from_pathname(stand_in.path()).unwrap();
        let mut custodian = Custodian::connect(&place, is_manager.then_some(100)).unwrap();
        let keeps = std::thread::spawn(move || {
            let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
            stand_in.collect(&own).unwrap().unwrap()
        });
        hand_over(&running, &GivenSockets::default(), (&mut custodian, 0), LONG, Deadline::after(LONG))
            .unwrap();
        assert!(keeps.join().unwrap().iter().any(|(name, _)| name == "state"));
        // Another program has it, and may still end before it serves.
        assert_eq!(note.exists(), !is_manager);
    }
}

#[test]
fn a_flush_that_has_failed_fails_in_the_next_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let units = |name| unit_of_file(&folder.path().join(name));
    let (before, after) = (units("before"), units("after"));
    let (reactors, name) = (reactors(), Name::of("a"));
    let hand_over = || {
        let state = before[&name].unit.hand_over(Duration::ZERO, Duration::ZERO);
        after[&name].unit.take_over(state, Duration::ZERO, Duration::ZERO).unwrap();
        flush(&after, reactors, Deadline::after(LONG))
    };
    hand_over().unwrap();
    before[&name].unit.backing().unwrap().set_failed();
    assert!(hand_over().unwrap_err().to_string().contains("cannot flush"));
}
