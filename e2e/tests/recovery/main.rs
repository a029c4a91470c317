//! The daemon is killed under load, again and again, and real kernels go on as if nothing had happened.

mod relay;

use anyhow::{Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::held::Held;
use lunette_e2e::qemu::Qemu;
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;
use relay::{Meeting, Relay};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Random numbers from a seed, which is said so that they can be had again.
struct Random(u64);

impl Random {
    fn new() -> Result<Self> {
        let seed = match std::env::var("LUNETTE_TEST_SEED") {
            Ok(seed) => seed.parse()?,
            Err(_) => std::process::id().into(),
        };
        println!("LUNETTE_TEST_SEED={seed}");
        Ok(Self(seed))
    }

    /// A duration below `most`.
    fn pause(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        most * (self.0 >> 40) as u32 / (1 << 24)
    }
}

/// Kills and restarts the daemon at random moments, while the guest of `boot` writes its disk and checks what it wrote, and
/// holds it reserved. The daemon listens, or connects as a client.
fn kill_under_load(is_client: bool, boot: impl FnOnce(&Path) -> Result<Guest>) -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let socket = lunette.path("vm.sock");
    let meeting = match is_client {
        true => Meeting::Here(UnixListener::bind(&socket)?),
        false => Meeting::At(socket.clone()),
    };
    let client = if is_client { ",client=on" } else { "" };
    let lunette = lunette
        .lu(format!("disk:{},w,direct=on,fault=delay:5", file.display()))
        .arg("--vhost-user")
        .arg(format!("{}{client}", socket.display()));
    let mut daemon = lunette.start()?;
    let relay = Relay::start(&lunette.path("relay.sock"), meeting)?;
    let mut guest = Held::by(boot(&lunette.path("relay.sock"))?)?;
    let wanted = if tools::full() { 50 } else { 5 };
    let mut random = Random::new()?;
    let (begin, mut kills, mut again) = (Instant::now(), 0, 0);
    // One that finds nothing in flight tries nothing.
    while kills < wanted || again == 0 {
        ensure!(kills < 20 * wanted, "{kills} kills, and nothing was in flight at any of them");
        kills += 1;
        std::thread::sleep(random.pause(Duration::from_secs(2)));
        daemon = kill_once(daemon, &lunette, &mut random, &relay, kills)?;
        guest.goes_on()?;
        again += in_flight(&daemon.log());
    }
    println!("{kills} kills in {:?}, {again} requests taken again", begin.elapsed());
    guest.end()?;
    daemon.stop()?;
    Ok(())
}

fn kill_once<'a>(
    daemon: Daemon,
    lunette: &Lunette<'a>,
    random: &mut Random,
    relay: &Relay,
    kill: u64,
) -> Result<Daemon> {
    daemon.kill()?;
    std::thread::sleep(random.pause(Duration::from_millis(200)));
    let mut daemon = lunette.start()?;
    tools::wait_until("the relay to find the next daemon", || {
        daemon.alive()?;
        Ok(relay.taken_over() >= kill)
    })?;
    Ok(daemon)
}

/// How many requests of its predecessor a daemon has gone on with.
fn in_flight(log: &str) -> u64 {
    let counts =
        log.split("in_flight").skip(1).map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_digit()));
    counts.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()).sum()
}

/// One processor, a packed ring.
#[test]
fn user_mode_linux_lives_through_kills() -> Result<()> {
    kill_under_load(false, |socket| Uml::new().memory_mib(512).vhost_user_scsi(socket).boot())
}

/// The daemon connects, as a client.
#[test]
fn user_mode_linux_lives_through_kills_of_a_client() -> Result<()> {
    kill_under_load(true, |socket| Uml::new().memory_mib(512).vhost_user_scsi(socket).boot())
}

/// Two processors with a split ring each.
#[test]
fn a_debian_kernel_lives_through_kills() -> Result<()> {
    kill_under_load(false, |socket| Qemu::new().vhost_user_scsi(socket, ",virtqueue_size=256").boot())
}

/// Two processors with a packed ring each.
#[test]
fn a_debian_kernel_with_packed_rings_lives_through_kills() -> Result<()> {
    kill_under_load(false, |socket| {
        Qemu::new().vhost_user_scsi(socket, ",virtqueue_size=256,packed=on").boot()
    })
}
