//! The file of `--iscsi-config`: who is let in how, and sees what; and the sessions of those who are in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use lunette_e2e::daemon::{Daemon, Lunette, binary};
use lunette_e2e::tools::{self, Guarded, Output};

const GOOD: &str = "iqn.2026-11.test:good1";
const POOR: &str = "iqn.2026-11.test:poor";
const A: &str = "iqn.2026-11.dev.lunette:a";
const B: &str = "iqn.2026-11.dev.lunette:b";

const CONFIGURATION: &str = r#"
[[portal]]
listen = "127.0.0.1:0"

[discovery]
chap = { accounts = [{ name = "looker", secret = { file = "looker" } }] }

[[target]]
name = "iqn.2026-11.dev.lunette:a"
units = { 0 = "one", 7 = "two" }
parameters = { data-digest = "forbid" }
[[target.access]]
initiators = ["iqn.2026-11.test:good?"]
[target.access.chap]
accounts = [{ name = "0xalice", secret = { file = "alice" } }]
target = { name = "disks", secret = { file = "disks" } }

[[target]]
name = "iqn.2026-11.dev.lunette:b"
[[target.access]]
addresses = ["192.0.2.0/24"]
[[target.access]]
initiators = ["*:poor"]
addresses = ["127.0.0.0/8"]
units = { 0 = "two" }
"#;

/// A daemon that serves [`CONFIGURATION`].
fn serve() -> Result<(Lunette<'static>, Daemon)> {
    let lunette = Lunette::new()?;
    for name in ["looker", "alice", "disks"] {
        let path = lunette.path(name);
        fs::write(&path, format!("secret-of-{name}\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    }
    fs::write(lunette.path("iscsi.toml"), CONFIGURATION)?;
    let lunette = lunette
        .lu("disk:ram:8M,w,name=one")
        .lu("disk:ram:16M,w,name=two")
        .arg("--iscsi-config")
        .arg("iscsi.toml");
    let daemon = lunette.start()?;
    Ok((lunette, daemon))
}

/// The URL of a unit, with what proves who asks.
fn url(daemon: &Daemon, account: &str, target: &str, lun: u32, more: &str) -> Result<String> {
    Ok(format!("iscsi://{account}127.0.0.1:{}/{target}/{lun}{more}", daemon.iscsi_port()?))
}

fn size(initiator: &str, url: &str) -> Result<Output> {
    tools::output("iscsi-readcapacity16", ["-s", "-i", initiator, url])
}

/// What `lunette session` says.
fn session(lunette: &Lunette<'_>, words: &[&str]) -> Result<Output> {
    let binary = binary()?.display().to_string();
    let state = lunette.path("state").display().to_string();
    tools::output(&binary, ["session", "--state-dir", &state].iter().chain(words))
}

#[test]
fn initiators_see_what_they_may_once_they_have_proved_who_they_are() -> Result<()> {
    let (_lunette, daemon) = serve()?;
    let portal = |account: &str| url(&daemon, account, "", 0, "").map(|url| url.replace("//0", "/"));

    tools::output("iscsi-ls", ["-i", GOOD, &portal("")?])?.fails()?;
    daemon.wait_for_log("iSCSI login refused")?;
    let listed = tools::output("iscsi-ls", ["-i", GOOD, &portal("looker%secret-of-looker@")?])?.ok()?;
    assert!(listed.stdout.contains(A) && !listed.stdout.contains(B), "{listed}");

    let alice = "0xalice%secret-of-alice@";
    let units = [(0, "8388608"), (7, "16777216")];
    for (lun, bytes) in units {
        assert_eq!(size(GOOD, &url(&daemon, alice, A, lun, "")?)?.ok()?.stdout.trim(), bytes);
    }
    let both = "?target_user=disks&target_password=secret-of-disks";
    size(GOOD, &url(&daemon, alice, A, 0, both)?)?.ok()?;
    size(GOOD, &url(&daemon, alice, A, 0, "?target_user=disks&target_password=wrong")?)?.fails()?;
    size(GOOD, &url(&daemon, "0xalice%secret-of-disks@", A, 0, "")?)?.fails()?;
    size(GOOD, &url(&daemon, "looker%secret-of-looker@", A, 0, "")?)?.fails()?;
    size(GOOD, &url(&daemon, "", A, 0, "")?)?.fails()?;
    size(GOOD, &url(&daemon, alice, A, 1, "")?)?.fails()?;
    size(POOR, &url(&daemon, alice, A, 0, "")?)?.fails()?;

    assert_eq!(size(POOR, &url(&daemon, "", B, 0, "")?)?.ok()?.stdout.trim(), "16777216");
    size(POOR, &url(&daemon, "", B, 1, "")?)?.fails()?;
    size(GOOD, &url(&daemon, "", B, 0, "")?)?.fails()?;

    let ended = daemon.stop()?;
    for reason in ["the secret is wrong", "there is no account of this name", POOR, B] {
        assert!(ended.stderr.contains(reason), "{reason}: {ended}");
    }
    assert!(!ended.text().contains("secret-of"), "{ended}");
    Ok(())
}

#[test]
fn sessions_are_listed_and_ended() -> Result<()> {
    let (lunette, daemon) = serve()?;
    let options = format!(
        "driver=iscsi,transport=tcp,portal=127.0.0.1:{},target={B},lun=0,initiator-name={POOR}",
        daemon.iscsi_port()?
    );
    let mut client = tools::command("qemu-io")?;
    client.args(["--image-opts", &options, "-c", "sleep 600000"]);
    let none = session(&lunette, &["list", "--json"])?.ok()?;
    assert_eq!(none.stdout.trim(), "[]");
    let mut client = Guarded::spawn(&client)?;
    tools::wait_until("the client has logged in", || {
        Ok(session(&lunette, &["list"])?.ok()?.stdout.contains(POOR))
    })?;
    let shown = session(&lunette, &["list"])?.ok()?.stdout;
    for part in [B, "127.0.0.1:"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    session(&lunette, &["end", "999"])?.fails()?;
    let first = session(&lunette, &["list", "--json"])?.ok()?.stdout;
    let number = |json: &str| -> Result<u64> {
        let sessions: serde_json::Value = serde_json::from_str(json)?;
        Ok(sessions[0]["tsih"].as_u64().unwrap_or(0))
    };
    let number_of_first = number(&first)?.to_string();
    session(&lunette, &["end", "--now", &number_of_first])?.ok()?;
    tools::wait_until("the session has ended", || {
        let listed = session(&lunette, &["list", "--json"])?.ok()?.stdout;
        Ok(!listed.contains(&format!("\"tsih\": {number_of_first},")))
    })?;
    client.kill();
    let ended = session(&lunette, &["end", "--now", &number_of_first])?.fails()?;
    assert!(ended.stderr.contains("there is no session"), "{ended}");
    daemon.stop()?;
    let gone = session(&lunette, &["list"])?.fails()?;
    assert!(gone.stderr.contains("cannot reach the daemon"), "{gone}");
    Ok(())
}

#[test]
fn mistakes_are_told_with_their_place() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M,name=one").arg("--iscsi-config").arg("iscsi.toml");
    let secret = lunette.path("open");
    fs::write(&secret, "secret of nobody")?;
    fs::set_permissions(&secret, Permissions::from_mode(0o644))?;
    let target = "[[portal]]\nlisten = \"127.0.0.1:0\"\n[[target]]\nname = \"iqn.2026-11.a:b\"\n";
    let chap = |account: &str| format!("{target}[[target.access]]\nchap = {{ accounts = [{account}] }}\n");
    for (text, parts) in [
        ("nonsense".to_owned(), ["iscsi.toml:1:9", "expected"]),
        (format!("{target}colour = 1\n"), ["iscsi.toml:5:1", "`colour`"]),
        (format!("{target}units = {{ 0 = \"one\", 1 = \"two\" }}\n"), ["iscsi.toml:5:26", "`two`"]),
        (format!("{target}units = {{ 99999 = \"one\" }}\n"), ["iscsi.toml:5:", "0 to 16383"]),
        (format!("{target}groups = [7]\n"), ["iscsi.toml:5:10", "portal group 7"]),
        (format!("{target}parameters = {{ header-digest = \"crc\" }}\n"), ["iscsi.toml:5:", "require"]),
        (
            format!("{target}[[target.access]]\naddresses = [\"10.0.0.0/40\"]\n"),
            ["iscsi.toml:6:", "10.0.0.0/40"],
        ),
        (chap(""), ["iscsi.toml:6:", "without accounts"]),
        (chap("{ name = \"a\", secret = { file = \"none\" } }"), ["iscsi.toml:6:", "/none: No such file"]),
        (chap("{ name = \"a\", secret = { file = \"open\" } }"), ["iscsi.toml:6:", "chmod 600"]),
        (chap("{ name = \"a\", secret = \"inline\" }"), ["iscsi.toml:6:", "secret"]),
    ] {
        fs::write(lunette.path("iscsi.toml"), text)?;
        let said = lunette.refused()?;
        for part in parts {
            assert!(said.stderr.contains(part), "{part}: {said}");
        }
        assert!(!said.text().contains("inline") && !said.text().contains("panicked"), "{said}");
    }
    Ok(())
}
