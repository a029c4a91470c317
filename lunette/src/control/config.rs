//! The methods `config.…`.

use super::Call;
use crate::config::diff::{Plan, Step};
use crate::config::{self, Model, Setting, to_toml};
use crate::running::{Done, Permit};
use lunette_control::{Failure, NoParams, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A configuration.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Shown {
    /// In TOML.
    pub(crate) toml: String,
}

/// The parameters of `config.plan`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The whole configuration, in TOML.
    pub(crate) toml: String,
    /// The directory where relative paths begin; otherwise there may be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<PathBuf>,
}

/// The parameters of `config.apply`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Apply {
    /// The whole configuration, in TOML.
    pub(crate) toml: String,
    /// The directory where relative paths begin; otherwise there may be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<PathBuf>,
    /// Leave out what needs a restart; otherwise nothing is done if something does.
    #[serde(default)]
    pub(crate) except_restart: bool,
    /// Units may become smaller and lose what is beyond; otherwise nothing is done if one would.
    #[serde(default)]
    pub(crate) shrink: bool,
    /// Only tell what would be done.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// What is done, or would be.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Steps {
    /// In their order, each with `action`, `object`, `how` and `changes`.
    pub(crate) steps: Vec<Value>,
    /// Those that wait for the next start of the daemon.
    pub(crate) waiting: Vec<Value>,
    /// The same for people.
    pub(crate) text: String,
}

pub(super) fn show(call: &Call<'_>, _: NoParams) -> Result<Shown, Failure> {
    Ok(Shown { toml: text(&call.daemon.running.model())? })
}

fn text(model: &Model) -> Result<String, Failure> {
    to_toml(model).map_err(|error| Failure::new(Failure::INTERNAL, error))
}

pub(super) fn plan(call: &Call<'_>, Wanted { toml, base }: Wanted) -> Result<Steps, Failure> {
    let wanted = understand(call, toml, base)?;
    would_be(call, wanted)
}

/// What would be done, and what would wait for a restart.
fn would_be(call: &Call<'_>, wanted: Model) -> Result<Steps, Failure> {
    let running = &call.daemon.running;
    let permit = Permit { recreate: true, except_restart: true, shrink: true };
    steps(running.plan(&running.model(), wanted, permit)?)
}

pub(super) fn apply(call: &Call<'_>, apply: Apply) -> Result<Steps, Failure> {
    let Apply { toml, base, except_restart, shrink, dry_run } = apply;
    let wanted = understand(call, toml, base)?;
    if dry_run {
        return would_be(call, wanted);
    }
    let permit = Permit { recreate: true, except_restart, shrink };
    let become_it = |model: &mut Model| {
        *model = wanted;
        Ok(())
    };
    let ((), done) = call.daemon.running.change(permit, call.work, become_it)?;
    steps(done)
}

/// What a text means, with all that is wrong with it.
fn understand(call: &Call<'_>, toml: String, base: Option<PathBuf>) -> Result<Model, Failure> {
    if base.as_ref().is_some_and(|base| !base.is_absolute()) {
        return Err(Failure::parameters("base: write it from / on"));
    }
    let setting = setting(call.daemon.running.setting, call.caller.role);
    let path = base.unwrap_or_default().join("configuration");
    let read = config::from_text(Path::new(&path), toml, setting);
    let (model, _) = read.map_err(Failure::failed)?;
    Ok(model)
}

/// How closely a configuration is looked at: who may only read learns nothing of files that the daemon can see.
fn setting(running: Setting, role: Role) -> Setting {
    Setting { looks_at_system: role == Role::Administrator, ..running }
}

fn steps(Done { plan, waiting }: Done) -> Result<Steps, Failure> {
    let value = |step: &Step| serde_json::to_value(step);
    let values = |steps: &[Step]| steps.iter().map(value).collect::<Result<Vec<_>, _>>();
    let failed = |error| Failure::new(Failure::INTERNAL, error);
    let (done, left) = (values(&plan.steps).map_err(failed)?, values(&waiting).map_err(failed)?);
    let all = Plan { steps: waiting.into_iter().chain(plan.steps).collect() };
    Ok(Steps { steps: done, waiting: left, text: all.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_learn_nothing_of_files() {
        let running = Setting {
            iscsi_sockets: Some(false),
            vhost_user_sockets: Some(false),
            looks_at_system: false,
            is_whole: true,
        };
        let text = r#"
            [[unit]]
            name = "a"
            store = "ram:1M"
            lun = 0
            [[portal]]
            listen = "127.0.0.1:3260"
            [[target]]
            name = "iqn.2026-11.org.example:a"
            access = [{ chap = { accounts = [{ name = "joe", secret = { file = "/no/such/secret" } }] } }]
        "#;
        let read = |role| config::from_text(Path::new("/x"), text.into(), setting(running, role));
        assert!(read(Role::Reader).is_ok());
        assert!(read(Role::Administrator).unwrap_err().to_string().contains("/no/such/secret"));
    }
}
