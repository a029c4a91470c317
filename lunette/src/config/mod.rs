//! The configuration: from the command line or from files to one [`Model`] of everything, and back to a file.
//!
//! A [`Document`] is what is written: in TOML, in JSON, on the command line. When its parts hold together it is a model.

pub(crate) mod check;
pub(crate) mod command;
mod daemon;
mod decode;
pub(crate) mod diff;
mod document;
mod draft;
mod import;
mod iscsi;
mod load;
mod mask;
mod options;
pub(crate) mod origin;
mod print;
mod report;
mod schema;
mod secret;
mod suggest;
mod system;
#[cfg(test)]
mod tests;
mod throttle;
mod unit;
pub(crate) mod values;

pub(crate) use check::Setting;
pub(crate) use daemon::{Confine, Daemon, ExportKnownBy, IoMode, Places, PollMode, VhostUser};
pub(crate) use document::{Document, Iscsi, Model, PortalKey, Rebase};
pub(crate) use import::import_text;
pub(crate) use iscsi::{
    Access, Account, Chap, Digest, Limits, Luns, Parameters, PortGroup, Portal, Target, Times,
};
pub(crate) use load::{DEFAULT_FILE, from_text};
pub(crate) use print::{document_to_toml, to_toml};
pub(crate) use report::{Report, Severity};
pub(crate) use secret::{SecretSource, is_for_others};
pub(crate) use system::{access, group as group_number, user as user_number};
pub(crate) use throttle::{Each, Throttle};
pub(crate) use unit::{BlockLength, KnownBy, Unit, UnitLun, Version};
