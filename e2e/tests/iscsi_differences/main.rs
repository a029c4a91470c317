//! lunette beside the targets that people come from: the same words to LIO, tgt and lunette, and every difference in their
//! answers is listed with its reason.

mod peers;
mod steps;
mod wire;

use anyhow::{Context, Result};
use lunette_e2e::daemon::Lunette;
use lunette_e2e::differences::{Differences, Transcript};
use lunette_e2e::guest::Guest;
use lunette_e2e::open_iscsi::{self, PORTAL, TARGET};
use lunette_e2e::tools;
use wire::Place;

/// Makes this process an initiator that speaks in PDUs: portal, target, LUN, and whether it is fragile.
const ROLE: &str = "LUNETTE_WIRE";
const SIZE: u64 = 16 << 20;

#[test]
fn differences_from_other_targets_are_listed() -> Result<()> {
    tools::need(["tgtd", "tgtadm", "sg_raw", "sg_persist"])?;
    let listed = Differences::parse(include_str!("../../expected/iscsi-differences.txt"))?;
    let netns = open_iscsi::network()?;
    let lunette =
        Lunette::new()?.inside(&netns).lu(format!("disk:ram:{}M,w", SIZE >> 20)).arg("--iscsi").arg(PORTAL);
    let mut daemon = lunette.start()?;
    let place = |portal: &str, target: &str, lun, fragile| -> Result<Place> {
        Ok(Place { portal: portal.parse()?, target: target.to_owned(), lun, fragile })
    };
    let ours = place(PORTAL, TARGET, 0, false)?;
    let tgt = place("192.0.2.1:3261", "iqn.2026-11.dev.lunette:tgt", 1, true)?;
    let lio = place("192.0.2.2:3260", "iqn.2026-11.dev.lunette:lio", 0, false)?;
    let _tgtd = peers::Tgt::start(&netns, &tgt.portal.to_string(), &tgt.target, SIZE)?;
    let mut guest = open_iscsi::guest(&netns)?;
    peers::start_lio(&mut guest, &lio.portal.to_string(), &lio.target, SIZE)?;

    let ours = transcript(&mut guest, &ours).context("lunette")?;
    let tgt = transcript(&mut guest, &tgt).context("tgt")?;
    let lio = transcript(&mut guest, &lio).context("LIO")?;
    daemon.alive()?;
    listed.compare(&ours, &[("tgt", tgt), ("LIO", lio)])?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

/// All that a target answers. The guest sees the programs of the host, this one too.
fn transcript(guest: &mut Guest, place: &Place) -> Result<Transcript> {
    let Place { portal, target, lun, fragile } = place;
    let itself = std::env::current_exe()?;
    let wire = guest.check(&format!(
        "export {ROLE}='{portal} {target} {lun} {fragile}'
         {} --exact words_on_the_wire --nocapture --test-threads=1",
        itself.display()
    ))?;
    let (portal, lun) = (portal.to_string(), lun.to_string());
    let variables = [("PORTAL", &*portal), ("TARGET", target), ("LUN", &*lun)];
    let kernel = guest.check_with(&variables, include_str!("../../scripts/dialogue.sh"))?;
    Transcript::parse(&format!("{wire}{kernel}"))
}

/// Not a test of its own: the process that the other one starts.
#[test]
fn words_on_the_wire() -> Result<()> {
    let Ok(role) = std::env::var(ROLE) else { return Ok(()) };
    let words: Vec<&str> = role.split(' ').collect();
    let [portal, target, lun, fragile] = words[..] else { anyhow::bail!("{ROLE}: {role:?}") };
    let (lun, fragile) = (lun.parse()?, fragile.parse()?);
    let place = Place { portal: portal.parse()?, target: target.to_owned(), lun, fragile };
    for (step, answer) in steps::take(&place) {
        println!("{step} | {answer}");
    }
    Ok(())
}
