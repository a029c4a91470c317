//! By vhost-user-scsi.

use super::{SIZE, STRETCH, expect_clean, open, unit};
use lunette_engine::TargetPort;
use lunette_guest::{Command, Data, Options, Piece, ScsiDriver, Waiting, Wanted};
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_vhost_user::{Options as ExportOptions, VhostUserExport};
use lunette_vhost_user::Features;

const DEPTH: u16 = 32;
const LENGTH: u32 = 8192;

/// Keeps the queue full of READ(10) or WRITE(10) with data in as many pieces.
fn transfer(driver: &mut ScsiDriver, opcode: u8, pieces: u32, count: usize) {
    let send = |driver: &mut ScsiDriver, slot: u16, n: usize| {
        let block = (n as u32 * 16) % (SIZE as u32 / 512 - 16);
        let lba = block.to_be_bytes();
        let cdb = [opcode, 0, lba[0], lba[1], lba[2], lba[3], 0, 0, (LENGTH / 512) as u8, 0];
        let data = driver.data(0, slot);
        let length = LENGTH / pieces;
        let piece = |n: u32| Piece { address: data.address() + u64::from(n * length), length };
        let list = [piece(0), piece(1), piece(2), piece(3)];
        let list = &list[..pieces as usize];
        let data = match opcode {
            0x28 => Data { data_in: list, data_out: &[] },
            _ => Data { data_out: list, data_in: &[] },
        };
        driver.submit(0, slot, &Command::new(&cdb), &data).unwrap();
    };
    for n in 0..usize::from(DEPTH) {
        send(driver, n as u16, n);
    }
    driver.flush(0).unwrap();
    for n in usize::from(DEPTH)..count + usize::from(DEPTH) {
        let done = driver.wait(0).unwrap();
        assert_eq!((done.response, done.status, done.residual), (0, 0, 0));
        if n < count {
            send(driver, done.slot, n);
            driver.flush(0).unwrap();
        }
    }
}

fn check(store: &str, packed: bool) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let port = TargetPort::new("test", 1, Protocol::NONE, [(0, unit(open(folder.path(), store)))].into());
    let socket = folder.path().join("vm.sock");
    let export = VhostUserExport::new(ExportOptions::new(&socket), [(0, port)].into());
    let handle = export.start(reactors.poster(), &[ReactorId(0)]).unwrap();

    let mut wanted = Wanted::default();
    wanted.required.set(Features::RING_PACKED, packed);
    // The machine polls: what the transport keeps for a descriptor that it notifies often is no part of a command.
    let waiting = Waiting::Poll;
    let options = Options { wanted, slots: DEPTH, room: LENGTH as usize, waiting, ..Options::default() };
    let mut driver = ScsiDriver::connect(&socket, &options).unwrap();
    // The first command learns of the power-on.
    driver.execute(0, &Command::new(&[0; 6]), &[], 0).unwrap();
    for pieces in [1, 4] {
        for (name, opcode) in [("WRITE", 0x2a), ("READ", 0x28)] {
            let what = format!("{name} of {pieces} pieces, {store}, packed ring: {packed}");
            expect_clean(&reactors, &what, || transfer(&mut driver, opcode, pieces, STRETCH));
        }
    }
    drop(driver);
    handle.stop();
}

#[test]
fn memory() {
    check("memory", false);
    check("memory", true);
}

#[test]
fn page_cache() {
    check("page cache", false);
}

#[test]
fn past_the_page_cache() {
    check("direct", true);
}
