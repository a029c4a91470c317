//! The files that the daemon may open while it runs.

use crate::cli::Serve;
use crate::config::{Chap, Model, SecretSource};
use crate::state::StateDir;
use lunette_confine::files::{Places, Use};
use std::path::{Path, PathBuf};

/// Who is who, and what the system is: read, and no directories of them where there are secrets.
const SYSTEM: &[&str] = &[
    "/dev/null",
    "/proc",
    "/sys",
    "/etc/group",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/usr/share/zoneinfo",
];

/// What a daemon with these settings needs, whose configuration is replaced in the directory `saved`.
pub(super) fn of(options: &Serve, saved: Option<PathBuf>, model: &Model, state: &StateDir) -> Places {
    let daemon = &model.daemon;
    let mut files: Vec<(PathBuf, Use)> = match daemon.allowed_paths.is_empty() {
        true => vec![("/".into(), Use::Everything)],
        false => daemon.allowed_paths.iter().map(|path| (path.as_path().to_owned(), Use::Stores)).collect(),
    };
    files.push((state.path().to_owned(), Use::State));
    let metrics = daemon.metrics.iter().map(|at| Path::new(at.as_str())).filter(|path| path.is_absolute());
    let own = model.exports.values().filter(|export| !export.client);
    let sockets = own.map(|export| export.socket.as_path());
    let sockets = sockets.chain(daemon.control.iter().map(|path| path.as_path())).chain(metrics);
    files.extend(sockets.map(|socket| (directory_of(socket), Use::Sockets)));
    let configuration = [
        options.config.as_deref(),
        options.iscsi_config.as_deref(),
        Some(Path::new(crate::config::DEFAULT_FILE)),
    ];
    let read = configuration.into_iter().flatten().chain(secrets(model)).map(directory_of);
    files.extend(read.map(|path| (path, Use::Read)));
    files.extend(saved.map(|directory| (directory, Use::Replace)));
    files.extend(std::env::var_os("CREDENTIALS_DIRECTORY").map(|path| (path.into(), Use::Read)));
    // Names of functions, if a reactor does not answer.
    files.extend(std::env::current_exe().ok().map(|program| (program, Use::Read)));
    files.extend(SYSTEM.iter().map(|path| (path.into(), Use::Read)));
    let abstract_sockets =
        std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
    Places { files, abstract_sockets }
}

/// The files of secrets. They may be replaced, so their directories count.
fn secrets(model: &Model) -> impl Iterator<Item = &Path> {
    let rules = model.targets.values().flat_map(|target| &target.access);
    let policies = rules.filter_map(|rule| rule.chap.as_ref()).chain(&model.iscsi.discovery.chap);
    let accounts = policies.flat_map(|policy: &Chap| policy.accounts.iter().chain(&policy.target));
    accounts.filter_map(|account| match &account.secret {
        SecretSource::File(path) => Some(path.as_path()),
        SecretSource::Credential(_) => None,
    })
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Call;
    use crate::config::Document;

    #[test]
    fn the_configuration_is_replaced_where_it_is() {
        let Ok(Call::Serve(options)) = Call::parse(&["lunette", "serve"].map(Into::into)) else { panic!() };
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let mut model = Model::from(Document::default());
        model.daemon.allowed_paths.push("/srv".parse().unwrap());
        let rights = |saved: Option<&str>| {
            let places = of(&options, saved.map(PathBuf::from), &model, &state);
            places.files.iter().any(|place| *place == ("/etc/lunette".into(), Use::Replace))
        };
        assert!(rights(Some("/etc/lunette")) && !rights(None));
    }
}
