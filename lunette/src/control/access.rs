//! Who may control the daemon.

use crate::config::values::Principal;
use crate::config::{self, group_number};
use anyhow::{Result, anyhow};
use clap::Args;
use lunette_control::AccessRules;

/// Who may do what by the control socket, besides the daemon's user and root, and how many, as the command line says it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlOptions {
    /// A group whose members may control the daemon, by name or number (may be repeated)
    #[arg(long = "control-admin-group", value_name = "GROUP", value_parser = existing_group)]
    pub(crate) administrators: Vec<Principal>,

    /// A group whose members may look at everything, but change nothing (may be repeated)
    #[arg(long = "control-read-group", value_name = "GROUP", value_parser = existing_group)]
    pub(crate) readers: Vec<Principal>,

    /// Most connections to the control socket at a time, otherwise 256; those who may only read get half of it
    #[arg(long = "control-clients", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) clients: Option<u16>,
}

fn existing_group(text: &str) -> Result<Principal, String> {
    let group = text.parse()?;
    group_number(&group)?;
    Ok(group)
}

/// How many connections there may be if nothing is said.
const CLIENTS: u16 = 256;

/// Who may do what by the control socket, and how many.
#[derive(Clone, Debug)]
pub(crate) struct ControlAccess {
    pub(super) rules: AccessRules,
    pub(super) clients: u16,
}

impl ControlAccess {
    /// What a configuration says, for a process of this user.
    pub(crate) fn of(daemon: &config::Daemon) -> Result<Self> {
        let numbers = |groups: &[Principal]| {
            groups.iter().map(group_number).collect::<Result<_, _>>().map_err(|why| anyhow!(why))
        };
        Ok(Self {
            rules: AccessRules::new(
                numbers(&daemon.control_admin_groups)?,
                numbers(&daemon.control_read_groups)?,
            ),
            clients: daemon.control_clients.map_or(CLIENTS, |clients| clients.get()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        access: ControlOptions,
    }

    fn rules(words: &[&str]) -> Result<(AccessRules, u16), String> {
        let all = ["lunette"].iter().chain(words);
        let options = Words::try_parse_from(all).map_err(|error| error.to_string())?.access;
        let daemon = config::Daemon {
            control_admin_groups: options.administrators,
            control_read_groups: options.readers,
            control_clients: options.clients.and_then(std::num::NonZeroU16::new),
            ..config::Daemon::default()
        };
        let access = ControlAccess::of(&daemon).map_err(|error| error.to_string())?;
        Ok((access.rules, access.clients))
    }

    #[test]
    fn groups_are_names_or_numbers() {
        let words = ["--control-admin-group", "root", "--control-admin-group=7", "--control-read-group=8"];
        let (rules, clients) = rules(&words).unwrap();
        assert_eq!((rules.administrators, rules.readers, clients), (vec![0, 7], vec![8], 256));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (word, part) in [
            ("--control-admin-group=no-such-group-here", "no group `no-such-group-here`"),
            ("--control-clients=0", "1..=4096"),
        ] {
            let error = rules(&[word]).unwrap_err();
            assert!(error.contains(part), "{word}: {error}");
        }
    }
}
