//! `lunette completions` and `lunette man`: what is made from the definition of the command line.

use crate::cli::{Cli, Generate, Shell};
use anyhow::{Context, Result};
use clap::{CommandFactory, ValueEnum};
use clap_complete::env::Shells;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

/// The name of the program.
const NAME: &str = "lunette";
/// With this variable in the environment, and `--` before the words, the program completes them for the shell that it names.
const VARIABLE: &str = "LUNETTE_COMPLETE";

/// Carries out either.
pub(crate) fn run(what: &Generate) -> Result<()> {
    match what {
        Generate::Completions { shell } => completions(*shell, &mut std::io::stdout()),
        Generate::Man { directory } => manual(directory),
    }
}

/// What has a shell ask the program for completions.
fn completions(shell: Shell, to: &mut impl Write) -> Result<()> {
    let name = shell.to_possible_value().context("it has a name")?;
    let shells = Shells::builtins();
    let completer = shells.completer(name.get_name()).context("there are no completions for it")?;
    completer.write_registration(VARIABLE, NAME, NAME, NAME, to)?;
    if matches!(shell, Shell::Bash) {
        to.write_all(WORDS_IN_BASH.as_bytes())?;
    }
    Ok(())
}

/// To bash a colon ends a word, of which names of targets and addresses have some, and so does the equals sign of an option:
/// what it took apart is put together before it is completed, and of what comes back only the part behind the last of them is
/// new.
const WORDS_IN_BASH: &str = r#"
_lunette() {
    local words=() glue= index=0 i
    for i in "${!COMP_WORDS[@]}"; do
        if [[ ${COMP_WORDS[i]} =~ ^[:=]+$ || -n $glue ]] && ((${#words[@]} > 0)); then
            words[-1]+=${COMP_WORDS[i]}
        else
            words+=("${COMP_WORDS[i]}")
        fi
        glue=
        [[ ${COMP_WORDS[i]} =~ ^[:=]+$ ]] && glue=1
        ((i == COMP_CWORD)) && index=$((${#words[@]} - 1))
    done
    local COMP_WORDS=("${words[@]}") COMP_CWORD=$index current=${words[index]}
    local breaks=${COMP_WORDBREAKS//[^:=]/}
    _clap_complete_lunette "$1" "$current" "$3"
    if [[ -n $breaks && $current == *[$breaks]* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*[$breaks]}"}"}")
    fi
}
complete -o nospace -o bashdefault -F _lunette lunette
"#;

/// Completes a command line, if a shell has called for that.
pub(crate) fn complete(words: &[OsString]) -> Option<Result<()>> {
    let shell = std::env::var_os(VARIABLE)?;
    let words = words.get(1..).filter(|words| words.first().is_some_and(|word| word == "--"))?;
    Some(write_completions(&shell, words.get(1..)?.to_vec(), &mut std::io::stdout()))
}

fn write_completions(shell: &OsStr, words: Vec<OsString>, to: &mut impl Write) -> Result<()> {
    let shells = Shells::builtins();
    let completer = shell.to_str().and_then(|name| shells.completer(name));
    let completer = completer.context("there are no completions for this shell")?;
    let here = std::env::current_dir().ok();
    Ok(completer.write_complete(&mut Cli::command(), words, here.as_deref(), to)?)
}

fn manual(directory: &Path) -> Result<()> {
    let command = Cli::command().name(NAME);
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("cannot write manual pages to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn every_shell_asks_for_completions() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            completions(*shell, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(VARIABLE) && text.contains(NAME), "{shell:?}: {text}");
        }
    }

    #[test]
    fn commands_and_options_are_completed() {
        let completed = |words: &[&str]| {
            let mut text = Vec::new();
            let words = words.iter().map(OsString::from).collect();
            write_completions(OsStr::new("fish"), words, &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let of_all = completed(&["lunette", ""]);
        let command = Cli::command();
        for name in command.get_subcommands().map(clap::Command::get_name) {
            assert!(of_all.lines().any(|line| line.split('\t').next() == Some(name)), "{name}: {of_all}");
        }
        assert!(completed(&["lunette", "serve", "--control-a"]).starts_with("--control-admin-group\t"));
        assert!(write_completions(OsStr::new("x"), Vec::new(), &mut Vec::new()).is_err());
    }
}
