//! Several targets behind one socket, several virtual machines at one logical unit, and what outlives a connection.

use super::*;
use crate::testing::front_end::{CommandResult, Vring};
use lunette_scsi::AdditionalSense;

fn ram() -> Arc<dyn Backing> {
    Arc::new(Ram::new(1 << 20).unwrap())
}

/// Targets 0, 3 and 255: LUN 0, LUNs 0 and 7, LUN 16383.
fn three_targets() -> BTreeMap<u8, Arc<TargetPort>> {
    let port = |target: u8, luns: &[u32]| {
        let unit = |lun: &u32| (*lun, disk(u64::from(target) << 16 | u64::from(*lun), ram()));
        let units = luns.iter().map(unit).collect();
        (target, TargetPort::new(format!("port {target}"), u16::from(target) + 1, Protocol::NONE, units))
    };
    [port(0, &[0]), port(3, &[0, 7]), port(255, &[16383])].into()
}

fn addressed(
    front: &mut FrontEnd,
    ring: &mut Vring,
    unit: [u8; 4],
    cdb: &[u8],
    data_in: u32,
) -> CommandResult {
    front.unit = unit;
    front.command(ring, cdb, &[], data_in)
}

/// The additional sense of TEST UNIT READY, or zeros.
fn ready(front: &mut FrontEnd, ring: &mut Vring, unit: [u8; 4]) -> [u8; 2] {
    let result = addressed(front, ring, unit, &TEST_UNIT_READY, 0);
    assert_eq!(result.response, 0);
    result.sense.get(12..14).map_or([0; 2], |additional| additional.try_into().unwrap())
}

const GOOD: [u8; 2] = [0; 2];
const POWER_ON: [u8; 2] = [0x29, 0];
const DEVICE_RESET: [u8; 2] = [0x29, 3];
const NEXUS_LOSS: [u8; 2] = [0x29, 7];
const CAPACITY: [u8; 2] = [0x2a, 9];
const ALL: [[u8; 4]; 4] = [[1, 0, 0, 0], [1, 3, 0x40, 0], [1, 3, 0, 7], [1, 255, 0x7f, 0xff]];

#[test]
fn each_target_is_a_port_with_units_of_its_own() {
    let rig = Rig::of(Io::Auto, three_targets());
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let (mut ring, mut control) = (front.start(2, 0, 64), front.start(0, 0x1_0000, 64));
    for unit in ALL {
        assert_eq!(ready(&mut front, &mut ring, unit), POWER_ON);
        assert_eq!(ready(&mut front, &mut ring, unit), GOOD);
        let names = addressed(&mut front, &mut ring, unit, &[0x12, 1, 0x83, 0, 255, 0], 255).data;
        let port = format!("port {}", unit[1]);
        assert!(names.windows(port.len()).any(|part| part == port.as_bytes()), "{unit:?}");
    }
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let mut luns = |unit| {
        let data = addressed(&mut front, &mut ring, unit, &report, 256).data;
        let length = usize::from(data[3]);
        data[8..8 + length].chunks(8).map(|lun| u16::from_be_bytes([lun[0], lun[1]])).collect::<Vec<_>>()
    };
    assert_eq!(luns([1, 3, 0x40, 0]), [0, 7]);
    assert_eq!(luns([1, 255, 0xc1, 1]), [0x7fff]);
    assert_eq!(luns([0xc1, 1, 0, 0]), [0], "the first target speaks for the device");
    for target in [1, 2, 4, 254] {
        let unit = [1, target, 0x40, 0];
        assert_eq!(addressed(&mut front, &mut ring, unit, &TEST_UNIT_READY, 0).response, 3);
        assert_eq!(front.control(&mut control, &tmf(5, unit, 0), 1), [3]);
        let subscribe = [&[2, 0, 0, 0], &unit[..], &[0; 4], &[0xff; 4]].concat();
        assert_eq!(front.control(&mut control, &subscribe, 5), [0, 0, 0, 0, 3]);
    }
    // The loss of one I_T nexus is none of the others.
    assert_eq!(front.control(&mut control, &tmf(4, ALL[1], 0), 1), [0]);
    let attentions = ALL.map(|unit| ready(&mut front, &mut ring, unit));
    assert_eq!(attentions, [GOOD, NEXUS_LOSS, NEXUS_LOSS, GOOD]);
    let message = front.protocol.reset_device();
    front.done(message);
    let mut ring = front.start(2, 0x2_0000, 64);
    assert_eq!(ALL.map(|unit| ready(&mut front, &mut ring, unit)), [NEXUS_LOSS; 4], "the whole device");
}

#[test]
fn a_reconnection_is_no_loss_of_the_nexus() {
    let rig = Rig::of(Io::Auto, three_targets());
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    for unit in &ALL[1..] {
        assert_eq!(ready(&mut front, &mut ring, *unit), POWER_ON);
    }
    drop(front);
    rig.targets[&3].luns().inventory().units()[&7]
        .establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    // Another queue, on another reactor.
    let mut ring = front.start(3, 0, 64);
    let attentions = ALL.map(|unit| ready(&mut front, &mut ring, unit));
    assert_eq!(attentions, [POWER_ON, GOOD, CAPACITY, GOOD], "what was pending still is, and nothing else");
    assert_eq!(ALL.map(|unit| ready(&mut front, &mut ring, unit)), [GOOD; 4]);
}

#[test]
fn virtual_machines_at_one_unit_are_kept_apart() {
    let rig = Rig::held();
    let socket = rig.socket.with_extension("other");
    let other = start(&rig.reactors, &socket, &rig.targets);
    let mut fronts = [FrontEnd::ready(&rig.socket, MEMORY), FrontEnd::ready(&socket, MEMORY)];
    let [mut rings, mut controls] = [(3, 0), (0, 0x1_0000)].map(|(index, at)| {
        let mut start = fronts.iter_mut().map(|front| front.start(index, at, 64));
        std::array::from_fn::<_, 2, _>(|_| start.next().unwrap())
    });
    for (front, ring) in fronts.iter_mut().zip(&mut rings) {
        assert_eq!(ready(front, ring, UNIT), POWER_ON);
        front.offer_command(ring, 5, DATA, &read_10(0, 1), &[], 512);
    }
    while held(&rig.reactors, 1) < 2 {
        std::thread::yield_now();
    }
    // Both have a task with tag 5.
    let request = 0x7_0000;
    fronts[0].guest.write(request, &tmf(1, UNIT, 0));
    controls[0].ring.chain(&fronts[0].guest, 0, &[(request, 24, false), (request + 0x100, 1, true)]);
    controls[0].ring.offer(&fronts[0].guest, 0);
    controls[0].kick();
    for _ in 0..20 {
        held(&rig.reactors, 0);
        held(&rig.reactors, 1);
    }
    release(&rig.reactors, 1, 0x5a);
    assert_eq!(fronts[0].used(&mut controls[0]), (0, 1));
    let responses = [0, 1].map(|n| {
        let (head, written) = fronts[n].used(&mut rings[n]);
        assert_eq!(head, 5);
        fronts[n].result(DATA, written, 512)
    });
    assert_eq!(responses[0].response, 2, "ABORTED");
    assert_eq!((responses[1].response, &responses[1].data[..]), (0, &[0x5a; 512][..]));

    // A reset is an attention for each, once.
    assert_eq!(fronts[0].control(&mut controls[0], &tmf(5, UNIT, 0), 1), [0]);
    for (front, ring) in fronts.iter_mut().zip(&mut rings) {
        assert_eq!([(); 2].map(|()| ready(front, ring, UNIT)), [DEVICE_RESET, GOOD]);
    }
    other.stop();
}

/// The targets of a running export, and what removing them has come to.
fn remove(rig: &Rig, target: u8) -> std::sync::mpsc::Receiver<()> {
    let (done, told) = std::sync::mpsc::channel();
    let export = rig.export.as_ref().unwrap();
    assert!(export.remove_target(target, move || done.send(()).unwrap()));
    assert!(!export.remove_target(target, || panic!("it is removed")));
    told
}

#[test]
fn an_export_stops_that_has_no_targets_any_more() {
    let rig = Rig::ram(Io::Auto);
    let front = FrontEnd::ready(&rig.socket, MEMORY);
    remove(&rig, 0).recv().unwrap();
    drop(rig);
    drop(front);
}

#[test]
fn targets_come_and_go_beside_others() {
    let rig = Rig::of(Io::Auto, three_targets());
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let (mut ring, mut control) = (front.start(2, 0, 64), front.start(0, 0x1_0000, 64));
    let mut elsewhere = front.start(3, 0x2_0000, 64);
    assert_eq!(ALL.map(|unit| ready(&mut front, &mut ring, unit)), [POWER_ON; 4]);
    let export = rig.export.as_ref().unwrap();
    let port = TargetPort::new("port 9", 10, Protocol::NONE, [(0, disk(9, ram()))].into());
    let unit = [1, 9, 0x40, 0];
    assert!(!export.add_target(3, port.clone()));
    for _ in 0..3 {
        assert_eq!(addressed(&mut front, &mut elsewhere, unit, &TEST_UNIT_READY, 0).response, 3);
        assert!(export.add_target(9, port.clone()));
        assert_eq!(ready(&mut front, &mut ring, unit), POWER_ON);
        assert_eq!(ready(&mut front, &mut elsewhere, unit), GOOD);
        remove(&rig, 9).recv().unwrap();
        for ring in [&mut ring, &mut elsewhere] {
            assert_eq!(addressed(&mut front, ring, unit, &TEST_UNIT_READY, 0).response, 3);
        }
        assert_eq!(front.control(&mut control, &tmf(5, unit, 0), 1), [3]);
        assert_eq!(Arc::strong_count(&port), 1, "the export has nothing of it");
    }
    assert_eq!(ALL.map(|unit| ready(&mut front, &mut elsewhere, unit)), [GOOD; 4]);
    for target in [0, 3, 255] {
        remove(&rig, target).recv().unwrap();
    }
    assert_eq!(addressed(&mut front, &mut ring, [0xc1, 1, 0, 0], &TEST_UNIT_READY, 0).response, 3);
    assert!(export.add_target(0, port));
    assert_eq!(ready(&mut front, &mut ring, UNIT), POWER_ON, "the first and only one");
}

#[test]
fn what_a_removed_target_still_has_to_do_is_aborted() {
    let rig = Rig::held();
    let export = rig.export.as_ref().unwrap();
    let other = TargetPort::new("other", 2, Protocol::NONE, [(0, disk(2, ram()))].into());
    assert!(export.add_target(1, other.clone()));
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(3, 0, 64);
    assert_eq!(ready(&mut front, &mut ring, UNIT), POWER_ON);
    assert_eq!(ready(&mut front, &mut ring, [1, 1, 0x40, 0]), POWER_ON);
    front.unit = UNIT;
    front.offer_command(&ring, 5, DATA, &read_10(0, 1), &[], 512);
    while held(&rig.reactors, 1) < 1 {
        std::thread::yield_now();
    }
    let told = remove(&rig, 0);
    // The number is another's at once.
    assert!(export.add_target(0, other));
    assert_eq!(ready(&mut front, &mut ring, [1, 1, 0x40, 0]), GOOD);
    // By then it has been to all reactors.
    for _ in 0..4 {
        held(&rig.reactors, 0);
        held(&rig.reactors, 1);
    }
    assert!(told.try_recv().is_err(), "the store has the guest's memory");
    release(&rig.reactors, 1, 0x5a);
    told.recv().unwrap();
    let (head, written) = front.used(&mut ring);
    assert_eq!((head, front.result(DATA, written, 512).response), (5, 4), "RESET");
    assert_eq!(ready(&mut front, &mut ring, UNIT), POWER_ON);
}
