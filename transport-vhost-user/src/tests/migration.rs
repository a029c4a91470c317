//! Virtual machines that move between two exports with one unit, while their requests go on.

use super::rings::{ALL, read_10};
use super::*;
use lunette_guest::migration::Migration;
use lunette_guest::{
    Command, Data, Error as GuestError, Options as GuestOptions, Piece, ScsiDriver, Session,
};
use lunette_vhost_user::StateDirection;
use std::collections::HashMap;

const SLOTS: u16 = 16;
const QUEUES: u16 = 2;
const BLOCK: usize = 512;
const PAGE: usize = 4096;
/// Blocks of each queue.
const BLOCKS: u16 = 64;

/// The state of a device that is as it is at its start.
const NO_STATE: &[u8] = br#"{"version":1,"vhost-user-scsi":{}}"#;

/// Two exports, as of two processes.
struct Ends {
    rig: Rig,
    there: PathBuf,
    _export: Handle,
}

impl Ends {
    fn new(store: Arc<dyn Backing>) -> Self {
        let rig = Rig::new(Io::Auto, store);
        let there = rig.socket.with_file_name("there.sock");
        let export = start(&rig.reactors, &there, &rig.targets);
        Self { rig, there, _export: export }
    }
}

fn options(packed: bool) -> GuestOptions {
    let mut options = GuestOptions {
        request_queues: QUEUES,
        queue_size: 64,
        slots: SLOTS,
        room: 2 * PAGE,
        // The device writes responses alone.
        strict: false,
        ..GuestOptions::default()
    };
    options.wanted.optional = ALL;
    options.wanted.required.set(Features::RING_PACKED, packed);
    options
}

/// What block `block` holds after it was written the `round`th time.
fn pattern(block: u16, round: u32) -> Vec<u8> {
    let seed = u32::from(block).wrapping_mul(0x9e37_79b9) ^ round.wrapping_mul(0x85eb_ca6b);
    (0..BLOCK as u32).map(|n| (seed.wrapping_add(n * 7) >> 3) as u8).collect()
}

/// A guest that writes blocks and reads them again. The lower half of the slots of a queue writes, the upper half reads
/// to where only the device writes.
struct Load {
    driver: ScsiDriver,
    /// By queue and block, how often it was written.
    rounds: HashMap<(u16, u16), u32>,
    /// What the command of a slot is about.
    sent: HashMap<(u16, u16), (u16, u32)>,
    next: u32,
    verified: u32,
}

impl Load {
    fn connect(socket: &Path, packed: bool) -> Self {
        let mut driver = ScsiDriver::connect(socket, &options(packed)).unwrap();
        for queue in 0..QUEUES {
            // The unit attention of the power-on.
            driver.execute(queue, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        }
        Self { driver, rounds: HashMap::new(), sent: HashMap::new(), next: 0, verified: 0 }
    }

    /// The data of slots that read.
    fn device_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let range = |queue| {
            let (first, all) = (self.driver.data(queue, SLOTS / 2), self.driver.all_data(queue));
            first.address()..all.address() + all.length() as u64
        };
        (0..QUEUES).map(range).collect()
    }

    fn piece(&self, queue: u16, slot: u16) -> Piece {
        // Not where a page begins, and over its end.
        Piece { address: self.driver.data(queue, slot).address() + 3900, length: BLOCK as u32 }
    }

    fn submit(&mut self, queue: u16, slot: u16) {
        let reads = slot >= SLOTS / 2;
        self.next += 1;
        let busy: Vec<u16> =
            self.sent.iter().filter(|((of, _), _)| *of == queue).map(|(_, (block, _))| *block).collect();
        let wanted = (self.next.wrapping_mul(0x9e37_79b9) >> 7) as u16;
        let of_kind =
            |block: &u16| !busy.contains(block) && (!reads || self.rounds.contains_key(&(queue, *block)));
        let Some(block) = (0..BLOCKS).map(|n| (wanted.wrapping_add(n)) % BLOCKS).find(of_kind) else {
            return;
        };
        let lba = queue * BLOCKS + block;
        let mut cdb = read_10(lba);
        let round = *self.rounds.get(&(queue, block)).unwrap_or(&0);
        let piece = [self.piece(queue, slot)];
        let (data, round) = match reads {
            true => (Data { data_out: &[], data_in: &piece }, round),
            false => {
                cdb[0] = 0x2a;
                self.driver.data(queue, slot).write(3900, &pattern(lba, round + 1));
                (Data { data_out: &piece, data_in: &[] }, round + 1)
            }
        };
        self.driver.submit(queue, slot, &Command::new(&cdb), &data).unwrap();
        self.sent.insert((queue, slot), (block, round));
    }

    /// Fills the queues.
    fn fill(&mut self) {
        for queue in 0..QUEUES {
            for slot in 0..SLOTS {
                if !self.sent.contains_key(&(queue, slot)) {
                    self.submit(queue, slot);
                }
            }
            self.driver.flush(queue).unwrap();
        }
    }

    fn collect(&mut self, queue: u16) -> bool {
        let Some(done) = self.driver.poll(queue).unwrap() else { return false };
        assert_eq!((done.response, done.status, done.residual), (0, 0, 0));
        let (block, round) = self.sent.remove(&(queue, done.slot)).unwrap();
        if done.slot >= SLOTS / 2 {
            let bytes = self.driver.data(queue, done.slot).bytes(3900, BLOCK);
            assert_eq!(bytes, pattern(queue * BLOCKS + block, round), "queue {queue} block {block}");
            self.verified += 1;
        } else {
            self.rounds.insert((queue, block), round);
        }
        true
    }

    /// Goes on for about so many commands.
    fn run(&mut self, commands: usize) {
        let mut left = commands;
        while left > 0 {
            self.fill();
            self.driver.wait_any().unwrap();
            for queue in 0..QUEUES {
                while self.collect(queue) {
                    left = left.saturating_sub(1);
                }
            }
        }
    }

    /// Waits for all that is under way.
    fn finish(&mut self) {
        while !self.sent.is_empty() {
            self.driver.wait_any().unwrap();
            for queue in 0..QUEUES {
                while self.collect(queue) {}
            }
        }
    }

    /// Stops all queues, with commands in them.
    fn stop(&mut self) {
        self.fill();
        for queue in 0..QUEUES {
            self.driver.stop(queue).unwrap();
        }
        for index in [0, 1] {
            self.driver.monitor.stop(index).unwrap();
        }
    }

    fn resume(&mut self) {
        (0..QUEUES + 2).for_each(|index| self.driver.monitor.start(index).unwrap());
    }

    fn status(&mut self, queue: u16) -> u8 {
        self.driver.execute(queue, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap().status
    }
}

/// Copies the virtual machine while it works, and stops it.
fn copy(load: &mut Load) -> Migration {
    let ranges = load.device_ranges();
    let migration = Migration::begin(&mut load.driver.monitor, ranges).unwrap();
    for _ in 0..5 {
        load.run(200);
        assert!(migration.round(&load.driver.monitor).unwrap() > 0);
    }
    load.stop();
    migration
}

#[test]
fn what_the_log_says_makes_the_copy_the_same_and_requests_go_on() {
    for packed in [false, true] {
        let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
        let mut load = Load::connect(&ends.rig.socket, packed);
        load.run(300);
        let migration = copy(&mut load);
        let behind = migration.differing(&load.driver.monitor).unwrap();
        assert!(!behind.is_empty(), "there is something to copy at last");
        migration.round(&load.driver.monitor).unwrap();
        assert_eq!(migration.differing(&load.driver.monitor).unwrap(), Vec::<u64>::new());
        let state = load.driver.monitor.session.save_state().unwrap();
        let wanted = options(packed).wanted;
        let (old, left) =
            migration.finish(&mut load.driver.monitor, &ends.there, &wanted, Some(&state)).unwrap();
        let as_left = left.read(0, 1 << 16).unwrap();
        load.resume();
        load.run(300);
        load.finish();
        // No unit attention, and nothing comes late where it was before.
        assert_eq!((load.status(0), load.status(1)), (0, 0));
        assert!(load.verified > 300, "{}", load.verified);
        assert_eq!(left.read(0, 1 << 16).unwrap(), as_left);
        drop(old);
    }
}

#[test]
fn a_migration_that_fails_goes_on_where_it_was() {
    let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
    let mut load = Load::connect(&ends.rig.socket, false);
    for _ in 0..3 {
        let migration = copy(&mut load);
        migration.round(&load.driver.monitor).unwrap();
        let state = load.driver.monitor.session.save_state().unwrap();
        // The other end takes the state, or what comes there as one, and hears no more.
        let mut there = Session::connect(&ends.there).unwrap();
        there.negotiate(&options(false).wanted).unwrap();
        there.load_state(&state).unwrap();
        assert!(matches!(there.load_state(&state[1..]), Err(GuestError::Refused(_))));
        drop(there);
        load.driver.monitor.log(false).unwrap();
        load.resume();
        load.run(200);
        assert!(migration.is_quiet(), "what is not logged any more");
    }
    load.finish();
    assert_eq!((load.status(0), load.status(1)), (0, 0));
}

#[test]
fn the_state_that_a_driver_relies_on_goes_along() {
    let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
    let unit = ends.rig.targets[&0].luns().inventory().units()[&0].clone();
    let mut front = FrontEnd::ready(&ends.rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.stop(2);
    unit.establish_attention(lunette_scsi::AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    drop(front);
    let session = |socket: &Path| {
        let mut session = Session::connect(socket).unwrap();
        session.negotiate(&options(false).wanted).unwrap();
        session
    };
    let mut here = session(&ends.rig.socket);
    here.set_config(20, &[252, 0, 0, 0, 16, 0, 0, 0]).unwrap();
    let state = here.save_state().unwrap();
    let mut there = session(&ends.there);
    there.load_state(&state).unwrap();
    assert_eq!(there.config(20, 8).unwrap(), [252, 0, 0, 0, 16, 0, 0, 0]);
    there.set_config(20, &[96, 0, 0, 0, 32, 0, 0, 0]).unwrap();
    drop(there);
    let mut front = FrontEnd::ready(&ends.there, MEMORY);
    let mut ring = front.start(2, 0, 64);
    let sense = front.command(&mut ring, &TEST_UNIT_READY, &[], 0).sense;
    assert_eq!(sense[12..14], [0x2a, 0x09], "and no power-on");
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
}

#[test]
fn states_of_no_use_are_refused_when_asked() {
    let rig = Rig::ram(Io::Auto);
    let mut session = Session::connect(&rig.socket).unwrap();
    session.negotiate(&options(false).wanted).unwrap();
    // Nobody has begun.
    assert!(session.done(lunette_vhost_user::Frontend::check_device_state).is_err());
    let no_cdb = br#"{"version":1,"vhost-user-scsi":{"sizes":[96,0]}}"#;
    let no_nexus = br#"{"version":1,"vhost-user-scsi":{"nexuses":{"0":{"units":{"x":5}}}}}"#;
    for wrong in [&b""[..], b"{", b"\xff", br#"{"version":7}"#, no_cdb, no_nexus] {
        assert!(session.load_state(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
    }
    session.load_state(NO_STATE).unwrap();
    let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let mut begin = |direction, fd| {
        let reply = session.ask(|frontend| frontend.set_device_state_fd(direction, fd)).unwrap();
        matches!(reply, Some(Reply::MoveState { success: true, fd: None }))
    };
    assert!(!begin(StateDirection::Load, event()));
    // One at a time.
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(begin(StateDirection::Load, reader.into()));
    let (other, _other) = std::io::pipe().unwrap();
    assert!(!begin(StateDirection::Load, other.into()));
    drop(writer);
    assert!(session.done(lunette_vhost_user::Frontend::check_device_state).is_err());
    // Who goes in the midst of it leaves nothing behind.
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(
        session.ask(|frontend| frontend.set_device_state_fd(StateDirection::Load, reader.into())).is_ok()
    );
    drop((session, writer));
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    // Nor is it moved while a ring is started.
    let (reader, _writer) = std::io::pipe().unwrap();
    let message = front.protocol.set_device_state_fd(StateDirection::Save, reader.into());
    assert!(matches!(front.ask(message), Some(Reply::MoveState { success: false, fd: None })));
}

#[test]
fn a_transfer_that_is_never_read_holds_nobody_up() {
    let ends = Ends::new(Arc::new(Ram::new(1 << 20).unwrap()));
    let mut session = Session::connect(&ends.rig.socket).unwrap();
    session.negotiate(&options(false).wanted).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    // Full before it begins.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    session.ask(|frontend| frontend.set_device_state_fd(StateDirection::Save, writer.into())).unwrap();
    let message = session.frontend().check_device_state();
    session.send(message).unwrap();
    let mut front = FrontEnd::ready(&ends.there, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    drop(reader);
    assert!(matches!(session.reply().unwrap(), Reply::Ack { success: false, .. }), "nobody reads it");
}
