//! What drivers are told by the event queue.

use super::*;
use crate::testing::front_end::Vring;
use lunette_scsi::AdditionalSense;

const HOTPLUG: Features = Features::from_bits_retain(1 << 1);
const CHANGE: Features = Features::from_bits_retain(1 << 2);
const BUFFERS: u64 = 0x6_0000;
const MISSED: u32 = 1 << 31;
const EVENT_RING: u64 = 0x3_0000;

/// A driver with an event queue, which has met the unit.
struct Driver {
    front: FrontEnd,
    events: Vring,
    requests: Vring,
    control: Vring,
}

impl Driver {
    fn new(socket: &Path, features: Features) -> Self {
        Self::with(socket, features, 0)
    }

    /// A driver that has made `controlled` control requests in an earlier connection.
    fn with(socket: &Path, features: Features, controlled: u16) -> Self {
        let mut front = FrontEnd::connect(socket, MEMORY);
        let base = Features::VERSION_1 | Features::EVENT_IDX | Features::PROTOCOL_FEATURES;
        front.negotiate(base | features);
        front.share();
        let control = front.go_on(0, 0, 64, controlled);
        let events = front.start(1, EVENT_RING, 8);
        let mut driver = Self { requests: front.start(2, 0x1_0000, 64), front, events, control };
        driver.ready();
        driver
    }

    /// The additional sense of TEST UNIT READY.
    fn ready(&mut self) -> Option<[u8; 2]> {
        let result = self.front.command(&mut self.requests, &TEST_UNIT_READY, &[], 0);
        let additional = match result.sense.first()? {
            0x72 => 2..4,
            _ => 12..14,
        };
        Some(result.sense[additional].try_into().unwrap())
    }

    /// Gives a buffer of `length` bytes to the device, without a notification.
    fn place(&mut self, head: u16, length: u32) {
        let at = BUFFERS + 0x20 * u64::from(head);
        self.front.guest.write(at, &[0xee; 0x20]);
        self.events.ring.chain(&self.front.guest, head, &[(at, length, true)]);
        self.events.ring.offer(&self.front.guest, head);
    }

    fn give(&mut self, head: u16) {
        self.place(head, 16);
        self.events.kick();
    }

    /// Waits for the next event: its buffer, event, first bytes of the address and reason.
    fn event(&mut self) -> (u32, u32, [u8; 4], u32) {
        let (head, length) = self.front.used(&mut self.events);
        assert_eq!(length, 16);
        let bytes = self.front.guest.read(BUFFERS + 0x20 * u64::from(head), 0x20);
        assert_eq!((&bytes[8..12], &bytes[16..]), (&[0; 4][..], &[0xee; 16][..]));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (head, word(0), bytes[4..8].try_into().unwrap(), word(12))
    }

    fn none(&self) -> bool {
        self.events.used_up(&self.front.guest)
    }

    /// Sends a query of, or subscription to, notifications: what is there of `classes`.
    fn notifications(&mut self, kind: u8, unit: [u8; 4], classes: u32) -> u32 {
        let request = [&[kind, 0, 0, 0], &unit[..], &[0; 4], &classes.to_le_bytes()].concat();
        let response = self.front.control(&mut self.control, &request, 5);
        assert_eq!(response[4], 0);
        u32::from_le_bytes(response[..4].try_into().unwrap())
    }

    /// Turns D_SENSE of the Control mode page over.
    fn select(&mut self) {
        let sense = [0x1a, 0x08, 0x0a, 0, 16, 0];
        let mut page = self.front.command(&mut self.requests, &sense, &[], 16).data;
        page[..4].fill(0);
        page[4] &= 0x3f;
        page[6] ^= 4;
        let select = self.front.command(&mut self.requests, &[0x15, 0x10, 0, 0, 16, 0], &page, 0);
        assert_eq!((select.status, select.response), (0, 0), "{select:?}");
    }
}

impl Rig {
    /// Something happens to the unit, and its event has come to the queue.
    fn happens(&self, condition: AdditionalSense) {
        self.targets[&0].luns().inventory().units()[&0].establish_attention(condition, None);
        held(&self.reactors, 0);
    }
}

const CAPACITY: AdditionalSense = AdditionalSense::CAPACITY_DATA_HAS_CHANGED;
const HARD_RESET: (u32, [u8; 4], u32) = (1, [1, 0, 0, 0], 0);
const MODE_CHANGE: (u32, [u8; 4], u32) = (3, [1, 0, 0, 0], 0x012a);
const CAPACITY_CHANGE: (u32, [u8; 4], u32) = (3, [1, 0, 0, 0], 0x092a);
const NOTIFICATION: (u32, [u8; 4], u32) = (2, [1, 0, 0, 0], 2);

fn at((event, unit, reason): (u32, [u8; 4], u32), head: u32) -> (u32, u32, [u8; 4], u32) {
    (head, event, unit, reason)
}

#[test]
fn what_one_virtual_machine_does_the_others_are_told() {
    for io in BOTH {
        let rig = Rig::ram(io);
        let socket = rig.socket.with_extension("other");
        let other = start(&rig.reactors, &socket, &rig.targets);
        let mut one = Driver::new(&rig.socket, HOTPLUG | CHANGE);
        let mut two = Driver::new(&socket, HOTPLUG | CHANGE);
        for driver in [&mut one, &mut two] {
            (0..4).for_each(|head| driver.give(head));
        }
        one.select();
        assert_eq!(two.event(), at(MODE_CHANGE, 0));
        assert_eq!(two.ready(), Some([0x2a, 1]), "and it is a unit attention all the same");
        assert_eq!(two.front.control(&mut two.control, &tmf(5, UNIT, 0), 1), [0]);
        assert_eq!(one.event(), at(HARD_RESET, 0), "nobody is told what it did itself");
        rig.happens(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED);
        for (driver, head) in [(&mut one, 1), (&mut two, 1)] {
            assert_eq!(driver.event(), (head, 1, [1, 0, 0, 0], 1), "rescan");
        }
        other.stop();
    }
}

const fn came(unit: [u8; 4]) -> (u32, [u8; 4], u32) {
    (1, unit, 1)
}

const fn went(unit: [u8; 4]) -> (u32, [u8; 4], u32) {
    (1, unit, 2)
}

#[test]
fn a_driver_is_told_of_each_unit_that_comes_or_goes() {
    let empty = TargetPort::new("empty", 2, Protocol::NONE, BTreeMap::new());
    let store = || Arc::new(Ram::new(1 << 20).unwrap());
    let port = TargetPort::new("test", 1, Protocol::NONE, [(0, disk(1, store()))].into());
    let rig = Rig::of(Io::Auto, [(0, port.clone()), (7, empty.clone())].into());
    let poster = rig.reactors.poster();
    let mut driver = Driver::new(&rig.socket, HOTPLUG);
    (0..8).for_each(|head| driver.give(head));
    // A target without units is there, and says that it has none.
    driver.front.unit = [1, 7, 0x40, 0];
    assert_eq!(driver.ready(), Some([0x25, 0]));
    empty.luns().change(&*poster, |units| drop(units.insert(0, disk(2, store()))));
    assert_eq!(driver.event(), at(came([1, 7, 0, 0]), 0), "the whole target is looked at");
    assert_eq!([driver.ready(), driver.ready()], [Some([0x29, 0]), None]);
    port.luns().change(&*poster, |units| units.extend([(5, disk(3, store())), (300, disk(4, store()))]));
    assert_eq!(driver.event(), at(came([1, 0, 0, 5]), 1));
    assert_eq!(driver.event(), at(came([1, 0, 0x41, 0x2c]), 2));
    driver.front.unit = UNIT;
    assert_eq!([driver.ready(), driver.ready()], [Some([0x3f, 0x0e]), None]);
    port.luns().change(&*poster, |units| {
        units.remove(&300);
        units.insert(5, disk(5, store()));
    });
    for (head, event) in (3..).zip([went([1, 0, 0, 5]), came([1, 0, 0, 5]), went([1, 0, 0x41, 0x2c])]) {
        assert_eq!(driver.event(), at(event, head));
    }
    empty.luns().change(&*poster, |units| units.clear());
    assert_eq!(driver.event(), at(went([1, 7, 0, 0]), 6));
    driver.front.unit = [1, 7, 0x40, 0];
    assert_eq!((driver.ready(), driver.none()), (Some([0x25, 0]), true));
    assert_eq!(driver.notifications(1, [1, 0, 0, 5], u32::MAX), 2);
    port.luns().change(&*poster, |units| drop(units.remove(&5)));
    assert_eq!(driver.event(), at(went([1, 0, 0, 5]), 7));
}

#[test]
fn a_driver_is_told_of_targets_that_come_and_go() {
    let rig = Rig::ram(Io::Auto);
    let export = rig.export.as_ref().unwrap();
    let mut driver = Driver::new(&rig.socket, HOTPLUG);
    (0..3).for_each(|head| driver.give(head));
    let unit = rig.targets[&0].luns().inventory().units()[&0].clone();
    let units = [(0, unit.clone()), (4, unit)];
    assert!(export.add_target(9, TargetPort::new("nine", 2, Protocol::NONE, units.into())));
    assert_eq!(driver.event(), at(came([1, 9, 0, 0]), 0), "all of it is looked at");
    assert!(export.remove_target(9, || ()));
    assert_eq!(driver.event(), at(went([1, 9, 0, 0]), 1));
    assert_eq!(driver.event(), at(went([1, 9, 0, 4]), 2));
}

#[test]
fn a_unit_that_comes_again_is_told_as_often_as_it_goes() {
    let rig = Rig::ram(Io::Auto);
    let poster = rig.reactors.poster();
    let mut driver = Driver::new(&rig.socket, HOTPLUG);
    let luns = rig.targets[&0].luns().clone();
    let unit = luns.inventory().units()[&0].clone();
    let (enter, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    // None is delivered before all have come.
    poster.post(
        ReactorId(0),
        Box::new(move |_| {
            enter.send(()).unwrap();
            let _ = left.recv();
        }),
    );
    entered.recv().unwrap();
    (0..8).for_each(|head| driver.give(head));
    for _ in 0..2 {
        luns.change(&*poster, |units| drop(units.insert(3, unit.clone())));
        luns.change(&*poster, |units| drop(units.remove(&3)));
    }
    leave.send(()).unwrap();
    let unit = [1, 0, 0, 3];
    for (head, event) in (0..).zip([came(unit), went(unit), came(unit), went(unit)]) {
        assert_eq!(driver.event(), at(event, head));
    }
}

#[test]
fn events_without_a_buffer_are_missed_and_the_driver_is_told() {
    let rig = Rig::ram(Io::Auto);
    let mut driver = Driver::new(&rig.socket, CHANGE);
    rig.happens(CAPACITY);
    assert!(driver.none());
    driver.give(0);
    assert_eq!(driver.event(), (0, MISSED, [0; 4], 0), "no event, but one was missed");
    // The next event says it if it comes before the next notification.
    rig.happens(CAPACITY);
    driver.place(1, 16);
    driver.place(2, 16);
    rig.happens(AdditionalSense::MODE_PARAMETERS_CHANGED);
    let (event, unit, reason) = MODE_CHANGE;
    assert_eq!(driver.event(), (1, event | MISSED, unit, reason));
    rig.happens(CAPACITY);
    assert_eq!(driver.event(), at(CAPACITY_CHANGE, 2), "said once");
    assert!(driver.none());
}

#[test]
fn a_short_buffer_is_used_for_no_event() {
    let rig = Rig::ram(Io::Auto);
    let mut driver = Driver::new(&rig.socket, CHANGE);
    for (head, length) in [(0, 15), (1, 1), (2, 32)] {
        driver.place(head, length);
    }
    rig.happens(CAPACITY);
    for (head, length) in [(0, 15), (1, 1)] {
        assert_eq!(driver.front.used(&mut driver.events), (head, length));
        let bytes = driver.front.guest.read(BUFFERS + 0x20 * u64::from(head), 0x20);
        assert!(bytes[..length as usize].iter().all(|byte| *byte == 0));
        assert!(bytes[length as usize..].iter().all(|byte| *byte == 0xee));
    }
    assert_eq!(driver.event(), at(CAPACITY_CHANGE, 2));
    // Nothing but short ones: they do not keep the reactor busy, and the event is missed.
    (0..3).for_each(|head| driver.place(head, 8));
    rig.happens(CAPACITY);
    (0..3).for_each(|head| assert_eq!(driver.front.used(&mut driver.events), (head, 8)));
    driver.give(3);
    assert_eq!(driver.event(), (3, MISSED, [0; 4], 0));
}

#[test]
fn a_driver_is_told_what_it_has_negotiated() {
    let rig = Rig::ram(Io::Auto);
    let rescan = AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED;
    let reset = AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED;
    for (features, told) in [(Features::empty(), 0), (HOTPLUG, 1), (CHANGE, 3)] {
        let mut driver = Driver::new(&rig.socket, features);
        (0..4).for_each(|head| driver.give(head));
        for condition in [rescan, CAPACITY, AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, reset] {
            rig.happens(condition);
        }
        if told > 0 {
            assert_eq!(driver.event().1, told, "{features:?}");
        }
        assert_eq!((driver.event().1, driver.none()), (HARD_RESET.0, true), "{features:?}");
    }
}

#[test]
fn subscribed_notifications_come_until_the_device_is_reset() {
    let rig = Rig::ram(Io::Auto);
    let mut driver = Driver::new(&rig.socket, Features::empty());
    (0..4).for_each(|head| driver.give(head));
    assert_eq!(driver.notifications(1, UNIT, u32::MAX), 2, "operational change is all that disks have");
    assert_eq!(driver.notifications(1, UNIT, 0x10), 0);
    assert_eq!(driver.notifications(2, [1, 0, 0x40, 9], u32::MAX), 0, "there is no such unit");
    rig.happens(CAPACITY);
    assert_eq!(driver.notifications(2, UNIT, u32::MAX), 2);
    rig.happens(CAPACITY);
    assert_eq!(driver.event(), at(NOTIFICATION, 0), "once: the query was no subscription");
    assert_eq!(driver.notifications(2, UNIT, 0x10), 0, "a subscription takes the place of the last");
    rig.happens(CAPACITY);
    assert_eq!(driver.notifications(2, UNIT, 2), 2);
    rig.happens(CAPACITY);
    assert_eq!((driver.event(), driver.none()), (at(NOTIFICATION, 1), true));
    let message = driver.front.protocol.reset_device();
    driver.front.done(message);
    rig.happens(CAPACITY);
    driver.front.guest.write(EVENT_RING, &[0; 0xb000]);
    driver.events = driver.front.start(1, EVENT_RING, 8);
    driver.give(0);
    rig.happens(AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
    assert_eq!((driver.event(), driver.none()), (at(HARD_RESET, 0), true));
}

#[test]
fn what_happens_between_two_connections_was_missed() {
    let rig = Rig::ram(Io::Auto);
    let mut driver = Driver::new(&rig.socket, CHANGE);
    assert_eq!(driver.notifications(2, UNIT, 2), 2);
    drop(driver);
    rig.happens(CAPACITY);
    let mut driver = Driver::with(&rig.socket, CHANGE, 1);
    driver.give(0);
    driver.give(1);
    driver.give(2);
    assert_eq!(driver.event(), (0, MISSED, [0; 4], 0));
    rig.happens(CAPACITY);
    let events = [driver.event(), driver.event()];
    assert_eq!(events, [at(CAPACITY_CHANGE, 1), at(NOTIFICATION, 2)], "the subscription is still there");
    drop(driver);
    let mut driver = Driver::new(&rig.socket, CHANGE);
    (0..3).for_each(|head| driver.give(head));
    rig.happens(CAPACITY);
    assert_eq!((driver.event(), driver.none()), (at(CAPACITY_CHANGE, 0), true), "another driver has to ask");
}

#[test]
fn a_broken_event_queue_stops_alone() {
    let rig = Rig::ram(Io::Auto);
    let mut driver = Driver::new(&rig.socket, CHANGE);
    driver.events.ring.chain(&driver.front.guest, 0, &[(1 << 40, 16, true)]);
    driver.events.ring.offer(&driver.front.guest, 0);
    rig.happens(CAPACITY);
    driver.events.wait_broken();
    rig.happens(CAPACITY);
    assert_eq!(driver.ready(), Some([0x2a, 9]));
    driver.front.guest.write(EVENT_RING, &[0; 0xb000]);
    driver.front.stop(1);
    driver.events = driver.front.start(1, EVENT_RING, 8);
    driver.give(0);
    assert_eq!(driver.event(), (0, MISSED, [0; 4], 0));
}
