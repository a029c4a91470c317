//! Whether what a configuration names is there: secrets, users, groups. Only looks.

use super::check::{Issue, Where};
use super::document::Document;
use super::iscsi::{Account, Chap};
use super::report::Severity;
use super::secret::is_for_others;
use super::values::{Principal, StoreSpec};
use lunette_transport_vhost_user::Access;
use nix::unistd::{Group, User};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use super::daemon::VhostUser;
use super::values::Mode;

/// What is wrong. `becomes`: whom the command line has the daemon become.
pub(super) fn check(document: &Document, becomes: Option<&Principal>) -> Vec<Issue> {
    let mut issues = Vec::new();
    let becomes = becomes.or(document.daemon.user.as_ref()).and_then(|name| user(name).ok());
    let at = |section, index| Where { section, index, keys: Vec::new() };
    if let Some(policy) = &document.discovery.chap {
        chap(policy, becomes, &at("discovery", 0).at("chap"), &mut issues);
    }
    for (index, target) in document.targets.iter().enumerate() {
        for (rule, access) in target.access.iter().enumerate() {
            if let Some(policy) = &access.chap {
                chap(policy, becomes, &at("target", index).at("access").at(rule).at("chap"), &mut issues);
            }
        }
    }
    for (index, export) in document.vhost_user.iter().enumerate() {
        let at = at("vhost-user", index);
        look_up(export.owner.as_ref().map(user), at.at("owner"), &mut issues);
        look_up(export.group.as_ref().map(group), at.at("group"), &mut issues);
    }
    let daemon = at("daemon", 0);
    look_up(document.daemon.user.as_ref().map(user), daemon.at("user"), &mut issues);
    look_up(document.daemon.group.as_ref().map(group), daemon.at("group"), &mut issues);
    for (key, groups) in [
        ("control-admin-groups", &document.daemon.control_admin_groups),
        ("control-read-groups", &document.daemon.control_read_groups),
    ] {
        for (index, name) in groups.iter().enumerate() {
            look_up(Some(group(name)), daemon.at(key).at(index), &mut issues);
        }
    }
    same_files(document, &mut issues);
    issues
}

fn look_up(found: Option<Result<u32, String>>, at: Where, issues: &mut Vec<Issue>) {
    if let Some(Err(what)) = found {
        issues.push(Issue::new(at, what));
    }
}

/// Secrets can be read, by nobody else, and each side has its own.
fn chap(policy: &Chap, becomes: Option<u32>, at: &Where, issues: &mut Vec<Issue>) {
    let load = |account: &Account| account.secret.load(policy.short_secrets, becomes);
    let own = match policy.target.as_ref().map(load) {
        Some(Err(error)) => {
            issues.push(no_secret(at.at("target").at("secret"), &error));
            None
        }
        Some(Ok(secret)) => Some(secret),
        None => None,
    };
    for (index, account) in policy.accounts.iter().enumerate() {
        let at = at.at("accounts").at(index);
        match load(account) {
            Err(error) => issues.push(no_secret(at.at("secret"), &error)),
            // Each side could otherwise have the other answer its own challenge.
            Ok(secret) if own.as_ref().is_some_and(|own| own.is_same(&secret)) => {
                let what = format!(
                    "`{}` has the same secret as the target, which RFC 7143 9.2.1 forbids",
                    account.name
                );
                issues.push(Issue::new(at.at("name"), what));
            }
            Ok(_) => {}
        }
    }
}

/// Who looks need not be who serves: what only others can read is refused by who needs it.
fn no_secret(at: Where, error: &anyhow::Error) -> Issue {
    let severity = if is_for_others(error) { Severity::Warning } else { Severity::Error };
    Issue { severity, ..Issue::new(at, format!("{error:#}")) }
}

/// Different paths of one file.
fn same_files(document: &Document, issues: &mut Vec<Issue>) {
    let mut seen = HashMap::new();
    for (index, unit) in document.units.iter().enumerate() {
        let StoreSpec::Path(path) = &unit.store else { continue };
        let Ok(data) = std::fs::metadata(path.as_path()) else { continue };
        let identity = if data.rdev() == 0 { (data.dev(), data.ino()) } else { (u64::MAX, data.rdev()) };
        let first = *seen.entry(identity).or_insert(index);
        let other = &document.units[first];
        // Those of the same path were told already.
        if first != index && other.store != unit.store && !(unit.read_only && other.read_only) {
            let place = |index| Where { section: "unit", index, keys: vec!["store".into()] };
            let what = format!(
                "the units `{}` and `{}` have the same file, and not both only read",
                other.name, unit.name
            );
            issues.push(Issue {
                also: Some((place(first), "the other one is at")),
                ..Issue::new(place(index), what)
            });
        }
    }
}

/// The number of a user.
///
/// # Errors
/// There is none of that name.
pub(crate) fn user(user: &Principal) -> Result<u32, String> {
    number("user", user.as_str(), |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// The number of a group.
///
/// # Errors
/// There is none of that name.
pub(crate) fn group(group: &Principal) -> Result<u32, String> {
    number("group", group.as_str(), |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

/// The number that `text` is, or that belongs to it as a name.
fn number(kind: &str, text: &str, find: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32, String> {
    // The largest number means to the kernel: leave as it is.
    if let Some(number) = text.parse().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    let found = find(text).map_err(|error| format!("cannot look up the {kind} `{text}`: {error}"))?;
    found.ok_or_else(|| format!("there is no {kind} `{text}`"))
}

/// Who may connect to the socket of an export.
///
/// # Errors
/// There is no such user or group.
pub(crate) fn access(export: &VhostUser) -> Result<Access, String> {
    // Who names a group means it to connect.
    let usual = if export.group.is_some() { 0o660 } else { Access::default().mode };
    Ok(Access {
        mode: export.mode.map_or(usual, |Mode(mode)| mode),
        user: export.owner.as_ref().map(user).transpose()?,
        group: export.group.as_ref().map(group).transpose()?,
    })
}
