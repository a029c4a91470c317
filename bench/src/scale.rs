//! Very many logical units and virtual machines: what each costs, and that it costs the same however many there are.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::load;
use crate::report::{Bar, Section};
use crate::run::Settings;
use crate::vhost_user::{Guest, Scsi};

/// Units of files, and virtual machines.
const UNITS: usize = 10_000;
const GUESTS: usize = 1_000;
const FEW: usize = 100;

/// How long threads may take to end that have nothing to do.
const REST: Duration = Duration::from_secs(30);

const UNIT_SIZE: u64 = 1 << 30;
const TARGET: &str = "iqn.2026-11.dev.lunette:scale";

/// A directory with a configuration and its files.
struct Rig<'a> {
    program: &'a Path,
    home: TempDir,
}

/// A daemon that serves.
struct Daemon {
    child: Child,
    /// How long it took until it served.
    start: Duration,
    /// Where iSCSI is served, if it is.
    portal: Option<String>,
}

/// What a daemon has.
#[derive(Clone, Copy)]
struct Holdings {
    /// Bytes of memory that belong to no file.
    memory: u64,
    descriptors: usize,
    threads: usize,
}

impl<'a> Rig<'a> {
    fn new(program: &'a Path, configuration: &str) -> Result<Self> {
        let home = TempDir::with_prefix("lunette-scale-")?;
        fs::write(home.path().join("lunette.toml"), configuration)?;
        Ok(Self { program, home })
    }

    /// Units with files of nothing but holes, which are all seen at one target.
    fn with_units(program: &'a Path, units: usize) -> Result<Self> {
        let rig = Self::new(program, &of_units(units))?;
        (0..units).try_for_each(|unit| File::create(rig.path(&disk(unit)))?.set_len(UNIT_SIZE))?;
        Ok(rig)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.current_dir(&self.home).args(arguments).stdin(Stdio::null());
        command
    }

    /// How long a command takes.
    fn time(&self, arguments: &[&str]) -> Result<Duration> {
        let begin = Instant::now();
        let output = self.command(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(begin.elapsed())
    }

    fn start(&self) -> Result<Daemon> {
        let mut command = self.command(&["serve", "--config", "lunette.toml", "--state-dir", "state"]);
        command.stdout(Stdio::piped()).stderr(File::create(self.path("log"))?);
        let die = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(die) };
        let begin = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut daemon = Daemon { child, start: Duration::ZERO, portal: None };
        for line in BufReader::new(output).lines() {
            let line = line?;
            let url = line.split_whitespace().find_map(|word| word.strip_prefix("iscsi://"));
            let portal = url.and_then(|url| url.split('/').next());
            if let Some(portal) = portal {
                daemon.portal = Some(portal.to_owned());
            }
            if line == "ready" {
                daemon.start = begin.elapsed();
                return Ok(daemon);
            }
        }
        bail!("the daemon ended: {}", fs::read_to_string(self.path("log"))?)
    }
}

impl Daemon {
    fn holdings(&self) -> Result<Holdings> {
        let pid = self.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.with_context(|| format!("no {key} in the status of a process"))
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Holdings { memory: number("RssAnon:")? << 10, descriptors, threads: number("Threads:")? as usize })
    }

    /// What it has when threads without work have ended, down to so many, or after [`REST`].
    fn holdings_at_rest(&self, threads: usize) -> Result<Holdings> {
        let begin = Instant::now();
        loop {
            let now = self.holdings()?;
            if now.threads <= threads || begin.elapsed() > REST {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns how long it took.
    fn stop(mut self) -> Result<Duration> {
        let begin = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(begin.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn disk(unit: usize) -> String {
    format!("disk{unit}")
}

fn of_units(units: usize) -> String {
    let mut text = format!("[[portal]]\nlisten = \"127.0.0.1:0\"\n[[target]]\nname = \"{TARGET}\"\n");
    for unit in 0..units {
        let _ = write!(text, "[[unit]]\nname = \"u{unit}\"\nstore = \"{}\"\nlun = {unit}\n", disk(unit));
    }
    text
}

fn of_guests(guests: usize) -> String {
    let mut text = "[[unit]]\nname = \"u\"\nstore = \"ram:1M\"\nlun = 0\n".to_owned();
    for guest in 0..guests {
        let _ = write!(text, "[[vhost-user]]\nname = \"vm{guest}\"\nsocket = \"{}\"\n", socket(guest));
    }
    text
}

fn socket(guest: usize) -> String {
    format!("vm{guest}.sock")
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Both parts.
pub(crate) fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let Some(program) = settings.lunette.as_deref() else { return Ok(Vec::new()) };
    let (units, guests) = if settings.rounds > 1 { (UNITS, GUESTS) } else { (UNITS / 10, GUESTS / 10) };
    Ok(vec![with_units(settings, program, units)?, with_guests(settings, program, guests)?])
}

fn with_units(settings: &Settings, program: &Path, units: usize) -> Result<Section> {
    let mut section = Section::without_rounds("scale: logical units of files", settings)?;
    section.fact(format!(
        "{units} units, each a file of {} MiB of holes, all at one iSCSI target; configured by a file.",
        UNIT_SIZE >> 20
    ));
    let few = Rig::with_units(program, FEW)?;
    let base = few.start()?;
    let before = base.holdings()?;
    base.stop()?;
    // The last tells what a unit costs where there are fewer.
    let part = Rig::with_units(program, units / 4)?;
    part.start()?.stop()?;
    let quarter = part.start()?;
    let quarter_start = quarter.start;
    quarter.stop()?;

    let rig = Rig::with_units(program, units)?;
    let first = rig.start()?;
    let first_start = first.start;
    let first_stop = first.stop()?;
    let daemon = rig.start()?;
    let now = daemon.holdings()?;
    let begin = Instant::now();
    let listed = scan(&daemon)?;
    let scanned = begin.elapsed();
    ensure!(listed.is_none_or(|listed| listed == units), "a scan has found {listed:?} units");
    let after = daemon.holdings()?;
    let start = daemon.start;
    let stop = daemon.stop()?;
    let check = rig.time(&["check", "lunette.toml"])?;
    fs::write(rig.path("other.toml"), of_units(units).replace("lun = 7\n", "lun = 16000\n"))?;
    let diff = rig.time(&["diff", "lunette.toml", "other.toml"])?;

    let each = |bytes: u64| (bytes.saturating_sub(before.memory)) as f64 / (units - FEW) as f64 / 1024.0;
    section.fact(format!(
        "First start, with all identities to be made: {}; stop: {}.",
        seconds(first_start),
        seconds(first_stop)
    ));
    section.fact(format!("Start: {}; stop: {}; {} threads.", seconds(start), seconds(stop), now.threads));
    section.fact(format!(
        "`lunette check`: {}; `lunette diff` with one difference: {}.",
        seconds(check),
        seconds(diff)
    ));
    section.fact(match listed {
        Some(_) => format!(
            "A scan by libiscsi's `iscsi-ls --show-luns`, which sends three commands to each unit: {}; then {:.1} KiB of memory \
             for each.",
            seconds(scanned),
            each(after.memory)
        ),
        None => "No scan: there is no `iscsi-ls`.".to_owned(),
    });
    let descriptors = (now.descriptors - before.descriptors) as f64 / (units - FEW) as f64;
    let linear = start.as_secs_f64() / quarter_start.as_secs_f64() / 4.0;
    section.claim_value("seconds to start: at most 3".into(), Some(start.as_secs_f64()), Bar::AtMost(3.0))?;
    let memory = Some(each(now.memory));
    section.claim_value("KiB of memory for each unit: at most 16".into(), memory, Bar::AtMost(16.0))?;
    section.claim_value(
        "descriptors for each unit: at most 1".into(),
        Some(descriptors),
        Bar::AtMost(1.01),
    )?;
    section.claim_value(
        "a unit takes as long to start as where there is a quarter of them: at most 1.5 ×".into(),
        Some(linear),
        Bar::AtMost(1.5),
    )?;
    Ok(section)
}

/// Has libiscsi look at all units; returns how many it has found, if it is there.
fn scan(daemon: &Daemon) -> Result<Option<usize>> {
    let portal = daemon.portal.as_deref().context("no iSCSI portal")?;
    let output = match Command::new("iscsi-ls").args(["-s", &format!("iscsi://{portal}")]).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    ensure!(output.status.success(), "iscsi-ls: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("Lun:")).count()))
}

fn with_guests(settings: &Settings, program: &Path, guests: usize) -> Result<Section> {
    let mut section = Section::without_rounds("scale: virtual machines", settings)?;
    let few = Rig::new(program, &of_guests(FEW / 10))?;
    let base = few.start()?;
    let before = base.holdings()?;
    base.stop()?;
    let rig = Rig::new(program, &of_guests(guests))?;
    rig.start()?.stop()?;
    let daemon = rig.start()?;
    let idle = daemon.holdings()?;
    let mut connected = Vec::new();
    for guest in 0..guests {
        let mut guest = Scsi::connect(&rig.path(&socket(guest)), 1, 4096, &Guest::default())?;
        load::prepare(&mut guest)?;
        connected.push(guest);
    }
    let at_once = daemon.holdings()?.threads;
    let busy = daemon.holdings_at_rest(idle.threads)?;
    let start = daemon.start;
    drop(connected);
    let stop = daemon.stop()?;
    let more = (guests - FEW / 10) as f64;
    let each = |now: &Holdings| {
        let memory = now.memory.saturating_sub(before.memory) as f64 / more / 1024.0;
        let descriptors = now.descriptors.saturating_sub(before.descriptors) as f64 / more;
        format!("{memory:.1} KiB of memory and {descriptors:.1} descriptors")
    };
    section.fact(format!(
        "{guests} vhost-user sockets that show one unit. Start: {}; stop: {}.",
        seconds(start),
        seconds(stop)
    ));
    section.fact(format!("Each takes {} while nobody is connected.", each(&idle)));
    section.fact(format!(
        "Each takes {} when a guest of one request queue is connected and has sent a few commands. All have connected at \
         once; their descriptors were mapped by {} threads, of which {} are left.",
        each(&busy),
        at_once,
        busy.threads
    ));
    let descriptors = (idle.descriptors - before.descriptors) as f64 / more;
    section.claim_value(
        "descriptors for each socket: at most 3".into(),
        Some(descriptors),
        Bar::AtMost(3.0),
    )?;
    Ok(section)
}
