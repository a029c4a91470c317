//! The whole transport over real sockets and real reactors.

use crate::testing::front_end::{DATA, FrontEnd, RESPONSE, tmf};
use crate::testing::held::{self, held, release, wait_held};
use crate::testing::{DriverRing, NEXT, WRITE, memfd, region};
use crate::{Error, Handle, MAX_REQUEST_QUEUES, Options, VhostUserExport};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::{Io, Options as ReactorOptions, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::ram::Ram;
use lunette_store::{Backing, ReactorId};
use lunette_vhost_user::{Config, ConfigFlags, Features, FrontendRequest, Reply};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod adopted;
mod client;
mod dirty_log;
mod events;
mod gone;
mod handover;
mod held_back;
mod late;
mod lease;
mod management;
mod migration;
mod recovery;
mod reset;
mod rings;
mod stuck;
mod targets;
mod unserved;
mod vmm;

struct Rig {
    export: Option<Handle>,
    reactors: Reactors,
    socket: PathBuf,
    targets: BTreeMap<u8, Arc<TargetPort>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// One disk, two reactors.
    fn new(io: Io, store: Arc<dyn Backing>) -> Self {
        let port = TargetPort::new("test", 1, Protocol::NONE, [(0, disk(1, store))].into());
        Self::of(io, [(0, port)].into())
    }

    /// Two reactors.
    fn of(io: Io, targets: BTreeMap<u8, Arc<TargetPort>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vm.sock");
        let options = ReactorOptions { reactors: 2, io, pin: false, ..ReactorOptions::default() };
        let reactors = Reactors::start(&options).unwrap();
        let export = start(&reactors, &socket, &targets);
        Self { export: Some(export), reactors, socket, targets, _folder: folder }
    }

    fn ram(io: Io) -> Self {
        Self::new(io, Arc::new(Ram::new(1 << 20).unwrap()))
    }

    fn held() -> Self {
        Self::new(Io::Auto, held::store())
    }
}

fn disk(number: u64, store: Arc<dyn Backing>) -> Arc<LogicalUnit> {
    let disk = Disk::new(&DiskOptions::default(), store.caps()).unwrap();
    let identity = Identity::new(number.to_string(), Naa::locally_assigned(number));
    LogicalUnit::new("disk", identity, Box::new(disk), Some(store))
}

fn start(reactors: &Reactors, socket: &Path, targets: &BTreeMap<u8, Arc<TargetPort>>) -> Handle {
    let export = VhostUserExport::new(Options::new(socket), targets.clone());
    export.start(reactors.poster(), &[ReactorId(0), ReactorId(1)]).unwrap()
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(export) = self.export.take()
            && !std::thread::panicking()
        {
            export.stop();
            assert!(!self.socket.exists());
        }
    }
}

const BOTH: [Io; 2] = [Io::Auto, Io::Epoll];
const MEMORY: u64 = 0x10_0000;
const UNIT: [u8; 4] = [1, 0, 0x40, 0];
const TEST_UNIT_READY: [u8; 6] = [0; 6];

fn read_10(block: u8, blocks: u8) -> [u8; 10] {
    [0x28, 0, 0, 0, 0, block, 0, 0, blocks, 0]
}

fn write_10(block: u8, blocks: u8) -> [u8; 10] {
    [0x2a, 0, 0, 0, 0, block, 0, 0, blocks, 0]
}

#[test]
fn commands_are_carried_out() {
    for io in BOTH {
        let rig = Rig::ram(io);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        // One request queue on each reactor.
        for index in [2, 3] {
            let mut ring = front.start(index, u64::from(index) * 0x1_0000, 64);
            let first = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
            if index == 2 {
                assert_eq!((first.status, first.response, first.sense[2], first.sense[12]), (2, 0, 6, 0x29));
            }
            let ready = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
            assert_eq!((ready.status, ready.response, ready.written, ready.residual), (0, 0, 108, 0));
            let bytes: Vec<u8> = (0..1024).map(|n| (n % 251) as u8 ^ index as u8).collect();
            let write = front.command(&mut ring, &write_10(3, 2), &bytes, 0);
            assert_eq!((write.status, write.response, write.residual), (0, 0, 0));
            let read = front.command(&mut ring, &read_10(3, 2), &[], 2048);
            assert_eq!((read.status, read.response, read.residual, read.written), (0, 0, 1024, 108 + 1024));
            assert_eq!(read.data[..1024], bytes);
            let short = front.command(&mut ring, &read_10(3, 2), &[], 512);
            assert_eq!((short.status, short.response), (0, 1), "OVERRUN");
        }
    }
}

#[test]
fn requests_that_reach_no_unit_are_answered() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    let both = front.command(&mut ring, &TEST_UNIT_READY, &[0; 16], 16);
    assert_eq!((both.response, both.residual), (9, 32), "both directions need F_INOUT");
    front.offer_command(&ring, 0, DATA, &TEST_UNIT_READY, &[], 0);
    front.used(&mut ring);
    for (lun, response, status) in [([1, 7, 0x40, 0], 3, 0), ([1, 0, 0x40, 5], 0, 2), ([3, 0, 0, 0], 3, 0)] {
        front.guest.write(DATA, &lun);
        ring.ring.offer(&front.guest, 0);
        ring.kick();
        let (_, written) = front.used(&mut ring);
        let result = front.result(DATA, written, 0);
        assert_eq!((result.response, result.status), (response, status), "{lun:?}");
    }
    assert!(!ring.is_broken());
}

#[test]
fn cdbs_are_as_long_as_their_field_lets_them_be() {
    const GET_LBA_STATUS_32: [u8; 32] = {
        let mut cdb = [0; 32];
        (cdb[0], cdb[7], cdb[9], cdb[31]) = (0x7f, 0x18, 0x12, 24);
        cdb
    };
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let status = front.command(&mut ring, &GET_LBA_STATUS_32, &[], 24);
    assert_eq!((status.status, status.response, status.residual, status.written), (0, 0, 0, 108 + 24));
    assert_eq!(status.data[20..], [1, 0, 0, 0], "deallocated");
    // It is the command that is wrong, not its transport.
    let longer = front.command(&mut ring, &[0x7f, 0, 0, 0, 0, 0, 0, 200, 0, 0x12], &[], 24);
    assert_eq!((longer.status, longer.response, longer.sense[12]), (2, 0, 0x24), "INVALID FIELD IN CDB");
    let unknown = front.command(&mut ring, &[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x99], &[], 24);
    assert_eq!((unknown.status, unknown.response, unknown.sense[12]), (2, 0, 0x24));
}

#[test]
fn control_requests_are_answered() {
    for io in BOTH {
        let rig = Rig::ram(io);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut control = front.start(0, 0, 64);
        for (subtype, lun, expected) in [
            (0, UNIT, 0),
            (1, UNIT, 0),
            (2, UNIT, 0),
            (3, UNIT, 0),
            (4, UNIT, 0),
            (5, UNIT, 0),
            (6, UNIT, 0),
            (7, UNIT, 0),
            (8, UNIT, 11),
            (5, [1, 1, 0x40, 0], 3),
            (5, [1, 0, 0x40, 9], 12),
        ] {
            let response = front.control(&mut control, &tmf(subtype, lun, 7), 1);
            assert_eq!(response, [expected], "subtype {subtype}, LUN {lun:?}");
        }
        let notifications = |lun: [u8; 4]| [[1, 0, 0, 0], lun, [0; 4], [0xff; 4]].concat();
        assert_eq!(front.control(&mut control, &notifications(UNIT), 5), [2, 0, 0, 0, 0]);
        assert_eq!(front.control(&mut control, &notifications([0; 4]), 5), [0, 0, 0, 0, 3]);
    }
}

#[test]
fn an_abort_finds_its_task_on_another_reactor_and_waits_for_its_memory() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut control = front.start(0, 0, 64);
    let mut ring = front.start(3, 0x1_0000, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 5, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 1);
    assert_eq!(front.control(&mut control, &tmf(6, UNIT, 5), 1), [10], "QUERY TASK");
    assert_eq!(front.control(&mut control, &tmf(6, UNIT, 6), 1), [0]);

    let request = 0x7_0000;
    front.guest.write(request, &tmf(0, UNIT, 5));
    control.ring.chain(&front.guest, 0, &[(request, 24, false), (request + 0x100, 1, true)]);
    control.ring.offer(&front.guest, 0);
    control.kick();
    // Round trips through both reactors: whatever could answer too early has done so.
    for _ in 0..20 {
        held(&rig.reactors, 0);
        held(&rig.reactors, 1);
    }
    assert_eq!(control.ring.used_index(&front.guest), 2, "the function waits for the task");
    release(&rig.reactors, 1, 0x77);
    assert_eq!(front.used(&mut control), (0, 1));
    assert_eq!(front.guest.read(request + 0x100, 1), [0]);
    let (head, written) = front.used(&mut ring);
    let result = front.result(DATA, written, 512);
    assert_eq!((head, result.response, result.residual), (5, 2, 512), "ABORTED");
}

#[test]
fn a_ring_stops_when_its_requests_have_ended_and_starts_again() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 8);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 0);
    let message = front.protocol.get_vring_base(2);
    front.send(message);
    for _ in 0..20 {
        held(&rig.reactors, 0);
    }
    assert_eq!(ring.ring.used_index(&front.guest), 1);
    // Not taken any more.
    front.offer_command(&ring, 5, DATA + 0x1000, &TEST_UNIT_READY, &[], 0);
    release(&rig.reactors, 0, 0x55);
    assert!(matches!(front.reply(), Some(Reply::VringBase(state)) if state.num == 2));
    let (head, written) = front.used(&mut ring);
    assert_eq!((head, front.result(DATA, written, 512).data), (1, vec![0x55; 512]));
    assert_eq!(front.stop(2), 2);
    front.restart(&ring, 2);
    assert_eq!(front.used(&mut ring).0, 5);
    assert_eq!(front.stop(2), 3);
}

/// As User-Mode Linux does it when its driver is bound to the device again.
#[test]
fn a_ring_that_was_not_stopped_can_be_set_up_elsewhere() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    for index in [2, 3] {
        let mut ring = front.start(index, 0, 64);
        front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        let message = front.protocol.set_vring_enable(u32::from(index), false);
        front.done(message);
        let mut ring = front.start(index, 0x1_0000, 16);
        assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
        assert_eq!(front.stop(index), 1);
        front.guest.write(0, &[0; 0x2_0000]);
    }
}

#[test]
fn memory_changes_are_acknowledged_when_the_old_memory_is_out_of_use() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(3, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 1);
    let (size, fd) = (front.guest.size, front.guest.fd.try_clone().unwrap());
    let message = front.protocol.set_mem_table([(region(0, size, 0), fd)]);
    front.send(message);
    for _ in 0..20 {
        held(&rig.reactors, 0);
        held(&rig.reactors, 1);
    }
    // The ring goes on in the new memory meanwhile.
    front.offer_command(&ring, 5, DATA + 0x2_0000, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.used(&mut ring).0, 5);
    release(&rig.reactors, 1, 0x33);
    assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    let (head, written) = front.used(&mut ring);
    assert_eq!((head, front.result(DATA, written, 512).data), (1, vec![0x33; 512]));
}

#[test]
fn regions_are_added_and_removed_under_a_running_ring() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let (more, fd) = (region(0x1000_0000, 0x1000, 0), memfd(0x1000));
    let layout = ring.ring;
    let far = |front: &FrontEnd| {
        layout.chain(&front.guest, 0, &[(DATA, 51, false), (DATA + RESPONSE, 108, true), (0, 0, true)]);
        layout.descriptor(&front.guest, 2, (more.guest_address, 512, WRITE, 0));
        front.guest.write(DATA + 19, &read_10(0, 1));
        layout.offer(&front.guest, 0);
    };
    let message = front.protocol.add_mem_reg(more, fd.try_clone().unwrap());
    front.done(message);
    far(&front);
    ring.kick();
    front.used(&mut ring);
    let message = front.protocol.rem_mem_reg(more);
    front.done(message);
    assert!(!ring.is_broken());
    far(&front);
    ring.kick();
    ring.wait_broken();
}

#[test]
fn a_broken_ring_stops_alone_and_can_be_started_again() {
    for io in BOTH {
        let rig = Rig::ram(io);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut good = front.start(3, 0, 64);
        let mut bad = front.start(2, 0x1_0000, 64);
        front.command(&mut good, &TEST_UNIT_READY, &[], 0);
        bad.ring.descriptor(&front.guest, 0, (DATA, 8, NEXT, 0));
        bad.ring.offer(&front.guest, 0);
        bad.kick();
        bad.wait_broken();
        assert_eq!(front.command(&mut good, &TEST_UNIT_READY, &[], 0).status, 0);
        let base = front.stop(2) as u16;
        front.restart(&bad, base);
        assert_eq!(front.command(&mut bad, &TEST_UNIT_READY, &[], 0).status, 0);
        // Too short for a command, and for a response.
        for parts in [
            [(DATA, 50, false), (DATA + RESPONSE, 108, true)],
            [(DATA, 51, false), (DATA + RESPONSE, 107, true)],
        ] {
            front.stop(2);
            let at = 0x2_0000;
            front.guest.write(at, &[0; 0x1_0000]);
            let ring = DriverRing::new(at, 64);
            ring.chain(&front.guest, 0, &parts);
            ring.offer(&front.guest, 0);
            front.start(2, at, 64).wait_broken();
        }
        // What came before the fault is answered.
        front.stop(2);
        let at = 0x4_0000;
        let ring = DriverRing::new(at, 64);
        ring.chain(&front.guest, 0, &[(DATA, 51, false), (DATA + RESPONSE, 108, true)]);
        ring.descriptor(&front.guest, 2, (DATA, 8, NEXT, 2));
        ring.offer(&front.guest, 0);
        ring.offer(&front.guest, 2);
        front.start(2, at, 64).wait_broken();
        assert_eq!(ring.used_index(&front.guest), 1);
        // A control request that nobody knows.
        let control = front.start(0, 0x3_0000, 64);
        front.guest.write(DATA, &9u32.to_le_bytes());
        control.ring.chain(&front.guest, 0, &[(DATA, 24, false), (DATA + 64, 8, true)]);
        control.ring.offer(&front.guest, 0);
        control.kick();
        control.wait_broken();
        assert_eq!(front.command(&mut good, &TEST_UNIT_READY, &[], 0).status, 0);
    }
}

#[test]
fn a_descriptor_in_use_cannot_be_offered_again() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 0);
    ring.ring.offer(&front.guest, 1);
    ring.kick();
    ring.wait_broken();
    // The request that is under way keeps its memory until it ends.
    let message = front.protocol.get_vring_base(2);
    front.send(message);
    release(&rig.reactors, 0, 0x11);
    assert!(matches!(front.reply(), Some(Reply::VringBase(_))));
    assert_eq!(front.guest.read(DATA + RESPONSE + 0x100, 512), [0x11; 512]);
}

#[test]
fn the_next_front_end_waits_for_the_end_of_the_last() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert!(FrontEnd::connect(&rig.socket, MEMORY).is_closed(), "there is one already");
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 0);
    let map = front.guest.map.clone();
    drop(front);
    let mut next = FrontEnd::connect(&rig.socket, MEMORY);
    let message = next.protocol.get_features();
    next.send(message);
    for _ in 0..20 {
        held(&rig.reactors, 0);
    }
    assert_eq!(held(&rig.reactors, 0), 1);
    release(&rig.reactors, 0, 0x22);
    assert!(matches!(next.reply(), Some(Reply::Features(_))));
    let mut list = lunette_store::SgList::new();
    assert!(map.append(DATA + RESPONSE + 0x100, 4, &mut 0, &mut list));
    assert_eq!(list.as_sg().to_vec(4), [0x22; 4], "the memory was still there");
}

#[test]
fn stopping_finishes_what_is_in_flight() {
    let mut rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(3, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &write_10(0, 1), &[7; 512], 0);
    wait_held(&rig.reactors, 1);
    let export = rig.export.take().unwrap();
    export.begin_stop();
    for _ in 0..20 {
        held(&rig.reactors, 0);
    }
    assert!(!rig.socket.exists());
    release(&rig.reactors, 1, 7);
    export.stop();
    let (head, written) = front.used(&mut ring);
    assert_eq!((head, front.result(DATA, written, 0).response), (1, 0));
    assert!(front.is_closed());
}

#[test]
fn features_that_were_not_offered_start_no_ring() {
    let rig = Rig::ram(Io::Auto);
    let base = Features::VERSION_1 | Features::PROTOCOL_FEATURES;
    let harmless = [Features::NOTIFICATION_DATA, Features::from_bits_retain(1 << 20)];
    let harmful = [Features::ACCESS_PLATFORM, Features::IN_ORDER, Features::from_bits_retain(1 << 3)];
    for (features, taken) in harmless.map(|bit| (bit, 1)).into_iter().chain(harmful.map(|bit| (bit, 0))) {
        let mut front = FrontEnd::connect(&rig.socket, MEMORY);
        front.negotiate(base | features);
        front.share();
        let ring = DriverRing::new(0, 64);
        ring.chain(&front.guest, 0, &[(DATA, 51, false), (DATA + RESPONSE, 108, true)]);
        ring.offer(&front.guest, 0);
        front.start(2, 0, 64);
        assert_eq!(front.stop(2), taken, "{features:?}");
    }
}

#[test]
fn the_configuration_space_is_read_and_its_sizes_are_honoured() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let piece = |offset, bytes: &[u8]| Config { offset, flags: ConfigFlags::WRITABLE, bytes: bytes.to_vec() };
    let message = front.protocol.get_config(&piece(0, &[0; 4]));
    let Some(Reply::Config(Some(config))) = front.ask(message) else { panic!() };
    assert_eq!(config.bytes, u32::from(MAX_REQUEST_QUEUES).to_le_bytes());
    let message = front.protocol.set_config(&piece(0, &[1, 0, 0, 0]));
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    let message = front.protocol.set_config(&piece(20, &[20, 0, 0, 0]));
    front.done(message);
    // A guest that writes nonsense keeps its device, also when the front end does not ask.
    front.protocol.want_acks(false);
    for (offset, bytes) in [(0, [1, 0, 0, 0]), (24, [0; 4]), (20, [0, 0, 1, 0])] {
        let message = front.protocol.set_config(&piece(offset, &bytes));
        front.send(message);
    }
    front.protocol.want_acks(true);
    let mut ring = front.start(2, 0, 64);
    let result = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!((result.status, result.sense.len(), result.written), (2, 18, 32));
}

#[test]
fn a_command_under_way_keeps_the_sizes_it_came_with() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 0);
    let config = Config { offset: 20, flags: ConfigFlags::WRITABLE, bytes: vec![20, 0, 0, 0] };
    let message = front.protocol.set_config(&config);
    front.done(message);
    release(&rig.reactors, 0, 0x44);
    assert_eq!(front.used(&mut ring), (1, 108 + 512));
}

#[test]
fn a_device_reset_ends_the_commands() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(3, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 1);
    let message = front.protocol.reset_device();
    front.send(message);
    for _ in 0..20 {
        held(&rig.reactors, 0);
    }
    release(&rig.reactors, 1, 0);
    assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    let (_, written) = front.used(&mut ring);
    assert_eq!(front.result(DATA, written, 0).response, 4, "RESET");
    let mut ring = front.start(2, 0x1_0000, 64);
    let result = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!((result.status, &result.sense[12..14]), (2, &[0x29, 7][..]), "I_T NEXUS LOSS OCCURRED");
}

#[test]
fn what_cannot_be_carried_out_is_refused_or_ends_the_connection() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let short = memfd(0x1000);
    let message = front.protocol.set_mem_table([(region(0, 0x2000, 0), short.try_clone().unwrap())]);
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    let message = front.protocol.set_vring_num(2, 3);
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    // The memory is still the old one, and what is compared with it too.
    let message = front.protocol.add_mem_reg(region(MEMORY - 0x1000, 0x1000, 0), short.try_clone().unwrap());
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    let more = region(MEMORY, 0x2000, 0);
    let message = front.protocol.add_mem_reg(more, short.try_clone().unwrap());
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    let message = front.protocol.add_mem_reg(more, memfd(0x2000));
    front.done(message);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    // Without the wish for an acknowledgement there is no other way to tell.
    front.protocol.want_acks(false);
    let message = front.protocol.set_mem_table([(region(0, 0x2000, 0), short)]);
    front.send(message);
    assert!(front.is_closed());

    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let message = front.protocol.request(FrontendRequest::GET_FEATURES, vec![0; 4096]);
    assert!(front.ask(message).is_none());
}

#[test]
fn impossible_exports_are_refused() {
    let rig = Rig::ram(Io::Auto);
    let export = |socket: PathBuf, request_queues, reactors: &[ReactorId]| {
        let options = Options { request_queues, ..Options::new(socket) };
        let export = VhostUserExport::new(options, rig.targets.clone());
        export.start(rig.reactors.poster(), reactors).map(|_| ()).unwrap_err()
    };
    let (here, other) = (rig.socket.clone(), rig.socket.with_extension("other"));
    assert!(matches!(export(here, 1, &[ReactorId(0)]), Error::InUse(_)));
    assert!(matches!(export(other.clone(), 0, &[ReactorId(0)]), Error::RequestQueues(0)));
    assert!(matches!(export(other.clone(), 255, &[ReactorId(0)]), Error::RequestQueues(255)));
    assert!(matches!(export(other.clone(), 1, &[]), Error::NoReactors));
    let nothing = VhostUserExport::new(Options::new(other), [].into());
    let error = nothing.start(rig.reactors.poster(), &[ReactorId(0)]).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NoTargets));
}

#[test]
fn random_rings_harm_nobody() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut good = front.start(3, 0, 64);
    front.command(&mut good, &TEST_UNIT_READY, &[], 0);
    let descriptor = (0u8..6, 0u32..0x300, 0u16..8, 0u16..9);
    let strategy = (
        prop::collection::vec(descriptor, 8),
        prop::collection::vec(0u16..8, 1..8),
        prop::collection::vec(any::<u8>(), 64),
        any::<bool>(),
    );
    let mut runner = prop::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let front = std::cell::RefCell::new((front, good));
    runner
        .run(&strategy, |(descriptors, heads, mut bytes, control)| {
            let (front, good) = &mut *front.borrow_mut();
            let index = if control { 0 } else { 2 };
            let at = 0x1_0000;
            front.guest.write(at, &vec![0; 0x1_0000]);
            bytes[..4].copy_from_slice(if control { &[0; 4] } else { &UNIT });
            front.guest.write(DATA, &bytes);
            let ring = DriverRing::new(at, 8);
            for (n, (place, length, flags, next)) in descriptors.into_iter().enumerate() {
                let address =
                    [DATA, DATA + 0x800, at, MEMORY - 0x100, 1 << 40, DATA + 0x400][usize::from(place)];
                ring.descriptor(&front.guest, n as u16, (address, length, flags, next));
            }
            for head in heads {
                ring.offer(&front.guest, head);
            }
            front.start(index, at, 8);
            front.stop(u16::from(index as u8));
            prop_assert_eq!(front.command(good, &TEST_UNIT_READY, &[], 0).response, 0);
            Ok(())
        })
        .unwrap();
}
