use super::*;
use crate::config::{Document, Setting, from_text};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// A directory with the secrets `a` and `b`.
fn secrets() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let path = directory.path().join(name);
        fs::write(&path, format!("{name}'s own secret")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    directory
}

fn model_in(directory: &Path, text: &str) -> Model {
    let setting =
        Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system: true, is_whole: true };
    let read = from_text(&directory.join("lunette.toml"), text.to_owned(), setting);
    read.unwrap_or_else(|report| panic!("{report}")).0
}

fn plan_in(directory: &Path, text: &str) -> Plan {
    Plan::new(&model_in(directory, text)).unwrap()
}

fn plan(text: &str) -> Plan {
    plan_in(Path::new("/"), &format!("[[target]]\nname = \"iqn.2026-11.dev.lunette:a\"\n{text}"))
}

#[test]
fn a_target_is_open_and_shows_everything_if_nothing_else_is_said() {
    let plan = plan("");
    let target = &plan.targets[0];
    assert!(target.access.is_empty() && target.luns.is_none());
    assert_eq!(target.settings.parameters, Settings::default().parameters);
    assert!(plan.options.discovery.chap.is_none());
    let nothing = Plan::new(&Model::from(Document::default())).unwrap().options;
    assert_eq!(nothing.login_time, EntityOptions::default().login_time);
    assert_eq!(nothing.logins.connections, LoginLimits::default().connections);
}

#[test]
fn parameters_are_those_of_the_standard() {
    let Settings { parameters, required_digests, command_window, .. } = plan(
        "[target.parameters]\nheader-digest = \"require\"\ndata-digest = \"forbid\"\ninitial-r2t = true\n\
         immediate-data = false\nfirst-burst-length = 4096\nmax-burst-length = \"2M\"\n\
         max-recv-data-segment-length = \"64K\"\nmax-outstanding-r2t = 1\ncommand-window = 32\n",
    )
    .targets[0]
        .settings;
    assert!(parameters.header_digest && required_digests.header);
    assert!(!parameters.data_digest && !required_digests.data);
    assert!(parameters.initial_r2t && !parameters.immediate_data);
    assert_eq!((parameters.first_burst_length, parameters.max_burst_length), (4096, 2 << 20));
    assert_eq!((parameters.max_recv_data_segment_length, parameters.max_outstanding_r2t), (64 << 10, 1));
    assert_eq!(command_window, 32);
}

#[test]
fn portals_tell_what_they_advertise() {
    let text = "[[target]]\nname = \"iqn.2026-11.dev.lunette:a\"\n\
                redirect = { address = \"[::1]:3\", permanent = true }\ngroups = [2]\n\
                [[portal]]\nlisten = \"0.0.0.0:3260\"\nadvertise = [\"198.51.100.1:3260\"]\n\
                [[portal]]\nlisten = \"[::1]:3261\"\ngroup = 2\n";
    let model = model_in(Path::new("/"), text);
    let portals = model.portals.values().map(Portal::from);
    let portals: Vec<_> = portals.map(|portal| (portal.listen.to_string(), portal.options)).collect();
    let told = vec!["198.51.100.1:3260".parse().unwrap()];
    let expected = [
        ("0.0.0.0:3260".to_owned(), PortalOptions { group_tag: 1, advertised: told }),
        ("[::1]:3261".to_owned(), PortalOptions { group_tag: 2, advertised: Vec::new() }),
    ];
    assert_eq!(portals, expected);
    let target = &Plan::new(&model).unwrap().targets[0];
    assert!(target.redirect.as_ref().is_some_and(|redirect| redirect.permanent));
}

#[test]
fn accounts_have_their_secrets() {
    let directory = secrets();
    let chap = "[discovery]\nchap = { accounts = [{ name = \"x\", secret = { file = \"a\" } }], \
                target = { name = \"t\", secret = { file = \"b\" } }, algorithms = [\"sha256\", \"md5\"] }\n";
    let plan = plan_in(directory.path(), chap);
    let chap = plan.options.discovery.chap.as_ref().unwrap();
    assert!(chap.accounts.secret("x").is_some() && chap.accounts.secret("y").is_none());
    assert_eq!(chap.own.as_ref().unwrap().name, "t");
    let names: Vec<_> = chap.algorithms.iter().map(|algorithm| algorithm.name()).collect();
    assert_eq!(names, ["sha256", "md5"]);
}

#[test]
fn limits_and_times_are_taken() {
    let text = "addresses = [\"192.0.2.0/24\"]\n[limits]\nconnections = 10\nlogins = 9\nlogins-of-address = 8\n\
                login-burst = 7\nlogin-rate = 6\nfailure-weight = 0\nsessions-of-initiator = 5\n\
                [times]\nlogin = 1\nidle = 2\nsilence = 3\nstop = 4\n";
    let options = plan_in(Path::new("/"), text).options;
    let limits = &options.logins;
    assert_eq!((limits.connections, limits.logins, limits.logins_of_address), (10, 9, 8));
    assert_eq!((limits.burst, limits.rate, limits.failure_weight), (7, 6, 0));
    assert_eq!((limits.sessions_of_initiator, options.addresses.len()), (5, 1));
    let times = [options.login_time, options.idle_time, options.silence_time, options.stop_time];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 3, 4]);
}
