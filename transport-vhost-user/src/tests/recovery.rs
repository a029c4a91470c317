//! A daemon is gone with requests in flight, and another one goes on.

use super::rings::{ALL, options, read_10, submit};
use super::{BOTH, Rig, TEST_UNIT_READY};
use crate::local::Local;
use crate::testing::held::{held, release, release_some, wait_held};
use lunette_guest::ring::Form;
use lunette_guest::{
    Command, Data, Error, GuestMemory, InFlight, Monitor, Options, Piece, ScsiDriver, Session, address,
    function, response,
};
use lunette_store::{Cx, ReactorId};
use lunette_vhost_user::{Features, InflightArea};
use rustix::fs::{MemfdFlags, fcntl_get_seals, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

pub(super) const QUEUES: u16 = 4;
pub(super) const SIZE: u16 = 16;
pub(super) const LAYOUTS: [Features; 2] = [ALL, ALL.union(Features::RING_PACKED)];
const FORMS: [Form; 2] = [Form::Chained, Form::Indirect];
const COMPARE_AND_WRITE: [u8; 16] = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];

pub(super) fn set(features: Features, form: Form) -> Options {
    let mut options = options(features, form, SIZE, 4);
    (options.request_queues, options.room) = (2, 1024);
    options
}

/// A guest, and what its monitor keeps for the next daemon.
pub(super) struct Survivor {
    pub(super) driver: ScsiDriver,
    pub(super) options: Options,
    pub(super) notes: InFlight,
}

impl Survivor {
    pub(super) fn begin(rig: &Rig, options: Options) -> Self {
        let memory = GuestMemory::with_size(4 << 20).unwrap();
        let mut monitor = Monitor::connect(&rig.socket, memory, &options.wanted).unwrap();
        let notes = monitor.session.begin_notes(QUEUES, SIZE).unwrap().unwrap();
        let mut driver = ScsiDriver::new(monitor, &options).unwrap();
        driver.start().unwrap();
        // Takes the unit attention.
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        Self { driver, options, notes }
    }

    /// The notes as they are now: what comes later, a daemon that was killed would not have written.
    fn killed(&self) -> InFlight {
        let fd = memory(self.notes.area.mmap_size);
        let mut bytes = vec![0; self.notes.area.mmap_size as usize];
        File::from(self.notes.fd.try_clone().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
        File::from(fd.try_clone().unwrap()).write_all_at(&bytes, 0).unwrap();
        InFlight { area: self.notes.area, fd }
    }

    /// Leaves a daemon, which is dead as far as the guest can tell: it touches rings no more.
    fn leave(&mut self, rig: &Rig) {
        self.notes = self.killed();
        let (end, _) = UnixStream::pair().unwrap();
        self.driver.monitor.session = Session::new(end).unwrap();
        wait_left(rig);
    }

    /// Goes over to another daemon, whose queues are still to be started.
    fn reconnect(&mut self, from: &Rig, to: &Rig) {
        self.leave(from);
        self.driver.monitor.reconnect(&to.socket, &self.options.wanted, Some(&self.notes)).unwrap();
    }

    /// Has another daemon serve all queues but the second request queue.
    pub(super) fn go_on(&mut self, from: &Rig, to: &Rig) {
        self.reconnect(from, to);
        (0..3).for_each(|queue| self.driver.monitor.start(queue).unwrap());
    }

    pub(super) fn read(&mut self, queue: u16, blocks: &[u16]) {
        blocks.iter().for_each(|block| submit(&mut self.driver, queue, *block, &read_10(*block)));
        self.driver.flush(queue).unwrap();
    }

    fn wait(&mut self, queue: u16, slot: u16) -> (u8, u8) {
        let ended = self.driver.wait_for(queue, slot).unwrap();
        (ended.response, ended.status)
    }
}

/// The version of a queue's notes: 0 if there are none.
pub(super) fn version(notes: &InFlight, queue: u64) -> u16 {
    let mut bytes = [0; 2];
    let at = queue * notes.area.mmap_size / u64::from(QUEUES) + 8;
    File::from(notes.fd.try_clone().unwrap()).read_exact_at(&mut bytes, at).unwrap();
    u16::from_ne_bytes(bytes)
}

/// The daemon has noticed that its front end is gone.
pub(super) fn wait_left(rig: &Rig) {
    let has_left = |cx: &mut dyn Cx| {
        Local::on(cx).connections.borrow().values().all(|connection| connection.has_noticed_its_end())
    };
    while !rig.reactors.call(ReactorId(0), has_left).unwrap() {
        std::thread::yield_now();
    }
    settle(rig);
}

/// Messages between reactors have arrived.
pub(super) fn settle(rig: &Rig) {
    [0, 1, 0, 1].into_iter().for_each(|on| rig.reactors.call(ReactorId(on), |_| ()).unwrap());
}

fn memory(size: u64) -> OwnedFd {
    let fd = memfd_create("lunette-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

pub(super) fn wait_for(rig: &Rig, on: u16, count: usize) {
    while held(&rig.reactors, on) != count {
        std::thread::yield_now();
    }
}

/// What a rig still holds ends when its export is stopped, and is no more of interest.
pub(super) fn give_up(rigs: &[&Rig]) {
    rigs.iter().for_each(|rig| [0, 1].into_iter().for_each(|on| release(&rig.reactors, on, 0xee)));
}

#[test]
fn each_request_is_answered_once_whoever_dies() {
    for features in LAYOUTS {
        for form in FORMS {
            let rigs = [Rig::held(), Rig::held(), Rig::held()];
            let mut guest = Survivor::begin(&rigs[0], set(features, form));
            guest.read(0, &[0, 1, 2, 3]);
            guest.read(1, &[0, 1]);
            wait_for(&rigs[0], 0, 4);
            wait_for(&rigs[0], 1, 2);
            // Two are answered, out of order.
            assert_eq!(release_some(&rigs[0].reactors, 0, 2), 2);
            let ended = [guest.driver.wait(0).unwrap().slot, guest.driver.wait(0).unwrap().slot];
            let rest: Vec<u16> = (0..4).filter(|slot| !ended.contains(slot)).collect();
            guest.go_on(&rigs[0], &rigs[1]);
            // The oldest one is told of the unit attention that every nexus begins with.
            assert_eq!(guest.wait(0, rest[0]), (0, 2));
            wait_for(&rigs[1], 0, 1);
            guest.driver.monitor.start(3).unwrap();
            wait_for(&rigs[1], 1, 2);
            // There may be new ones, and the next daemon may die as well.
            guest.read(0, &ended);
            wait_for(&rigs[1], 0, 3);
            guest.go_on(&rigs[1], &rigs[2]);
            assert_eq!(guest.wait(0, rest[1]), (0, 2));
            wait_for(&rigs[2], 0, 2);
            guest.driver.monitor.start(3).unwrap();
            wait_for(&rigs[2], 1, 2);
            give_up(&[&rigs[2]]);
            for (queue, slots) in [(0, ended), (1, [0, 1])] {
                for slot in slots {
                    assert_eq!(guest.wait(queue, slot), (0, 0));
                    assert_eq!(guest.driver.data(queue, slot).bytes(0, 512), [0xee; 512]);
                }
            }
            assert_eq!((guest.driver.outstanding(0), guest.driver.outstanding(1)), (0, 0));
            assert_eq!(guest.driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status, 0);
            // A ring that stops with nothing in flight leaves no notes.
            guest.driver.stop(0).unwrap();
            guest.driver.restart(0).unwrap();
            assert_eq!(guest.driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status, 0);
            give_up(&[&rigs[0], &rigs[1]]);
        }
    }
}

/// The front end has closed the connection to one that lives.
#[test]
fn what_is_aborted_with_its_connection_is_left_for_the_next() {
    for features in LAYOUTS {
        for io in BOTH {
            let rig = Rig::new(io, crate::testing::held::store());
            let mut guest = Survivor::begin(&rig, set(features, Form::Indirect));
            guest.read(0, &[0, 1]);
            wait_for(&rig, 0, 2);
            guest.leave(&rig);
            release(&rig.reactors, 0, 0x11);
            // It is served when the former one has ended.
            guest.driver.monitor.reconnect(&rig.socket, &guest.options.wanted, Some(&guest.notes)).unwrap();
            assert_eq!(guest.driver.poll(0).unwrap(), None, "nothing was answered");
            (0..QUEUES).for_each(|queue| guest.driver.monitor.start(queue).unwrap());
            wait_for(&rig, 0, 2);
            release(&rig.reactors, 0, 0x22);
            for slot in [0, 1] {
                assert_eq!(guest.wait(0, slot), (0, 0));
                assert_eq!(guest.driver.data(0, slot).bytes(0, 512), [0x22; 512]);
            }
        }
    }
}

#[test]
fn what_must_not_be_done_twice_is_answered_as_after_a_reset() {
    for features in LAYOUTS {
        let rigs = [Rig::held(), Rig::held()];
        let mut guest = Survivor::begin(&rigs[0], set(features, Form::Chained));
        let swap = guest.driver.send(0, &Command::new(&COMPARE_AND_WRITE), &[0; 1024], 0).unwrap();
        let read = guest.driver.free_slot(0).unwrap();
        guest.read(0, &[read]);
        wait_for(&rigs[0], 0, 2);
        guest.go_on(&rigs[0], &rigs[1]);
        assert_eq!(guest.wait(0, swap), (response::RESET, 0));
        // Not instead of what others are told.
        assert_eq!(guest.wait(0, read), (0, 2));
        // What had not been taken is carried out.
        let swap = guest.driver.send(0, &Command::new(&COMPARE_AND_WRITE), &[0; 1024], 0).unwrap();
        wait_held(&rigs[1].reactors, 0);
        release(&rigs[1].reactors, 0, 0);
        wait_held(&rigs[1].reactors, 0);
        release(&rigs[1].reactors, 0, 0);
        assert_eq!(guest.wait(0, swap), (0, 0));
        give_up(&[&rigs[0]]);
    }
}

/// A task management function must not say that a command is gone that is about to be taken again.
#[test]
fn task_management_waits_for_all_that_is_in_flight() {
    for features in LAYOUTS {
        let rigs = [Rig::held(), Rig::held()];
        let mut guest = Survivor::begin(&rigs[0], set(features, Form::Indirect));
        guest.read(1, &[0]);
        wait_for(&rigs[0], 1, 1);
        let lun = address(0, 0);
        let abort = guest.driver.send_task_management(function::ABORT_TASK, lun, 0).unwrap();
        settle(&rigs[0]);
        guest.go_on(&rigs[0], &rigs[1]);
        assert_eq!(guest.driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status, 2);
        settle(&rigs[1]);
        assert_eq!(guest.driver.poll_control(abort).unwrap(), None);
        guest.driver.monitor.start(3).unwrap();
        wait_held(&rigs[1].reactors, 1);
        settle(&rigs[1]);
        assert_eq!(guest.driver.poll_control(abort).unwrap(), None);
        release(&rigs[1].reactors, 1, 0);
        assert_eq!(guest.driver.control_response(abort).unwrap(), [response::OK]);
        assert_eq!(guest.wait(1, 0), (response::ABORTED, 0));
        give_up(&[&rigs[0]]);
    }
}

#[test]
fn a_driver_that_was_not_told_of_its_answer_is_told_by_the_next() {
    for features in LAYOUTS {
        let rigs = [Rig::held(), Rig::held()];
        let mut guest = Survivor::begin(&rigs[0], set(features, Form::Indirect));
        guest.read(0, &[0]);
        wait_for(&rigs[0], 0, 1);
        release(&rigs[0].reactors, 0, 7);
        let queue = guest.driver.index(0);
        while !guest.driver.monitor.queue(queue).ring().has_used() {
            std::thread::yield_now();
        }
        settle(&rigs[0]);
        guest.driver.monitor.queue(queue).take_call();
        guest.go_on(&rigs[0], &rigs[1]);
        assert!(guest.driver.monitor.queue(queue).take_call());
        assert_eq!(guest.wait(0, 0), (0, 0));
    }
}

#[test]
fn memory_for_notes_cannot_be_truncated_and_is_as_large_as_it_must_be() {
    let rig = Rig::held();
    let guest = Survivor::begin(&rig, set(ALL, Form::Indirect));
    let seals = fcntl_get_seals(&guest.notes.fd).unwrap();
    assert!(seals.contains(rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::SEAL));
    let size = rustix::fs::fstat(&guest.notes.fd).unwrap().st_size as u64;
    assert_eq!(size, guest.notes.area.mmap_size);
    assert!(size >= u64::from(QUEUES) * (32 + 32 * u64::from(SIZE)));
}

#[test]
fn memory_for_notes_that_is_of_no_use_is_refused_or_breaks_its_rings_alone() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let options = set(features, Form::Indirect);
        let area =
            |mmap_size, queues, queue_size| InflightArea { mmap_size, mmap_offset: 0, queues, queue_size };
        let memory_for = || GuestMemory::with_size(4 << 20).unwrap();
        let connect = || Monitor::connect(&rig.socket, memory_for(), &options.wanted).unwrap();
        let mut monitor = connect();
        // None at all, or less than it is said to be.
        for (size, mmap_size, queues) in [(4096, 0, 4), (4096, 4096, 0), (4096, 8192, 4)] {
            let notes = InFlight { area: area(mmap_size, queues, SIZE), fd: memory(size) };
            assert!(matches!(monitor.session.give_notes(&notes), Err(Error::Refused(_))));
        }
        // Too little for any queue, for some queues or for queues of that size.
        for (mmap_size, queues, queue_size) in [(64, 4, SIZE), (4096, 2, SIZE), (4096, 4, SIZE / 2)] {
            drop(monitor);
            monitor = connect();
            let notes = InFlight { area: area(mmap_size, queues, queue_size), fd: memory(4096) };
            monitor.session.give_notes(&notes).unwrap();
            let mut driver = ScsiDriver::new(monitor, &options).unwrap();
            driver.monitor.start(2).unwrap();
            while !driver.monitor.queue(2).is_broken() {
                std::thread::yield_now();
            }
            // The connection stands, and may have better ones.
            let enough = driver.monitor.session.begin_notes(QUEUES, SIZE).unwrap().unwrap();
            driver.monitor.start(3).unwrap();
            driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
            // Notes of a ring of another size.
            File::from(enough.fd.try_clone().unwrap()).write_all_at(&[1, 0, 3, 0], 8).unwrap();
            driver.monitor.start(0).unwrap();
            while !driver.monitor.queue(0).is_broken() {
                std::thread::yield_now();
            }
            assert_eq!(driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status, 0);
            monitor = driver.monitor;
        }
    }
}

/// It is the front end's own memory that is spoilt, and its own requests.
#[test]
fn whatever_a_front_end_writes_into_notes_others_are_served() {
    for features in LAYOUTS {
        for seed in 0..40_u32 {
            let rigs = [Rig::held(), Rig::ram(lunette_reactor::Io::Auto)];
            let mut guest = Survivor::begin(&rigs[0], set(features, Form::Chained));
            guest.read(0, &[0, 1, 2]);
            wait_for(&rigs[0], 0, 3);
            guest.leave(&rigs[0]);
            let notes = File::from(guest.notes.fd.try_clone().unwrap());
            let stride = guest.notes.area.mmap_size / u64::from(QUEUES);
            for n in 0..8_u32 {
                let random = (seed * 8 + n + 1).wrapping_mul(2_654_435_761);
                let at = 2 * stride + u64::from(random) % 300;
                notes.write_all_at(&random.to_le_bytes()[..1 + (n % 3) as usize], at).unwrap();
            }
            notes.write_all_at(&[1, 0, SIZE as u8, 0], 2 * stride + 8).unwrap();
            guest
                .driver
                .monitor
                .reconnect(&rigs[1].socket, &guest.options.wanted, Some(&guest.notes))
                .unwrap();
            (0..QUEUES).for_each(|queue| guest.driver.monitor.start(queue).unwrap());
            // Another queue of the same device.
            guest.driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
            assert_eq!(guest.driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status, 0);
            give_up(&[&rigs[0]]);
        }
    }
}

#[test]
fn without_notes_everything_is_as_before() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut options = set(features, Form::Indirect);
        options.wanted.protocol.remove(lunette_vhost_user::ProtocolFeatures::INFLIGHT_SHMFD);
        let mut driver = ScsiDriver::connect(&rig.socket, &options).unwrap();
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        assert!(matches!(driver.monitor.session.begin_notes(QUEUES, SIZE), Err(Error::Closed)));
        drop(driver);
        let mut driver = ScsiDriver::connect(&rig.socket, &options).unwrap();
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        submit(&mut driver, 0, 0, &read_10(0));
        driver.flush(0).unwrap();
        wait_held(&rig.reactors, 0);
        // What is aborted with the connection is answered.
        let queue = driver.index(0);
        driver.monitor.session = Session::new(UnixStream::pair().unwrap().0).unwrap();
        release(&rig.reactors, 0, 0);
        while !driver.monitor.queue(queue).ring().has_used() {
            std::thread::yield_now();
        }
        let ended = driver.poll(0).unwrap().unwrap();
        assert!(ended.response == response::RESET || ended.response == 0, "{ended:?}");
    }
}

fn wait_broken(driver: &ScsiDriver, queue: u16) {
    while !driver.monitor.queue(queue).is_broken() {
        std::thread::yield_now();
    }
}

#[test]
fn a_broken_ring_leaves_no_notes() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut guest = Survivor::begin(&rig, set(features, Form::Chained));
        guest.read(0, &[0]);
        wait_for(&rig, 0, 1);
        assert_eq!(version(&guest.notes, 2), 1);
        let nowhere = [Piece { address: 1 << 40, length: 512 }];
        let data = Data { data_out: &[], data_in: &nowhere };
        guest.driver.submit(0, 1, &Command::new(&read_10(1)), &data).unwrap();
        guest.driver.flush(0).unwrap();
        wait_broken(&guest.driver, 2);
        assert_eq!(version(&guest.notes, 2), 0);
        give_up(&[&rig]);
    }
}

#[test]
fn notes_that_are_truncated_break_their_ring() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let options = set(features, Form::Chained);
        let memory_of_guest = GuestMemory::with_size(4 << 20).unwrap();
        let mut monitor = Monitor::connect(&rig.socket, memory_of_guest, &options.wanted).unwrap();
        let area = InflightArea { mmap_size: 16384, mmap_offset: 0, queues: QUEUES, queue_size: SIZE };
        let notes = InFlight { area, fd: memory(area.mmap_size) };
        monitor.session.give_notes(&notes).unwrap();
        let mut driver = ScsiDriver::new(monitor, &options).unwrap();
        driver.start().unwrap();
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        ftruncate(&notes.fd, 0).unwrap();
        driver.send(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        wait_broken(&driver, 2);
        // The connection stands.
        driver.monitor.session.queues().unwrap();
    }
}
