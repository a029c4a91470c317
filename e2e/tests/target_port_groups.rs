//! One disk over two ports that do not give the same access (ALUA), between real initiators.

use anyhow::{Context, Result};
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::tools;
use lunette_e2e::uml::Uml;

/// Exit status of sg3_utils.
const NOT_READY: i32 = 2;

/// A guest with two SCSI hosts, whose disk in group `n` is `/run/groupN`.
fn guest(lunette: &Lunette<'_>) -> Result<Guest> {
    let uml = Uml::new().vhost_user_scsi(lunette.path("one.sock")).vhost_user_scsi(lunette.path("two.sock"));
    let mut guest = uml.boot()?;
    guest.check(
        "for host in 0 1; do
            disk=$(disk 0 $host)
            group=$(sg_vpd --page=di $disk | sed -n 's/.*[Tt]arget port group: 0x//p')
            ln -s $disk /run/group$group
        done",
    )?;
    Ok(guest)
}

/// Takes the unit attentions that are pending.
fn hear(guest: &mut Guest) -> Result<()> {
    guest.check("sg_turs /run/group1 || true; sg_turs /run/group2 || true")?;
    Ok(())
}

/// The access states by group, as REPORT TARGET PORT GROUPS through the disk of `group` tells them.
fn states(guest: &mut Guest, group: u32, options: &str) -> Result<Vec<String>> {
    hear(guest)?;
    let said = guest.check(&format!("sg_rtpg {options} --decode /run/group{group}"))?;
    let states = said.lines().filter_map(|line| line.split_once("asymmetric access state : "));
    Ok(states.map(|(_, state)| state.trim().to_owned()).collect())
}

/// Whether a READ gets through; if not, the unit has to be not ready.
fn reads(guest: &mut Guest, group: u32) -> Result<bool> {
    hear(guest)?;
    let script = format!("sg_dd if=/run/group{group} of=/dev/null bs=512 count=1 blk_sgio=1");
    let answer = guest.run(&script)?;
    anyhow::ensure!([0, NOT_READY].contains(&answer.status), "{answer}");
    Ok(answer.status == 0)
}

#[test]
fn a_kernel_moves_a_disk_from_one_port_to_the_other() -> Result<()> {
    checks::need_tools()?;
    tools::need(["sg_rtpg", "sg_stpg", "sg_vpd", "sg_dd", "sg_turs"])?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let second = format!("{},group=2", lunette.path("two.sock").display());
    let lunette = lunette
        .lu(format!("disk:{},access=1:optimized:preferred+2:standby", file.display()))
        .vhost_user("one.sock")
        .arg("--vhost-user")
        .arg(second);
    let daemon = lunette.start()?;
    let mut vm = guest(&lunette)?;
    let size = vm.check("blockdev --getsize64 /run/group1 /run/group2")?;
    assert_eq!(size, "67108864\n67108864\n", "READ CAPACITY passes a port in standby");
    assert!(vm.check("sg_inq /run/group1")?.contains("TPGS=3"));
    for options in ["", "--extended"] {
        let expected = ["0x00 (active/optimized)", "0x02 (standby)"];
        let said = states(&mut vm, 1, options)?;
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().zip(expected).all(|(said, state)| said.contains(&state[..4])), "{said:?}");
    }
    assert!(reads(&mut vm, 1)? && !reads(&mut vm, 2)?);

    vm.check("sg_stpg --optimized /run/group2")?;
    hear(&mut vm)?;
    vm.check("sg_stpg --standby /run/group1")?;
    assert!(reads(&mut vm, 2)? && !reads(&mut vm, 1)?);
    vm.check("dd if=/dev/urandom of=/run/group2 bs=4k count=16 oflag=direct")?;

    // A port is taken offline by its number, and comes back with its group. Number 1 is iSCSI's.
    vm.check("sg_stpg --offline --tp=3 /run/group1")?;
    assert!(!reads(&mut vm, 2)?);
    assert_eq!(states(&mut vm, 2, "")?.len(), 3);
    vm.check("sg_stpg --optimized --tp=2 /run/group1")?;
    assert!(reads(&mut vm, 2)?);
    vm.power_off()?;
    daemon.kill()?;
    let daemon = lunette.start()?;
    let mut vm = guest(&lunette)?;
    assert!(reads(&mut vm, 2)? && !reads(&mut vm, 1)?, "what was set lasts over a kill");
    vm.power_off()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn portals_of_different_groups_are_different_ports() -> Result<()> {
    let lunette = Lunette::new()?
        .lu("disk:ram:8M,access=7:unavailable")
        .iscsi()
        .arg("--iscsi")
        .arg("127.0.0.1:0,group=7");
    let daemon = lunette.start()?;
    let printed = daemon.printed();
    let urls: Vec<&str> = printed.split_whitespace().filter(|word| word.starts_with("iscsi://")).collect();
    let [first, second] = urls[..] else { anyhow::bail!("{printed}") };
    let portal = |url: &str| url.split('/').nth(2).map(str::to_owned).context("no portal");
    for (url, tag, works) in [(first, ",1", true), (second, ",7", false)] {
        let listed = tools::output("iscsi-ls", [&format!("iscsi://{}/", portal(url)?)])?.ok()?.stdout;
        assert!(listed.contains(&format!("{}{tag}", portal(url)?)), "{listed}");
        // The tool sends TEST UNIT READY first.
        let capacity = tools::output("iscsi-readcapacity16", [url])?;
        assert_eq!(capacity.status == 0, works, "{capacity}");
        assert_eq!(capacity.text().contains("0x040c"), !works, "{capacity}");
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn groups_without_a_port_are_refused() -> Result<()> {
    let said = Lunette::new()?.lu("disk:ram:8M,access=2:standby").iscsi().refused()?;
    assert!(said.text().contains("names target port group 2"), "{said}");
    Ok(())
}
