//! A daemon's life by the command line: it starts from a file, and from then on is changed while it is used, by many at a time,
//! under I/O that must not notice.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lunette_e2e::control::Control;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{self, PORTAL};
use lunette_e2e::tools::{self, Output};
use lunette_e2e::uml::Uml;
use serde_json::json;

/// How many clients there are at once.
const CLIENTS: usize = 32;
/// How many units are plugged in and out.
const PLUGGED: usize = 200;

const TARGET: &str = "iqn.2026-11.org.example:disks";

/// What the daemon starts from: a guest's disks, of which one is worked on all the time, and a target with another.
const CONFIGURATION: &str = r#"
[[unit]]
name = "work"
store = "ram:32M"

[[unit]]
name = "files"
store = "files.img"
size = "64M"

[[unit]]
name = "remote"
store = "remote.img"
size = "32M"

[[vhost-user]]
name = "vm"
socket = "vm.sock"
units = { 0 = "work", 1 = "files" }

[[vhost-user]]
name = "other"
socket = "other.sock"
units = { }

[[portal]]
listen = "192.0.2.1:3260"

[[target]]
name = "iqn.2026-11.org.example:disks"
units = { 5 = "remote" }
"#;

#[test]
fn a_life() -> Result<()> {
    tools::need(["fio", "mkfs.ext4", "resize2fs", "fsck.ext4"])?;
    let netns = open_iscsi::network()?;
    let lunette = Lunette::new()?.inside(&netns);
    fs::write(lunette.path("lunette.toml"), CONFIGURATION)?;
    let lunette = lunette.arg("--config").arg("lunette.toml");
    let daemon = lunette.start()?;
    let mut guest = boot(&netns, &lunette)?;
    guest.check(&format!("iscsi_login {PORTAL}"))?;
    guest.check("rounds_begin $(disk 0 0) --size=16M")?;

    many_create_at_once(&lunette)?;
    plug_in_and_out(&lunette, &mut guest)?;
    grow_a_mounted_file_system(&lunette, &mut guest)?;
    throttle(&lunette, &mut guest)?;
    end_a_session(&lunette, &mut guest)?;
    apply_a_changed_file(&lunette, &mut guest)?;
    move_between_exports(&lunette, &mut guest)?;

    guest.check("rounds_wait 1; rounds_end")?;
    guest.power_off()?;
    start_again(&lunette, daemon)
}

/// A guest with the disks of the export, and in a network with the target.
fn boot(netns: &Netns, lunette: &Lunette<'_>) -> Result<Guest> {
    let uml = Uml::new().memory_mib(768).tap("tap0").inside(netns).vhost_user_scsi(lunette.path("vm.sock"));
    let mut guest = uml.boot()?;
    guest.check("ip address add 192.0.2.2/24 dev vec0; ip link set vec0 up; iscsi_start")?;
    Ok(guest)
}

/// Clients at the same time make units of their own, one unit that all want in the same way, and one that each wants
/// otherwise.
fn many_create_at_once(lunette: &Lunette<'_>) -> Result<()> {
    let create = |client: usize| -> Result<[Output; 3]> {
        Ok([
            lunette.ask(["lu", "create", &format!("own-{client}"), "--store", "ram:1M"])?.ok()?,
            lunette.ask(["lu", "create", "shared", "--store", "shared.img", "--size", "4M"])?.ok()?,
            lunette.ask(["lu", "create", "wanted", "--store", &format!("ram:{}M", client + 1)])?,
        ])
    };
    let results = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || create(client))).collect();
        let ended = clients.into_iter().map(|client| client.join().expect("a client"));
        ended.collect::<Result<Vec<_>>>()
    })?;
    let count =
        |which: usize, part: &str| results.iter().filter(|said| said[which].text().contains(part)).count();
    assert_eq!((count(0, "is served"), count(1, "is served"), count(2, "is served")), (CLIENTS, 1, 1));
    assert_eq!(count(1, "is there already"), CLIENTS - 1);
    assert_eq!(count(2, "there is another unit of the name `wanted`"), CLIENTS - 1);
    for said in &results {
        ensure!(said[2].status == i32::from(said[2].stdout.is_empty()), "{}", said[2]);
    }
    let expected = (0..CLIENTS).map(|client| format!("own-{client}"));
    let expected: BTreeSet<String> =
        expected.chain(["files", "remote", "shared", "wanted", "work"].map(str::to_owned)).collect();
    assert_eq!(units(lunette)?, expected);
    let own = (0..CLIENTS).map(|client| format!("own-{client}"));
    let words: Vec<String> = ["lu".into(), "delete".into()].into_iter().chain(own).collect();
    lunette.ask(&words)?.ok()?;
    lunette.tell(["lu", "delete", "shared", "wanted"])?;
    Ok(())
}

/// The names of all units.
fn units(lunette: &Lunette<'_>) -> Result<BTreeSet<String>> {
    let listed: serde_json::Value = serde_json::from_str(&lunette.tell(["lu", "list", "--json"])?)?;
    let names =
        listed.as_array().context("a list")?.iter().map(|unit| unit["name"].as_str().map(str::to_owned));
    names.collect::<Option<_>>().context("names")
}

/// Units come to the guest while it works, by several clients at a time, at the numbers that the daemon chooses; the guest
/// finds each, and loses each again.
fn plug_in_and_out(lunette: &Lunette<'_>, guest: &mut Guest) -> Result<()> {
    let before = guest.check("ls /sys/class/scsi_disk | wc -l")?.trim().parse::<usize>()?;
    let of_client = |client: usize| (client..PLUGGED).step_by(8);
    let places = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                scope.spawn(move || {
                    let plug = |number: usize| {
                        let (name, serial) = (format!("plug-{number}"), format!("PLUG{number:04}"));
                        let words =
                            ["lu", "create", &name, "--store", "ram:1M", "--serial", &serial, "--to", "vm"];
                        let said = lunette.tell(words)?;
                        let place =
                            said.lines().last().and_then(|line| line.split(' ').nth(4)?.parse::<u32>().ok());
                        place.with_context(|| format!("no place is told: {said}"))
                    };
                    of_client(client).map(plug).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let ended = clients.into_iter().map(|client| client.join().expect("a client"));
        Ok::<_, anyhow::Error>(ended.collect::<Result<Vec<_>>>()?.concat())
    })?;
    // The lowest free ones, each once: 0 and 1 are taken.
    let places: BTreeSet<u32> = places.into_iter().collect();
    assert_eq!(places, (2..2 + u32::try_from(PLUGGED)?).collect());
    let count = |count: usize| {
        format!("until [ $(ls /sys/class/scsi_disk | wc -l) = {count} ]; do rounds_run; sleep 0.1; done")
    };
    guest.check(&count(before + PLUGGED)).context("plugged in")?;
    let serials =
        guest.check("grep -aho 'PLUG[0-9]*' /sys/class/scsi_disk/*/device/vpd_pg80 | sort -u | wc -l")?;
    assert_eq!(serials.trim(), PLUGGED.to_string());
    guest.check("rounds_wait 1")?;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                scope.spawn(move || {
                    of_client(client).try_for_each(|number| {
                        lunette.tell(["lu", "delete", "--detach", &format!("plug-{number}")]).map(drop)
                    })
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client"))
    })?;
    guest.check(&count(before)).context("plugged out")?;
    guest.check("rounds_wait 1")?;
    Ok(())
}

/// A file system that is mounted grows with its disk.
fn grow_a_mounted_file_system(lunette: &Lunette<'_>, guest: &mut Guest) -> Result<()> {
    guest.check(
        "mkfs.ext4 -q -F $(disk 1 0); mkdir -p /run/files; mount $(disk 1 0) /run/files
         dd if=/dev/urandom of=/run/files/a bs=1M count=40 status=none; md5sum /run/files/a >/run/sum",
    )?;
    let said = lunette.tell(["lu", "resize", "files", "256M"])?;
    assert_eq!(said, "unit `files` has 256 MiB\n");
    // Linux hears of it and asks.
    guest.check(
        "until [ $(blockdev --getsize64 $(disk 1 0)) = $((256 << 20)) ]; do rounds_run; sleep 0.1; done",
    )?;
    guest.check(
        "resize2fs $(disk 1 0)
         dd if=/dev/urandom of=/run/files/b bs=1M count=150 status=none
         umount /run/files; fsck.ext4 -f -n $(disk 1 0); mount $(disk 1 0) /run/files
         md5sum -c /run/sum; umount /run/files",
    )?;
    let refused = lunette.ask(["lu", "resize", "files", "1M"])?.fails()?;
    assert!(refused.stderr.contains("--shrink"), "{refused}");
    Ok(())
}

/// A throttle of one unit lets no more through than it says, commands as well as bytes, and without it there is more.
fn throttle(lunette: &Lunette<'_>, guest: &mut Guest) -> Result<()> {
    const IOPS: u64 = 100;
    const BANDWIDTH: u64 = 1 << 20;
    let shown = lunette.tell(["show"])?;
    let throttled = format!("{shown}\n[[throttle]]\nname = \"files\"\nunits = [\"files\"]\niops = {IOPS}\n");
    fs::write(lunette.path("throttled.toml"), throttled)?;
    fs::write(lunette.path("free.toml"), &shown)?;
    lunette.tell(["apply", "throttled.toml"])?;
    let mut control = Control::of(lunette)?;
    let (commands, _) = counted(&mut control, guest, 1000)?;
    commands.keeps_to(IOPS, 1, "commands")?;
    guest.check("rounds_wait 1")?;
    lunette.tell([
        "throttle",
        "change",
        "files",
        "--unset",
        "iops",
        "--bandwidth",
        &BANDWIDTH.to_string(),
    ])?;
    let (_, bytes) = counted(&mut control, guest, 1000)?;
    bytes.keeps_to(BANDWIDTH, BLOCK, "bytes")?;
    // It would take a quarter of an hour if the throttle still counted.
    lunette.tell(["throttle", "change", "files", "--unset", "bandwidth", "--iops", "1"])?;
    lunette.tell(["apply", "free.toml"])?;
    guest.check(&fio(1000))?;
    assert_eq!(lunette.tell(["show"])?, shown);
    Ok(())
}

/// Bytes of each command that is counted.
const BLOCK: u64 = 4096;

/// Reads so many blocks of the throttled unit.
fn fio(blocks: u64) -> String {
    format!(
        "fio --name=counted --filename=$(disk 1 0) --direct=1 --ioengine=libaio --iodepth=16 --rw=randread --bs={BLOCK} \
            --number_ios={blocks} --io_size={} --size=64M >/dev/null",
        blocks * BLOCK
    )
}

/// What was done between two looks.
struct Done {
    count: u64,
    /// From before the first look to after the last one.
    time: Duration,
}

impl Done {
    /// It is no more than what may come at once, a tenth of a second's, and what came since; each reactor may have begun one more
    /// of `largest` when there was something left. How much less it is depends on how busy this machine is.
    fn keeps_to(&self, rate: u64, largest: u64, what: &str) -> Result<()> {
        const REACTORS: u64 = 2;
        let Self { count, time } = self;
        let allowed = rate as f64 * (time.as_secs_f64() + 0.1) + (REACTORS * largest) as f64;
        let share = *count as f64 / allowed * 100.0;
        println!("{count} {what} in {time:?} are {share:.1} % of what may be done");
        ensure!((*count as f64) <= allowed, "{count} {what} in {time:?} at {rate} a second");
        Ok(())
    }
}

/// The commands and the bytes of which the throttled unit was read while so many blocks were.
fn counted(control: &mut Control, guest: &mut Guest, blocks: u64) -> Result<(Done, Done)> {
    let mut look = || -> Result<[u64; 2]> {
        let stats = control.call("stats.show", json!({ "unit": "files" }))?;
        let total = &stats["units"][0]["total"];
        let buckets = total["reads"]["buckets"].as_array().context("times of reads")?;
        let commands = buckets.iter().filter_map(|bucket| bucket[1].as_u64()).sum();
        Ok([commands, total["bytes_read"].as_u64().context("bytes")?])
    };
    let begin = Instant::now();
    let before = look()?;
    guest.check(&fio(blocks))?;
    let after = look()?;
    let time = begin.elapsed();
    let done = [0, 1].map(|which| Done { count: after[which] - before[which], time });
    // The times of the last commands may not be counted yet, but their bytes are.
    ensure!(done[1].count >= blocks * BLOCK, "{} bytes of {blocks} blocks were counted", done[1].count);
    let [commands, bytes] = done;
    Ok((commands, bytes))
}

/// The guest's session is ended. It logs in again, and its disk is as it was.
fn end_a_session(lunette: &Lunette<'_>, guest: &mut Guest) -> Result<()> {
    guest.check(
        "dd if=/dev/urandom of=$(disk 5 1) bs=1M count=4 oflag=direct; md5sum $(disk 5 1) >/run/remote",
    )?;
    let session = |lunette: &Lunette<'_>| -> Result<u64> {
        let listed: serde_json::Value = serde_json::from_str(&lunette.tell(["session", "list", "--json"])?)?;
        let session =
            listed.as_array().and_then(|sessions| sessions.iter().find(|one| one["target"] == TARGET));
        session.and_then(|session| session["tsih"].as_u64()).context("no session")
    };
    let first = session(lunette)?;
    lunette.tell(["session", "end", &first.to_string(), "--now"])?;
    tools::wait_until("another session", || Ok(session(lunette).is_ok_and(|again| again != first)))?;
    guest.check("md5sum -c /run/remote")?;
    Ok(())
}

/// A file that says something else about much of what is there becomes true at once, without what is worked on noticing.
fn apply_a_changed_file(lunette: &Lunette<'_>, guest: &mut Guest) -> Result<()> {
    let shown = lunette.tell(["show"])?;
    let files = lunette.path("files.img").display().to_string();
    ensure!(shown.contains(&files) && shown.contains("size = \"256M\""), "{shown}");
    let changed = shown
        .replace("units = { 0 = \"work\", 1 = \"files\" }", "units = { 0 = \"work\", 3 = \"more\" }")
        .replace("units = { 5 = \"remote\" }", "units = { 5 = \"remote\", 6 = \"files\" }")
        + "\n[[unit]]\nname = \"more\"\nstore = \"ram:2M\"\nserial = \"MORE1\"\n";
    fs::write(lunette.path("changed.toml"), &changed)?;
    let plan = lunette.tell(["apply", "--dry-run", "changed.toml"])?;
    for part in [
        "+ unit more",
        "+ unit more at 3 of vhost-user export vm",
        "- unit files at 1 of vhost-user export vm",
    ] {
        ensure!(plan.contains(part), "{part} is not planned: {plan}");
    }
    assert_eq!(lunette.tell(["show"])?, shown, "a plan changes nothing");
    let done = lunette.tell(["apply", "changed.toml"])?;
    ensure!(done.starts_with(&plan) && done.contains(" done\n"), "{done}");
    assert_eq!(lunette.tell(["apply", "changed.toml"])?, "nothing changes\n");
    guest.check(
        "until [ -e /sys/class/scsi_disk/0:0:0:3 -a ! -e /sys/class/scsi_disk/0:0:0:1 ]; do rounds_run; sleep 0.1; done
         grep -aq MORE1 /sys/class/scsi_disk/0:0:0:3/device/vpd_pg80
         iscsiadm -m session --rescan
         until [ -e /sys/class/scsi_disk/1:0:0:6 ]; do rounds_run; sleep 0.1; done
         md5sum -c /run/remote
         rounds_wait 1",
    )?;
    // All or nothing: the last of these cannot be done.
    let before = lunette.tell(["show"])?;
    let broken = changed
        + "\n[[unit]]\nname = \"fine\"\nstore = \"ram:1M\"\n"
        + "\n[[unit]]\nname = \"nowhere\"\nstore = \"/nonexistent/disk.img\"\n";
    fs::write(lunette.path("broken.toml"), broken)?;
    let refused = lunette.ask(["apply", "broken.toml"])?.fails()?;
    ensure!(refused.stderr.contains("/nonexistent/disk.img"), "{refused}");
    assert_eq!(lunette.tell(["show"])?, before, "nothing has changed");
    Ok(())
}

/// A unit goes from one export to another, with what is in it, while its guest works on others.
fn move_between_exports(lunette: &Lunette<'_>, guest: &mut Guest) -> Result<()> {
    guest.check("dd if=/dev/urandom of=$(disk 3 0) bs=64k count=4 oflag=direct; md5sum $(disk 3 0) | cut -d' ' -f1 >/run/more")?;
    assert_eq!(lunette.tell(["lu", "move", "more", "vm", "other"])?, "unit `more` is LUN 0 of other\n");
    guest.check("until [ ! -e /sys/class/scsi_disk/0:0:0:3 ]; do rounds_run; sleep 0.1; done")?;
    assert_eq!(
        lunette.tell(["lu", "move", "more", "other", "vm", "--at", "1:9"])?,
        "unit `more` is LUN 1:9 of vm\n"
    );
    guest.check(
        "until [ -b /dev/$(ls /sys/class/scsi_device/0:0:1:9/device/block 2>/dev/null) ]; do rounds_run; sleep 0.1; done
         disk=/dev/$(ls /sys/class/scsi_device/0:0:1:9/device/block)
         [ $(md5sum $disk | cut -d' ' -f1) = $(cat /run/more) ]
         rounds_wait 1",
    )?;
    Ok(())
}

/// What a daemon shows is all that another one needs.
fn start_again(lunette: &Lunette<'_>, daemon: Daemon) -> Result<()> {
    let shown = lunette.tell(["show"])?;
    let listed = lunette.tell(["lu", "list", "--json"])?;
    let file = lunette.path("lunette.toml").display().to_string();
    assert_eq!(lunette.tell(["save"])?, format!("{file} is written\n"));
    assert_eq!(lunette.tell(["reload"])?, "0 steps done\n");
    daemon.stop()?;
    let daemon = lunette.start()?;
    assert_eq!(lunette.tell(["show"])?, shown);
    assert_eq!(lunette.tell(["lu", "list", "--json"])?, listed, "the same units with the same identities");
    daemon.stop()?;
    Ok(())
}
