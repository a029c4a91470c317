//! What logical units have done, as clients read it: by HTTP in the OpenMetrics format, and by the control socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use lunette_e2e::control::Control;
use lunette_e2e::daemon::{Daemon, Lunette, binary};
use lunette_e2e::tools::{self, Guarded};
use serde_json::{Value, json};

/// Reads the text as strictly as its authors do, and prints a sample on each line.
const PARSE: &str = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    for sample in family.samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        print(f"{sample.name}{{{labels}}}\t{sample.value}")
"#;

/// The samples that are served now.
fn samples(arguments: &[&str]) -> Result<BTreeMap<String, f64>> {
    let folder = tools::temp_dir()?;
    let text = folder.path().join("text");
    let mut curl = tools::command("curl")?;
    curl.args(["-sS", "--fail", "--max-time", "60", "-o"]).arg(&text).args(arguments);
    tools::run(&mut curl, tools::LIMIT)?.ok()?;
    let mut parse = tools::command("/usr/bin/python3")?;
    parse.args(["-c", PARSE]).arg(&text);
    let printed = tools::run(&mut parse, tools::LIMIT)?.ok()?.stdout;
    let sample = |line: &str| {
        let (name, value) = line.split_once('\t').context("a sample")?;
        Ok((name.to_owned(), value.parse()?))
    };
    printed.lines().map(sample).collect()
}

/// The samples that are written from now on: all who ask within a second share one text, so the first may be an older one.
fn new_samples(arguments: &[&str]) -> Result<BTreeMap<String, f64>> {
    let written = |samples: &BTreeMap<String, f64>| samples.get("lunette_uptime_seconds{}").copied();
    let old = samples(arguments)?;
    let mut new = BTreeMap::new();
    tools::wait_until("another text", || {
        new = samples(arguments)?;
        Ok(written(&new) != written(&old))
    })?;
    Ok(new)
}

/// The address that a daemon says it serves metrics at.
fn address(daemon: &Daemon) -> Result<String> {
    let printed = daemon.printed();
    let found = printed.lines().find_map(|line| line.strip_prefix("metrics: "));
    Ok(found.with_context(|| format!("no address of metrics is printed: {printed}"))?.to_owned())
}

fn bench(daemon: &Daemon, arguments: &[&str]) -> Result<std::process::Command> {
    let mut bench = tools::command("qemu-img")?;
    bench.args(["bench", "-f", "raw", "-s", "4096"]).args(arguments).arg(daemon.iscsi_url(0)?);
    Ok(bench)
}

#[test]
fn a_foreign_parser_reads_what_initiators_have_done() -> Result<()> {
    let serve = Lunette::new()?.lu("disk:ram:64M,name=disk").iscsi().arg("--metrics").arg("127.0.0.1:0");
    let daemon = serve.start()?;
    let url = address(&daemon)?;
    let before = samples(&[&url])?;
    assert_eq!(before["lunette_unit_read_bytes_total{unit=disk}"], 0.0);
    tools::run(&mut bench(&daemon, &["-c", "500"])?, tools::LIMIT)?.ok()?;
    tools::run(&mut bench(&daemon, &["-w", "-c", "300"])?, tools::LIMIT)?.ok()?;
    // That client has gone: what it has done is the unit's.
    let after = new_samples(&[&url])?;
    let reads = after
        .iter()
        .filter(|(name, _)| name.starts_with("lunette_unit_commands_total{command=READ("))
        .map(|(_, count)| count)
        .sum::<f64>();
    assert!((500.0..600.0).contains(&reads), "{after:?}");
    assert_eq!(after["lunette_unit_written_bytes_total{unit=disk}"], 300.0 * 4096.0);
    let failed = "lunette_unit_failures_total{status=CHECK CONDITION,unit=disk}";
    assert!(after[failed] >= 1.0, "the power-on of each");
    assert!(after["lunette_reactor_busy_seconds_total{reactor=0}"] > 0.0);

    let _forever = Guarded::spawn(&bench(&daemon, &["-c", "100000000", "-d", "8"])?)?;
    let mut found = BTreeMap::new();
    tools::wait_until("the times of an initiator's reads", || {
        found = samples(&[&url])?;
        Ok(found.iter().any(|(name, count)| {
            name.starts_with("lunette_initiator_latency_seconds_count{class=read") && *count > 1000.0
        }))
    })?;
    let one = |start: &str| {
        let mut names = found.iter().filter(|(name, _)| name.starts_with(start));
        names.next().map(|(_, value)| *value).with_context(|| format!("{start}: {found:?}"))
    };
    let (sum, count) = (
        one("lunette_initiator_latency_seconds_sum{class=read")?,
        one("lunette_initiator_latency_seconds_count{class=read")?,
    );
    // Nanoseconds to seconds: wherever this runs.
    assert!((1e-7..1.0).contains(&(sum / count)), "{sum} {count}");
    assert_eq!(one("lunette_initiator_commands_under_way")?.fract(), 0.0);
    let who = "initiator=iqn.2008-11.org.linux-kvm";
    assert!(found.keys().any(|name| name.contains(who)), "{found:?}");
    daemon.stop()?;
    Ok(())
}

/// What `lunette top` tells as JSON.
fn top(control: &Path, words: &[&str]) -> Result<Value> {
    let mut top = tools::command(&binary()?.display().to_string())?;
    top.args(["top", "--once", "--json", "--control"]).arg(control).args(words);
    Ok(serde_json::from_str(&tools::run(&mut top, tools::LIMIT)?.ok()?.stdout)?)
}

const THROTTLED: &str = r#"
[[unit]]
name = "disk"
store = "ram:64M"
lun = 0

[[portal]]
listen = "127.0.0.1:0"

[[target]]
name = "iqn.2026-11.org.example:throttled"

[[throttle]]
name = "all"
iops = 500
units = ["disk"]
"#;

/// Never more than what is allowed in the time and a burst, which both initiators share.
#[test]
fn a_throttled_unit_does_what_it_may_and_no_more() -> Result<()> {
    const IOPS: f64 = 500.0;
    /// A tenth of a second's, and one command more on each reactor.
    const BURST: f64 = IOPS / 10.0 + 2.0;
    let lunette = Lunette::new()?;
    let path = lunette.path("lunette.toml");
    fs::write(&path, THROTTLED)?;
    let lunette = lunette.arg("--config").arg(&path);
    let daemon = lunette.start()?;
    let begin = Instant::now();
    let clients: Vec<_> = (0..2)
        .map(|_| Guarded::spawn(&bench(&daemon, &["-c", "100000000", "-d", "8"])?))
        .collect::<Result<_>>()?;
    let mut client = Control::of(&lunette)?;
    tools::wait_until("a thousand reads of each", || {
        let stats = client.call("stats.show", json!({ "unit": "disk" }))?;
        let time = begin.elapsed();
        let initiators = stats["units"][0]["initiators"].as_array().context("initiators")?;
        let reads = |initiator: &Value| -> f64 {
            let buckets = initiator["reads"]["buckets"].as_array().into_iter().flatten();
            buckets.filter_map(|bucket| bucket[1].as_f64()).sum()
        };
        let each: Vec<f64> = initiators.iter().map(reads).collect();
        let (all, allowed) = (each.iter().sum::<f64>(), IOPS * time.as_secs_f64() + BURST);
        assert!(all <= allowed, "{all} reads in {time:?}");
        let is_enough = each.len() == 2 && each.iter().all(|reads| *reads >= 1000.0);
        if is_enough {
            println!("{all} reads in {time:?} are {:.1} % of what may be done", all / allowed * 100.0);
        }
        Ok(is_enough)
    })?;
    drop(clients);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_configuration_serves_metrics_at_a_socket() -> Result<()> {
    let serve = Lunette::new()?;
    let socket = serve.path("metrics.sock");
    let path = serve.path("lunette.toml");
    let text =
        format!("[daemon]\nmetrics = \"{}\"\n[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n", socket.display());
    fs::write(&path, text)?;
    let daemon = serve.clone().arg("--config").arg(&path).start()?;
    let found = samples(&["--unix-socket", &socket.display().to_string(), "http://localhost/metrics"])?;
    assert!(found.contains_key("lunette_unit_read_bytes_total{unit=a}"), "{found:?}");
    // The same by the control socket.
    let seen = top(&serve.path("state/control.sock"), &["--interval", "0.1"])?;
    assert!(seen["reactors"][0]["busy"].is_number() && seen["nexuses"] == serde_json::json!([]), "{seen:#}");
    daemon.stop()?;
    assert!(!socket.exists());
    let far = serve.arg("--metrics").arg("192.0.2.1:80").refused()?;
    assert!(far.stderr.contains("loopback"), "{far}");
    Ok(())
}
