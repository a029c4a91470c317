//! Many logical units: each takes one descriptor and no thread, is found, and is the same after a restart; and they leave nothing
//! behind when they go.

use anyhow::{Context, Result};
use lunette_e2e::control::Control;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::tools;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

const UNITS: usize = 500;

/// Its descriptors and threads.
fn holdings(daemon: &mut Daemon) -> Result<(usize, usize)> {
    let count = |what: &str, pid: u32| anyhow::Ok(fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
    let pid = daemon.pid();
    Ok((count("fd", pid)?, count("task", pid)?))
}

/// The units that libiscsi finds, and what it says of each.
fn found(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let url = daemon.iscsi_url(0)?;
    let portal = url.split('/').nth(2).context("the URL has no portal")?;
    let said = tools::output("iscsi-ls", ["-s", &format!("iscsi://{portal}")])?.ok()?.stdout;
    Ok(said.lines().filter(|line| line.starts_with("Lun:")).map(str::to_owned).collect())
}

fn configured(lunette: Lunette<'static>, units: usize) -> Result<Lunette<'static>> {
    let mut text =
        "[[portal]]\nlisten = \"127.0.0.1:0\"\n[[target]]\nname = \"iqn.2026-11.org.example:t\"\n".to_owned();
    for unit in 0..units {
        lunette.file(&format!("disk{unit}"), 1 << 20)?;
        write!(text, "[[unit]]\nname = \"u{unit}\"\nstore = \"disk{unit}\"\nlun = {unit}\n")?;
    }
    let path = lunette.path("lunette.toml");
    fs::write(&path, text)?;
    Ok(lunette.arg("--config").arg(path))
}

#[test]
fn a_unit_takes_a_descriptor_and_no_thread() -> Result<()> {
    tools::need(["iscsi-ls"])?;
    let mut one = configured(Lunette::new()?, 1)?.start()?;
    let (descriptors, threads) = holdings(&mut one)?;
    one.stop()?;
    let lunette = configured(Lunette::new()?, UNITS)?;
    let mut identities = BTreeSet::new();
    for start in 0..2 {
        let mut daemon = lunette.start()?;
        let (more, as_many) = holdings(&mut daemon)?;
        // Up to 63 more files of locks.
        assert!(more - descriptors < UNITS + 64, "{more} descriptors instead of {descriptors}");
        assert_eq!(as_many, threads);
        let units = found(&daemon)?;
        assert_eq!(units.len(), UNITS);
        // libiscsi calls a unit by the two bytes of its number, here in flat space addressing (SAM-5 4.7.5.3).
        let last = 0x4000 | (UNITS as u32 - 1);
        let pages = [0, 1, last].map(|lun| -> Result<String> {
            Ok(tools::output("iscsi-inq", ["-e", "1", "-c", "131", &daemon.iscsi_url(lun)?])?.ok()?.stdout)
        });
        let pages = pages.into_iter().collect::<Result<BTreeSet<_>>>()?;
        assert_eq!(pages.len(), 3);
        assert!(start == 0 || identities == pages, "{identities:?} and {pages:?}");
        identities = pages;
        daemon.stop()?;
    }
    Ok(())
}

/// Bytes of memory that belong to no file.
fn memory(daemon: &mut Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Units come and go.
#[test]
fn units_that_have_gone_leave_nothing_in_memory() -> Result<()> {
    // Identities are kept for units that come again: so many names are in use.
    let (names, all, growth) = match std::env::var_os("LUNETTE_TEST_FULL") {
        Some(_) => (1_000, 100_000, 2 << 20),
        None => (100, 1_000, 2 << 20),
    };
    let lunette = Lunette::new()?.iscsi();
    let mut daemon = lunette.start()?;
    let mut control = Control::of(&lunette)?;
    let file = lunette.file("disk", 1 << 20)?;
    let (mut before, mut descriptors) = (0, 0);
    for cycle in 0..all {
        if cycle == 2 * names {
            before = memory(&mut daemon)?;
            descriptors = holdings(&mut daemon)?.0;
        }
        let name = format!("unit{}", cycle % names);
        control.call("unit.create", json!({ "name": name, "store": file, "lun": 1 }))?;
        control.call("unit.delete", json!({ "name": name, "detach": true }))?;
    }
    let after = memory(&mut daemon)?;
    assert!(after < before + growth, "{before} bytes of memory have become {after}");
    // All files of locks are open by now.
    assert!(holdings(&mut daemon)?.0 <= descriptors + 64);
    daemon.stop()?;
    Ok(())
}
