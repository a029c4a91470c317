//! Benchmarks: lunette side by side with its peers, in one run, on one machine.
//!
//! The load generators are the project's own, so that they cost little, check every block that comes back, and see the
//! daemon as a guest or an initiator does. Absolute figures depend on the machine; the ratios are what counts. The
//! crate measures the daemon from outside and depends on the protocol crates only.

mod cpu;
mod daemon;
mod disk;
mod fio;
mod instructions;
mod iscsi;
mod load;
mod lunette;
mod null;
mod peers;
mod report;
mod run;
mod scale;
mod vhost_user;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use cpu::Split;
use report::Section;
use run::Settings;

/// Compares lunette with its peers, and writes the results as Markdown.
#[derive(Parser)]
struct Arguments {
    /// What to run; everything but `scale` unless given.
    #[arg(value_enum)]
    benchmarks: Vec<Benchmark>,
    /// Rounds; the median of them counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of each run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Run only workloads whose name has this part, such as "4k random read QD32".
    #[arg(long, default_value = "")]
    filter: String,
    /// The lunette program; by default the one beside this program.
    #[arg(long)]
    lunette: Option<PathBuf>,
    /// Run the peers alone.
    #[arg(long, conflicts_with = "lunette")]
    peers_only: bool,
    /// How lunette's reactors wait.
    #[arg(long, default_value = "adaptive", value_parser = ["adaptive", "always", "never"])]
    poll: String,
    /// Pin the load generator to the last CPU and the daemons to the others, always.
    #[arg(long)]
    pin: bool,
    /// One round of one second: shows that everything runs, and no more.
    #[arg(long)]
    quick: bool,
    /// Serve a store that does nothing at this vhost-user socket: the daemon of `ring`.
    #[arg(long, hide = true)]
    serve_null: Option<PathBuf>,
    /// Exchange bytes as this says: the contender of `iscsi` that is no target.
    #[arg(long, hide = true)]
    serve_ping_pong: Option<iscsi::Exchange>,
    /// Fail if a claim does not hold.
    #[arg(long)]
    check: bool,
    /// The results file; bench/results.md, or bench/results-scale.md, unless the run is quick, filtered or of peers alone.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// vhost-user with a file in the page cache, against vhost-device-scsi, qemu-storage-daemon and fio.
    PageCache,
    /// vhost-user with a disk in memory, against vhost-device-scsi and qemu-storage-daemon.
    Memory,
    /// vhost-user with O_DIRECT on the machine's disk, against fio.
    DirectIo,
    /// TEST UNIT READY over vhost-user, against vhost-device-scsi.
    NoData,
    /// 64 guests that do nothing.
    Idle,
    /// lunette's vhost-user ring with a store that does nothing.
    Ring,
    /// The same, with other choices of the guest.
    Options,
    /// A disk in memory under a limit, and while metrics are read, against itself without.
    Watched,
    /// Instructions that a READ or WRITE takes from ring to ring.
    Instructions,
    /// iSCSI against tgt and a bare exchange over TCP, and the system calls that it takes.
    Iscsi,
    /// 10,000 units of files, and 1,000 sockets with a guest each: what a start takes, and what each of them holds.
    Scale,
}

impl Benchmark {
    fn run(self, settings: &Settings) -> Result<Vec<Section>> {
        let section = match self {
            Self::PageCache => vhost_user::page_cache(settings),
            Self::Memory => vhost_user::memory(settings),
            Self::DirectIo => vhost_user::direct_io(settings),
            Self::NoData => vhost_user::no_data(settings),
            Self::Idle => vhost_user::idle(settings),
            Self::Ring => vhost_user::ring(settings),
            Self::Options => vhost_user::options(settings),
            Self::Watched => vhost_user::watched(settings),
            Self::Instructions => instructions::measure(settings),
            Self::Iscsi => return Ok(vec![iscsi::compare(settings)?, iscsi::count_calls(settings)?]),
            Self::Scale => return scale::measure(settings),
        };
        Ok(vec![section?])
    }
}

impl Arguments {
    fn settings(&self) -> Result<Settings> {
        let lunette = match (&self.lunette, self.peers_only) {
            (_, true) => None,
            (Some(program), _) => {
                Some(program.canonicalize().with_context(|| format!("no {}", program.display()))?)
            }
            (None, _) => Some(std::env::current_exe()?.with_file_name("lunette")),
        };
        if let Some(program) = lunette.as_ref().filter(|program| !program.is_file()) {
            bail!("{} is missing: build it with `cargo build --release -p lunette`", program.display());
        }
        // Generations differ from those that an earlier run has left on the disk.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Settings {
            rounds: if self.quick { 1 } else { self.rounds.into() },
            seconds: if self.quick { 1.0 } else { self.seconds },
            filter: self.filter.clone(),
            lunette,
            poll: self.poll.clone(),
            split: Split::new()?,
            pin: self.pin,
            idle: Duration::from_secs(if self.quick { 1 } else { 10 }),
            generations: std::cell::Cell::new(now.as_secs() as u8),
        })
    }

    fn benchmarks(&self) -> Vec<Benchmark> {
        match &self.benchmarks[..] {
            [] => {
                Benchmark::value_variants().iter().copied().filter(|one| *one != Benchmark::Scale).collect()
            }
            some => some.to_vec(),
        }
    }

    fn results(&self) -> Option<PathBuf> {
        let whole = self.filter.is_empty() && !self.peers_only && !self.quick;
        let file = match self.benchmarks[..] {
            [Benchmark::Scale] => "bench/results-scale.md",
            _ => "bench/results.md",
        };
        self.output.clone().or_else(|| whole.then(|| file.into()))
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(socket) = &arguments.serve_null {
        return null::serve(socket, &arguments.poll);
    }
    if let Some(exchange) = &arguments.serve_ping_pong {
        return iscsi::serve_ping_pong(exchange);
    }
    let settings = arguments.settings()?;
    let mut sections = Vec::new();
    for benchmark in arguments.benchmarks() {
        for section in benchmark.run(&settings)?.into_iter().filter(|section| !section.is_empty()) {
            println!("{}", section.markdown());
            sections.push(section);
        }
    }
    if let Some(path) = arguments.results() {
        report::save(&path, &sections)?;
    }
    if arguments.check && !sections.iter().all(|section| section.holds()) {
        bail!("a claim does not hold");
    }
    Ok(())
}
