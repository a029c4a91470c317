//! The lunette program: command line, wiring, and nothing that could live in a crate of its own.
//!
//! It is a library only so that the fuzzers of the workspace reach its parsers; there is no interface for others.
//!
//! Entry points: [`main`], [`fuzzing`].

mod access;
mod cli;
mod client;
mod config;
mod confinement;
mod control;
mod custodian;
pub mod fuzzing;
mod generate;
mod handover;
mod inherited;
mod iscsi;
mod log;
mod manager;
mod metrics;
mod notation;
mod running;
mod serve;
mod signals;
mod size;
mod socket;
mod state;
mod stop;
mod summary;
mod throttle;
mod units;
mod watchdog;

use cli::Call;
use log::Log;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// What `--print-capabilities` prints, by QEMU's `vhost-user.json`.
const CAPABILITIES: &str = r#"{"type":"scsi"}"#;

/// The program: does what its command line says.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(completed) = generate::complete(&words) {
        return if completed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let done = match Call::parse(&words) {
        Ok(Call::Serve(options)) => {
            let log = Log::start(options.log_level);
            serve::serve(&options, &log)
        }
        Ok(Call::Client(call)) => client::run(&call),
        Ok(Call::Generate(what)) => generate::run(&what),
        Ok(Call::Config(call)) => config::command::run(&call),
        Ok(Call::PrintCapabilities) => {
            println!("{CAPABILITIES}");
            return ExitCode::SUCCESS;
        }
        Err(error) => error.exit(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What is wrong with a configuration is told line by line.
            let _ = match error.downcast_ref::<config::Report>() {
                Some(report) => writeln!(std::io::stderr(), "{report}"),
                None => writeln!(std::io::stderr(), "lunette: {}", reasons(&error)),
            };
            exit_code(&error)
        }
    }
}

/// 1 if something was refused or has failed, and 3 if there is no daemon to ask; clap ends the program with 2 where the
/// command line is wrong.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    use lunette_control::Error;
    match error.downcast_ref() {
        Some(Error::Socket(_) | Error::Answer(_)) => ExitCode::from(3),
        Some(Error::Refused(_)) | None => ExitCode::FAILURE,
    }
}

/// An error with its causes, without those that the text before them tells already.
fn reasons(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        said if said.contains(&cause) => text,
        said => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::reasons;
    use anyhow::anyhow;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow!("no such file").context("cannot open a: no such file").context("LUN 3");
        assert_eq!(reasons(&error), "LUN 3: cannot open a: no such file");
        assert_eq!(reasons(&anyhow!("b").context("a")), "a: b");
    }
}
