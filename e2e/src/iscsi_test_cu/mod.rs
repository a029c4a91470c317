//! libiscsi's conformance suite, test by test, each on a disk made for it.

mod expected;
mod setups;
mod totals;
mod verdict;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};

pub use expected::Expected;
pub use totals::Totals;
pub use verdict::Verdict;

use crate::daemon::{Daemon, Lunette};
use crate::tools;
use setups::Setup;

/// How many tests run at a time: one for each core of a small machine, and one that mostly sleeps.
const WORKERS: usize = 3;

/// The time limit of one test. A test that hangs costs this long.
const LIMIT: Duration = Duration::from_secs(300);

/// One test's name and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `Suite.Test`.
    pub name: String,
    /// What the disk was that it ran on.
    pub setup: &'static str,
    /// How it ended.
    pub verdict: Verdict,
}

/// How the suite's sessions are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without proofs or digests.
    Open,
    /// Both sides prove who they are with CHAP, and headers have digests. (libiscsi 1.19 knows no data digests, and of CHAP's
    /// algorithms MD5 only.)
    Proven,
}

/// The target of [`Access::Proven`] and how to log in to it.
const CONFIGURATION: &str = r#"
[[portal]]
listen = "127.0.0.1:0"
[[target]]
name = "iqn.2026-11.dev.lunette:proven"
parameters = { header-digest = "require" }
[[target.access]]
[target.access.chap]
accounts = [{ name = "suite", secret = { file = "suite" } }]
target = { name = "disks", secret = { file = "disks" } }
"#;

/// Runs every test and gives the outcomes in the order of the suite's own list. Each test is a
/// process of its own with a daemon of its own: what one leaves behind, a hang or a crash included,
/// costs no other.
pub fn run() -> Result<Vec<Outcome>> {
    run_those(|_| true, Access::Open)
}

/// Runs the tests of a family (`SCSI` or `iSCSI`) with sessions that are opened like this.
pub fn run_family(family: &str, access: Access) -> Result<Vec<Outcome>> {
    run_those(|test| test.family == family, access)
}

fn run_those(wanted: impl Fn(&Test) -> bool, access: Access) -> Result<Vec<Outcome>> {
    let tests = list()?;
    let setups = setups::assign(&tests)?;
    let preloaded = tools::preload_library("iscsi_test_cu", include_str!("preloaded.c"))?;
    let mut order: Vec<(usize, &Test)> = tests.iter().enumerate().filter(|(_, test)| wanted(test)).collect();
    order.sort_by_key(|(number, _)| setups[*number]);
    let queue = Mutex::new(order.into_iter());
    let next = || queue.lock().map_or(None, |mut queue| queue.next());
    let work = || {
        let mut outcomes = Vec::new();
        while let Some((number, test)) = next() {
            let setup = &setups::all()[setups[number]];
            let verdict = run_one(&preloaded, test, setup, access).unwrap_or_else(|error| {
                let first = error.chain().map(|cause| first_line(&cause.to_string())).collect::<Vec<_>>();
                Verdict::Fail(first.join(": "))
            });
            outcomes.push((number, Outcome { name: test.name.clone(), setup: setup.name, verdict }));
        }
        outcomes
    };
    let mut outcomes = std::thread::scope(|scope| {
        let workers = [(); WORKERS].map(|()| scope.spawn(work));
        let ended = workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic"));
        ended.collect::<Vec<_>>()
    });
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn run_one(preloaded: &Path, test: &Test, setup: &Setup, access: Access) -> Result<Verdict> {
    let (daemon, url) = serve(setup, access)?;
    let mut command = tools::command("iscsi-test-cu")?;
    let selection = format!("{}.{}", test.family, test.name);
    // Some of what is left out is told to those who ask for every word only.
    command.args(["--dataloss", "--allow-sanitize", "--verbose", "--Verbose-scsi", "--test", &selection]);
    // The second URL is another session to the same logical unit.
    command.args([&url, &url]).env("LD_PRELOAD", preloaded);
    let output = tools::run(&mut command, LIMIT)?;
    daemon.stop()?;
    Ok(Verdict::read(output.status, &output.text()))
}

/// A daemon with the disk, and the URL of it.
fn serve(setup: &Setup, access: Access) -> Result<(Daemon, String)> {
    let lunette = Lunette::new()?.lu(setup.disk);
    if access == Access::Open {
        let daemon = lunette.iscsi().start()?;
        let url = daemon.iscsi_url(0)?;
        return Ok((daemon, url));
    }
    for name in ["suite", "disks"] {
        let file = lunette.path(name);
        fs::write(&file, format!("secret-of-{name}"))?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    }
    fs::write(lunette.path("iscsi.toml"), CONFIGURATION)?;
    let daemon = lunette.arg("--iscsi-config").arg("iscsi.toml").start()?;
    let url = daemon.iscsi_url(0)?.replace("iscsi://", "iscsi://suite%secret-of-suite@");
    let url = format!("{url}?target_user=disks&target_password=secret-of-disks&header_digest=crc32c");
    Ok((daemon, url))
}

struct Test {
    family: String,
    name: String,
}

/// Every test once. The list also has them by other families, such as `ALL`.
fn list() -> Result<Vec<Test>> {
    let listed = tools::output("iscsi-test-cu", ["--list"])?;
    let tests: Vec<Test> = listed
        .stdout
        .lines()
        .filter_map(|line| line.split_once('.'))
        .filter(|(family, name)| matches!(*family, "SCSI" | "iSCSI") && name.contains('.'))
        .map(|(family, name)| Test { family: family.to_owned(), name: name.to_owned() })
        .collect();
    if tests.is_empty() {
        bail!("iscsi-test-cu lists no tests: {listed}");
    }
    Ok(tests)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
