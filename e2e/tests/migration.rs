//! Real guests move from one QEMU to another under load, with their disk.

use anyhow::{Result, ensure};
use lunette_e2e::daemon::Lunette;
use lunette_e2e::qemu::portable::{Incoming, Machine, Portable};
use lunette_e2e::tools;
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

/// Ways to one disk, of which one is used at a time.
struct Ends {
    lunette: Lunette<'static>,
    guest: Portable,
    properties: &'static str,
}

impl Ends {
    fn new(properties: &'static str) -> Result<Self> {
        tools::need(["fio"])?;
        let lunette = Lunette::new()?;
        let file = lunette.file("disk.img", 64 << 20)?;
        let lunette = lunette.lu(format!("disk:{},w", file.display())).vhost_user("a").vhost_user("b");
        Ok(Self { lunette, guest: Portable::new(LOAD, &["fio"])?, properties })
    }

    fn socket(&self, end: &str) -> PathBuf {
        self.lunette.path(end)
    }

    fn boot(&self, end: &str) -> Result<Machine> {
        let mut machine = self.guest.start("first", &self.socket(end), self.properties, Incoming::No)?;
        machine.wait_for(VERIFIED, 1)?;
        Ok(machine)
    }

    fn await_guest(&self, name: &str, end: &str, incoming: Incoming) -> Result<Machine> {
        self.guest.start(name, &self.socket(end), self.properties, incoming)
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
    let ends = Ends::new(properties)?;
    let daemon = ends.lunette.start()?;
    let mut here = ends.boot("a")?;
    for (name, end) in [("second", "b"), ("third", "a")] {
        let mut there = ends.await_guest(name, end, Incoming::Runs)?;
        here.begin_to_move(&there)?;
        let told = here.moved()?;
        ensure!(told["status"] == "completed", "{told}");
        goes_on(&mut there)?;
        here = there;
    }
    drop(here);
    daemon.stop()?;
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
    let ends = Ends::new("")?;
    let daemon = ends.lunette.start()?;
    let mut here = ends.boot("a")?;
    // The other end goes while memory is copied.
    let there = ends.await_guest("second", "b", Incoming::Runs)?;
    here.execute("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 }))?;
    let uri = json!({ "uri": there.address() });
    here.execute("migrate", uri)?;
    drop(there);
    let told = here.moved()?;
    ensure!(told["status"] == "failed", "{told}");
    ensure!(here.runs()?);
    goes_on(&mut here)?;
    // It goes when all has been copied, and this end has stopped.
    let there = ends.await_guest("third", "b", Incoming::Stopped)?;
    here.begin_to_move(&there)?;
    let told = here.moved()?;
    ensure!(told["status"] == "completed" && !here.runs()?, "{told}");
    drop(there);
    here.execute("cont", json!({}))?;
    goes_on(&mut here)?;
    drop(here);
    daemon.stop()?;
    Ok(())
}
