//! A plan for people.

use super::{Action, Change, How, Object, Plan, Shelf, Step};
use serde_json::Value;
use std::fmt::{self, Display};

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes\n");
        }
        self.steps.iter().try_for_each(|step| write!(f, "{step}"))?;
        let restarts = self.steps.iter().any(|step| step.how == How::Restart);
        match restarts {
            true => f.write_str("what needs a restart is done by the next start of the daemon\n"),
            false => Ok(()),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Delete => '-',
        };
        let how = match self.how {
            How::Live => "",
            How::Recreate => " (goes and comes again)",
            How::Restart => " (needs a restart)",
        };
        writeln!(f, "{sign} {}{how}", self.object)?;
        // Where only some keys need it, these are told.
        let mixed = self.changes.iter().any(|change| change.how != self.how);
        for change in &self.changes {
            let because = mixed && self.action == Action::Change && change.how == self.how;
            writeln!(f, "      {change}{}", if because { "   <-" } else { "" })?;
        }
        Ok(())
    }
}

impl Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str("[daemon]"),
            Self::Iscsi => f.write_str("all of iSCSI"),
            Self::Unit { name } => write!(f, "unit {name}"),
            Self::Portal { listen } => write!(f, "portal {listen}"),
            Self::Target { name } => write!(f, "target {name}"),
            Self::Rules { target } => write!(f, "rules of target {target}"),
            Self::Export { name } => write!(f, "vhost-user export {name}"),
            Self::Throttle { name } => write!(f, "throttle {name}"),
            Self::Mapping { shown_by, at, unit } => write!(f, "unit {unit} at {at} of {shown_by}"),
        }
    }
}

impl Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target { name } => write!(f, "target {name}"),
            Self::Rule { target, index } => write!(f, "rule {} of target {target}", index + 1),
            Self::Export { name } => write!(f, "vhost-user export {name}"),
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new, .. } = self;
        match (old, new) {
            (Some(old), Some(new)) => write!(f, "{key}: {old} -> {new}"),
            (None, new) => write!(f, "{key} = {}", new.as_ref().unwrap_or(&Value::Null)),
            (Some(old), None) => write!(f, "{key}: {old} -> nothing"),
        }
    }
}
