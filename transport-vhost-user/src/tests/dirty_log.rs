//! What is written to guest memory is in the log of the front end, and nothing is without one.

use super::handover::{begin_hand_over, go_on};
use super::recovery::settle;
use super::*;
use crate::local::Local;
use crate::testing::front_end::Vring;
use crate::testing::held::fail;
use lunette_scsi::AdditionalSense;
use lunette_store::Cx;
use lunette_vhost_user::LogArea;
use std::os::fd::OwnedFd;

const FEATURES: Features = Features::VERSION_1
    .union(Features::EVENT_IDX)
    .union(Features::INDIRECT_DESC)
    .union(Features::PROTOCOL_FEATURES);
const PAGE: usize = LogArea::PAGE as usize;
const PAGES: u64 = MEMORY / LogArea::PAGE;
/// Where the log is in its file.
const OFFSET: u64 = 0x1008;
const LENGTH: u64 = PAGES / 8;

/// A front end with a log of its memory.
struct Logged {
    front: FrontEnd,
    file: OwnedFd,
}

impl Logged {
    fn new(rig: &Rig) -> Self {
        Self { front: FrontEnd::ready(&rig.socket, MEMORY), file: memfd(0x3000) }
    }

    /// One with a queue, whose used ring is in page 0xa, and which is logged.
    fn with_queue(rig: &Rig) -> (Self, Vring) {
        let mut logged = Self::new(rig);
        let mut ring = logged.front.start(2, 0, 64);
        logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        logged.set_log();
        logged.switch(true);
        logged.log_ring(&ring, Some(ring.ring.used));
        (logged, ring)
    }

    fn try_log(&mut self, size: u64, offset: u64) -> bool {
        let (area, fd) = (LogArea { size, offset }, self.file.try_clone().unwrap());
        let message = self.front.protocol.set_log_base(area, fd);
        matches!(self.front.ask(message), Some(Reply::Ack { success: true, .. }))
    }

    fn set_log(&mut self) {
        assert!(self.try_log(LENGTH, OFFSET));
    }

    fn switch(&mut self, on: bool) {
        let log = if on { Features::LOG_ALL } else { Features::empty() };
        let message = self.front.protocol.set_features(FEATURES | log);
        self.front.done(message);
    }

    fn log_ring(&mut self, vring: &Vring, log: Option<u64>) {
        let message = self.front.protocol.set_vring_addr(vring.address(log));
        self.front.done(message);
    }

    /// Takes the pages that are marked; nothing is written beside the log.
    fn take(&self) -> Vec<u64> {
        let mut bytes = vec![0; 0x3000];
        rustix::io::pread(&self.file, &mut bytes, 0).unwrap();
        rustix::io::pwrite(&self.file, &vec![0; bytes.len()], 0).unwrap();
        let log: Vec<u8> = bytes.splice(OFFSET as usize..(OFFSET + LENGTH) as usize, []).collect();
        assert!(bytes.iter().all(|byte| *byte == 0), "beside the log");
        (0..PAGES).filter(|page| log[(page / 8) as usize] >> (page % 8) & 1 != 0).collect()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.front.guest.read(0, MEMORY as usize)
    }

    /// The pages that are not as they were.
    fn differing(&self, before: &[u8]) -> Vec<u64> {
        let now = self.snapshot();
        let pages = now.chunks(PAGE).zip(before.chunks(PAGE)).zip(0..);
        pages.filter(|((now, before), _)| now != before).map(|(_, page)| page).collect()
    }
}

/// Offers a READ into pages 0x89 to 0x8c, of the first only the last 0xf00 bytes; the response is in page 0x88.
fn offer_read(front: &FrontEnd, ring: &Vring, cdb: &[u8], length: u32) {
    let mut header = UNIT.to_vec();
    header.resize(19, 0);
    header.extend(cdb);
    header.resize(51, 0);
    front.guest.write(DATA, &header);
    let parts = [(DATA, 51, false), (DATA + RESPONSE, 108, true), (DATA + RESPONSE + 0x1100, length, true)];
    ring.ring.chain(&front.guest, 0, &parts);
    ring.ring.offer(&front.guest, 0);
    ring.kick();
}

#[test]
fn what_is_written_when_the_device_is_reset_is_in_it() {
    let rig = Rig::held();
    let (mut logged, ring) = Logged::with_queue(&rig);
    offer_read(&logged.front, &ring, &read_10(0, 24), 0x3000);
    wait_held(&rig.reactors, 0);
    logged.take();
    let before = logged.snapshot();
    let message = logged.front.protocol.reset_device();
    logged.front.send(message);
    let is_busy =
        |cx: &mut dyn Cx| Local::on(cx).connections.borrow().values().any(|connection| connection.is_busy());
    while !rig.reactors.call(ReactorId(0), is_busy).unwrap() {
        std::thread::yield_now();
    }
    settle(&rig);
    settle(&rig);
    release(&rig.reactors, 0, 0x77);
    assert!(matches!(logged.front.reply(), Some(Reply::Ack { success: true, .. })));
    let (differing, marked) = (logged.differing(&before), logged.take());
    assert!(differing.contains(&RING));
    assert!(differing.iter().all(|page| marked.contains(page)), "{differing:x?} {marked:x?}");
}

const BUFFERS: [u64; 5] = [0x88, 0x89, 0x8a, 0x8b, 0x8c];
const RING: u64 = 0xa;
const NONE: [u64; 0] = [];

#[test]
fn a_read_that_was_begun_before_the_log_is_in_it() {
    let rig = Rig::held();
    let mut logged = Logged::new(&rig);
    let mut ring = logged.front.start(2, 0, 64);
    logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    offer_read(&logged.front, &ring, &read_10(0, 24), 0x3000);
    wait_held(&rig.reactors, 0);
    // In either order; QEMU sends features first where it starts rings during a migration.
    logged.switch(true);
    logged.set_log();
    logged.log_ring(&ring, Some(ring.ring.used));
    let marked = logged.take();
    assert!(BUFFERS.iter().all(|page| !marked.contains(page)), "nothing has been written");
    let before = logged.snapshot();
    release(&rig.reactors, 0, 0x77);
    logged.front.used(&mut ring);
    // Other writes of the ring are of its notifications.
    logged.front.stop(2);
    let marked = logged.take();
    assert_eq!(marked, [&[RING][..], &BUFFERS].concat());
    let written: Vec<u64> = logged.differing(&before).into_iter().filter(|page| *page != 8).collect();
    assert_eq!(written, marked, "and page 8 is the driver's");
}

#[test]
fn what_ends_at_once_is_in_the_log_while_that_is_on() {
    let rig = Rig::ram(Io::Auto);
    let (mut logged, mut ring) = Logged::with_queue(&rig);
    let mut run = |logged: &mut Logged, cdb: &[u8]| {
        logged.front.stop(2);
        logged.take();
        let index = ring.ring.used_index(&logged.front.guest);
        logged.front.restart(&ring, index);
        logged.log_ring(&ring, Some(ring.ring.used));
        offer_read(&logged.front, &ring, cdb, 0x3000);
        logged.front.used(&mut ring);
        logged.front.stop(2);
        logged.take()
    };
    assert_eq!(run(&mut logged, &read_10(0, 24)), [&[RING][..], &BUFFERS].concat());
    // All that it might have written.
    assert_eq!(run(&mut logged, &read_10(255, 255)), [&[RING][..], &BUFFERS].concat());
    logged.switch(false);
    assert_eq!(run(&mut logged, &read_10(0, 24)), NONE);
    logged.switch(true);
    assert_eq!(run(&mut logged, &read_10(0, 24)), [&[RING][..], &BUFFERS].concat());
}

#[test]
fn the_ring_is_logged_where_the_front_end_says_or_not_at_all() {
    let rig = Rig::ram(Io::Auto);
    let (mut logged, mut ring) = Logged::with_queue(&rig);
    for (log, marked) in [
        (None, vec![]),
        // The last bytes of the ring are in the next page.
        (Some(0x5_0000 - 516), vec![0x4f, 0x50]),
        (Some(0x5_0000 - 518), vec![0x4f]),
        // Beyond the log, and beyond everything.
        (Some(MEMORY), vec![]),
        (Some(u64::MAX - 1), vec![]),
    ] {
        logged.log_ring(&ring, log);
        logged.take();
        assert_eq!(logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
        logged.front.share();
        let pages = logged.take();
        assert_eq!(pages, [&marked[..], &[0x88]].concat(), "{log:x?}");
    }
    assert!(!ring.is_broken());
}

#[test]
fn what_fails_or_is_aborted_may_have_written() {
    let rig = Rig::held();
    let (mut logged, mut ring) = Logged::with_queue(&rig);
    let mut control = logged.front.start(0, 0x1_0000, 16);
    for abort in [false, true] {
        offer_read(&logged.front, &ring, &read_10(0, 24), 0x3000);
        wait_held(&rig.reactors, 0);
        logged.take();
        if abort {
            let request = tmf(5, UNIT, 0);
            logged.front.guest.write(0x7_0000, &request);
            let parts = [(0x7_0000, request.len() as u32, false), (0x7_1000, 1, true)];
            control.ring.chain(&logged.front.guest, 0, &parts);
            control.ring.offer(&logged.front.guest, 0);
            control.kick();
        }
        fail(&rig.reactors, 0);
        logged.front.used(&mut ring);
        let mut marked = logged.take();
        assert!(BUFFERS.iter().all(|page| marked.contains(page)), "{marked:x?}");
        if abort {
            logged.front.used(&mut control);
            // It may have come before the first look.
            marked.extend(logged.take());
            assert!(marked.contains(&0x71), "the response of the function");
        }
    }
}

#[test]
fn events_and_controls_are_logged() {
    let rig = Rig::ram(Io::Auto);
    let mut logged = Logged::new(&rig);
    logged.set_log();
    let message =
        logged.front.protocol.set_features(FEATURES | Features::LOG_ALL | Features::from_bits_retain(1 << 2));
    logged.front.done(message);
    let mut control = logged.front.start(0, 0, 16);
    let mut events = logged.front.start(1, 0x1_0000, 16);
    let mut requests = logged.front.start(2, 0x2_0000, 16);
    logged.log_ring(&events, Some(events.ring.used));
    logged.front.command(&mut requests, &TEST_UNIT_READY, &[], 0);
    logged.take();
    let query = [&[1, 0, 0, 0], &UNIT[..], &[0; 4], &[2, 0, 0, 0]].concat();
    logged.front.control(&mut control, &query, 5);
    assert_eq!(logged.take(), [0x70]);
    // A buffer that is too short for an event, and one that is not.
    let parts: [(u64, u32); 2] = [(0x5_0000, 8), (0x5_1ff8, 16)];
    for (head, (at, length)) in (0..).zip(parts) {
        events.ring.chain(&logged.front.guest, head, &[(at, length, true)]);
        events.ring.offer(&logged.front.guest, head);
    }
    events.kick();
    rig.targets[&0].luns().inventory().units()[&0]
        .establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    assert_eq!((logged.front.used(&mut events).0, logged.front.used(&mut events).0), (0, 1));
    logged.front.share();
    assert_eq!(logged.take(), [0x1a, 0x50, 0x51, 0x52]);
}

#[test]
fn memory_that_was_replaced_is_logged_by_its_own_addresses() {
    let rig = Rig::held();
    let (mut logged, mut ring) = Logged::with_queue(&rig);
    offer_read(&logged.front, &ring, &read_10(0, 24), 0x3000);
    wait_held(&rig.reactors, 0);
    logged.take();
    // What was the second half is the first of two now, to be exchanged while the request is under way.
    let half = MEMORY / 2;
    let (whole, fd) = (region(0, MEMORY, 0), logged.front.guest.fd.try_clone().unwrap());
    let other = memfd(MEMORY);
    let mut low = region(0, half, 0);
    low.user_address = whole.user_address;
    let table = [(low, fd.try_clone().unwrap()), (region(half, half, 0), other)];
    logged.front.protocol.want_acks(false);
    let message = logged.front.protocol.set_mem_table(table);
    logged.front.send(message);
    let message = logged.front.protocol.get_features();
    assert!(matches!(logged.front.ask(message), Some(Reply::Features(_))));
    held(&rig.reactors, 0);
    logged.front.protocol.want_acks(true);
    release(&rig.reactors, 0, 0x77);
    logged.front.used(&mut ring);
    logged.front.stop(2);
    assert_eq!(logged.take(), [&[RING][..], &BUFFERS].concat());
}

#[test]
fn a_log_of_no_use_is_refused() {
    let rig = Rig::ram(Io::Auto);
    let (mut logged, mut ring) = Logged::with_queue(&rig);
    for (size, offset) in [
        (LENGTH - 1, OFFSET),
        (0, OFFSET),
        (LENGTH, 0x3000),
        (LENGTH, u64::MAX),
        (u64::MAX, 0),
        (1 << 62, OFFSET),
    ] {
        assert!(!logged.try_log(size, offset), "{size:#x} {offset:#x}");
    }
    let file = logged.file.try_clone().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    logged.file = pipe.into();
    assert!(!logged.try_log(LENGTH, 0));
    logged.file = file;
    // The one that was there goes on.
    logged.take();
    assert_eq!(logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    assert!(logged.take().contains(&0x88));
    // Memory that comes later may be beyond it, and is written to all the same.
    let more = region(0x1000_0000, 0x1000, 0);
    let extra = memfd(0x1000);
    let message = logged.front.protocol.add_mem_reg(more, extra.try_clone().unwrap());
    logged.front.done(message);
    logged.front.guest.also(more, &extra);
    ring.ring.chain(
        &logged.front.guest,
        0,
        &[(DATA, 51, false), (DATA + RESPONSE, 108, true), (0x1000_0000, 512, true)],
    );
    logged.front.guest.write(DATA + 19, &read_10(0, 1));
    ring.ring.offer(&logged.front.guest, 0);
    ring.kick();
    assert_eq!(logged.front.used(&mut ring).1, 108 + 512);
    assert!(logged.take().contains(&0x88));
}

#[test]
fn a_log_that_was_replaced_is_not_written_to() {
    let rig = Rig::ram(Io::Auto);
    let (mut logged, mut ring) = Logged::with_queue(&rig);
    let old = std::mem::replace(&mut logged.file, memfd(0x3000));
    logged.set_log();
    rustix::io::pwrite(&old, &vec![0; 0x3000], 0).unwrap();
    assert_eq!(logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    assert!(logged.take().contains(&0x88));
    let mut bytes = vec![0; 0x3000];
    rustix::io::pread(&old, &mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    // One that is taken away harms nobody.
    rustix::fs::ftruncate(&logged.file, 0).unwrap();
    assert_eq!(logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    assert!(!ring.is_broken());
}

#[test]
fn another_process_goes_on_with_the_log() {
    let (old, mut new) = (Rig::ram(Io::Auto), Rig::ram(Io::Auto));
    let (mut logged, mut ring) = Logged::with_queue(&old);
    let handed = begin_hand_over(&old).recv().unwrap();
    logged.take();
    go_on(&mut new, Some(&old), handed.connection.unwrap());
    assert_eq!(logged.front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    logged.front.stop(2);
    assert_eq!(logged.take(), [RING, 0x88]);
    let _ = std::fs::remove_file(&old.socket);
}

#[test]
fn who_listens_to_changes_of_the_log_is_not_told() {
    let rig = Rig::ram(Io::Auto);
    let mut logged = Logged::new(&rig);
    let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let message = logged.front.protocol.set_log_fd(call);
    logged.front.done(message);
}
