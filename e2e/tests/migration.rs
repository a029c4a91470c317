//! Virtual machines move from one daemon to another under load, with their disk.

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::qemu::portable::{Incoming, Machine, Portable};
use lunette_e2e::tools::{self, Guarded};
use lunette_guest::migration::Migration;
use lunette_guest::verify::Verifier;
use serde_json::json;
use std::path::PathBuf;

/// Verifies what it writes, again and again, and says so.
const LOAD: &str = r#"
n=0
while fio --name=verify --filename=/dev/sda --ioengine=libaio --direct=1 --rw=randrw --bsrange=512-128k \
    --iodepth=16 --size=48M --io_size=16M --verify=crc32c --verify_backlog=64 --verify_fatal=1 \
    --randseed=$n --output=/tmp/out; do
    n=$((n + 1))
    echo "VERIFIED $n"
done
cat /tmp/out
dmesg | tail -40
echo FAILED
sleep 100000
"#;
const VERIFIED: &str = "VERIFIED";

/// Two daemons with one disk.
struct Ends {
    a: Lunette<'static>,
    b: Lunette<'static>,
}

impl Ends {
    fn new() -> Result<Self> {
        let lunette = Lunette::new()?;
        let file = lunette.file("disk.img", 64 << 20)?;
        let lunette = lunette.lu(format!("disk:{},w,name=disk,migratable=on", file.display()));
        let end = |name: &str| {
            let socket = format!("{},name=vm", lunette.path(name).display());
            let control = lunette.path(&format!("{name}.control"));
            lunette.clone().arg("--vhost-user").arg(socket).arg("--control").arg(control)
        };
        Ok(Self { a: end("a"), b: end("b") })
    }

    fn start(&self) -> Result<(Daemon, Daemon)> {
        Ok((self.a.start()?, self.b.start()?))
    }

    fn socket(&self, end: &str) -> PathBuf {
        self.a.path(end)
    }
}

/// A guest with a kernel of its own between them.
struct Guest {
    ends: Ends,
    guest: Portable,
    properties: &'static str,
}

impl Guest {
    fn new(properties: &'static str) -> Result<Self> {
        tools::need(["fio"])?;
        Ok(Self { ends: Ends::new()?, guest: Portable::new(LOAD, &["fio"])?, properties })
    }

    fn boot(&self) -> Result<Machine> {
        let mut machine = self.await_at("first", "a", Incoming::No)?;
        machine.wait_for(VERIFIED, 1)?;
        Ok(machine)
    }

    fn await_at(&self, name: &str, end: &str, incoming: Incoming) -> Result<Machine> {
        self.guest.start(name, &self.ends.socket(end), self.properties, incoming)
    }
}

/// It verifies some more, and nothing was wrong.
fn goes_on(machine: &mut Machine) -> Result<()> {
    let times = machine.said(VERIFIED);
    machine.wait_for(VERIFIED, times + 1)?;
    ensure!(machine.said("FAILED") == 0, "{}", machine.console());
    Ok(())
}

fn there_and_back(properties: &'static str) -> Result<()> {
    let guest = Guest::new(properties)?;
    let (a, b) = guest.ends.start()?;
    let mut here = guest.boot()?;
    for (name, end) in [("second", "b"), ("third", "a")] {
        let mut there = guest.await_at(name, end, Incoming::Runs)?;
        here.begin_to_move(&there)?;
        let told = here.moved()?;
        ensure!(told["status"] == "completed", "{told}");
        goes_on(&mut there)?;
        here = there;
    }
    drop(here);
    a.stop()?;
    b.stop()?;
    Ok(())
}

#[test]
fn a_guest_moves_there_and_back_while_it_verifies() -> Result<()> {
    there_and_back("")
}

#[test]
fn a_guest_with_packed_rings_moves_there_and_back_while_it_verifies() -> Result<()> {
    there_and_back(",packed=on")
}

#[test]
fn a_guest_whose_move_fails_goes_on_where_it_was() -> Result<()> {
    let guest = Guest::new("")?;
    let (a, b) = guest.ends.start()?;
    let mut here = guest.boot()?;
    // The other end goes while memory is copied.
    let there = guest.await_at("second", "b", Incoming::Runs)?;
    here.execute("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 }))?;
    here.execute("migrate", json!({ "uri": there.address() }))?;
    drop(there);
    let told = here.moved()?;
    ensure!(told["status"] == "failed", "{told}");
    ensure!(here.runs()?);
    goes_on(&mut here)?;
    // It goes when all has been copied, and this end has stopped.
    let there = guest.await_at("third", "b", Incoming::Stopped)?;
    here.begin_to_move(&there)?;
    let told = here.moved()?;
    ensure!(told["status"] == "completed" && !here.runs()?, "{told}");
    drop(there);
    here.execute("cont", json!({}))?;
    goes_on(&mut here)?;
    drop(here);
    a.stop()?;
    b.stop()?;
    Ok(())
}

/// Where initiators find the disk, which may not be there yet.
fn iscsi_url(daemon: &Daemon) -> Result<String> {
    let printed = daemon.printed();
    let after = |word: &str| printed.split_whitespace().skip_while(|other| *other != word).nth(1);
    let (portal, target) = after("-p").zip(after("-T")).context("no portal is printed")?;
    Ok(format!("iscsi://{portal}/{target}/0"))
}

/// QEMU would not survive to be refused, so its disk stays instead.
#[test]
fn a_guest_whose_disk_others_use_does_not_run_elsewhere() -> Result<()> {
    tools::need(["qemu-img"])?;
    let mut guest = Guest::new("")?;
    guest.ends.a = guest.ends.a.iscsi();
    let (a, b) = guest.ends.start()?;
    let mut here = guest.boot()?;
    let mut reader = tools::command("qemu-img")?;
    let reader = reader.args(["bench", "-f", "raw", "-d", "1", "-c", "100000000"]).arg(iscsi_url(&a)?);
    let reader = Guarded::spawn(reader)?;
    a.wait_for_log("iSCSI login")?;
    let there = guest.await_at("second", "b", Incoming::Runs)?;
    here.begin_to_move(&there)?;
    ensure!(here.moved()?["status"] == "completed");
    a.wait_for_log("the virtual machine cannot be migrated")?;
    a.wait_for_log("the units stay here")?;
    b.wait_for_log("rings do not start yet")?;
    drop(there);
    here.execute("cont", json!({}))?;
    goes_on(&mut here)?;
    // They leave, and it may.
    drop(reader);
    let mut there = guest.await_at("third", "b", Incoming::Runs)?;
    here.begin_to_move(&there)?;
    ensure!(here.moved()?["status"] == "completed");
    goes_on(&mut there)?;
    drop((here, there));
    a.stop()?;
    b.stop()?;
    Ok(())
}

/// A monitor of our own, which compares: every page that differs between two rounds is in the log.
#[test]
fn memory_is_the_same_page_by_page_at_the_other_daemon() -> Result<()> {
    for packed in [false, true] {
        let ends = Ends::new()?;
        let (a, b) = ends.start()?;
        let mut guest = Verifier::connect(&ends.socket("a"), packed)?;
        for end in ["b", "a", "b"] {
            guest.run(2000)?;
            let ranges = guest.device_ranges();
            let migration = Migration::begin(&mut guest.driver.monitor, ranges)?;
            for _ in 0..4 {
                guest.run(1000)?;
                ensure!(migration.round(&guest.driver.monitor)? > 0, "nothing is logged");
            }
            guest.stop()?;
            migration.round(&guest.driver.monitor)?;
            let differing = migration.differing(&guest.driver.monitor)?;
            ensure!(differing.is_empty(), "not in the log: {differing:x?}");
            let state = guest.driver.monitor.session.save_state()?;
            let wanted = Verifier::options(packed).wanted;
            let socket = ends.socket(end);
            let (old, _) = migration.finish(&mut guest.driver.monitor, &socket, &wanted, Some(&state))?;
            guest.resume()?;
            guest.run(1000)?;
            drop(old);
        }
        guest.finish()?;
        ensure!(guest.is_ready()?, "a unit attention");
        ensure!(guest.verified() > 1000, "{}", guest.verified());
        drop(guest);
        a.stop()?;
        b.stop()?;
    }
    Ok(())
}
