//! Who may control the daemon, as the command line says.

use crate::socket::group_number;
use clap::Args;
use lunette_control::AccessRules;
use std::str::FromStr;

/// Who may do what by the control socket, besides the daemon's user and root, and how many.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlAccess {
    /// A group whose members may control the daemon, by name or number (may be repeated)
    #[arg(long = "control-admin-group", value_name = "GROUP")]
    administrators: Vec<GroupName>,

    /// A group whose members may look at everything, but change nothing (may be repeated)
    #[arg(long = "control-read-group", value_name = "GROUP")]
    readers: Vec<GroupName>,

    /// Most connections to the control socket at a time; those who may only read get half of it
    #[arg(long = "control-clients", value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) clients: u16,
}

impl ControlAccess {
    /// What that means for a process of this user.
    pub(super) fn rules(&self) -> AccessRules {
        let numbers = |groups: &[GroupName]| groups.iter().map(|group| group.0).collect();
        AccessRules {
            administrators: numbers(&self.administrators),
            readers: numbers(&self.readers),
            ..AccessRules::default()
        }
    }
}

/// The number of a group, written as its name or number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct GroupName(u32);

impl FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        group_number(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        access: ControlAccess,
    }

    fn rules(words: &[&str]) -> Result<(AccessRules, u16), String> {
        let all = ["lunette"].iter().chain(words);
        let access = Words::try_parse_from(all).map_err(|error| error.to_string())?.access;
        Ok((access.rules(), access.clients))
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
