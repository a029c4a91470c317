//! The notation for target port groups and how well they make a logical unit accessible: `group=2`, and
//! `access=1:optimized+2:standby`.

use lunette_scsi::AccessState;
use std::fmt;

/// How a logical unit begins to be accessible through a target port group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupAccess {
    pub(crate) group: u16,
    pub(crate) state: AccessState,
    /// Initiators should use it before others.
    pub(crate) preferred: bool,
}

impl fmt::Display for GroupAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = STATES.iter().find(|(_, state)| *state == self.state);
        write!(f, "{}:{}", self.group, named.map_or("", |(name, _)| name))?;
        if self.preferred { f.write_str(":preferred") } else { Ok(()) }
    }
}

/// The states that a group can have, by their names.
const STATES: [(&str, AccessState); 4] = [
    ("optimized", AccessState::ACTIVE_OPTIMIZED),
    ("non-optimized", AccessState::ACTIVE_NON_OPTIMIZED),
    ("standby", AccessState::STANDBY),
    ("unavailable", AccessState::UNAVAILABLE),
];

/// The number of a target port group. The last one stands for ports that are offline.
pub(crate) fn group(text: &str) -> Result<u16, String> {
    let group = text.parse().ok().filter(|group| (1..u16::MAX).contains(group));
    group.ok_or_else(|| format!("group={text}: the number of a target port group is 1 to 65534"))
}

/// `GROUP:STATE[:preferred]`, with `+` between groups.
pub(crate) fn access(text: &str) -> Result<Vec<GroupAccess>, String> {
    let mut all = Vec::<GroupAccess>::new();
    for part in text.split('+') {
        let one = one_group(part).map_err(|why| format!("access={text}: {why}"))?;
        if all.iter().any(|other| other.group == one.group) {
            return Err(format!("access={text}: target port group {} is given twice", one.group));
        }
        all.push(one);
    }
    Ok(all)
}

fn one_group(text: &str) -> Result<GroupAccess, String> {
    const USAGE: &str = "access to a target port group is written GROUP:STATE or GROUP:STATE:preferred";
    let mut words = text.split(':');
    let number = group(words.next().unwrap_or_default())?;
    let name = words.next().ok_or(USAGE)?;
    let (_, state) = *STATES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("`{name}` is none of optimized, non-optimized, standby and unavailable"))?;
    match (words.next(), words.next()) {
        (None, _) => Ok(GroupAccess { group: number, state, preferred: false }),
        (Some("preferred"), None) => Ok(GroupAccess { group: number, state, preferred: true }),
        _ => Err(USAGE.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_states_are_understood() {
        let expected = [
            (1, AccessState::ACTIVE_OPTIMIZED, true),
            (2, AccessState::ACTIVE_NON_OPTIMIZED, false),
            (3, AccessState::STANDBY, false),
            (65534, AccessState::UNAVAILABLE, true),
        ];
        let expected = expected.map(|(group, state, preferred)| GroupAccess { group, state, preferred });
        let text = "1:optimized:preferred+2:non-optimized+3:standby+65534:unavailable:preferred";
        assert_eq!(access(text), Ok(expected.to_vec()));
        assert_eq!(expected.map(|access| access.to_string()).join("+"), text);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, part) in [
            ("", "1 to 65534"),
            ("0:standby", "1 to 65534"),
            ("65535:standby", "1 to 65534"),
            ("1", "written GROUP:STATE"),
            ("1:", "`` is none of optimized"),
            ("1:offline", "`offline` is none of optimized"),
            ("1:standby:first", "written GROUP:STATE"),
            ("1:standby:preferred:x", "written GROUP:STATE"),
            ("1:standby+1:optimized", "group 1 is given twice"),
        ] {
            let error = access(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
