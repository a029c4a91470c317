//! What a daemon does with the commands that a killed one has taken: not all may be carried out a second time.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::{frozen, tools};
use lunette_guest::{Command, GuestMemory, InFlight, Monitor, Options, ScsiDriver, response};
use lunette_vhost_user::Features;

const MIB: usize = 1 << 20;
const QUEUES: u16 = 3;
const BLOCK: usize = 512;

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 0x02;
const RESERVATION_CONFLICT: u8 = 0x18;
const UNIT_ATTENTION: u8 = 6;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
/// COMPARE AND WRITE of the first block.
const COMPARE_AND_WRITE: [u8; 16] = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
/// Service actions of PERSISTENT RESERVE OUT (SPC-5 6.16.2).
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT: u8 = 4;
const WRITE_EXCLUSIVE: u8 = 1;
const KEYS: [u64; 2] = [0xa, 0xb];

fn write_10(block: u8) -> [u8; 10] {
    [0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0]
}

fn read_10(block: u8) -> [u8; 10] {
    [0x28, 0, 0, 0, 0, block, 0, 0, 1, 0]
}

/// A virtual machine with a socket of its own.
struct Machine {
    driver: ScsiDriver,
    options: Options,
}

impl Machine {
    fn connect(socket: &Path, features: Features) -> Result<Self> {
        let mut options = Options::default();
        options.wanted.required |= features;
        let memory = GuestMemory::with_size(16 * MIB)?;
        let monitor = Monitor::connect(socket, memory, &options.wanted)?;
        let driver = ScsiDriver::new(monitor, &options)?;
        Ok(Self { driver, options })
    }

    /// Starts the queues, and takes what there is to be told first.
    fn start(&mut self) -> Result<()> {
        self.driver.start()?;
        self.execute(&TEST_UNIT_READY, &[], 0).map(drop)
    }

    /// Has a command carried out that has to succeed, after what there is to be told first.
    fn execute(&mut self, cdb: &[u8], data_out: &[u8], data_in: usize) -> Result<Vec<u8>> {
        loop {
            let answer = self.driver.execute(0, &Command::new(cdb), data_out, data_in)?;
            ensure!(answer.response == response::OK, "{answer:?}");
            match answer.status {
                GOOD => return Ok(answer.data),
                CHECK_CONDITION if sense_key(&answer.sense) == UNIT_ATTENTION => {}
                _ => anyhow::bail!("{answer:?}"),
            }
        }
    }

    /// PERSISTENT RESERVE OUT, for good.
    fn reserve(&mut self, action: u8, keys: [u64; 2]) -> Result<()> {
        let cdb = [0x5f, action, WRITE_EXCLUSIVE, 0, 0, 0, 0, 0, 24, 0];
        let mut list = [0; 24];
        list[..8].copy_from_slice(&keys[0].to_be_bytes());
        list[8..16].copy_from_slice(&keys[1].to_be_bytes());
        // Of registrations: APTPL.
        list[20] = u8::from(action == REGISTER);
        self.execute(&cdb, &list, 0).map(drop)
    }
}

fn sense_key(sense: &[u8]) -> u8 {
    sense.get(2).map_or(0, |byte| byte & 0xf)
}

/// One daemon is killed while the device holds up what `one` had it write, and another is started.
struct Site<'a> {
    device: frozen::Device,
    lunette: Lunette<'a>,
    notes: InFlight,
    daemon: Daemon,
    one: Machine,
}

impl Site<'_> {
    /// `send` is to have something written, after `prepare`.
    fn kill(
        features: Features,
        prepare: impl FnOnce(&mut Machine, &Lunette<'_>) -> Result<()>,
        send: impl FnOnce(&mut ScsiDriver) -> Result<()>,
    ) -> Result<Option<Self>> {
        let Some(device) = frozen::Device::new()? else { return Ok(None) };
        let lunette = Lunette::new()?;
        let lu = format!("disk:{},w,direct=on", device.name());
        let lunette = lunette.lu(lu).vhost_user("one.sock").vhost_user("two.sock");
        let daemon = lunette.start()?;
        let mut one = Machine::connect(&lunette.path("one.sock"), features)?;
        let size = one.options.queue_size;
        let notes = one.driver.monitor.session.begin_notes(QUEUES, size)?.context("memory for notes")?;
        one.start()?;
        prepare(&mut one, &lunette)?;
        device.freeze(true)?;
        send(&mut one.driver)?;
        tools::wait_until("a write to reach the device", || Ok(device.writes()? > 0))?;
        daemon.kill()?;
        device.freeze(false)?;
        let daemon = lunette.start()?;
        Ok(Some(Self { device, lunette, notes, daemon, one }))
    }

    fn two(&self) -> Result<Machine> {
        Machine::connect(&self.lunette.path("two.sock"), Features::empty())
    }

    /// The next daemon goes on with what the first machine has in flight.
    fn go_on(&mut self) -> Result<()> {
        let Machine { driver, options } = &mut self.one;
        let socket = self.lunette.path("one.sock");
        driver.monitor.reconnect(&socket, &options.wanted, Some(&self.notes))?;
        (0..QUEUES).try_for_each(|queue| driver.monitor.start(queue))?;
        Ok(())
    }

    fn end(self) -> Result<()> {
        let Self { device, daemon, one, .. } = self;
        drop(one);
        daemon.stop()?;
        drop(device);
        Ok(())
    }
}

const LAYOUTS: [Features; 2] = [Features::empty(), Features::RING_PACKED];

/// The old daemon has carried it out. What has been written since must not be swapped again, though it compares equal.
#[test]
fn what_was_compared_and_written_is_not_compared_and_written_again() -> Result<()> {
    for features in LAYOUTS {
        let mut slot = None;
        let swap = [[0; BLOCK], [1; BLOCK]].concat();
        let killed = Site::kill(
            features,
            |_, _| Ok(()),
            |driver| {
                slot = Some(driver.send(0, &Command::new(&COMPARE_AND_WRITE), &swap, 0)?);
                Ok(())
            },
        )?;
        let Some(mut site) = killed else { return Ok(()) };
        let mut two = site.two()?;
        two.start()?;
        ensure!(two.execute(&read_10(0), &[], BLOCK)? == [1; BLOCK], "it was carried out once");
        two.execute(&write_10(0), &[0; BLOCK], 0)?;
        site.go_on()?;
        let answer = site.one.driver.wait_for(0, slot.context("it was sent")?)?;
        ensure!((answer.response, answer.status) == (response::RESET, GOOD), "{answer:?}");
        ensure!(two.execute(&read_10(0), &[], BLOCK)? == [0; BLOCK], "it was carried out twice");
        // Its initiator sends it again, after it has taken the unit attention.
        site.one.execute(&COMPARE_AND_WRITE, &swap, 0)?;
        ensure!(two.execute(&read_10(0), &[], BLOCK)? == [1; BLOCK]);
        drop(two);
        site.end()?;
    }
    Ok(())
}

/// The next daemon knows registrations and reservation, and the other machine is there first.
#[test]
fn who_was_preempted_meanwhile_writes_no_more() -> Result<()> {
    for features in LAYOUTS {
        let mut slots = Vec::new();
        let killed = Site::kill(
            features,
            |one, lunette| {
                one.reserve(REGISTER, [0, KEYS[0]])?;
                one.reserve(RESERVE, [KEYS[0], 0])?;
                let mut two = Machine::connect(&lunette.path("two.sock"), Features::empty())?;
                two.start()?;
                two.reserve(REGISTER, [0, KEYS[1]])?;
                let refused = two.driver.execute(0, &Command::new(&write_10(0)), &[9; BLOCK], 0)?;
                ensure!(refused.status == RESERVATION_CONFLICT, "{refused:?}");
                Ok(())
            },
            |driver| {
                for block in 0..4 {
                    slots.push(driver.send(0, &Command::new(&write_10(2 * block)), &[1; BLOCK], 0)?);
                }
                Ok(())
            },
        )?;
        let Some(mut site) = killed else { return Ok(()) };
        let mut two = site.two()?;
        two.start()?;
        two.reserve(PREEMPT, [KEYS[1], KEYS[0]])?;
        (0..4).try_for_each(|block| two.execute(&write_10(2 * block), &[2; BLOCK], 0).map(drop))?;
        site.go_on()?;
        let mut conflicts = 0;
        for slot in slots {
            let answer = site.one.driver.wait_for(0, slot)?;
            let sense = site.one.driver.sense(0, &answer);
            match answer.status {
                RESERVATION_CONFLICT => conflicts += 1,
                CHECK_CONDITION if sense_key(&sense) == UNIT_ATTENTION => {}
                _ => anyhow::bail!("{answer:?}, sense data {sense:02x?}"),
            }
        }
        ensure!(conflicts > 0, "nobody was told of the reservation");
        for block in 0..4 {
            ensure!(two.execute(&read_10(2 * block), &[], BLOCK)? == [2; BLOCK], "block {block} is written");
        }
        drop(two);
        site.end()?;
    }
    Ok(())
}
