//! Turns of a queue, on a simulated reactor.

use super::run::TURN;
use super::*;
use crate::aside::Aside;
use crate::events::Events;
use crate::fuzzing::{Queues, RingSetup};
use crate::local::ExportId;
use crate::targets::Targets;
use crate::testing::packed::PackedDriver;
use crate::testing::{DriverRing, Guest, USER, region};
use lunette_engine::{Nexus, TargetPort};
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_store::sim::Sim;
use lunette_vhost_user::SharedRegion;
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

/// Notes how far the ring was when its turn came.
struct Other {
    guest: Guest,
    ring: DriverRing,
    seen: Cell<u16>,
}

impl Sink for Other {
    fn complete(&self, _: u64, _: IoResult, _: &mut dyn Cx) {
        self.seen.set(self.ring.used_index(&self.guest));
    }
}

fn place(cx: &mut dyn Cx) -> Arc<Place> {
    let port = TargetPort::new("test", 1, Protocol::NONE, [].into());
    let nexus = Nexus::new("test".to_owned(), port);
    let home = ReactorId(0);
    let events = Arc::new(Events::new(ExportId::next(), home, cx.poster()));
    Arc::new(Place {
        name: "test".into(),
        targets: Arc::new(Targets::one(nexus, &events)),
        events,
        home,
        reactors: [home].into(),
        pin_memory: false,
        keep_notes: false,
        aside: Aside::new(home, cx.poster()),
        log: Default::default(),
        observer: Default::default(),
        lease: None,
    })
}

fn setup(ring: &DriverRing) -> Setup {
    Setup {
        started: true,
        stop: Stop::Answer,
        broken: false,
        enabled: true,
        layout: ring.layout(false, false),
        base: 0,
        at_rest: false,
        notes: None,
        log: None,
        sizes: Sizes::DEFAULT,
        bidirectional: false,
        fds: Fds::default(),
    }
}

/// Fills the available ring with one descriptor chain: a command to a target that is not there, and room for `data_in`.
fn fill(ring: &DriverRing, guest: &Guest, data_in: u32) {
    ring.chain(guest, 0, &[(0x1_0000, 51, false), (0x1_0100, 108 + data_in, true)]);
}

/// A read of a page, and how many of them are a turn.
const PAGE: u32 = 4096;
const READS: u16 = TURN.div_ceil(9) as u16;

#[test]
fn a_driver_that_never_pauses_gets_one_turn_at_a_time() {
    let mut sim = Sim::new(1);
    let cx = sim.cx(0);
    let place = place(cx);
    let (guest, ring) = (Guest::new(0x2_0000), DriverRing::new(0, 1024));
    let setup = setup(&ring);
    let queue = Queue::on(&Local::on(cx), ConnectionId::next(), 2, &place, &setup, cx);
    fill(&ring, &guest, PAGE);
    ring.set_available_index(&guest, 1024);
    queue.apply(setup, guest.map.clone(), None, cx);
    assert_eq!(ring.used_index(&guest), READS);
    for _ in 0..2 {
        assert!(queue.poll(cx));
    }
    assert_eq!(ring.used_index(&guest), 3 * READS);
    let other = Rc::new(Other { guest, ring, seen: Cell::new(0) });
    let sink = cx.register(other.clone());
    cx.complete(IoId { sink, token: 0 }, Ok(0));
    let mut turns = 0;
    while sim.step(0) {
        turns += 1;
    }
    assert_eq!(other.seen.get(), 3 * READS, "completions of others come first");
    assert_eq!(ring.used_index(&other.guest), 1024);
    assert_eq!(turns, 3, "the other and one turn, the rest, one that finds nothing");
}

#[test]
fn requests_with_much_data_make_a_turn_shorter() {
    let mut sim = Sim::new(1);
    let cx = sim.cx(0);
    let (guest, ring) = (Guest::new(0x20_0000), DriverRing::new(0, 1024));
    let queue = Queue::on(&Local::on(cx), ConnectionId::next(), 2, &place(cx), &setup(&ring), cx);
    fill(&ring, &guest, 128 << 10);
    ring.set_available_index(&guest, 1024);
    queue.apply(setup(&ring), guest.map.clone(), None, cx);
    assert_eq!(u64::from(ring.used_index(&guest)), TURN.div_ceil(8 * 32 + 1));
}

/// How often the driver is notified of `count` commands.
fn notifications(count: u16, data_in: u32) -> u64 {
    let mut sim = Sim::new(1);
    let cx = sim.cx(0);
    let (guest, ring) = (Guest::new(0x4_0000), DriverRing::new(0, 256));
    let call = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let mut setup = setup(&ring);
    let place = place(cx);
    let notifier = Notifier::new(call.try_clone().unwrap(), place.home, &place.aside).unwrap();
    setup.fds.call = Some(Arc::new(notifier));
    let queue = Queue::on(&Local::on(cx), ConnectionId::next(), 2, &place, &setup, cx);
    fill(&ring, &guest, data_in);
    queue.apply(setup.clone(), guest.map.clone(), None, cx);
    let seen = || {
        let mut bytes = [0; 8];
        let _ = rustix::io::read(&call, &mut bytes);
        u64::from_ne_bytes(bytes)
    };
    seen();
    ring.set_available_index(&guest, count);
    queue.wake(&mut queue.state(), sim.cx(0));
    assert_eq!(ring.used_index(&guest), count);
    seen()
}

#[test]
fn the_driver_gets_one_half_back_while_the_other_is_done() {
    assert_eq!(notifications(1, PAGE), 1);
    assert_eq!(notifications(15, PAGE), 2, "8, 7");
    assert_eq!(notifications(32, PAGE), 3, "16, 8, 8");
    assert_eq!(notifications(33, PAGE), 3, "24, 8, 1");
    assert_eq!(notifications(200, PAGE), 6, "64, 64, 40, 16, 8, 8");
    assert_eq!(notifications(8, 16 * PAGE), 4, "4, 2, 1, 1");
    assert_eq!(notifications(64, 0), 1, "so fast that two halves do not pay");
    assert_eq!(notifications(128, 0), 2, "64, 64");
}

#[test]
fn a_task_management_function_waits_for_what_came_before_it_in_turns() {
    let mut sim = Sim::new(1);
    let cx = sim.cx(0);
    let place = place(cx);
    let guest = Guest::new(0x4_0000);
    let (control_ring, ring) = (DriverRing::new(0x2_0000, 64), DriverRing::new(0, 1024));
    let (local, connection) = (Local::on(cx), ConnectionId::next());
    let control = Queue::on(&local, connection, 0, &place, &setup(&control_ring), cx);
    let queue = Queue::on(&local, connection, 2, &place, &setup(&ring), cx);
    fill(&ring, &guest, PAGE);
    queue.apply(setup(&ring), guest.map.clone(), None, cx);
    ring.set_available_index(&guest, 1024);
    // A reset of a logical unit that is not there.
    let mut request = [0; 24];
    request[4] = 5;
    request[8..10].copy_from_slice(&[1, 0]);
    guest.write(0x3_0000, &request);
    control_ring.chain(&guest, 0, &[(0x3_0000, 24, false), (0x3_0100, 1, true)]);
    control_ring.offer(&guest, 0);
    control.apply(setup(&control_ring), guest.map.clone(), None, cx);
    let mut turns = 0;
    while control_ring.used_index(&guest) == 0 {
        let before = ring.used_index(&guest);
        assert!(sim.step(0), "the function is answered");
        turns += usize::from(ring.used_index(&guest) > before);
        assert!(ring.used_index(&guest) <= before + READS, "one turn at a time");
    }
    assert_eq!(ring.used_index(&guest), 1024, "all that came before is done");
    assert_eq!(turns, usize::from(1024u16.div_ceil(READS)));
    assert_eq!(guest.read(0x3_0100, 1), [12], "an incorrect logical unit");
}

proptest! {
    /// Whatever a driver writes to a packed ring, its queue comes to rest, and can be stopped.
    #[test]
    fn random_packed_rings_come_to_rest(
        descriptors in prop::collection::vec((0u8..6, 0u32..0x300, any::<u16>(), any::<u16>()), 7),
        changes in prop::collection::vec((0u16..7, any::<u16>()), 0..20),
        wrap in any::<bool>(),
    ) {
        let mut sim = Sim::new(1);
        let port = TargetPort::new("test", 1, Protocol::NONE, [].into());
        let guest = Guest::new(0x2_0000);
        let driver = PackedDriver::new(0, 7);
        let table = [SharedRegion { region: region(0, guest.size, 0), fd: guest.fd.try_clone().unwrap() }];
        let mut queues = Queues::new(&Nexus::new("test", port), &table, sim.cx(0)).unwrap();
        for (index, (place, length, id, flags)) in (0..).zip(descriptors) {
            let address = [0x1_0000, 0x1_0800, 0, 0x1_ff00, 1 << 40, 0x1_0400][usize::from(place)];
            PackedDriver::write(&guest, driver.at(index), (address, length), id, flags);
        }
        guest.write(0x1_0000, &[1, 0, 0x40, 0]);
        let bits = if wrap { 0x8000_8000 } else { 0 };
        let setup = RingSetup {
            size: 7,
            parts: [driver.ring, driver.driver_event, driver.device_event].map(|at| USER + at),
            packed: true,
            base: bits,
            event_index: true,
            indirect: true,
            bidirectional: true,
            sizes: [32, 96],
        };
        for queue in [0, 2] {
            queues.start(queue, &setup, sim.cx(0));
        }
        for (index, flags) in changes {
            guest.write(driver.at(index) + 14, &flags.to_le_bytes());
            sim.advance(Duration::from_millis(20));
            sim.settle();
        }
        for queue in [0, 2] {
            queues.stop(queue, sim.cx(0));
        }
        sim.settle();
        prop_assert!(!queues.is_running(0) && !queues.is_running(2));
    }
}
