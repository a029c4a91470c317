//! `lunette completions` and `lunette man`: what is made from the definition of the command line.

use crate::cli::{Cli, Generate};
use anyhow::{Context, Result};
use clap::CommandFactory;
use std::io::Write;
use std::path::Path;

/// The name of the program.
const NAME: &str = "lunette";

/// Carries out either.
pub(crate) fn run(what: &Generate) -> Result<()> {
    match what {
        Generate::Completions { shell } => completions(*shell, &mut std::io::stdout()),
        Generate::Man { directory } => manual(directory),
    }
}

fn completions(shell: clap_complete::Shell, to: &mut impl Write) -> Result<()> {
    // It would panic if it could not write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    Ok(to.write_all(&text)?)
}

fn manual(directory: &Path) -> Result<()> {
    let command = Cli::command().name(NAME);
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("cannot write manual pages to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::collections::BTreeSet;
    use std::fs;

    /// The names of all commands, with those that they belong to.
    fn commands(of: &clap::Command, path: &str, into: &mut BTreeSet<String>) {
        into.insert(path.to_owned());
        for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
            commands(command, &format!("{path}-{}", command.get_name()), into);
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        manual(directory.path()).unwrap();
        let mut expected = BTreeSet::new();
        commands(&Cli::command(), NAME, &mut expected);
        for name in &expected {
            let page = fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
        assert!(expected.contains("lunette-session-end") && expected.len() > 10, "{expected:?}");
        assert!(manual(&directory.path().join("nowhere")).is_err());
    }

    #[test]
    fn every_shell_completes_every_command() {
        let mut expected = BTreeSet::new();
        commands(&Cli::command(), NAME, &mut expected);
        for shell in clap_complete::Shell::value_variants() {
            let mut text = Vec::new();
            completions(*shell, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            for name in expected.iter().filter_map(|name| name.rsplit('-').next()) {
                assert!(text.contains(name), "{shell} completes {name}");
            }
            assert!(text.contains("control-admin-group"), "{shell}");
        }
    }
}
