//! `lunette check`, `lunette diff`, `lunette import` and `lunette schema`.

use super::check::Setting;
use super::diff::diff;
use super::load::{DEFAULT_FILE, Files, load};
use super::{Document, Model, import, print, schema};
use anyhow::Result;
use clap::Subcommand;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What is to be done with a configuration.
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Check a configuration, without opening or changing anything
    ///
    /// Tells everything that is wrong, with its place, and otherwise what it says.
    Check {
        /// The configuration; the files in `conf.d` beside it belong to it
        #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
        file: PathBuf,
        /// Print all of it as one file, in the order that it always has
        #[arg(long)]
        print: bool,
    },
    /// Show what would change from one configuration to another
    ///
    /// In the order in which it would be done, and whether that needs a restart.
    Diff {
        /// The configuration that there is
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// The one that is wanted
        #[arg(value_name = "TO")]
        to: PathBuf,
        /// As JSON, with everything that is known
        #[arg(long)]
        json: bool,
    },
    /// Print the equivalent of a configuration of tgt (targets.conf) or LIO (saveconfig.json)
    ///
    /// Names, logical unit numbers, serial numbers, world-wide names, access lists and CHAP are kept. What does not carry
    /// over is told on standard error, with its line or place and the reason. No secret is printed.
    Import {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Write the secrets into files in this directory, which only the user can read
        #[arg(long, value_name = "DIRECTORY")]
        secrets: Option<PathBuf>,
    },
    /// Print the JSON schema of configurations
    Schema,
}

/// Carries it out.
pub(crate) fn run(command: &ConfigCommand) -> Result<()> {
    let text = match command {
        ConfigCommand::Check { file, print: false } => summary(file, &read(file, true)?),
        ConfigCommand::Check { file, print: true } => print::to_toml(&read(file, true)?)?,
        ConfigCommand::Diff { from, to, json } => {
            let plan = diff(&read(from, true)?, &read(to, true)?);
            if *json { format!("{:#}\n", serde_json::to_value(&plan)?) } else { plan.to_string() }
        }
        ConfigCommand::Import { file, secrets } => {
            let (text, told) = import::import(file, secrets.as_deref())?;
            let _ = write!(std::io::stderr(), "{told}");
            text
        }
        ConfigCommand::Schema => format!("{:#}\n", schema::schema()),
    };
    say(&text)
}

fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// A configuration that can be used, also as far as the system is concerned if that is to be looked at. Warnings go to
/// standard error.
pub(crate) fn read(path: &Path, looks_at_system: bool) -> Result<Model> {
    let setting = Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system, is_whole: true };
    let (model, report) = load(path, Files::WithDirectory, Document::default(), setting)?;
    for warning in report.warnings() {
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
    Ok(model)
}

/// What a configuration says, in a few lines.
fn summary(path: &Path, model: &Model) -> String {
    let count = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    };
    let Model { units, portals, targets, exports, .. } = model;
    let mut text = format!("{}: ", path.display());
    let parts = [
        count(units.len(), "unit", "units"),
        count(portals.len(), "portal", "portals"),
        count(targets.len(), "target", "targets"),
        count(exports.len(), "vhost-user export", "vhost-user exports"),
    ];
    let _ = writeln!(text, "{}", parts.join(", "));
    text
}
