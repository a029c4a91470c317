//! What is logged, and what never is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::tools;

/// Says, as a service manager does, that standard error goes to the journal.
const TO_THE_JOURNAL: &str =
    r#"JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); export JOURNAL_STREAM; exec "$@""#;

#[test]
fn the_journal_gets_priorities_and_no_times() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M").iscsi();
    let daemon = lunette.clone().start()?;
    daemon.wait_for_log("INFO")?;
    daemon.stop()?;
    let daemon = lunette.wrapped(["sh", "-c", TO_THE_JOURNAL, "sh"]).start()?;
    let log = daemon.stop()?.stderr;
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines() {
        assert!(line.starts_with("<6>lunette") && !line.contains("INFO"), "{line}");
    }
    Ok(())
}

#[test]
fn as_much_is_logged_as_is_asked_for() -> Result<()> {
    let lunette = Lunette::new()?;
    let disk = lunette.file("disk.img", 1 << 20)?;
    let path = lunette.path("lunette.toml");
    let text =
        format!("[daemon]\nlog-level = \"debug\"\n[[unit]]\nname = \"a\"\nstore = \"{}\"\n", disk.display());
    fs::write(&path, text)?;
    let configured = || lunette.clone().arg("--config").arg(&path);
    let logged = |lunette: Lunette<'_>| Ok::<_, anyhow::Error>(lunette.start()?.stop()?.stderr);
    assert!(logged(configured())?.contains("DEBUG"));
    let quiet = logged(configured().arg("--log-level").arg("error"))?;
    assert_eq!(quiet, "");
    Ok(())
}

const CHAP: &str = r#"
[[unit]]
name = "disk"
store = "ram:1M"
lun = 0

[[portal]]
listen = "127.0.0.1:0"

[[target]]
name = "iqn.2026-11.org.example:secret"
[[target.access]]
[target.access.chap]
accounts = [{ name = "somebody", secret = { file = "theirs" } }]
target = { name = "disks", secret = { file = "ours" } }
"#;

#[test]
fn secrets_are_not_logged_however_much_is() -> Result<()> {
    const SECRETS: [&str; 2] = ["correct-horse-battery", "staple-and-more-words"];
    let lunette = Lunette::new()?;
    for (file, secret) in ["theirs", "ours"].into_iter().zip(SECRETS) {
        fs::write(lunette.path(file), secret)?;
        fs::set_permissions(lunette.path(file), Permissions::from_mode(0o600))?;
    }
    let path = lunette.path("lunette.toml");
    fs::write(&path, CHAP)?;
    let daemon = lunette.arg("--config").arg(&path).arg("--log-level").arg("trace").start()?;
    let url = daemon.iscsi_url(0)?;
    for (password, succeeds) in [(SECRETS[0], true), ("wrong-as-it-can-be", false)] {
        let url = url.replace("iscsi://", &format!("iscsi://somebody%{password}@"));
        let said = tools::output("iscsi-inq", [&url])?;
        assert_eq!(said.status == 0, succeeds, "{said}");
    }
    daemon.wait_for_log("iSCSI")?;
    let said = daemon.stop()?.text();
    for secret in SECRETS.iter().chain(&["wrong-as-it-can-be"]) {
        let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let decimal = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        for form in [*secret, &hexadecimal, &decimal] {
            assert!(!said.contains(form), "{form} is in {said}");
        }
    }
    Ok(())
}
