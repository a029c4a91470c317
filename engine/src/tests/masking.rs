//! Two initiators at one port that do not see the same logical units, nor the same ones at the same place.

use super::*;
use TaskManagementFunction as Function;
use lunette_scsi::reservation::{ReserveOutList, parse_keys};
use lunette_scsi::target_port_groups::parse_target_port_groups;
use lunette_scsi::{
    AdditionalSense, Designator, Identifier, ReservationType, Sense, SenseKey, SenseKeySpecific, Status,
};

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];

/// LUNs and conditions of which an initiator was told, in order.
#[derive(Default)]
struct Told(Mutex<Vec<(u32, AdditionalSense)>>);

impl AttentionObserver for Told {
    fn attention(&self, _: &LogicalUnit, lun: u32, condition: AdditionalSense) {
        self.0.lock().unwrap().push((lun, condition));
    }

    fn inventory_changed(&self, _: &Inventory, _: &[InventoryChange]) {}
}

/// The left initiator sees unit a as LUN 0; the right one b as LUN 0, and a as LUNs 3 and 7. Others see c.
struct Masked {
    rig: Rig,
    a: Arc<LogicalUnit>,
    b: Arc<LogicalUnit>,
    left: Initiator,
    right: Initiator,
    told: Arc<Told>,
}

fn name(number: u64) -> Naa {
    Naa::locally_assigned(number)
}

impl Masked {
    fn new() -> Self {
        let mut rig = Rig::new(1);
        let unit = |number: u64| {
            let identity = Identity::new(number.to_string(), name(number));
            LogicalUnit::new("toy", identity, Box::new(Toy), Some(Arc::new(Held::new(1 << 20, ROOM))))
        };
        let [a, b, c] = [1, 2, 3].map(unit);
        rig.port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, [(0, c)].into());
        let told = Arc::new(Told::default());
        let left = rig.port.map([(0, a.clone())].into());
        let left = Nexus::mapped("iqn.left,i,0x000000000001", rig.port.clone(), left, None);
        let right = rig.port.map([(0, b.clone()), (3, a.clone()), (7, a.clone())].into());
        let right = Nexus::mapped("iqn.right,i,0x000000000001", rig.port.clone(), right, Some(told.clone()));
        let (left, right) = (rig.session(&left, 0), rig.session(&right, 0));
        let mut masked = Self { rig, a, b, left, right, told };
        masked.left_sends(0, &TEST_UNIT_READY, &[]);
        masked.right_sends(0, &TEST_UNIT_READY, &[]);
        masked.right_sends(3, &TEST_UNIT_READY, &[]);
        assert_eq!(masked.right_sends(7, &TEST_UNIT_READY, &[]).0.sense, None, "a place of the same unit");
        masked
    }

    fn left_sends(&mut self, lun: u32, cdb: &[u8], data_out: &[u8]) -> (Outcome, Vec<u8>) {
        send(&mut self.rig, &self.left, lun, cdb, data_out).expect("it ends by itself")
    }

    fn right_sends(&mut self, lun: u32, cdb: &[u8], data_out: &[u8]) -> (Outcome, Vec<u8>) {
        send(&mut self.rig, &self.right, lun, cdb, data_out).expect("it ends by itself")
    }

    fn taken(&self) -> Vec<(u32, AdditionalSense)> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }
}

pub(super) fn send(
    rig: &mut Rig,
    from: &Initiator,
    lun: u32,
    cdb: &[u8],
    data_out: &[u8],
) -> Option<(Outcome, Vec<u8>)> {
    let cdb = Cdb::new(cdb).unwrap();
    let (data_out, data_in) = (Memory::from_bytes(data_out), Memory::zeroed(1024));
    let sent = data_out.seg().len() as u64;
    let frame =
        CommandFrame { tag: 5, cookie: 5, data_out: sent, ..CommandFrame::new(Lun::from_index(lun), &cdb) };
    let (out, into) = ([data_out.seg()], [data_in.seg()]);
    let cx = rig.sim.cx(from.reactor);
    let outcome = match from.session.execute(&frame, Sg::new(&out), Sg::new(&into), cx) {
        Started::Ended(outcome) => outcome,
        Started::Pending => {
            rig.sim.settle();
            match from.events().pop()? {
                Event::Ended(5, Completion::Ended(outcome)) => outcome,
                other => panic!("{other:?}"),
            }
        }
    };
    let data = data_in.to_vec()[..outcome.moved_in as usize].to_vec();
    Some((outcome, data))
}

pub(super) fn sense(outcome: &Outcome) -> Option<AdditionalSense> {
    outcome.sense.as_ref().map(|sense| sense.additional)
}

pub(super) fn luns(data: &[u8]) -> Vec<u8> {
    data[8..].chunks(8).map(|lun| lun[1]).collect()
}

#[test]
fn each_initiator_is_shown_its_own_inventory() {
    let mut masked = Masked::new();
    assert_eq!(luns(&masked.left_sends(0, &REPORT_LUNS, &[]).1), [0]);
    assert_eq!(luns(&masked.right_sends(0, &REPORT_LUNS, &[]).1), [0, 3, 7]);
    assert_eq!(luns(&masked.left_sends(9, &REPORT_LUNS, &[]).1), [0], "wherever it is asked");
    let (refused, _) = masked.left_sends(7, &TEST_UNIT_READY, &[]);
    assert_eq!(sense(&refused), Some(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED));
    let inquiry = |page| [0x12, 1, page, 0, 255, 0];
    let (left, right) =
        (masked.left_sends(0, &inquiry(0x83), &[]).1, masked.right_sends(7, &inquiry(0x83), &[]).1);
    assert_eq!(left, right, "the same unit");
    assert_ne!(left, masked.right_sends(0, &inquiry(0x83), &[]).1);
}

#[test]
fn a_port_is_one_way_to_a_unit_through_however_many_maps() {
    let mut masked = Masked::new();
    let third = masked.rig.port.map([(5, masked.a.clone())].into());
    let report = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
    for (lun, right) in [(0, false), (7, true)] {
        let data =
            if right { masked.right_sends(lun, &report, &[]) } else { masked.left_sends(lun, &report, &[]) };
        let groups = parse_target_port_groups(&data.1, false).unwrap();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].ports, [1]);
    }
    drop(third);
    assert_eq!(masked.a.ports().len(), 1);
    assert_eq!(masked.b.ports().len(), 1, "seen through a map alone");
}

/// EXTENDED COPY(LID1) from unit `source` to unit `destination` of four, the last of which there is not.
pub(super) fn copy_list([source, destination]: [u16; 2]) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[1] = 0x18;
    list[3] = 4 * 32;
    list[11] = 32;
    for number in 1..=4 {
        let start = list.len();
        list.extend([0xe4, 0, 0, 0]);
        list.extend(Designator::logical_unit(Identifier::Naa(name(number))).encode());
        list.resize(start + 32, 0);
        list[start + 31] = 1;
    }
    list.extend([0x0a, 0, 0, 0x1c]);
    list.extend([source.to_be_bytes(), destination.to_be_bytes()].concat());
    list.extend(16_u32.to_be_bytes());
    list.extend([0; 20]);
    list
}

#[test]
fn a_copy_reaches_no_unit_that_its_initiator_does_not_see() {
    let mut masked = Masked::new();
    let mut refusal = |ends| -> Sense {
        let list = copy_list(ends);
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x83, list.len() as u8);
        let outcome = masked.left_sends(0, &cdb, &list).0;
        *outcome.sense.expect("it is refused")
    };
    let byte_of = |sense: &Sense| match sense.sense_key_specific {
        Some(SenseKeySpecific::SegmentPointer { byte, .. }) => byte,
        other => panic!("{other:?}"),
    };
    let unknown = refusal([0, 3]);
    // That of the other initiator, and that of everybody else.
    for (ends, at) in [([0, 1], 1), ([1, 0], 1), ([0, 2], 2), ([2, 0], 2)] {
        let refused = refusal(ends);
        let expected = (SenseKey::COPY_ABORTED, AdditionalSense::COPY_TARGET_DEVICE_NOT_REACHABLE);
        assert_eq!((refused.key, refused.additional), expected);
        assert_eq!(
            (unknown.key, unknown.additional),
            expected,
            "it cannot be told from one that is not there"
        );
        assert_eq!(byte_of(&unknown) - byte_of(&refused), (3 - at) * 32);
    }
    let list = copy_list([0, 1]);
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x83, list.len() as u8);
    assert!(send(&mut masked.rig, &masked.right, 0, &cdb, &list).is_none(), "who sees both copies");
    assert_eq!(masked.rig.at_store(), 1);
    masked.rig.complete_all();
    assert_eq!(masked.right.good(), [5]);
}

#[test]
fn a_reset_of_the_target_leaves_alone_what_its_initiator_does_not_see() {
    for function in [Function::TargetWarmReset, Function::TargetColdReset] {
        let mut masked = Masked::new();
        for lun in [0, 3] {
            assert!(send(&mut masked.rig, &masked.right, lun, &READ, &[]).is_none());
        }
        masked.rig.manage(&masked.left, function, 0);
        assert_eq!(masked.rig.at_store(), 2);
        masked.rig.complete_all();
        let lost = Event::Ended(5, Completion::Aborted(crate::Aborted::ByReset));
        let events = masked.right.events();
        assert_eq!(events.iter().filter(|event| **event == lost).count(), 1, "{events:?}");
        assert_eq!(events.len(), 2);
        let reset = AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
        assert_eq!(masked.taken(), [(3, reset), (7, reset)], "once for each place, and by its own numbers");
        assert_eq!(sense(&masked.right_sends(0, &TEST_UNIT_READY, &[]).0), None);
        assert_eq!(sense(&masked.right_sends(7, &TEST_UNIT_READY, &[]).0), Some(reset));
    }
}

#[test]
fn functions_mean_the_unit_that_their_own_initiator_sees() {
    let mut masked = Masked::new();
    let ask = |masked: &mut Masked, function, lun| {
        let management = Management { function, lun: Lun::from_index(lun), tag: 5 };
        masked.left.session.manage(&management, 1000, masked.rig.sim.cx(0));
        masked.rig.sim.settle();
        match masked.left.events().pop() {
            Some(Event::Managed(1000, response)) => response,
            other => panic!("{other:?}"),
        }
    };
    for function in [Function::LogicalUnitReset, Function::ClearTaskSet, Function::QueryTask] {
        assert_eq!(ask(&mut masked, function, 7), ServiceResponse::IncorrectLogicalUnitNumber);
    }
    // The same number is another unit for the other.
    assert!(send(&mut masked.rig, &masked.right, 0, &READ, &[]).is_none());
    assert_eq!(ask(&mut masked, Function::ClearTaskSet, 0), ServiceResponse::FunctionComplete);
    assert_eq!(masked.rig.at_store(), 1);
    masked.rig.complete_all();
    assert_eq!(masked.right.good(), [5], "nothing of it was cleared");
    // And the same unit has another number.
    assert!(send(&mut masked.rig, &masked.right, 7, &READ, &[]).is_none());
    masked.rig.manage(&masked.left, Function::ClearTaskSet, 0);
    assert_eq!(masked.rig.at_store(), 1);
    masked.rig.complete_all();
    assert_eq!(masked.right.events(), [Event::Ended(5, Completion::Aborted(crate::Aborted::ByAnotherNexus))]);
}

#[test]
fn reservations_meet_at_the_unit_whatever_its_number() {
    let mut masked = Masked::new();
    let out = |action, key, action_key| {
        let kind = ReservationType::EXCLUSIVE_ACCESS.0;
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        (cdb, ReserveOutList::new(key, action_key).encode())
    };
    let (cdb, list) = out(0, 0, 0xa);
    assert_eq!(masked.left_sends(0, &cdb, &list).0.status, Status::GOOD);
    let (cdb, list) = out(0, 0, 0xb);
    assert_eq!(masked.right_sends(7, &cdb, &list).0.status, Status::GOOD);
    let (cdb, list) = out(1, 0xa, 0);
    assert_eq!(masked.left_sends(0, &cdb, &list).0.status, Status::GOOD);
    for lun in [3, 7] {
        assert_eq!(masked.right_sends(lun, &READ, &[]).0.status, Status::RESERVATION_CONFLICT);
    }
    assert!(send(&mut masked.rig, &masked.right, 0, &READ, &[]).is_none(), "another unit");
    masked.rig.complete_all();
    masked.right.events();
    let keys = [0x5e, 0, 0, 0, 0, 0, 0, 4, 0, 0];
    assert_eq!(parse_keys(&masked.right_sends(3, &keys, &[]).1).1, [0xa, 0xb]);
    let full = masked.right_sends(3, &[0x5e, 3, 0, 0, 0, 0, 0, 4, 0, 0], &[]).1;
    assert_eq!(full[8 + 18..8 + 20], [0, 1], "the relative identifier of the port");
    let (cdb, list) = out(2, 0xa, 0);
    assert_eq!(masked.left_sends(0, &cdb, &list).0.status, Status::GOOD);
    assert_eq!(masked.taken(), [], "nobody is told of the end of an exclusive access");
    assert!(send(&mut masked.rig, &masked.right, 7, &READ, &[]).is_none());
}

#[test]
fn what_others_do_is_told_by_the_initiators_own_numbers() {
    let mut masked = Masked::new();
    let changed = AdditionalSense::CAPACITY_DATA_HAS_CHANGED;
    masked.a.establish_attention(changed, None);
    masked.b.establish_attention(changed, None);
    assert_eq!(masked.taken(), [(3, changed), (7, changed), (0, changed)]);
    let inventory = AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED;
    masked.b.establish_attention(inventory, None);
    assert_eq!(sense(&masked.left_sends(0, &TEST_UNIT_READY, &[]).0), Some(changed));
    assert_eq!(sense(&masked.left_sends(0, &TEST_UNIT_READY, &[]).0), None, "of b nothing");
    let lost = |masked: &Masked| masked.b.nexuses().len();
    assert_eq!(lost(&masked), 1, "left has not even met it");
}
