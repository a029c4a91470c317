//! The methods `config.…`.

use super::Call;
use super::events::APPLIED;
use crate::config::diff::{Plan, Step};
use crate::config::{self, Document, Model, Rebase, Setting, to_toml};
use crate::confinement;
use crate::running::{Done, Permit, failure};
use lunette_control::{Failure, NoParams, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
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

/// The parameters of `config.reload`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Reload {
    /// What was changed and not saved is lost; otherwise nothing is done if something was.
    pub(crate) discard: bool,
    /// As of `config.apply`.
    pub(crate) except_restart: bool,
    /// As of `config.apply`.
    pub(crate) shrink: bool,
}

/// The parameters of `config.save`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Save {
    /// Where to; otherwise to the file that it was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// Also if others have written to the file since it was read.
    #[serde(default)]
    pub(crate) overwrite: bool,
}

/// Where a configuration was saved.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Saved {
    /// The file.
    pub(crate) path: PathBuf,
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
    let secrets = call.caller.role == Role::Administrator;
    let permit = Permit { except_restart: true, shrink: true, secrets, ..WHOLE };
    steps(running.plan(&running.model(), wanted, permit)?)
}

pub(super) fn apply(call: &Call<'_>, apply: Apply) -> Result<Steps, Failure> {
    let Apply { toml, base, except_restart, shrink, dry_run } = apply;
    let wanted = understand(call, toml, base)?;
    if dry_run {
        call.work.changes_nothing();
        return would_be(call, wanted);
    }
    let done = become_it(call, wanted, Permit { except_restart, shrink, ..WHOLE })?;
    call.daemon.running.look_at_files();
    steps(done)
}

/// What a whole configuration may do.
const WHOLE: Permit =
    Permit { recreate: true, except_restart: false, shrink: false, is_whole: true, secrets: true };

fn become_it(call: &Call<'_>, wanted: Model, permit: Permit) -> Result<Done, Failure> {
    let become_it = |model: &mut Model| {
        *model = wanted;
        Ok(())
    };
    let ((), done) = call.daemon.running.change(permit, call.work, become_it)?;
    call.daemon.events.emit(
        APPLIED,
        "",
        json!({ "steps": done.plan.steps.len(), "waiting": done.waiting.len() }),
    );
    Ok(done)
}

pub(super) fn reload(call: &Call<'_>, reload: Reload) -> Result<Steps, Failure> {
    let Reload { discard, except_restart, shrink } = reload;
    let running = &call.daemon.running;
    let Some(keeper) = running.keeper.as_ref().filter(|keeper| keeper.origin.has_file()) else {
        return Err(Failure::failed(
            "the daemon was started with options: there is no file to be read again",
        ));
    };
    let is_saved = || {
        // Somebody may have written there by now what runs.
        running.is_saved() || {
            running.look_at_files();
            running.is_saved()
        }
    };
    if !discard && !is_saved() {
        return Err(Failure::failed(
            "what was changed while the daemon runs is not saved and would be lost: save it first",
        )
        .allowed_by("discard"));
    }
    let said = keeper.read().map_err(failure)?;
    let done = become_it(call, said.model.clone(), Permit { except_restart, shrink, ..WHOLE })?;
    keeper.take_over(said);
    running.look_at_files();
    steps(done)
}

pub(super) fn save(call: &Call<'_>, Save { path, overwrite }: Save) -> Result<Saved, Failure> {
    if path.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(Failure::parameters("path: write it from / on"));
    }
    Ok(Saved { path: call.daemon.running.save(path.as_deref(), overwrite)? })
}

/// What a text means, with all that is wrong with it.
fn understand(call: &Call<'_>, toml: String, base: Option<PathBuf>) -> Result<Model, Failure> {
    if base.as_ref().is_some_and(|base| !base.is_absolute()) {
        return Err(Failure::parameters("base: write it from / on"));
    }
    let setting = setting(call.daemon.running.setting, call.caller.role);
    let path = base.unwrap_or_default().join("configuration");
    let read = config::from_text(Path::new(&path), toml, setting);
    let (mut model, _) = read.map_err(Failure::failed)?;
    if Document::from(&model).has_relative_paths() {
        return Err(Failure::parameters("toml: write paths from / on, or say where they begin (`base`)"));
    }
    if let Some(keeper) = &call.daemon.running.keeper {
        model.daemon = keeper.origin.overridden(model.daemon);
    }
    match confinement::refusal(&call.daemon.running.next_daemon(), &model.daemon) {
        Some(why) => Err(Failure::failed(why)),
        None => Ok(model),
    }
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
