//! `lunette import` and the real thing: what tgtd and LIO serve is served by lunette as what they have written down says, and
//! initiators see the same disks and need the same proofs.

mod lio;
mod tgt;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lunette_e2e::daemon::{Lunette, binary};
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::PORTAL;
use lunette_e2e::tools::{self, Output};

/// A target with the units that the guest has there, and with the settings of open-iscsi for that.
struct View {
    target: &'static str,
    luns: &'static str,
    settings: &'static str,
}

/// What the guest's kernel says of all units of some targets on a portal.
fn seen(guest: &mut Guest, portal: &str, views: &[View]) -> Result<String> {
    let mut text = String::new();
    for View { target, luns, settings } in views {
        let variables = [("PORTAL", portal), ("TARGET", target), ("LUNS", luns), ("SETTINGS", settings)];
        text += &guest.check_with(&variables, include_str!("../../scripts/seen.sh"))?;
    }
    Ok(text)
}

/// A disk with something in it.
fn disk(path: &Path, size: u64) -> Result<PathBuf> {
    let name = path.file_name().context("a file")?.as_encoded_bytes();
    fs::write(path, name.repeat(usize::try_from(size)? / name.len() + 1))?;
    fs::File::options().write(true).open(path)?.set_len(size)?;
    Ok(path.to_owned())
}

/// Carries out a command of lunette.
fn lunette(words: &[&str]) -> Result<Output> {
    let binary = binary()?.display().to_string();
    let said = tools::output(&binary, words)?;
    assert!(!said.stderr.contains("panicked"), "{said}");
    Ok(said)
}

/// Imports a configuration into `folder`, with secrets for the accounts that have none there, and has it checked. Returns where
/// it is, and what does not carry over.
fn imported(path: &Path, folder: &Path, missing: &[(&str, &str)]) -> Result<(PathBuf, String)> {
    let secrets = folder.join("chap");
    let (path, secrets_text) = (path.display().to_string(), secrets.display().to_string());
    let Output { stdout, stderr, .. } = lunette(&["import", "--secrets", &secrets_text, &path])?.ok()?;
    for (name, secret) in missing {
        let file = secrets.join(name);
        assert!(!file.exists() && stdout.contains(&format!("# {}: put the secret there", file.display())));
        fs::write(&file, secret)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    }
    let ours = folder.join("lunette.toml");
    fs::write(&ours, &stdout)?;
    lunette(&["check", &ours.display().to_string()])?.ok().context(stdout)?;
    Ok((ours, stderr))
}

/// A daemon that serves it where the others were.
fn served<'a>(netns: &'a Netns, configuration: &Path) -> Result<Lunette<'a>> {
    Ok(Lunette::new()?.inside(netns).arg("--config").arg(configuration))
}

/// Whether somebody gets to a unit: the name of an initiator, name and secret, and the rest of the URL.
type Attempt = (&'static str, &'static str, &'static str);

/// Which of these are let in.
fn let_in(guest: &mut Guest, address: &str, attempts: &[Attempt]) -> Result<Vec<bool>> {
    let mut results = Vec::new();
    for (initiator, account, unit) in attempts {
        let said = guest.run(&format!("iscsi-inq -i {initiator} iscsi://{account}{address}:3260/{unit}"))?;
        results.push(said.stdout.contains("CONNECTED"));
    }
    Ok(results)
}

/// The host's address, at which tgtd and lunette are.
fn host() -> &'static str {
    PORTAL.trim_end_matches(":3260")
}
