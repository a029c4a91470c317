//! CHAP between the daemon and open-iscsi, which knows all algorithms: discovery and sessions, one way and both, with digests
//! on; and what an initiator that has proved itself gets to see.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::open_iscsi::{self, PORTAL};

/// As open-iscsi and as the configuration call them.
const ALGORITHMS: [(&str, &str); 4] =
    [("MD5", "md5"), ("SHA1", "sha1"), ("SHA256", "sha256"), ("SHA3-256", "sha3-256")];

const ALL: &str = "iqn.2026-11.dev.lunette:all";

/// What the secret of an account is.
fn secret(account: &str) -> String {
    format!("secret-of-{account}")
}

/// A target for each algorithm, which takes no other, and one that takes all. The guest sees the second unit at LUN 0 and the
/// first at LUN 7, but only the first one without a proof of its own.
fn configuration() -> String {
    let mut text = format!(
        r#"
[[portal]]
listen = "{PORTAL}"

[discovery.chap]
accounts = [{{ name = "looker", secret = {{ file = "looker" }} }}]
target = {{ name = "guide", secret = {{ file = "guide" }} }}
"#
    );
    let all = ALGORITHMS.map(|(_, name)| name).join("\", \"");
    let each = ALGORITHMS.iter().map(|(_, name)| (*name, (*name).to_owned()));
    for (name, algorithms) in each.chain([("all", all)]) {
        text += &format!(
            r#"
[[target]]
name = "iqn.2026-11.dev.lunette:{name}"
[[target.access]]
initiators = ["*:guest"]
units = {{ 0 = "second", 7 = "first" }}
[target.access.chap]
algorithms = ["{algorithms}"]
accounts = [{{ name = "kernel", secret = {{ file = "kernel" }} }}]
target = {{ name = "disks", secret = {{ file = "disks" }} }}
"#
        );
    }
    text
}

/// Settings of open-iscsi for an account, and for what the target has to prove.
fn accounts(settings: &str, ours: (&str, &str), theirs: Option<(&str, &str)>) -> Vec<(String, String)> {
    let (name, password) = ours;
    let mut all = vec![("authmethod", "CHAP"), ("username", name), ("password", password)];
    if let Some((name, password)) = theirs {
        all.extend([("username_in", name), ("password_in", password)]);
    }
    all.into_iter().map(|(key, value)| (format!("{settings}.{key}"), value.to_owned())).collect()
}

/// Asks which targets there are.
fn discover(guest: &mut Guest, settings: &[(String, String)]) -> Result<Option<String>> {
    let record = format!("iscsiadm -m discoverydb -t sendtargets -p {PORTAL}");
    let updates: String = settings.iter().map(|(key, value)| format!(" -n {key} -v '{value}'")).collect();
    let update = if updates.is_empty() { String::new() } else { format!("{record} -o update{updates}\n") };
    let said = guest.run(&format!("set -e\n{record} -o new >/dev/null\n{update}{record} --discover"))?;
    guest.check(&format!("{record} -o delete; rm -rf /etc/iscsi/nodes/*"))?;
    Ok((said.status == 0).then_some(said.stdout))
}

/// Logs in, has `script` run if it worked, and logs out.
fn log_in(guest: &mut Guest, target: &str, settings: &[(String, String)], script: &str) -> Result<bool> {
    let settings: String = settings.iter().map(|(key, value)| format!(" {key} '{value}'")).collect();
    let works = guest.run(&format!("iscsi_node {target} {PORTAL}{settings}"))?.status == 0;
    if works {
        guest.check(&format!("{script}\niscsiadm -m node -T {target} -p {PORTAL} --logout"))?;
    }
    guest.check(&format!("iscsiadm -m node -T {target} -p {PORTAL} -o delete"))?;
    Ok(works)
}

/// LUN 0 and LUN 7 of a session with digests, and nothing else.
const USE: &str = "
    iscsiadm -m session -P 2 >/run/session
    grep 'HeaderDigest: CRC32C' /run/session
    grep 'DataDigest: CRC32C' /run/session
    test $(blockdev --getsize64 $(disk 0)) = 16777216
    test $(blockdev --getsize64 $(disk 7)) = 8388608
    test $(ls /sys/class/scsi_device | wc -l) = 2
    fio --name=verify --filename=$(disk 7) --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bsrange=4k-64k \\
        --size=1M --verify=crc32c --verify_fatal=1 --verify_state_save=0 >/run/fio.log";

#[test]
fn open_iscsi_and_the_target_prove_who_they_are() -> Result<()> {
    let netns = open_iscsi::network()?;
    let lunette = Lunette::new()?.inside(&netns);
    for account in ["looker", "guide", "kernel", "disks"] {
        let path = lunette.path(account);
        fs::write(&path, secret(account))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    }
    fs::write(lunette.path("iscsi.toml"), configuration())?;
    let daemon = lunette
        .lu("disk:ram:8M,w,name=first")
        .lu("disk:ram:16M,w,name=second")
        .arg("--iscsi-config")
        .arg("iscsi.toml")
        .start()?;
    let mut guest = open_iscsi::guest(&netns)?;
    let [looker, guide, kernel, disks] = ["looker", "guide", "kernel", "disks"].map(secret);

    let discovery = "discovery.sendtargets.auth";
    let (good, wrong) = (("looker", &*looker), ("looker", "secret of nobody"));
    assert_eq!(discover(&mut guest, &[])?, None);
    assert_eq!(discover(&mut guest, &accounts(discovery, wrong, None))?, None);
    assert_eq!(discover(&mut guest, &accounts(discovery, ("kernel", &kernel), None))?, None);
    assert_eq!(discover(&mut guest, &accounts(discovery, good, Some(("guide", "secret of nobody"))))?, None);
    for theirs in [None, Some(("guide", &*guide))] {
        let listed = discover(&mut guest, &accounts(discovery, good, theirs))?.unwrap_or_default();
        assert_eq!(listed.lines().count(), ALGORITHMS.len() + 1, "{listed}");
        assert!(listed.contains(&format!("{PORTAL},1 {ALL}\n")), "{listed}");
    }

    let session = "node.session.auth";
    let digests =
        ["HeaderDigest", "DataDigest"].map(|key| (format!("node.conn[0].iscsi.{key}"), "CRC32C".to_owned()));
    let with = |more: Vec<(String, String)>| [&digests[..], &more].concat();
    let chosen = |algorithms: &str| vec![(format!("{session}.chap_algs"), algorithms.to_owned())];
    let known = ALGORITHMS.map(|(name, _)| name).join(",");
    let good = ("kernel", &*kernel);
    for (number, (algorithm, name)) in ALGORITHMS.iter().enumerate() {
        let target = format!("iqn.2026-11.dev.lunette:{name}");
        // The target takes but one of those that are offered, or the initiator offers but one of those that are taken.
        let mutual = Some(("disks", &*disks));
        for (target, offer, theirs) in [(&*target, &*known, None), (ALL, algorithm, mutual)] {
            let settings = [with(accounts(session, good, theirs)), chosen(offer)].concat();
            assert!(log_in(&mut guest, target, &settings, USE)?, "{target}, {offer}, {theirs:?}");
        }
        let (other, _) = ALGORITHMS[(number + 1) % ALGORITHMS.len()];
        let settings = [with(accounts(session, good, None)), chosen(other)].concat();
        assert!(!log_in(&mut guest, &target, &settings, "")?, "{target} does not take {other}");
        let wrong =
            [with(accounts(session, ("kernel", "secret of nobody"), None)), chosen(algorithm)].concat();
        assert!(!log_in(&mut guest, ALL, &wrong, "")?, "{algorithm}: the secret is wrong");
    }
    let theirs = Some(("disks", "secret of nobody"));
    assert!(
        !log_in(&mut guest, ALL, &with(accounts(session, good, theirs)), "")?,
        "the target's secret is wrong"
    );
    assert!(!log_in(&mut guest, ALL, &with(Vec::new()), "")?, "no proof");
    assert!(!log_in(&mut guest, ALL, &with(accounts(session, ("looker", &looker), None)), "")?);
    guest.power_off()?;
    let ended = daemon.stop()?;
    for reason in ["the secret is wrong", "there is no account of this name"] {
        assert!(ended.stderr.contains(reason), "{reason}: {ended}");
    }
    assert!(!ended.text().contains("secret-of"), "{ended}");
    Ok(())
}
