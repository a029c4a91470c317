//! `lunette show`, `apply`, `reload` and `save`: the configuration of a daemon as a whole.

use super::progress::wait_for;
use super::{connect, print_json, print_text};
use crate::cli::{ApplyCall, Permitted, ReloadCall, SaveCall, ShowCall};
use crate::config::{command, to_toml};
use crate::control::{Saved, Shown, Steps};
use anyhow::Result;
use lunette_control::{Begun, Connection, Status};
use serde_json::{Value, json};

/// Carries out `lunette show`.
pub(super) fn show(call: &ShowCall) -> Result<()> {
    let Shown { toml } = connect(&call.control)?.call("config.show", &json!({}))?;
    print_text(&toml)
}

/// Carries out `lunette apply`.
pub(super) fn apply(call: &ApplyCall) -> Result<()> {
    // What is wrong with it is told with its place, which only we know. The system is the daemon's, and so are secrets.
    let toml = to_toml(&command::read(&call.file, false)?)?;
    let mut daemon = connect(&call.control)?;
    let Status { generation, .. } = daemon.call("control.status", &json!({}))?;
    let plan: Value = daemon.call("config.plan", &json!({ "toml": toml }))?;
    if call.json && call.dry_run {
        return print_json(&plan);
    }
    let Steps { text, .. } = serde_json::from_value(plan.clone())?;
    if !call.json {
        print_text(&text)?;
    }
    if call.dry_run {
        return Ok(());
    }
    // Also if nothing changes now: something else may have waited for the next start, and secrets may be others.
    let mut params = permitted(&call.permitted);
    params["toml"] = toml.into();
    // What has been shown, and nothing else.
    params["if_generation"] = generation.into();
    match done(&mut daemon, "config.apply", &params, call.json)? {
        Some(done) if !done.steps.is_empty() || !done.waiting.is_empty() => print_text(&done.count()),
        _ => Ok(()),
    }
}

/// Carries out `lunette reload`.
pub(super) fn reload(call: &ReloadCall) -> Result<()> {
    let mut params = permitted(&call.permitted);
    params["discard"] = call.discard.into();
    let mut daemon = connect(&call.control)?;
    done(&mut daemon, "config.reload", &params, call.json)?.map_or(Ok(()), |done| print_text(&done.count()))
}

/// Carries out `lunette save`.
pub(super) fn save(call: &SaveCall) -> Result<()> {
    let path = call.file.as_ref().map(std::path::absolute).transpose()?;
    let mut params = json!({ "overwrite": call.overwrite });
    if let Some(path) = path {
        params["path"] = json!(path);
    }
    let Saved { path } = connect(&call.control)?.call("config.save", &params)?;
    print_text(&format!("{} is written\n", path.display()))
}

fn permitted(permitted: &Permitted) -> Value {
    json!({ "except_restart": permitted.except_restart, "shrink": permitted.shrink })
}

impl Steps {
    /// How many were done, and how many wait.
    fn count(&self) -> String {
        let count = |count: usize| if count == 1 { "1 step".to_owned() } else { format!("{count} steps") };
        let done = count(self.steps.len());
        match self.waiting.len() {
            0 => format!("{done} done\n"),
            left => format!("{done} done; {} for the next start of the daemon\n", count(left)),
        }
    }
}

/// Has a configuration applied. Returns what has come of it, unless that is printed as JSON.
fn done(daemon: &mut Connection, method: &str, params: &Value, as_json: bool) -> Result<Option<Steps>> {
    let Begun { job } = daemon.call(method, params)?;
    let result = wait_for(daemon, job, true)?;
    if as_json {
        return print_json(&result).map(|()| None);
    }
    Ok(Some(serde_json::from_value(result)?))
}
