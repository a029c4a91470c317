//! Which of its commands a logical unit carries out.

use lunette_scsi::{Opcode, command_name};
use std::str::FromStr;

/// Allows or denies commands by name or code: `allow:` or `deny:`, and commands with `+` between them.
///
/// A command is named as in the standards, in any case and with any signs between the words (`write-same-16`), or without
/// its length for those of every length (`write-same`). Codes are hexadecimal: `93`, or `9e/12` with a service action. The
/// four commands that every logical unit has to have cannot be denied: INQUIRY, REPORT LUNS, REQUEST SENSE and TEST UNIT
/// READY.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CommandFilter {
    denies: bool,
    named: Option<Vec<Named>>,
}

/// An operation code, or one service action of it.
type Named = (Opcode, Option<u16>);

/// Why a text is no filter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// Neither kind.
    #[error("a filter is written allow:COMMAND+COMMAND… or deny:COMMAND+COMMAND…")]
    Kind,
    /// No command.
    #[error("there is no command `{0}`; commands are written as in inquiry, write-same-16, 93 or 9e/12")]
    Unknown(String),
    /// It has to be there.
    #[error("{0} cannot be denied: every logical unit has it")]
    Mandatory(&'static str),
}

const MANDATORY: [Opcode; 4] =
    [Opcode::INQUIRY, Opcode::REPORT_LUNS, Opcode::REQUEST_SENSE, Opcode::TEST_UNIT_READY];

impl CommandFilter {
    /// Whether it lets a command through.
    pub fn passes(&self, opcode: Opcode, service_action: Option<u16>) -> bool {
        let Some(named) = &self.named else { return true };
        let is_named = named
            .iter()
            .any(|(code, action)| *code == opcode && (action.is_none() || *action == service_action));
        MANDATORY.contains(&opcode) || is_named != self.denies
    }
}

impl FromStr for CommandFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (kind, commands) = text.split_once(':').ok_or(FilterError::Kind)?;
        let denies = match kind {
            "allow" => false,
            "deny" => true,
            _ => return Err(FilterError::Kind),
        };
        let mut all = Vec::new();
        for command in commands.split('+') {
            let named = match code(command) {
                Some(named) => vec![named],
                None => by_name(command),
            };
            if named.is_empty() {
                return Err(FilterError::Unknown(command.to_owned()));
            }
            all.extend(named);
        }
        let mandatory = all.iter().find(|(opcode, _)| denies && MANDATORY.contains(opcode));
        match mandatory.and_then(|(opcode, _)| opcode.name()) {
            Some(name) => Err(FilterError::Mandatory(name)),
            None => Ok(Self { denies, named: Some(all) }),
        }
    }
}

/// `93`, `9e/12`, `7f/0012`.
fn code(text: &str) -> Option<Named> {
    let (opcode, action) = match text.split_once('/') {
        Some((opcode, action)) => (opcode, Some(hexadecimal(action, 4)?)),
        None => (text, None),
    };
    (opcode.len() == 2).then_some((Opcode(hexadecimal(opcode, 2)? as u8), action))
}

fn hexadecimal(text: &str, most: usize) -> Option<u16> {
    let digits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

fn by_name(text: &str) -> Vec<Named> {
    let wanted = letters(text);
    let is_wanted = |name: &str| {
        let family = name.split('(').next().unwrap_or(name);
        letters(name) == wanted || letters(family) == wanted
    };
    let mut found = Vec::new();
    for opcode in (0..=u8::MAX).map(Opcode) {
        if opcode.name().is_some_and(is_wanted) {
            found.push((opcode, None));
        } else if opcode.has_service_action() {
            let named = |action: &u16| {
                let name = command_name(opcode, Some(*action));
                name != opcode.name() && name.is_some_and(is_wanted)
            };
            found.extend((0..=0x1f).filter(named).map(|action| (opcode, Some(action))));
        }
    }
    found
}

fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filter: &str, opcode: u8, action: Option<u16>) -> bool {
        filter.parse::<CommandFilter>().unwrap().passes(Opcode(opcode), action)
    }

    #[test]
    fn commands_have_names_families_and_codes() {
        for text in ["deny:write-same-16", "deny:WRITE SAME(16)", "deny:WriteSame+unmap", "deny:42+93"] {
            assert!(!passes(text, 0x93, None), "{text}");
        }
        assert!(passes("deny:write-same-16", 0x41, None));
        assert!(!passes("deny:write-same", 0x41, None));
        assert!(!passes("deny:get-lba-status", 0x9e, Some(0x12)));
        assert!(!passes("deny:get-lba-status", 0x7f, Some(0x12)));
        assert!(passes("deny:get-lba-status-32", 0x9e, Some(0x12)));
        assert!(!passes("deny:7f", 0x7f, Some(0x12)));
        assert!(!passes("deny:9e/12", 0x9e, Some(0x12)));
        assert!(passes("deny:9e/12", 0x9e, Some(0x10)));
        assert!(!passes("deny:persistent-reserve-out", 0x5f, Some(3)));
    }

    #[test]
    fn what_is_allowed_is_all_but_for_what_must_be() {
        let filter = "allow:read-10+read-capacity";
        assert!(passes(filter, 0x28, None) && passes(filter, 0x25, None) && passes(filter, 0x9e, Some(0x10)));
        assert!(!passes(filter, 0x2a, None) && !passes(filter, 0x9e, Some(0x12)));
        assert!(MANDATORY.into_iter().all(|opcode| passes(filter, opcode.0, None)));
        assert!(CommandFilter::default().passes(Opcode(0x2a), None));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| text.parse::<CommandFilter>().unwrap_err();
        assert_eq!(error("unmap"), FilterError::Kind);
        assert_eq!(error("refuse:unmap"), FilterError::Kind);
        for wrong in ["", "unmapp", "1", "123", "42/", "42/+1", "9e/12345", "zz"] {
            let named = wrong.split('+').next().unwrap();
            assert_eq!(error(&format!("deny:{wrong}")), FilterError::Unknown(named.into()), "{wrong}");
        }
        assert_eq!(error("deny:unmap+inquiry"), FilterError::Mandatory("INQUIRY"));
        assert_eq!(error("deny:a0"), FilterError::Mandatory("REPORT LUNS"));
    }
}
