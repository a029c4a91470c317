//! The lunette program: command line, wiring, and nothing that could live in a crate of its own.

mod cli;
mod exports;
mod notation;
mod serve;
mod signals;
mod size;
mod state;
mod summary;
mod units;

use clap::Parser;
use cli::{Cli, Subcommand};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let result = match cli.command {
        Subcommand::Serve(options) => serve::serve(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lunette: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error, from `info` on, or as `LUNETTE_LOG` says.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("LUNETTE_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
