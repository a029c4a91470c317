//! Persistent reservations between real initiators: what each may do, what it is told, what a kill of the daemon leaves of
//! it, and whether a fenced initiator is really out.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;

const PORTAL: &str = "192.0.2.1:3260";
/// Exit statuses of sg3_utils.
const UNIT_ATTENTION: i32 = 6;
const CONFLICT: i32 = 24;

/// A guest as an initiator of one disk.
struct Initiator(Guest);

impl Initiator {
    fn vm(lunette: &Lunette<'_>, socket: &str) -> Result<Self> {
        let mut guest = Uml::new().vhost_user_scsi(lunette.path(socket)).boot()?;
        guest.check("modprobe sg; sg=$(generic $(disk 0)); ln -s $sg /run/sg")?;
        let mut vm = Self(guest);
        vm.listen()?;
        Ok(vm)
    }

    fn iscsi(netns: &Netns) -> Result<Self> {
        let mut guest = Uml::new().memory_mib(512).tap("tap0").inside(netns).boot()?;
        guest.check("ip address add 192.0.2.2/24 dev vec0; ip link set vec0 up")?;
        guest.check(&format!("iscsi_login {PORTAL}"))?;
        guest.check("ln -s $(generic $(disk 0)) /run/sg")?;
        let mut initiator = Self(guest);
        initiator.listen()?;
        Ok(initiator)
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

#[test]
fn two_machines_share_and_fight_over_a_disk() -> Result<()> {
    checks::need_tools()?;
    tools::need(["sg_persist"])?;
    let lunette = Lunette::new()?.vhost_user("one.sock").vhost_user("two.sock");
    let image = lunette.file("disk.img", 16 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", image.display()));
    let daemon = lunette.start()?;
    let (mut one, mut two) = (Initiator::vm(&lunette, "one.sock")?, Initiator::vm(&lunette, "two.sock")?);

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
        one.out(&format!("--release --param-rk=0x1 --prout-type={kind}"))?;
        let said = two.listen()?;
        assert_eq!(said.contains("reservations released"), kind > 3, "type {kind}: {said}");
        assert_eq!(one.listen()?, "");
    }
    two.conflicts("--reserve --param-rk=0x7 --prout-type=1")?;

    // REGISTER AND MOVE to the other machine, by the names in READ FULL STATUS.
    one.out("--reserve --param-rk=0x1 --prout-type=3")?;
    let status = two.ask("--read-full-status")?;
    let after = |text: &str, word: &str| -> Option<String> {
        let rest = &text[text.find(word)? + word.len()..];
        Some(rest.split_whitespace().next()?.trim_start_matches("0x").to_owned())
    };
    let of_two = &status[status.find("Key=0x2").expect("it is registered")..];
    let address = after(of_two, "SAS address:").expect("it is a SAS initiator port");
    let port = after(of_two, "Relative port address:").expect("it came by a port");
    one.out(&format!(
        "--register-move --param-rk=0x1 --param-sark=0x22 --relative-target-port=0x{port} --transport-id=sas,{address}"
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

    // SPEC_I_PT registers the other one too.
    one.out(&format!("--register --param-sark=0x5 --transport-id=sas,{address}"))?;
    let status = one.ask("--read-full-status")?;
    assert_eq!(status.matches("Key=0x5").count(), 2, "{status}");
    one.out("--clear --param-rk=0x5")?;
    two.listen()?;

    // The daemon is killed. What was to persist is there again, under the same names, and nothing else.
    one.out("--register --param-sark=0x1 --param-aptpl")?;
    two.out("--register --param-sark=0x2 --param-aptpl")?;
    two.out("--reserve --param-rk=0x2 --prout-type=3")?;
    daemon.kill()?;
    drop((one, two));
    let daemon = lunette.start()?;
    let (mut one, mut two) = (Initiator::vm(&lunette, "one.sock")?, Initiator::vm(&lunette, "two.sock")?);
    assert_eq!(one.keys()?, ["0x1", "0x2"]);
    assert_eq!((one.access()?, two.access()?), ((false, false), (true, true)));
    let capabilities = one.ask("--report-capabilities")?;
    assert!(capabilities.contains("(PTPL_A): 1"), "{capabilities}");
    one.out("--preempt-abort --param-rk=0x1 --param-sark=0x2 --prout-type=3")?;
    assert_eq!((one.access()?, two.access().is_err()), ((true, true), true), "it has a unit attention");
    assert_eq!(two.access()?, (false, false));
    // APTPL is zero from now on.
    one.out("--register --param-rk=0x1 --param-sark=0x3")?;
    daemon.kill()?;
    drop((one, two));
    let daemon = lunette.start()?;
    let mut two = Initiator::vm(&lunette, "two.sock")?;
    assert_eq!((two.keys()?, two.access()?), (vec![], (true, true)));
    two.0.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// A machine fences an iSCSI initiator that writes all the time.
#[test]
fn nothing_of_a_fenced_initiator_lands_later() -> Result<()> {
    checks::need_tools()?;
    tools::need(["sg_persist", "iscsid", "iscsiadm"])?;
    let netns = Netns::with_tap("tap0", "192.0.2.1/24")?;
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
