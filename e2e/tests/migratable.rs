//! Two daemons share a state directory and a disk, and serve it in turn, where the virtual machine is that uses it.

use std::fs;

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette, allocated};
use lunette_e2e::qemu::portable::{Incoming, Machine, Portable};
use lunette_e2e::tools::{self, Guarded};
use lunette_guest::{Answer, Command, Error, GuestMemory, Monitor, Options, ScsiDriver, Session};
use lunette_vhost_user::{Features, FrontendRequest};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const TEST_UNIT_READY: [u8; 6] = [0; 6];
/// READ(10) and WRITE(10) of eight blocks at the first one.
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const LENGTH: usize = 4096;

/// How one of two daemons is started, with its sockets.
struct End {
    name: &'static str,
    lunette: Lunette<'static>,
}

impl End {
    /// Two of them for one disk.
    fn two() -> Result<(Self, Self)> {
        Self::of_size(8 * MIB)
    }

    fn of_size(size: u64) -> Result<(Self, Self)> {
        Self::with(size, "")
    }

    /// With more to say of the disk.
    fn with(size: u64, more: &str) -> Result<(Self, Self)> {
        let lunette = Lunette::new()?;
        let file = lunette.file("disk.img", size)?;
        let lunette = lunette.lu(format!("disk:{},w,name=disk,migratable=on{more}", file.display()));
        Ok((Self::new("one", &lunette), Self::new("other", &lunette)))
    }

    fn new(name: &'static str, lunette: &Lunette<'static>) -> Self {
        let socket = format!("{},name=vm", lunette.path(name).display());
        let lunette =
            lunette.clone().arg("--vhost-user").arg(socket).arg("--control").arg(control(lunette, name));
        Self { name, lunette }
    }

    fn start(&self) -> Result<Daemon> {
        self.lunette.start()
    }

    fn upgrade(&self, before: Daemon) -> Result<Daemon> {
        self.lunette.upgrade_at(before, &["--control", &control(&self.lunette, self.name)])
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let control = control(&self.lunette, self.name);
        self.lunette.tell(words.iter().copied().chain(["--control", &control]))
    }

    /// What it tells of the disk.
    fn disk(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&["lu", "show", "disk", "--json"])?)?)
    }

    fn stands_by(&self) -> Result<bool> {
        Ok(self.disk()?["state"] == "standby")
    }

    /// A virtual machine that runs here.
    fn boot(&self) -> Result<ScsiDriver> {
        let options = Options::default();
        let monitor = Monitor::connect(&self.lunette.path(self.name), memory()?, &options.wanted)?;
        let mut driver = ScsiDriver::new(monitor, &options)?;
        driver.start()?;
        Ok(driver)
    }

    /// Prepares a virtual machine that is to go on here.
    fn await_guest(&self, driver: &ScsiDriver) -> Result<Session> {
        let mut session = Session::connect(&self.lunette.path(self.name))?;
        session.negotiate(&driver.options().wanted)?;
        session.share(&driver.monitor.memory)?;
        Ok(session)
    }
}

fn control(lunette: &Lunette<'_>, name: &str) -> String {
    lunette.path(&format!("{name}.control")).display().to_string()
}

fn memory() -> Result<GuestMemory> {
    Ok(GuestMemory::with_size(16 * MIB as usize)?)
}

/// The virtual machine may leave: its memory is logged, and then its rings stop.
fn leave(driver: &mut ScsiDriver) -> Result<(), Error> {
    let features = driver.monitor.session.features() | Features::LOG_ALL;
    driver.monitor.session.set_features(features)?;
    (0..driver.monitor.queue_count()).try_for_each(|queue| driver.monitor.stop(queue).map(drop))
}

/// Its rings start where `session` leads. Returns what there was before.
fn go_on(driver: &mut ScsiDriver, session: Session) -> Result<Session> {
    let before = std::mem::replace(&mut driver.monitor.session, session);
    (0..driver.monitor.queue_count()).try_for_each(|queue| driver.monitor.start(queue))?;
    Ok(before)
}

/// It has not left after all.
fn stay(driver: &mut ScsiDriver) -> Result<()> {
    let features = driver.monitor.session.features() - Features::LOG_ALL;
    driver.monitor.session.set_features(features)?;
    (0..driver.monitor.queue_count()).try_for_each(|queue| driver.monitor.start(queue))?;
    Ok(())
}

fn execute(driver: &mut ScsiDriver, cdb: &[u8], data_out: &[u8], data_in: usize) -> Result<Answer> {
    Ok(driver.execute(0, &Command::new(cdb), data_out, data_in)?)
}

/// A command that has to succeed.
fn good(driver: &mut ScsiDriver, cdb: &[u8], data_out: &[u8], data_in: usize) -> Result<Vec<u8>> {
    let answer = execute(driver, cdb, data_out, data_in)?;
    ensure!((answer.response, answer.status) == (0, 0), "{cdb:x?}: {answer:x?}");
    Ok(answer.data)
}

/// The additional sense code of a command that fails.
fn attention(driver: &mut ScsiDriver) -> Result<(u8, u8)> {
    let answer = execute(driver, &TEST_UNIT_READY, &[], 0)?;
    ensure!(answer.status == 2 && answer.sense.len() > 13, "{answer:x?}");
    Ok((answer.sense[12], answer.sense[13]))
}

/// REGISTER with the key 1234h, and RESERVE for Write Exclusive.
fn reserve(driver: &mut ScsiDriver) -> Result<()> {
    let mut list = [0; 24];
    list[8..16].copy_from_slice(&0x1234_u64.to_be_bytes());
    good(driver, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)?;
    list.rotate_left(8);
    good(driver, &[0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0], &list, 0).map(drop)
}

/// The reservation is ours.
fn is_reserved(driver: &mut ScsiDriver) -> Result<()> {
    let told = good(driver, &[0x5e, 1, 0, 0, 0, 0, 0, 0, 24, 0], &[], 24)?;
    ensure!(told[8..16] == 0x1234_u64.to_be_bytes() && told[21] == 1, "{told:x?}");
    Ok(())
}

/// The unit attention of a power cycle, and no more.
fn powered_on(driver: &mut ScsiDriver) -> Result<()> {
    ensure!(attention(driver)? == (0x29, 0), "a power cycle is told");
    good(driver, &TEST_UNIT_READY, &[], 0).map(drop)
}

#[test]
fn a_disk_goes_with_its_virtual_machine_and_comes_back() -> Result<()> {
    let (one, other) = End::two()?;
    let first = one.start()?;
    ensure!(first.printed().contains("stands by"), "{}", first.printed());
    ensure!(one.stands_by()?);
    let mut guest = one.boot()?;
    let second = other.start()?;
    powered_on(&mut guest)?;
    good(&mut guest, &WRITE, &[0x0b; LENGTH], 0)?;
    reserve(&mut guest)?;
    let told = other.disk()?;
    let (why, pid) = (told["why"].as_str().unwrap_or_default(), one.disk()?["state"].clone());
    ensure!(why.contains("served by process") && pid == "ready", "{told}");
    ensure!(other.ask(&["export", "show", "vm"])?.contains("disk (standby)"));
    // This comes to be told elsewhere.
    one.ask(&["lu", "resize", "disk", "16M"])?;

    let session = other.await_guest(&guest)?;
    leave(&mut guest)?;
    ensure!(one.stands_by()?, "it is given up before the last ring is told to have stopped");
    let before = go_on(&mut guest, session)?;
    ensure!(attention(&mut guest)? == (0x2a, 9), "what was pending there is pending here");
    ensure!(good(&mut guest, &READ, &[], LENGTH)? == [0x0b; LENGTH]);
    is_reserved(&mut guest)?;
    good(&mut guest, &WRITE, &[0x0c; LENGTH], 0)?;
    ensure!(one.stands_by()? && !other.stands_by()?);

    // And back, over the connection that there was.
    leave(&mut guest)?;
    guest.monitor.session = before;
    stay(&mut guest)?;
    ensure!(good(&mut guest, &READ, &[], LENGTH)? == [0x0c; LENGTH]);
    is_reserved(&mut guest)?;
    drop(guest);
    tools::wait_until("the disk to be given up", || one.stands_by())?;
    first.stop()?;
    second.stop()?;
    Ok(())
}

#[test]
fn a_monitor_that_moves_the_state_of_the_device_finds_it_there() -> Result<()> {
    let (one, other) = End::two()?;
    let (first, second) = (one.start()?, other.start()?);
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    reserve(&mut guest)?;
    one.ask(&["lu", "resize", "disk", "16M"])?;
    let mut session = other.await_guest(&guest)?;
    leave(&mut guest)?;
    let state = guest.monitor.session.save_state()?;
    session.load_state(&state)?;
    ensure!(!other.stands_by()?, "it takes its units to be of use");
    drop(go_on(&mut guest, session)?);
    ensure!(attention(&mut guest)? == (0x2a, 9));
    is_reserved(&mut guest)?;

    // A daemon with another state directory has another disk in the same file.
    let alien = Lunette::new()?;
    let file = one.lunette.path("disk.img");
    let alien = alien.lu(format!("disk:{},w,name=disk,migratable=on", file.display()));
    let alien = End::new("alien", &alien);
    let third = alien.start()?;
    let mut session = alien.await_guest(&guest)?;
    leave(&mut guest)?;
    let state = guest.monitor.session.save_state()?;
    ensure!(session.load_state(&state).is_err());
    third.wait_for_log("the daemons that serve it need the same one")?;
    ensure!(alien.stands_by()?);
    let before = std::mem::replace(&mut guest.monitor.session, session);
    (0..guest.monitor.queue_count()).try_for_each(|queue| guest.monitor.start(queue))?;
    third.wait_for_log("rings do not start yet: disk: its virtual machine goes on")?;
    guest.monitor.session = before;
    stay(&mut guest)?;
    is_reserved(&mut guest)?;
    drop(guest);
    first.stop()?;
    second.stop()?;
    third.stop()?;
    Ok(())
}

/// Reserves the disk, and verifies again and again what it writes and that it has it reserved.
const LOAD: &str = r#"
n=0
sg_persist --out --register-ignore --param-sark=0x1234 /dev/sda
sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 /dev/sda
while fio --name=verify --filename=/dev/sda --ioengine=libaio --direct=1 --rw=randrw --bsrange=512-128k \
    --iodepth=16 --size=48M --io_size=16M --verify=crc32c --verify_backlog=64 --verify_fatal=1 \
    --randseed=$n --output=/tmp/out && sg_persist --in --read-reservation /dev/sda > /tmp/reserved &&
    grep -q 0x1234 /tmp/reserved; do
    n=$((n + 1))
    echo "VERIFIED $n"
done
cat /tmp/out /tmp/reserved
dmesg | tail -40
echo FAILED
sleep 100000
"#;
const VERIFIED: &str = "VERIFIED";

/// It verifies some more, and nothing was wrong.
fn verifies(machine: &mut Machine) -> Result<()> {
    let times = machine.said(VERIFIED);
    machine.wait_for(VERIFIED, times + 1)?;
    ensure!(machine.said("FAILED") == 0, "{}", machine.console());
    Ok(())
}

#[test]
fn a_real_guest_moves_between_daemons_with_its_reservation() -> Result<()> {
    tools::need(["fio", "sg_persist"])?;
    let (one, other) = End::of_size(64 * MIB)?;
    let (first, second) = (one.start()?, other.start()?);
    let guest = Portable::new(LOAD, &["fio", "sg_persist"])?;
    let start =
        |name: &str, end: &End, incoming| guest.start(name, &end.lunette.path(end.name), "", incoming);
    let mut here = start("first", &one, Incoming::No)?;
    here.wait_for(VERIFIED, 1)?;
    for (name, end, left) in [("second", &other, &one), ("third", &one, &other)] {
        let mut there = start(name, end, Incoming::Runs)?;
        here.begin_to_move(&there)?;
        let told = here.moved()?;
        ensure!(told["status"] == "completed", "{told}");
        verifies(&mut there)?;
        ensure!(left.stands_by()? && !end.stands_by()?);
        here = there;
    }
    // The other end goes when all has been copied, and this end has stopped.
    let there = start("fourth", &other, Incoming::Stopped)?;
    here.begin_to_move(&there)?;
    let told = here.moved()?;
    ensure!(told["status"] == "completed" && one.stands_by()?, "{told}");
    drop(there);
    here.execute("cont", json!({}))?;
    verifies(&mut here)?;
    ensure!(!one.stands_by()?);
    drop(here);
    first.stop()?;
    second.stop()?;
    Ok(())
}

#[test]
fn a_virtual_machine_that_does_not_leave_goes_on_where_it_was() -> Result<()> {
    let (one, other) = End::two()?;
    let (first, second) = (one.start()?, other.start()?);
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    reserve(&mut guest)?;
    for _ in 0..3 {
        leave(&mut guest)?;
        ensure!(one.stands_by()?);
        stay(&mut guest)?;
        is_reserved(&mut guest)?;
        ensure!(!one.stands_by()? && other.stands_by()?);
    }
    let events = first.log();
    ensure!(events.contains("disk is given up"), "{events}");
    drop(guest);
    first.stop()?;
    second.stop()?;
    Ok(())
}

#[test]
fn a_disk_stays_with_its_virtual_machine_over_an_upgrade() -> Result<()> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 8 * MIB)?;
    let lunette = lunette.lu(format!("disk:{},w,name=disk,migratable=on", file.display())).vhost_user("vm");
    let first = lunette.start()?;
    let mut guest = ScsiDriver::connect(&lunette.path("vm"), &Options::default())?;
    powered_on(&mut guest)?;
    reserve(&mut guest)?;
    lunette.tell(["lu", "resize", "disk", "16M"])?;
    let next = lunette.upgrade(first)?;
    ensure!(attention(&mut guest)? == (0x2a, 9), "what was pending is pending");
    is_reserved(&mut guest)?;
    good(&mut guest, &WRITE, &[0x0b; LENGTH], 0)?;
    drop(guest);
    next.stop()?;
    ensure!(fs::read(&file)?[..LENGTH] == [0x0b; LENGTH]);
    Ok(())
}

#[test]
fn daemons_are_upgraded_while_their_virtual_machine_moves() -> Result<()> {
    let (one, other) = End::two()?;
    let (first, second) = (one.start()?, other.start()?);
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    reserve(&mut guest)?;
    one.ask(&["lu", "resize", "disk", "16M"])?;

    // Where it is to go, before it comes.
    let session = other.await_guest(&guest)?;
    let second = other.upgrade(second)?;
    // Where it is, while its memory is logged.
    let features = guest.monitor.session.features() | Features::LOG_ALL;
    guest.monitor.session.set_features(features)?;
    let first = one.upgrade(first)?;
    ensure!(attention(&mut guest)? == (0x2a, 9));
    ensure!(!one.stands_by()? && other.stands_by()?);
    good(&mut guest, &WRITE, &[0x0b; LENGTH], 0)?;
    one.ask(&["lu", "resize", "disk", "24M"])?;
    leave(&mut guest)?;
    // Where it was, when it has left.
    let first = one.upgrade(first)?;
    ensure!(one.stands_by()?);
    let before = go_on(&mut guest, session)?;
    ensure!(attention(&mut guest)? == (0x2a, 9));
    ensure!(good(&mut guest, &READ, &[], LENGTH)? == [0x0b; LENGTH]);
    is_reserved(&mut guest)?;

    // It does not leave after all, and its daemon has been upgraded meanwhile.
    other.ask(&["lu", "resize", "disk", "32M"])?;
    leave(&mut guest)?;
    let second = other.upgrade(second)?;
    stay(&mut guest)?;
    ensure!(attention(&mut guest)? == (0x2a, 9));
    is_reserved(&mut guest)?;

    // Where it comes, when its state is there.
    other.ask(&["lu", "resize", "disk", "40M"])?;
    leave(&mut guest)?;
    let state = guest.monitor.session.save_state()?;
    let there = std::mem::replace(&mut guest.monitor.session, before);
    guest.monitor.session.load_state(&state)?;
    ensure!(!one.stands_by()?);
    let first = one.upgrade(first)?;
    stay(&mut guest)?;
    ensure!(attention(&mut guest)? == (0x2a, 9));
    is_reserved(&mut guest)?;

    // And back by way of the old state, which is not that of now.
    leave(&mut guest)?;
    guest.monitor.session = there;
    ensure!(guest.monitor.session.load_state(&state).is_err());
    second.wait_for_log("the unit was served elsewhere since")?;
    stay(&mut guest)?;
    is_reserved(&mut guest)?;
    drop(guest);
    first.stop()?;
    second.stop()?;
    Ok(())
}

#[test]
fn a_disk_that_cannot_leave_stays_over_an_upgrade() -> Result<()> {
    let (one, _) = End::with(8 * MIB, ",wwn=naa.3000000000000005")?;
    let fixed = one.lunette.file("fixed.img", 8 * MIB)?;
    // The virtual machine could not leave without it.
    let one = End { lunette: one.lunette.lu(format!("disk:{},name=fixed", fixed.display())), ..one };
    let first = one.start()?;
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    reserve(&mut guest)?;
    one.ask(&["lu", "resize", "disk", "16M"])?;
    let next = one.upgrade(first)?;
    ensure!(attention(&mut guest)? == (0x2a, 9), "what was pending is pending");
    is_reserved(&mut guest)?;
    drop(guest);
    next.stop()?;
    Ok(())
}

#[test]
fn who_comes_too_early_waits() -> Result<()> {
    let (one, other) = End::two()?;
    // It is there before the other one, and its virtual machine comes before the disk.
    let second = other.start()?;
    let first = one.start()?;
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    good(&mut guest, &WRITE, &[0x0b; LENGTH], 0)?;
    let mut early = other.boot()?;
    let slot = early.send(0, &Command::new(&TEST_UNIT_READY), &[], 0)?;
    second.wait_for_log("rings do not start yet: disk: it is served by process")?;
    good(&mut guest, &READ, &[], LENGTH)?;
    ensure!(early.poll(0)?.is_none() && other.stands_by()?);
    drop(guest);
    let told = early.wait_for(0, slot)?;
    ensure!(told.status == 2, "its driver begins, and is told so: {told:?}");
    ensure!(good(&mut early, &READ, &[], LENGTH)? == [0x0b; LENGTH]);
    ensure!(one.stands_by()?);
    drop(early);
    first.stop()?;
    second.stop()?;
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_gives_its_disk_up() -> Result<()> {
    let (one, other) = End::two()?;
    let (first, second) = (one.start()?, other.start()?);
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    reserve(&mut guest)?;
    good(&mut guest, &WRITE, &[0x0b; LENGTH], 0)?;

    // After it has given the disk up, and before anybody has taken it: nothing is lost.
    leave(&mut guest)?;
    first.kill()?;
    let session = other.await_guest(&guest)?;
    drop(go_on(&mut guest, session)?);
    is_reserved(&mut guest)?;
    ensure!(good(&mut guest, &READ, &[], LENGTH)? == [0x0b; LENGTH]);

    // While it serves the disk: as after a power cycle, which loses a reservation that is not to last.
    let first = one.start()?;
    ensure!(one.stands_by()?);
    second.kill()?;
    let session = one.await_guest(&guest)?;
    drop(go_on(&mut guest, session)?);
    powered_on(&mut guest)?;
    ensure!(good(&mut guest, &READ, &[], LENGTH)? == [0x0b; LENGTH]);
    drop(guest);
    first.stop()?;
    Ok(())
}

#[test]
fn a_disk_that_others_use_keeps_its_virtual_machine() -> Result<()> {
    tools::need(["qemu-img"])?;
    let (one, _) = End::two()?;
    let one = End { lunette: one.lunette.iscsi(), ..one };
    let first = one.start()?;
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    let file = one.lunette.path("disk.img");
    let printed = first.printed();
    let (_, address) = printed.split_once("iSCSI on ").context("an address")?;
    let address = address.lines().next().unwrap_or_default();
    let mut user = tools::command("qemu-img")?;
    user.args(["bench", "-w", "-f", "raw", "-s", "64k", "-c", "10000000"]);
    let user = Guarded::spawn(user.arg(format!("iscsi://{address}/iqn.2026-11.dev.lunette:default/0")))?;
    tools::wait_until("the initiator to write", || Ok(allocated(&file)? > MIB))?;
    let refused = leave(&mut guest);
    ensure!(matches!(refused, Err(Error::Refused(FrontendRequest::SET_FEATURES))), "{refused:?}");
    first.wait_for_log("the unit `disk` is in use by others: iqn.")?;
    good(&mut guest, &READ, &[], LENGTH)?;
    drop(user);
    let sessions =
        || -> Result<Value> { Ok(serde_json::from_str(&one.ask(&["session", "list", "--json"])?)?) };
    tools::wait_until("the session to end", || Ok(sessions()?.as_array().is_some_and(Vec::is_empty)))?;
    leave(&mut guest)?;
    ensure!(one.stands_by()?);
    first.stop()?;
    Ok(())
}

#[test]
fn a_disk_that_others_use_is_theirs_over_an_upgrade() -> Result<()> {
    tools::need(["qemu-img"])?;
    let (one, _) = End::two()?;
    let one = End { lunette: one.lunette.iscsi(), ..one };
    let first = one.start()?;
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    let printed = first.printed();
    let (_, address) = printed.split_once("iSCSI on ").context("an address")?;
    let address = address.lines().next().unwrap_or_default();
    let mut user = tools::command("qemu-img")?;
    user.args(["bench", "-w", "--pattern=0x55", "-f", "raw", "-s", "64k", "-c", "10000000"]);
    let mut user = Guarded::spawn(user.arg(format!("iscsi://{address}/iqn.2026-11.dev.lunette:default/0")))?;
    let mut is_overwritten = |guest: &mut ScsiDriver, what: &str| {
        good(guest, &WRITE, &[0x0b; LENGTH], 0)?;
        tools::wait_until(what, || Ok(good(guest, &READ, &[], LENGTH)? == [0x55; LENGTH]))?;
        ensure!(user.child().try_wait()?.is_none());
        Ok(())
    };
    is_overwritten(&mut guest, "the initiator to write")?;
    let next = one.upgrade(first)?;
    is_overwritten(&mut guest, "the initiator to go on")?;
    drop(guest);
    next.stop()?;
    Ok(())
}

#[test]
fn daemons_that_share_no_state_do_not_take_the_disk_from_each_other() -> Result<()> {
    let (one, _) = End::two()?;
    let file = one.lunette.path("disk.img");
    let alien = Lunette::new()?.lu(format!("disk:{},w,name=disk,migratable=on", file.display()));
    let alien = End::new("alien", &alien);
    let (first, second) = (one.start()?, alien.start()?);
    let mut guest = one.boot()?;
    powered_on(&mut guest)?;
    let mut early = alien.boot()?;
    early.send(0, &Command::new(&TEST_UNIT_READY), &[], 0)?;
    second.wait_for_log("rings do not start yet: disk: ")?;
    ensure!(early.poll(0)?.is_none());
    let log = second.log();
    ensure!(log.contains("in use"), "{log}");
    good(&mut guest, &WRITE, &[0x0b; LENGTH], 0)?;
    ensure!(fs::read(&file)?[..LENGTH] == [0x0b; LENGTH]);
    drop((guest, early));
    first.stop().context("one")?;
    second.stop()?;
    Ok(())
}
