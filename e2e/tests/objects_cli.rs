//! `lunette lu`, `target`, `portal`, `export` and `throttle`: what they do, print and refuse, and what a shell completes.

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette, binary};
use lunette_e2e::tools::{self, Capture, Guarded, LIMIT, Output, Waited};
use serde_json::Value;
use std::fs::File;
use std::thread;
use std::time::Instant;

const TARGET: &str = "iqn.2026-11.org.example:disks";
const OTHER: &str = "iqn.2026-11.org.example:data";

/// A daemon with a unit, a target and an export.
fn serve() -> Result<(Lunette<'static>, Daemon)> {
    let lunette = Lunette::new()?;
    let text = format!(
        "[[unit]]\nname = \"work\"\nstore = \"ram:4M\"\n[[portal]]\nlisten = \"127.0.0.1:0\"\n
         [[target]]\nname = \"{TARGET}\"\nunits = {{ 5 = \"work\" }}\n
         [[vhost-user]]\nname = \"vm\"\nsocket = \"vm.sock\"\nunits = {{ 0 = \"work\" }}\n"
    );
    std::fs::write(lunette.path("lunette.toml"), text)?;
    let lunette = lunette.arg("--config").arg("lunette.toml");
    let daemon = lunette.start()?;
    Ok((lunette, daemon))
}

/// What it says when it is refused.
fn refused(lunette: &Lunette<'_>, words: &[&str], status: i32) -> Result<String> {
    let Output { status: got, stdout, stderr } = lunette.ask(words)?;
    assert_eq!((got, &*stdout), (status, ""), "{words:?}: {stderr}");
    Ok(stderr)
}

/// The words of each line of a table.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn objects_are_made_shown_changed_and_taken_away() -> Result<()> {
    let (lunette, daemon) = serve()?;
    let tell = |words: &[&str]| lunette.tell(words);
    let create = ["lu", "create", "db", "--store", "db.img", "--size", "8M", "--to", TARGET, "--to", "vm"];
    let expected = format!("unit `db` is served\nunit `db` is LUN 0 of {TARGET}\nunit `db` is LUN 1 of vm\n");
    assert_eq!(tell(&create)?, expected);
    let expected = format!(
        "unit `db` is there already\nunit `db` is LUN 0 of {TARGET} already\nunit `db` is LUN 1 of vm already\n"
    );
    assert_eq!(tell(&create)?, expected);
    let notation = tell(&["lu", "create", "disk:ram:1M,r,name=small,serial=S1", "--waiting", "3"])?;
    assert_eq!(notation, "unit `small` is served\n");

    let listed = tell(&["lu", "list"])?;
    let store = lunette.path("db.img").display().to_string();
    let listed = table(&listed);
    assert_eq!(listed[0], ["UNIT", "SIZE", "ACCESS", "STATE", "STORE", "SHOWN"]);
    assert_eq!(listed[1], ["db", "8.00", "MiB", "read-write", "ready", &store, &format!("{TARGET}/0"), "+1"]);
    assert_eq!(listed[2], ["small", "1.00", "MiB", "read-only", "ready", "ram:1M", "-"]);
    let shown = tell(&["lu", "show", "small"])?;
    for part in [
        "read-only",
        "serial number    S1\n",
        "[[unit]]\nname = \"small\"\nstore = \"ram:1M\"\n",
        "waiting = 3\n",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(tell(&["status"])?.contains("with changes that are not saved"));
    let advice = refused(&lunette, &["lu", "change", "small", "--read-only=off"], 1)?;
    assert!(advice.contains("`--recreate` goes on all the same"), "{advice}");
    tell(&["lu", "change", "small", "--read-only=off", "--recreate", "--unset", "waiting"])?;
    let shown = tell(&["lu", "show", "small"])?;
    assert!(shown.contains("read-write") && !shown.contains("waiting"), "{shown}");
    assert_eq!(tell(&["lu", "resize", "db", "16M"])?, "unit `db` has 16 MiB\n");
    assert_eq!(tell(&["lu", "resize", "db", "8M", "--shrink"])?, "unit `db` has 8 MiB\n");
    tell(&["lu", "change", "db", "--size", "4M", "--shrink"])?;
    assert!(tell(&["lu", "show", "db"])?.contains("size             4 MiB"));
    tell(&["lu", "quiesce", "db"])?;
    assert!(tell(&["lu", "list"])?.contains("quiet"));
    tell(&["lu", "resume", "db"])?;

    assert_eq!(
        tell(&["target", "create", OTHER, "--units", "{}", "--alias", "x"])?,
        format!("target {OTHER} is served\n")
    );
    assert_eq!(
        tell(&["target", "attach", OTHER, "db", "--lun", "9"])?,
        format!("unit `db` is LUN 9 of {OTHER}\n")
    );
    assert_eq!(tell(&["target", "attach", OTHER, "small"])?, format!("unit `small` is LUN 0 of {OTHER}\n"));
    let listed = tell(&["target", "list"])?;
    assert_eq!(table(&listed)[1], [OTHER, "0", "0", "all", "0=small", "9=db"]);
    tell(&["target", "detach", OTHER, "--lun", "0"])?;
    tell(&[
        "target",
        "change",
        OTHER,
        "--access",
        "[{ initiators = [\"iqn.2026-11.x:a\"] }]",
        "--unset",
        "alias",
    ])?;
    let shown = tell(&["target", "show", OTHER])?;
    let config = format!(
        "[[target]]\nname = \"{OTHER}\"\nunits = {{ 9 = \"db\" }}\n\n[[target.access]]\ninitiators = [\"iqn.2026-11.x:a\"]\n"
    );
    assert!(shown.ends_with(&config), "{shown}");
    tell(&["target", "delete", OTHER])?;

    assert_eq!(tell(&["portal", "create", "127.0.0.1:0", "--group", "2"])?, "portal 127.0.0.1:0 is served\n");
    let listed = tell(&["portal", "list"])?;
    let listed = table(&listed);
    assert_eq!((listed.len(), listed[2][1]), (3, "2"), "{listed:?}");
    tell(&["portal", "delete", listed[2][0]])?;
    assert_eq!(table(&tell(&["portal", "list"])?).len(), 2);

    assert_eq!(
        tell(&["export", "create", "vm2", "--socket", "vm2.sock", "--units", "{}"])?,
        "export `vm2` is served\n"
    );
    assert_eq!(tell(&["export", "attach", "vm2", "db", "--at", "1:0"])?, "unit `db` is LUN 1:0 of vm2\n");
    tell(&["export", "rename", "vm2", "vm3"])?;
    let socket = lunette.path("vm2.sock").display().to_string();
    assert_eq!(table(&tell(&["export", "list"])?)[2], ["vm3", "listening", &socket, "1:0=db"]);
    tell(&["export", "detach", "vm3", "db"])?;
    tell(&["export", "delete", "vm3"])?;

    assert_eq!(
        tell(&["throttle", "create", "slow", "--iops", "100", "--units", "db"])?,
        "throttle `slow` is served\n"
    );
    tell(&["throttle", "change", "slow", "--bandwidth", "4M", "--unset", "units"])?;
    assert_eq!(table(&tell(&["throttle", "list"])?)[1], ["slow", "100", "4M", "-", "0", "all", "all"]);
    let shown = tell(&["throttle", "show", "slow"])?;
    assert!(shown.contains("0 commands, 0 have begun to wait so far\n"), "{shown}");
    assert!(shown.ends_with("[[throttle]]\nname = \"slow\"\niops = 100\nbandwidth = \"4M\"\n"), "{shown}");
    tell(&["throttle", "delete", "slow"])?;

    tell(&["lu", "delete", "--detach", "db", "small"])?;
    assert_eq!(table(&tell(&["lu", "list"])?).len(), 2);
    daemon.stop()?;
    Ok(())
}

/// Who watches is told of each size, however it has come, and of nothing where nothing has changed.
#[test]
fn who_watches_learns_the_size_of_a_unit() -> Result<()> {
    let (lunette, daemon) = serve()?;
    let tell = |words: &[&str]| lunette.tell(words);
    tell(&["lu", "create", "db", "--store", "db.img", "--size", "8M"])?;
    let mut events = tools::command(&binary()?.display().to_string())?;
    events.args(["events", "--since", "0", "--kind", "unit.changed", "--json", "--state-dir"]);
    let mut events = Guarded::spawn(events.arg(lunette.path("state")))?;
    let said = Capture::of(events.child().stdout.take().context("stdout is piped")?);
    tell(&["lu", "resize", "db", "16M"])?;
    tell(&["lu", "resize", "db", "16M"])?;
    tell(&["lu", "resize", "db", "8M", "--shrink"])?;
    tell(&["lu", "refresh", "db"])?;
    File::options().write(true).open(lunette.path("db.img"))?.set_len(12 << 20)?;
    tell(&["lu", "refresh", "db"])?;
    tell(&["lu", "change", "db", "--size", "16M"])?;
    tell(&["lu", "change", "db", "--waiting", "3"])?;
    let found = said.wait_for(0, b"waiting", Instant::now() + LIMIT);
    ensure!(matches!(found, Waited::Found(_)), "{}", said.text());
    let text = said.text();
    let told = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let sizes = [("8M", "16M"), ("16M", "8M"), ("8M", "12M"), ("12M", "16M")];
    assert_eq!(told.len(), sizes.len() + 1, "{text}");
    for ((old, new), event) in sizes.iter().zip(&told) {
        let change = &event["details"]["changes"][0];
        assert_eq!((&event["kind"], &event["object"]), (&"unit.changed".into(), &"db".into()), "{text}");
        assert_eq!(
            (&change["key"], &change["old"], &change["new"]),
            (&"size".into(), &(*old).into(), &(*new).into())
        );
    }
    daemon.stop()?;
    Ok(())
}

/// Who asks for something that takes long can take it back.
#[test]
fn a_unit_that_was_to_be_quiet_goes_on_when_that_is_cancelled() -> Result<()> {
    let (lunette, daemon) = serve()?;
    let tell = |words: &[&str]| lunette.tell(words);
    tell(&["lu", "create", "slow", "--store", "ram:1M", "--fault", "delay:600000", "--to", TARGET])?;
    let mut reader = tools::command("iscsi-perf")?;
    let _reader = tools::Guarded::spawn(reader.arg(daemon.iscsi_url(0)?))?;
    let listed = |method: &str| -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&tell(&[method, "list", "--json"])?)?)
    };
    let is_busy = |session: &Value| session["open_tasks"].as_u64().is_some_and(|tasks| tasks > 0);
    tools::wait_until("a command under way", || Ok(listed("session")?.iter().any(is_busy)))?;
    let quiesce = thread::scope(|scope| {
        let asked = scope.spawn(|| lunette.ask(["lu", "quiesce", "slow"]));
        let running =
            || Ok::<_, anyhow::Error>(listed("job")?.into_iter().find(|job| job["state"] == "running"));
        tools::wait_until("the job", || Ok(running()?.is_some()))?;
        let job = running()?.context("a job")?["job"].to_string();
        tell(&["job", "cancel", &job])?;
        asked.join().expect("a client")
    })?;
    assert!(quiesce.status == 1 && quiesce.stderr.contains("cancelled"), "{quiesce}");
    assert!(tell(&["lu", "show", "slow"])?.contains("state            ready\n"));
    daemon.kill()
}

#[test]
fn what_is_wrong_is_told_with_advice_and_a_status() -> Result<()> {
    let (lunette, daemon) = serve()?;
    for (words, status, parts) in [
        (&["lu", "show", "wrok"][..], 1, &["there is no unit `wrok`; did you mean `work`?"][..]),
        (&["target", "show", "iqn.2026-11.org.example:disk"], 1, &["did you mean", TARGET]),
        (&["target", "attach", TARGET, "wrk"], 1, &["did you mean `work`?"]),
        (&["export", "delete", "vn"], 1, &["did you mean `vm`?"]),
        (&["lu", "delete", "work"], 1, &["is shown at 5 of", "`--detach` goes on all the same"]),
        (&["lu", "create", "work", "--store", "ram:8M"], 1, &["there is another unit of the name `work`"]),
        (&["lu", "create", "x"], 1, &["--store"]),
        (&["lu", "create", "x", "--store", "/nonexistent/x.img"], 1, &["/nonexistent/x.img"]),
        (&["lu", "create", "x", "--store", "ram:1M", "--block", "520"], 2, &["--block", "512 or 4096"]),
        (&["lu", "resize", "work", "1M"], 1, &["1M instead of 4M", "`--shrink` goes on all the same"]),
        (
            &["lu", "change", "work", "--store", "ram:1M"],
            1,
            &["1M instead of 4M", "`--shrink` goes on all the same"],
        ),
        (&["lu", "change", "work", "--unset", "wating"], 2, &["waiting"]),
        (&["portal", "delete", "127.0.0.1:1"], 1, &["no portal listens on 127.0.0.1:1"]),
        (&["throttle", "show", "slow"], 1, &["there is no throttle `slow`"]),
        (&["throttle", "create", "slow"], 1, &["`iops`, `bandwidth`"]),
        (&["lu", "lst"], 2, &["list"]),
    ] {
        let said = refused(&lunette, words, status)?;
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?}: {said}");
    }
    daemon.stop()?;
    let said = refused(&lunette, &["lu", "list"], 3)?;
    assert!(said.contains("control.sock") && said.contains("No such file"), "{said}");
    Ok(())
}

/// What bash makes of a command line of which the words before the last are whole.
fn completed(lunette: &Lunette<'_>, line: &str) -> Result<Vec<String>> {
    // Bash takes words apart at colons and equals signs, and between them is nothing.
    let line = line.replace(':', " : ").replace('=', " = ");
    let line = line.trim_end_matches(' ');
    let words: Vec<&str> = line.split(' ').collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(lunette completions bash)
         COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9
         {{ complete -p lunette | grep -q _lunette; }} || exit 1
         _lunette lunette '{}' ''
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1,
        words[words.len() - 1]
    );
    let folder = binary()?.parent().context("a directory")?.display().to_string();
    let mut bash = tools::command("bash")?;
    bash.args(["--norc", "-c", &script]).env("LUNETTE_STATE_DIR", lunette.path("state"));
    bash.env("PATH", format!("{folder}:{}", std::env::var("PATH")?));
    let said = tools::run(&mut bash, tools::LIMIT)?.ok()?;
    Ok(said.stdout.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn shells_complete_what_the_daemon_has() -> Result<()> {
    let (lunette, daemon) = serve()?;
    lunette.tell(["target", "create", OTHER])?;
    let expect = |line: &str, expected: &[&str]| -> Result<()> {
        let mut found = completed(&lunette, line)?;
        found.sort();
        assert_eq!(found, expected, "{line}");
        Ok(())
    };
    expect("lunette lu sh", &["show"])?;
    expect("lunette lu show w", &["work"])?;
    expect("lunette export attach v", &["vm"])?;
    expect("lunette export attach vm w", &["work"])?;
    expect("lunette target show iq", &[OTHER, TARGET])?;
    // Only what stands behind the colon is new.
    expect("lunette target show iqn.2026-11.org.example:di", &["disks"])?;
    expect("lunette lu create x --known-by f", &["file"])?;
    // And only what stands behind the equals sign.
    expect("lunette lu create x --known-by=f", &["file"])?;
    expect("lunette lu change work --read-only=o", &["off", "on"])?;
    expect("lunette lu change work --read-only=", &["off", "on"])?;
    expect("lunette target show --control=/nonexistent iq", &[])?;
    let control = lunette.path("state/control.sock").display().to_string();
    expect(&format!("lunette lu --control={control} show w"), &["work"])?;
    expect("lunette top --unit w", &["work"])?;
    expect("lunette events --object iq", &[OTHER, TARGET])?;
    expect("lunette events --kind job.e", &["job.ended"])?;
    expect("lunette lu create x --kn", &["--known-by"])?;
    daemon.stop()?;
    // Without a daemon there are no names, and nobody waits.
    expect("lunette lu show w", &[])?;
    Ok(())
}
