//! The transport as an independent guest sees it, which judges every ring and every response.

use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_guest::ring::Form;
use lunette_guest::{
    Backing as Memory, CANARY, Command, Data, Error, GuestMemory, Notifications, Options, Piece, ScsiDriver,
    Sizes, Waiting, address, function, response,
};
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::ram::Ram;
use lunette_store::{Backing, ReactorId};
use lunette_transport_vhost_user::{Handle, Options as ExportOptions, VhostUserExport};
use lunette_vhost_user::Features;
use std::path::PathBuf;
use std::sync::Arc;

/// A disk of 1 MiB behind a socket, on two reactors.
struct Rig {
    export: Option<Handle>,
    _reactors: Reactors,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vm.sock");
        let options = ReactorOptions { reactors: 2, pin: false, ..ReactorOptions::default() };
        let reactors = Reactors::start(&options).unwrap();
        let store = Arc::new(Ram::new(1 << 20).unwrap());
        let disk = Disk::new(&DiskOptions::default(), store.caps()).unwrap();
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let unit = LogicalUnit::new("disk", identity, Box::new(disk), Some(store));
        let port = TargetPort::new("test", 1, Protocol::NONE, [(0, unit)].into());
        let export = VhostUserExport::new(ExportOptions::new(&socket), [(0, port)].into());
        let export = export.start(reactors.poster(), &[ReactorId(0), ReactorId(1)]).unwrap();
        Self { export: Some(export), _reactors: reactors, socket, _folder: folder }
    }

    fn connect(&self, options: &Options) -> ScsiDriver {
        let mut driver = ScsiDriver::connect(&self.socket, options).unwrap();
        // The nexus's first command finds a unit attention; a later connection is the same nexus.
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        driver
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(export) = self.export.take() {
            export.stop();
        }
    }
}

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const CHECK_CONDITION: u8 = 2;

fn read_10(block: u16, blocks: u8) -> [u8; 10] {
    let [high, low] = block.to_be_bytes();
    [0x28, 0, 0, 0, high, low, 0, 0, blocks, 0]
}

fn write_10(block: u16, blocks: u8) -> [u8; 10] {
    let mut cdb = read_10(block, blocks);
    cdb[0] = 0x2a;
    cdb
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ seed).collect()
}

/// All kinds of rings that the device offers. A packed ring's size need not be a power of two.
fn variants() -> Vec<Options> {
    let offered = [Features::EVENT_IDX | Features::INDIRECT_DESC, Features::INDIRECT_DESC, Features::empty()];
    let mut variants = Vec::new();
    for (packed, queue_size) in [(false, 32), (true, 37)] {
        for optional in offered {
            for form in [Form::Chained, Form::Indirect] {
                for waiting in [Waiting::Interrupt, Waiting::Poll] {
                    let base = Options { request_queues: 2, slots: 10, ..Options::default() };
                    let mut options = Options { form, waiting, queue_size, ..base };
                    options.wanted.required.set(Features::RING_PACKED, packed);
                    options.wanted.optional = optional;
                    variants.push(options);
                }
            }
        }
    }
    variants
}

#[test]
fn data_comes_back_through_every_kind_of_ring() {
    let rig = Rig::new();
    for (seed, options) in (0..).zip(variants()) {
        let mut driver = rig.connect(&options);
        for queue in 0..2 {
            let bytes = pattern(seed ^ (0x80 * queue as u8), 2048);
            let write = driver.execute(queue, &Command::new(&write_10(7, 4)), &bytes, 0).unwrap();
            assert_eq!((write.response, write.status, write.residual), (0, 0, 0));
            let read = driver.execute(1 - queue, &Command::new(&read_10(7, 4)), &[], 2048).unwrap();
            assert_eq!((read.response, read.status, read.residual), (0, 0, 0));
            assert_eq!(read.data, bytes);
        }
    }
}

#[test]
fn full_queues_go_round_their_rings() {
    let rig = Rig::new();
    for options in variants() {
        let options = Options { room: 512, ..options };
        let mut driver = rig.connect(&options);
        let mut sent = [0u32; 2];
        for round in 0..200u16 {
            for queue in 0..2 {
                while let Some(slot) = driver.free_slot(queue) {
                    let block = (u16::from(slot as u8) + round) % 64;
                    let data = driver.data(queue, slot);
                    let piece = [Piece { address: data.address(), length: 512 }];
                    let (write, read) = (write_10(block, 1), read_10(block, 1));
                    let (cdb, data) = match (slot + round) % 2 {
                        0 => (&write, Data { data_out: &piece, data_in: &[] }),
                        _ => (&read, Data { data_out: &[], data_in: &piece }),
                    };
                    driver.submit(queue, slot, &Command::new(cdb).tagged(slot.into()), &data).unwrap();
                    sent[usize::from(queue)] += 1;
                }
                driver.flush(queue).unwrap();
            }
            for queue in 0..2 {
                for _ in 0..1 + round % 10 {
                    let completion = driver.wait(queue).unwrap();
                    assert_eq!((completion.response, completion.status), (0, 0));
                    sent[usize::from(queue)] -= 1;
                }
                assert_eq!(driver.outstanding(queue) as u32, sent[usize::from(queue)]);
            }
        }
    }
}

#[test]
fn what_is_not_transferred_is_told() {
    let rig = Rig::new();
    let mut driver = rig.connect(&Options::default());
    let inquiry = driver.execute(0, &Command::new(&[0x12, 0, 0, 0, 36, 0]), &[], 100).unwrap();
    assert_eq!((inquiry.response, inquiry.status, inquiry.residual), (0, 0, 64));
    assert!(inquiry.data[36..].iter().all(|&byte| byte == CANARY));
    let short = driver.execute(0, &Command::new(&read_10(0, 2)), &[], 512).unwrap();
    assert_eq!(short.response, response::OVERRUN);
    let missing = driver.execute(0, &Command::new(&TEST_UNIT_READY).to(address(9, 0)), &[], 0).unwrap();
    assert_eq!(missing.response, response::BAD_TARGET);
}

#[test]
fn a_queue_stops_and_goes_on() {
    let rig = Rig::new();
    for options in variants() {
        let mut driver = rig.connect(&options);
        for round in 0..3 {
            driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
            let slot = driver.send(0, &Command::new(&read_10(0, 1)), &[], 512).unwrap();
            driver.stop(0).unwrap();
            if round == 1 {
                driver.restart(0).unwrap();
                continue;
            }
            driver.resume(0).unwrap();
            // What the device had not seen is still in the ring.
            driver.monitor.queue_mut(driver.index(0)).kick().unwrap();
            assert_eq!(driver.wait_for(0, slot).unwrap().status, 0);
        }
        driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
    }
}

#[test]
fn memory_comes_and_goes() {
    let rig = Rig::new();
    let mut driver = rig.connect(&Options::default());
    let far = 1 << 40;
    let bytes = pattern(3, 1024);
    let write = |driver: &mut ScsiDriver| {
        let slot = driver.free_slot(0).unwrap();
        // Across the border of two regions.
        let piece = [Piece { address: far + 0x1000 - 512, length: 1024 }];
        let data = Data { data_out: &piece, data_in: &[] };
        driver.submit(0, slot, &Command::new(&write_10(0, 2)), &data).unwrap();
        driver.flush(0).unwrap();
        driver.wait_for(0, slot)
    };
    driver.monitor.plug(far, 0x1000, Memory::Memfd).unwrap();
    driver.monitor.plug(far + 0x1000, 0x1000, Memory::Memfd).unwrap();
    driver.monitor.memory.write(far + 0x1000 - 512, &bytes).unwrap();
    assert_eq!(write(&mut driver).unwrap().status, 0);
    let read = driver.execute(0, &Command::new(&read_10(0, 2)), &[], 1024).unwrap();
    assert_eq!(read.data, bytes);
    driver.monitor.unplug(far + 0x1000).unwrap();
    assert!(matches!(write(&mut driver), Err(Error::Broken(2))));
}

#[test]
fn the_driver_chooses_sizes() {
    let rig = Rig::new();
    let sizes = Sizes { cdb: 16, sense: 18 };
    let mut driver = rig.connect(&Options { sizes, ..Options::default() });
    let odd = driver.execute(0, &Command::new(&[0xff]), &[], 0).unwrap();
    assert_eq!((odd.status, odd.sense.len()), (CHECK_CONDITION, 18));
}

#[test]
fn sense_data_and_cdbs_have_the_room_that_the_driver_gives_them() {
    // GET LBA STATUS(32) of one descriptor.
    let mut cdb = [0; 32];
    (cdb[0], cdb[7], cdb[9], cdb[31]) = (0x7f, 0x18, 0x12, 24);
    let rig = Rig::new();
    for (sizes, fits) in [
        (Sizes { cdb: 32, sense: 0 }, true),
        (Sizes { cdb: 256, sense: 256 }, true),
        (Sizes { cdb: 100, sense: 2000 }, true),
        (Sizes { cdb: 31, sense: 96 }, false),
        (Sizes { cdb: 16, sense: 252 }, false),
    ] {
        let mut driver = rig.connect(&Options { sizes, ..Options::default() });
        let status = driver.execute(0, &Command::new(&cdb[..32.min(sizes.cdb.into())]), &[], 24).unwrap();
        assert_eq!(status.response, response::OK);
        if fits {
            assert_eq!((status.status, status.residual), (0, 0), "{sizes:?}");
            assert_eq!(status.data[20..], [1, 0, 0, 0], "deallocated");
        } else {
            // It is the command that is wrong, not its transport.
            assert_eq!((status.status, status.residual), (CHECK_CONDITION, 24), "{sizes:?}");
            assert_eq!((status.sense[2], status.sense[12]), (0x05, 0x24), "INVALID FIELD IN CDB");
        }
    }
}

/// XDWRITEREAD(10) gives the exclusive or of old and new data.
#[test]
fn data_goes_both_ways_if_that_was_agreed() {
    const INOUT: Features = Features::from_bits_retain(1 << 0);
    let rig = Rig::new();
    let mut exchange = write_10(9, 3);
    exchange[0] = 0x53;
    let (old, new) = (pattern(0x11, 1536), pattern(0x77, 1536));
    for mut options in variants() {
        let mut driver = rig.connect(&options);
        let refused = driver.execute(0, &Command::new(&exchange), &new, 1536).unwrap();
        assert_eq!((refused.response, refused.residual), (response::FAILURE, 3072));
        drop(driver);

        options.wanted.required |= INOUT;
        let mut driver = rig.connect(&options);
        driver.execute(0, &Command::new(&write_10(9, 3)), &old, 0).unwrap();
        let both = driver.execute(0, &Command::new(&exchange), &new, 1536).unwrap();
        assert_eq!((both.response, both.status, both.residual), (0, 0, 0));
        assert_eq!(both.used, 108 + 1536);
        let combined: Vec<u8> = old.iter().zip(&new).map(|(old, new)| old ^ new).collect();
        assert_eq!(both.data, combined);
        assert_eq!(driver.execute(0, &Command::new(&read_10(9, 3)), &[], 1536).unwrap().data, new);

        // Too little of one direction or the other, and more than enough of both.
        for (sent, room, response, residual, used) in [
            (1536, 512, response::OVERRUN, 0, 108 + 512),
            (512, 1536, response::OVERRUN, 1024, 108 + 512),
            (0, 1536, response::OVERRUN, 1536, 108),
            (1536, 0, response::OVERRUN, 0, 108),
            (2048, 4096, response::OK, 512 + 2560, 108 + 1536),
        ] {
            let answer = driver.execute(0, &Command::new(&exchange), &vec![5; sent], room).unwrap();
            assert_eq!(
                (answer.response, answer.status, answer.residual, answer.used),
                (response, 0, residual, used),
                "{sent} out, {room} in"
            );
        }
        // A command of one direction uses its own buffer and leaves the other one alone.
        let write = driver.execute(0, &Command::new(&write_10(9, 3)), &old, 64).unwrap();
        assert_eq!((write.response, write.status, write.residual), (0, 0, 64));
        assert!(write.data.iter().all(|&byte| byte == CANARY));
        let read = driver.execute(0, &Command::new(&read_10(9, 3)), &[9; 100], 1536).unwrap();
        assert_eq!((read.response, read.status, read.residual, read.data), (0, 0, 100, old.clone()));
    }
}

#[test]
fn the_configuration_space_is_honest() {
    let rig = Rig::new();
    let mut driver = rig.connect(&Options::default());
    let bytes = driver.monitor.session.config(0, 36).unwrap();
    let words: Vec<_> = bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    let limits = driver.execute(0, &Command::new(&[0x12, 1, 0xb0, 0, 64, 0]), &[], 64).unwrap().data;
    let longest = u32::from_be_bytes(limits[8..12].try_into().unwrap());
    assert_eq!(words[1..], [254, longest, 1024, 16, 96, 32, 255 << 16, 16383]);
}

#[test]
fn the_control_queue_answers() {
    let rig = Rig::new();
    let mut driver = rig.connect(&Options::default());
    let unit = address(0, 0);
    assert_eq!(driver.manage(function::QUERY_TASK, unit, 7).unwrap(), response::OK);
    assert_eq!(driver.manage(function::ABORT_TASK_SET, unit, 0).unwrap(), response::OK);
    assert_eq!(driver.manage(99, unit, 0).unwrap(), response::FUNCTION_REJECTED);
    let (events, code) = driver.notifications(Notifications::Query, unit, 0x7e).unwrap();
    assert_eq!((events & !0x7e, code), (0, response::OK));
}

#[test]
fn a_guest_may_have_more_regions_than_a_table() {
    let rig = Rig::new();
    let mut memory = GuestMemory::new();
    memory.add(0, 4 << 20, Memory::Memfd).unwrap();
    for n in 1..20 {
        memory.add(n << 30, 0x1000, Memory::Memfd).unwrap();
    }
    let mut driver = ScsiDriver::connect_with(&rig.socket, memory, &Options::default()).unwrap();
    let data: Vec<_> = (1..7).map(|n| Piece { address: n << 30, length: 512 }).collect();
    driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
    driver.submit(0, 0, &Command::new(&read_10(0, 6)), &Data { data_out: &[], data_in: &data }).unwrap();
    driver.flush(0).unwrap();
    assert_eq!(driver.wait_for(0, 0).unwrap().status, 0);
}
