//! What limits and the reading of metrics cost: the same disk in memory with and without.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{GuestCell, SOCKET, measure_scsi, random_read};
use crate::daemon::Daemon;
use crate::load::Sample;
use crate::report::{Others, Section};
use crate::run::{Contender, Settings, Tally};

const METRICS: &str = "metrics.sock";
/// How often the metrics are read. They are written anew once a second.
const INTERVAL: Duration = Duration::from_secs(1);
/// Of commands and bytes, and never reached.
const THROTTLE: &str =
    "[[throttle]]\nname = \"all\"\niops = 1000000000\nbandwidth = \"1T\"\nunits = [\"disk\"]\n";

/// For a daemon at `home`.
fn configuration(cell: &GuestCell, throttled: bool, settings: &Settings, home: &Path) -> String {
    let poll = if cell.is_polled() { "always" } else { settings.poll.as_str() };
    let throttle = if throttled { THROTTLE } else { "" };
    let metrics = home.join(METRICS);
    format!(
        "[daemon]\nreactors = 1\npoll = \"{poll}\"\nmetrics = {metrics:?}\n\
         [[unit]]\nname = \"disk\"\nstore = \"ram:256M\"\nlun = 0\n\
         [[vhost-user]]\nname = \"guest\"\nsocket = \"{SOCKET}\"\n{throttle}"
    )
}

fn serve(program: &Path, cell: &GuestCell, throttled: bool, settings: &Settings) -> Result<Daemon> {
    let mut written = Ok(());
    let mut daemon = Daemon::start(program, settings, cell.pinned, |command| {
        let home = command.get_current_dir().unwrap_or(Path::new("."));
        let configuration = configuration(cell, throttled, settings, home);
        written = fs::write(home.join("lunette.toml"), configuration);
        command.args(["serve", "--config", "lunette.toml", "--state-dir", "state"]);
    })?;
    written?;
    daemon.wait_for_line("ready")?;
    Ok(daemon)
}

/// Reads the metrics until it is dropped.
struct Reader {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Reader {
    fn start(daemon: &Daemon) -> Self {
        let (path, (stop, stopped)) = (daemon.path(METRICS), channel());
        let read = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let mut stream = UnixStream::connect(&path).context("no metrics")?;
                stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                ensure!(text.ends_with("# EOF\n"), "half of the metrics");
            }
            Ok(())
        };
        Self { stop: Some(stop), thread: Some(std::thread::spawn(read)) }
    }

    fn finish(mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => bail!("the thread that reads metrics has ended"),
        }
    }
}

fn run(cell: &GuestCell, throttled: bool, is_read: bool, settings: &Settings) -> Result<Sample> {
    let program = settings.lunette.as_ref().context("no lunette")?;
    let daemon = serve(program, cell, throttled, settings)?;
    let reader = is_read.then(|| Reader::start(&daemon));
    let sample = measure_scsi(&daemon, cell, false, settings)?;
    reader.map_or(Ok(()), Reader::finish)?;
    Ok(sample)
}

pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let contender = |(name, throttled, is_read): (&'static str, bool, bool)| {
        Contender::new(name, move |cell: &GuestCell| run(cell, throttled, is_read, settings))
    };
    let kinds = [
        ("plain", false, false),
        ("metrics read", false, true),
        ("limited", true, false),
        ("limited, metrics read", true, true),
    ];
    let mut contenders: Vec<_> = kinds.into_iter().map(contender).collect();
    let cells = [
        GuestCell::polled(random_read(1)),
        GuestCell::polled(random_read(32)),
        GuestCell::new(random_read(32)),
    ];
    let tally = Tally::of(settings, &cells, &mut contenders)?;
    let mut section = Section::new("vhost-user: under a limit, and while metrics are read", settings)?;
    section.fact(format!(
        "lunette with a disk of its own memory. \"limited\": with a throttle of commands and bytes that allows more; \"metrics \
         read\": somebody reads the metrics every {INTERVAL:?}, which is part of the daemon's CPU time. Counting is on in all of \
         them."
    ));
    section.table(&tally, Others::Variants);
    Ok(section)
}
