//! 64 virtual machines at once, half of them killed again and again.
//!
//! The machines are processes of this test that drive a disk as a guest's kernel does (`lunette-guest`), and one that
//! is a real kernel. Each writes blocks of its own, reads them back and compares.

use anyhow::{Context, Result, bail, ensure};
use lunette_e2e::checks;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;
use lunette_e2e::usage::Usage;
use lunette_guest::{Command as Scsi, Data, Options, Piece, ScsiDriver, address};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MACHINES: usize = 64;
const UNITS: usize = 4;
/// Bytes of a block of the test, and how many each machine has.
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;
const DEPTH: u16 = 16;
/// WRITE(10) and READ(10).
const WRITE: u8 = 0x2a;
const READ: u8 = 0x28;

/// What a machine says after its first round.
const AT_WORK: &str = "at work";

/// Makes this process a virtual machine: the socket and a number.
const ROLE: &str = "LUNETTE_CROWD_MACHINE";

fn span() -> Duration {
    Duration::from_secs(if tools::full() { 120 } else { 10 })
}

#[test]
fn a_crowd_of_machines_survives_the_death_of_its_half() -> Result<()> {
    checks::need_tools()?;
    let mut lunette = Lunette::new()?;
    for _ in 0..UNITS - 1 {
        lunette = lunette.lu("disk:ram:32M,w");
    }
    let file = lunette.file("disk.img", 32 << 20)?;
    lunette = lunette.lu(format!("disk:{},w", file.display()));
    for number in 0..MACHINES {
        lunette = lunette.vhost_user(&format!("{number}.sock"));
    }
    let mut daemon = lunette.start()?;
    let socket = |number: usize| lunette.path(&format!("{number}.sock"));
    warm_up(&mut daemon, &socket)?;
    let idle = Usage::of(&mut daemon)?;

    let kernel = Uml::new().vhost_user_scsi(socket(0));
    let mut kernel = kernel.boot()?;
    // The last 4 MiB of a unit, which the others leave alone.
    kernel.check(
        "until [ -e /run/enough ]; do
            fio --name=verify --filename=$(disk 0) --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k \
                --offset=28M --size=4M --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output=/run/fio.log
         done &
         echo $! >/run/verifier",
    )?;
    let mut machines = Vec::new();
    for number in 1..MACHINES {
        machines.push(Machine::start(&socket(number), number)?);
    }
    let seed = std::process::id().into();
    println!("seed {seed}");
    let kills = kill_at_random(&mut machines, &socket, seed)?;
    daemon.alive()?;

    // All are told before one is waited for.
    for machine in &mut machines {
        machine.tell_to_finish()?;
    }
    for machine in machines {
        machine.finish()?;
    }
    kernel.check(
        "touch /run/enough
         while kill -0 $(cat /run/verifier) 2>/dev/null; do sleep 0.1; done
         grep 'err= 0' /run/fio.log",
    )?;
    kernel.power_off()?;
    println!("{kills} machines were killed");
    tools::wait_until("the daemon lets go of all connections and their memory", || {
        let now = Usage::of(&mut daemon)?;
        Ok((now.descriptors, now.shared) == (idle.descriptors.clone(), idle.shared))
    })?;
    let after = Usage::of(&mut daemon)?;
    println!("before {idle:?}, after {after:?}");
    ensure!(after.memory < idle.memory + (16 << 10), "memory grew: {idle:?} before, {after:?} after");
    daemon.stop()?;
    Ok(())
}

/// Has all machines there at once, in this process, for one round: what the daemon opens or allocates at first use is then
/// no part of the comparison.
fn warm_up(daemon: &mut Daemon, socket: &dyn Fn(usize) -> PathBuf) -> Result<()> {
    let cold = Usage::of(daemon)?.connections();
    let mut drivers = Vec::new();
    for number in 0..MACHINES {
        drivers.push(connect(&socket(number), number as u64)?);
    }
    for (number, (driver, lun)) in drivers.iter_mut().enumerate() {
        round(driver, *lun, number as u64, WRITE, 0)?;
        round(driver, *lun, number as u64, READ, 0)?;
    }
    drop(drivers);
    tools::wait_until("the daemon lets go of the first connections", || {
        Ok(Usage::of(daemon)?.connections() == cold)
    })
}

/// Kills machines with odd numbers in the middle of their work and starts them anew; how many.
fn kill_at_random(
    machines: &mut [Machine],
    socket: &dyn Fn(usize) -> PathBuf,
    mut seed: u64,
) -> Result<usize> {
    let end = Instant::now() + span();
    let mut kills = 0;
    while Instant::now() < end {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let number = 1 + 2 * ((seed >> 33) as usize % (MACHINES / 2));
        let machine = &mut machines[number - 1];
        machine.wait_for_work()?;
        machine.alive()?;
        machine.process.kill()?;
        machine.process.wait()?;
        *machine = Machine::start(&socket(number), number)?;
        kills += 1;
        std::thread::sleep(Duration::from_millis((seed >> 20) % 40));
    }
    Ok(kills)
}

/// A process of this program that is a virtual machine.
struct Machine {
    process: Child,
    says: BufReader<ChildStdout>,
    number: usize,
}

impl Machine {
    fn start(socket: &Path, number: usize) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--exact", "one_of_the_crowd", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{number} {}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let says = BufReader::new(process.stdout.take().context("a pipe")?);
        Ok(Self { process, says, number })
    }

    /// Waits until it has done a round. From then on it has commands under way until it is told to finish.
    fn wait_for_work(&mut self) -> Result<()> {
        let mut line = String::new();
        while !line.trim_end().ends_with(AT_WORK) {
            line.clear();
            ensure!(
                self.says.read_line(&mut line)? > 0,
                "machine {} ended before it was at work",
                self.number
            );
        }
        Ok(())
    }

    fn alive(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("machine {} ended: {status}", self.number),
        }
    }

    /// Lets it end after this round.
    fn tell_to_finish(&mut self) -> Result<()> {
        self.alive()?;
        drop(self.process.stdin.take());
        Ok(())
    }

    /// Waits until it has ended.
    fn finish(mut self) -> Result<()> {
        let mut said = String::new();
        self.says.read_to_string(&mut said)?;
        let status = self.process.wait()?;
        ensure!(status.success() && said.contains("verified"), "machine {}: {status}\n{said}", self.number);
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Does nothing unless it was started as a machine.
#[test]
fn one_of_the_crowd() -> Result<()> {
    let Some(role) = std::env::var_os(ROLE) else { return Ok(()) };
    let role = role.into_string().ok().context("the role is text")?;
    let (number, socket) = role.split_once(' ').context("number and socket")?;
    let number: u64 = number.parse()?;
    let enough = Arc::new(AtomicBool::new(false));
    let told = enough.clone();
    // The end of its input is the end of its work.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let (mut driver, lun) = connect(Path::new(socket), number)?;
    let mut rounds = 0u64;
    while rounds == 0 || !enough.load(Ordering::Relaxed) {
        rounds += 1;
        round(&mut driver, lun, number, WRITE, rounds)?;
        round(&mut driver, lun, number, READ, rounds)?;
        if rounds == 1 {
            println!("{AT_WORK}");
        }
    }
    println!("verified {rounds} rounds");
    Ok(())
}

/// The driver of a machine and its logical unit, which is ready.
fn connect(socket: &Path, number: u64) -> Result<(ScsiDriver, [u8; 8])> {
    let options = Options { slots: DEPTH, room: BLOCK as usize, ..Options::default() };
    let mut driver = ScsiDriver::connect(socket, &options)?;
    let lun = address(0, (number % UNITS as u64) as u16);
    while driver.execute(0, &Scsi::new(&[0; 6]).to(lun), &[], 0)?.status != 0 {}
    Ok((driver, lun))
}

/// Writes or reads all blocks of the machine.
fn round(driver: &mut ScsiDriver, lun: [u8; 8], number: u64, opcode: u8, rounds: u64) -> Result<()> {
    let word = |block: u64, at: u64| (number << 48 | block << 32 | rounds << 10 | at).to_le_bytes();
    let expected = |block: u64| -> Vec<u8> { (0..BLOCK / 8).flat_map(|at| word(block, at)).collect() };
    let mut blocks = [0; DEPTH as usize];
    let send = |driver: &mut ScsiDriver, slot: u16, block: u64, blocks: &mut [u64]| -> Result<()> {
        let lba = (((number * BLOCKS + block) * BLOCK / 512) as u32).to_be_bytes();
        let cdb = [opcode, 0, lba[0], lba[1], lba[2], lba[3], 0, 0, (BLOCK / 512) as u8, 0];
        let buffer = driver.data(0, slot);
        let piece = [Piece { address: buffer.address(), length: BLOCK as u32 }];
        let data = match opcode {
            READ => Data { data_in: &piece, data_out: &[] },
            _ => Data { data_out: &piece, data_in: &[] },
        };
        match opcode {
            READ => buffer.fill(0xee),
            _ => buffer.write(0, &expected(block)),
        }
        blocks[usize::from(slot)] = block;
        driver.submit(0, slot, &Scsi::new(&cdb).to(lun).tagged(block), &data)?;
        Ok(())
    };
    for slot in 0..DEPTH {
        send(driver, slot, slot.into(), &mut blocks)?;
    }
    driver.flush(0)?;
    for n in u64::from(DEPTH)..BLOCKS + u64::from(DEPTH) {
        let done = driver.wait(0)?;
        ensure!((done.response, done.status, done.residual) == (0, 0, 0), "{done:?}");
        let block = blocks[usize::from(done.slot)];
        if opcode == READ {
            let found = driver.data(0, done.slot).bytes(0, BLOCK as usize);
            ensure!(found == expected(block), "block {block} of round {rounds} is wrong");
        }
        if n < BLOCKS {
            send(driver, done.slot, n, &mut blocks)?;
            driver.flush(0)?;
        }
    }
    Ok(())
}
