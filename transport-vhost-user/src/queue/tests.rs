//! Turns of a queue, on a simulated reactor.

use super::run::TURN;
use super::*;
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

#[test]
fn a_driver_that_never_pauses_gets_one_turn_at_a_time() {
    let mut sim = Sim::new(1);
    let cx = sim.cx(0);
    let port = TargetPort::new("test", 1, Protocol::NONE, [].into());
    let nexus = Nexus::new("test".to_owned(), port);
    let home = ReactorId(0);
    let place = Arc::new(Place {
        name: "test".into(),
        targets: Arc::new(Targets::one(nexus)),
        events: Arc::new(Events::new(ExportId::next(), home, cx.poster())),
        home,
        reactors: [home].into(),
        pin_memory: false,
        log: Default::default(),
    });
    let (guest, ring) = (Guest::new(0x2_0000), DriverRing::new(0, 1024));
    let setup = Setup {
        started: true,
        enabled: true,
        layout: ring.layout(true, false),
        base: 0,
        sizes: Sizes::DEFAULT,
        bidirectional: false,
        fds: Fds::default(),
    };
    let queue = Queue::on(&Local::on(cx), ConnectionId::next(), 2, &place, &setup, cx);
    // A command to a target that is not there.
    ring.chain(&guest, 0, &[(0x1_0000, 51, false), (0x1_0100, 108, true)]);
    ring.set_available_index(&guest, 1024);
    queue.apply(setup, guest.map.clone(), None, cx);
    assert_eq!(usize::from(ring.used_index(&guest)), TURN);
    for _ in 0..2 {
        assert!(queue.poll(cx));
    }
    assert_eq!(usize::from(ring.used_index(&guest)), 3 * TURN);
    let other = Rc::new(Other { guest, ring, seen: Cell::new(0) });
    let sink = cx.register(other.clone());
    cx.complete(IoId { sink, token: 0 }, Ok(0));
    let mut turns = 0;
    while sim.step(0) {
        turns += 1;
    }
    assert_eq!(usize::from(other.seen.get()), 3 * TURN, "completions of others come first");
    assert_eq!(usize::from(ring.used_index(&other.guest)), 4 * TURN);
    assert_eq!(turns, 3, "the other, one for the rest, one that finds nothing");
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
