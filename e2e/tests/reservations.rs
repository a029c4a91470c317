//! Persistent reservations between real initiators: what each may do, what it is told, what a kill of the daemon leaves of
//! it, and whether a fenced initiator is really out.

use anyhow::{Context, Result};
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{self, PORTAL};
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;

/// Exit statuses of sg3_utils.
const UNIT_ATTENTION: i32 = 6;
const CONFLICT: i32 = 24;

/// How an initiator reaches the disk.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// By this socket.
    Machine(&'a str),
    Iscsi(&'a Netns),
}

/// A guest as an initiator of one disk.
struct Initiator(Guest);

impl Initiator {
    fn new(lunette: &Lunette<'_>, way: Way<'_>) -> Result<Self> {
        match way {
            Way::Machine(socket) => Self::vm(lunette, socket),
            Way::Iscsi(netns) => Self::iscsi(netns),
        }
    }

    fn vm(lunette: &Lunette<'_>, socket: &str) -> Result<Self> {
        let mut guest = Uml::new().vhost_user_scsi(lunette.path(socket)).boot()?;
        guest.check("modprobe sg; sg=$(generic $(disk 0)); ln -s $sg /run/sg")?;
        let mut vm = Self(guest);
        vm.listen()?;
        Ok(vm)
    }

    fn iscsi(netns: &Netns) -> Result<Self> {
        let mut guest = open_iscsi::guest(netns)?;
        guest.check(&format!("iscsi_login {PORTAL}"))?;
        guest.check("ln -s $(generic $(disk 0)) /run/sg")?;
        let mut initiator = Self(guest);
        initiator.listen()?;
        Ok(initiator)
    }

    /// The daemon is there again after it was killed. A machine is so after a boot; the sessions of a kernel come back by
    /// themselves, under the same name.
    fn again(mut self, lunette: &Lunette<'_>, way: Way<'_>) -> Result<Self> {
        match way {
            Way::Machine(_) => drop(self),
            Way::Iscsi(_) => {
                self.listen()?;
                return Ok(self);
            }
        }
        Self::new(lunette, way)
    }

    /// Its TransportID, as `sg_persist` takes it, and the number of the port by which it has registered `key`.
    fn identity(&mut self, key: &str) -> Result<(String, String)> {
        let status = self.ask("--read-full-status")?;
        let own = status.split("Key=").find(|text| text.split_whitespace().next() == Some(key));
        let own = own.with_context(|| format!("{key} is not registered: {status}"))?;
        let after = |word: &str| -> Option<&str> { own.split(word).nth(1)?.split_whitespace().next() };
        let port = after("Relative port address:").with_context(|| status.clone())?.to_owned();
        let id = match (after("SAS address:"), after("port id:")) {
            (Some(address), _) => format!("sas,{}", address.trim_start_matches("0x")),
            (None, name) => name.with_context(|| status.clone())?.to_owned(),
        };
        Ok((id, port))
    }

    /// Takes all unit attentions; what the last one said.
    fn listen(&mut self) -> Result<String> {
        let mut said = String::new();
        loop {
            let answer = self.0.run("sg_raw /run/sg 00 00 00 00 00 00")?;
            match answer.status {
                0 => return Ok(said),
                UNIT_ATTENTION => said = answer.text().to_lowercase(),
                _ => anyhow::bail!("{answer}"),
            }
        }
    }

    /// PERSISTENT RESERVE OUT, which has to succeed.
    fn out(&mut self, arguments: &str) -> Result<()> {
        self.0.check(&format!("sg_persist --no-inquiry --out {arguments} /run/sg"))?;
        Ok(())
    }

    fn conflicts(&mut self, arguments: &str) -> Result<()> {
        let answer = self.0.run(&format!("sg_persist --no-inquiry --out {arguments} /run/sg"))?;
        anyhow::ensure!(answer.status == CONFLICT, "{arguments}: {answer}");
        Ok(())
    }

    /// PERSISTENT RESERVE IN.
    fn ask(&mut self, what: &str) -> Result<String> {
        self.0.check(&format!("sg_persist --no-inquiry --in {what} /run/sg"))
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        let said = self.ask("--read-keys")?;
        let keys = said.lines().map(str::trim).filter(|line| line.starts_with("0x"));
        Ok(keys.map(str::to_owned).collect())
    }

    /// Whether a READ and a WRITE get through.
    fn access(&mut self) -> Result<(bool, bool)> {
        let mut good = |command: &str| -> Result<bool> {
            let answer = self.0.run(command)?;
            anyhow::ensure!([0, CONFLICT].contains(&answer.status), "{answer}");
            Ok(answer.status == 0)
        };
        let read = good("sg_raw --request=512 /run/sg 28 00 00 00 00 00 00 00 01 00 >/dev/null")?;
        let write = "head -c 512 /dev/zero | sg_raw --send=512 /run/sg 2a 00 00 00 00 00 00 00 01 00";
        Ok((read, good(write)?))
    }
}

/// All service actions, by two initiators that may do everything in turn; nothing is left of them.
fn share_and_fight(one: &mut Initiator, two: &mut Initiator) -> Result<()> {
    let capabilities = one.ask("--report-capabilities")?;
    for can in ["(CRH): 1", "(SIP_C): 1", "(ATP_C): 1", "(PTPL_C): 1", "(PTPL_A): 0"] {
        assert!(capabilities.contains(can), "{capabilities}");
    }

    // RESERVE, RELEASE and what others may do, type by type.
    one.out("--register --param-sark=0x1")?;
    two.out("--register-ignore --param-sark=0x2")?;
    for (kind, other) in [
        (1, (true, false)),
        (3, (false, false)),
        (5, (true, true)),
        (6, (true, true)),
        (7, (true, true)),
        (8, (true, true)),
    ] {
        one.out(&format!("--reserve --param-rk=0x1 --prout-type={kind}"))?;
        assert_eq!((one.access()?, two.access()?), ((true, true), other), "type {kind}");
        if kind < 7 {
            two.conflicts(&format!("--reserve --param-rk=0x2 --prout-type={kind}"))?;
        }
        let held = two.ask("--read-reservation")?;
        assert!(held.contains(if kind < 7 { "Key=0x1" } else { "Key=0x0" }), "{held}");
        one.out(&format!("--release --param-rk=0x1 --prout-type={kind}"))?;
        let said = two.listen()?;
        assert_eq!(said.contains("reservations released"), kind > 3, "type {kind}: {said}");
        assert_eq!(one.listen()?, "");
    }
    two.conflicts("--reserve --param-rk=0x7 --prout-type=1")?;

    // REGISTER AND MOVE to the other, by the names in READ FULL STATUS.
    one.out("--reserve --param-rk=0x1 --prout-type=3")?;
    let (id, port) = two.identity("0x2")?;
    one.out(&format!(
        "--register-move --param-rk=0x1 --param-sark=0x22 --relative-target-port={port} --transport-id={id}"
    ))?;
    assert_eq!((one.access()?, two.access()?), ((false, false), (true, true)));
    assert_eq!(one.keys()?, ["0x1", "0x22"]);

    // PREEMPT takes it back, and CLEAR leaves nothing.
    one.out("--preempt --param-rk=0x1 --param-sark=0x22 --prout-type=1")?;
    let said = two.listen()?;
    assert!(said.contains("registrations preempted"), "{said}");
    assert_eq!((one.access()?, two.access()?), ((true, true), (true, false)));
    two.out("--register --param-sark=0x2")?;
    two.out("--clear --param-rk=0x2")?;
    let said = one.listen()?;
    assert!(said.contains("reservations preempted"), "{said}");
    assert_eq!((one.keys()?, two.access()?), (vec![], (true, true)));

    // SPEC_I_PT registers the other one too, if they have the same port, and ALL_TG_PT does so through all ports.
    one.out(&format!("--register --param-alltgpt --param-sark=0x5 --transport-id={id}"))?;
    two.out("--reserve --param-rk=0x5 --prout-type=1")?;
    let ports = one.keys()?.len() / 2;
    let status = one.ask("--read-full-status")?;
    assert_eq!(status.matches(id.trim_start_matches("sas,")).count(), ports, "{status}");
    one.out("--clear --param-rk=0x5")?;
    two.listen()?;
    assert_eq!(two.keys()?, [""; 0]);
    Ok(())
}

/// What `one` and `two` have done survives the daemon if it was to, and nothing else does.
fn outlive_the_daemon(lunette: &Lunette<'_>, ways: [Way<'_>; 2]) -> Result<()> {
    let daemon = lunette.start()?;
    let mut one = Initiator::new(lunette, ways[0])?;
    let mut two = Initiator::new(lunette, ways[1])?;
    share_and_fight(&mut one, &mut two)?;

    // What was to persist is there again, under the same names.
    one.out("--register --param-sark=0x1 --param-aptpl")?;
    two.out("--register --param-sark=0x2 --param-aptpl")?;
    two.out("--reserve --param-rk=0x2 --prout-type=3")?;
    two.0.check(LOAD)?;
    daemon.kill()?;
    let daemon = lunette.start()?;
    let (mut one, mut two) = (one.again(lunette, ways[0])?, two.again(lunette, ways[1])?);
    assert_eq!(one.keys()?, ["0x1", "0x2"]);
    assert_eq!((one.access()?, two.access()?), ((false, false), (true, true)));
    let capabilities = one.ask("--report-capabilities")?;
    assert!(capabilities.contains("(PTPL_A): 1"), "{capabilities}");
    if let Way::Iscsi(_) = ways[1] {
        two.0.check(END_LOAD)?;
    }

    one.out("--preempt-abort --param-rk=0x1 --param-sark=0x2 --prout-type=3")?;
    assert_eq!((one.access()?, two.access().is_err()), ((true, true), true), "it has a unit attention");
    assert_eq!(two.access()?, (false, false));
    daemon.kill()?;
    let daemon = lunette.start()?;
    let (mut one, mut two) = (one.again(lunette, ways[0])?, two.again(lunette, ways[1])?);
    assert_eq!(
        (one.keys()?, one.access()?, two.access()?),
        (vec!["0x1".into()], (true, true), (false, false))
    );

    // APTPL is zero from now on.
    one.out("--register --param-rk=0x1 --param-sark=0x3")?;
    daemon.kill()?;
    let daemon = lunette.start()?;
    let mut two = two.again(lunette, ways[1])?;
    assert_eq!((two.keys()?, two.access()?), (vec![], (true, true)));
    two.0.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// Writes all the time.
const LOAD: &str = "
    fio --name=load --filename=$(disk 0) --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=16k --offset=1M \
        --size=8M --time_based --runtime=1000 --output=/run/load.log &
    echo $! >/run/load.pid
    stat=/sys/block/$(basename $(disk 0))/stat
    until [ $(awk '{ print $5 }' $stat) -gt 100 ]; do sleep 0.1; done";

/// Which has met no error.
const END_LOAD: &str = "
    kill -INT $(cat /run/load.pid)
    while kill -0 $(cat /run/load.pid) 2>/dev/null; do sleep 0.1; done
    grep 'err= 0' /run/load.log";

#[test]
fn two_machines_share_and_fight_over_a_disk() -> Result<()> {
    checks::need_tools()?;
    tools::need(["sg_persist"])?;
    let lunette = Lunette::new()?.vhost_user("one.sock").vhost_user("two.sock");
    let image = lunette.file("disk.img", 16 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", image.display()));
    outlive_the_daemon(&lunette, ["one.sock", "two.sock"].map(Way::Machine))
}

/// The daemon is killed under the session of a kernel that writes and holds a reservation.
#[test]
fn a_machine_and_an_iscsi_initiator_share_and_fight_over_a_disk() -> Result<()> {
    checks::need_tools()?;
    tools::need(["sg_persist"])?;
    let netns = open_iscsi::network()?;
    let lunette = Lunette::new()?.inside(&netns).vhost_user("vm.sock");
    let image = lunette.file("disk.img", 16 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", image.display())).arg("--iscsi").arg(PORTAL);
    outlive_the_daemon(&lunette, [Way::Machine("vm.sock"), Way::Iscsi(&netns)])
}

/// A machine fences an iSCSI initiator that writes all the time.
#[test]
fn nothing_of_a_fenced_initiator_lands_later() -> Result<()> {
    checks::need_tools()?;
    tools::need(["sg_persist"])?;
    let netns = open_iscsi::network()?;
    let lunette = Lunette::new()?.inside(&netns).vhost_user("vm.sock").arg("--reactors").arg("2");
    let image = lunette.file("disk.img", 16 << 20)?;
    // A slow store, so that many writes are on their way.
    let lunette = lunette.lu(format!("disk:{},w,fault=delay:30", image.display())).arg("--iscsi").arg(PORTAL);
    let daemon = lunette.start()?;
    let mut loser = Initiator::iscsi(&netns)?;
    let mut winner = Initiator::vm(&lunette, "vm.sock")?;
    for (initiator, key) in [(&mut winner, 1), (&mut loser, 2)] {
        initiator.out(&format!("--register --param-sark={key}"))?;
    }
    winner.out("--reserve --param-rk=1 --prout-type=5")?;
    // What is aborted for another initiator is not answered: the kernel gives up on it by itself.
    loser.0.check(
        "device=/sys/block/$(basename $(disk 0))/device; echo 5 >$device/timeout; echo 5 >$device/eh_timeout
         fio --name=load --filename=$(disk 0) --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bs=16k \
             --size=16M --time_based --runtime=1000 --buffer_pattern=0xee --output=/run/fio.log &
         echo $! >/run/fio.pid
         stat=/sys/block/$(basename $(disk 0))/stat
         until [ $(awk '{ print $5 }' $stat) -gt 100 ]; do sleep 0.1; done",
    )?;

    winner.out("--preempt-abort --param-rk=1 --param-sark=2 --prout-type=5")?;
    // From now on the disk is the winner's.
    winner.0.check(
        "head -c 16M /dev/zero | tr '\\0' U | dd of=$(disk 0) bs=1M count=16 iflag=fullblock oflag=direct",
    )?;
    loser.0.check(
        "while kill -0 $(cat /run/fio.pid) 2>/dev/null; do sleep 0.1; done; grep 'err=' /run/fio.log",
    )?;
    let failed = loser.0.run("dd if=/dev/zero of=$(disk 0) bs=4k count=1 oflag=direct")?;
    assert_ne!(failed.status, 0, "{failed}");
    winner.0.check(
        "cmp <(head -c 16M /dev/zero | tr '\\0' U) <(dd if=$(disk 0) bs=1M iflag=direct status=none)",
    )?;
    assert_eq!(loser.access()?, (true, false));
    assert_eq!(winner.keys()?, ["0x1"]);
    winner.0.power_off()?;
    drop(loser);
    daemon.stop()?;
    Ok(())
}
