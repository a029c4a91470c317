//! libiscsi's iscsi-perf as the load generator.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::Way;
use crate::daemon::Daemon;
use crate::load::Sample;
use crate::load::workload::{Access, Workload};
use crate::peers::installed;
use crate::run::Settings;

pub(super) fn measure(
    daemon: &Daemon,
    way: &Way,
    workload: &Workload,
    settings: &Settings,
) -> Result<Sample> {
    let program = installed("iscsi-perf", "libiscsi-bin")?;
    let seconds = settings.seconds.ceil().max(1.0);
    let mut command = Command::new(program);
    command.args(["-m", &workload.depth.to_string(), "-b", &workload.blocks().to_string()]);
    command.args(["-t", &seconds.to_string()]);
    if workload.access == Access::Random {
        command.arg("-r");
    }
    command.arg(format!("iscsi://{}/{}/{}", way.portal, way.target, way.lun));
    let before = daemon.usage()?;
    let output = command.output()?;
    let cpu = daemon.usage()?.daemon_since(&before);
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "iscsi-perf failed: {}", String::from_utf8_lossy(&output.stderr));
    let iops = last_average(&said).with_context(|| format!("iscsi-perf gives no average: {said}"))?;
    let none = Duration::ZERO;
    // Its own process would count among the others.
    Ok(Sample { iops, cpu: cpu.div_f64(iops * seconds), guest: none, others: 0.0, p50: none, p99: none })
}

/// The last average that iscsi-perf has printed.
fn last_average(output: &str) -> Option<f64> {
    let (_, rest) = output.rsplit_once("iops average ")?;
    rest.split_whitespace().next()?.parse().ok().filter(|&iops| iops > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_read_from_what_iscsi_perf_prints() {
        let output = "lba 4, iops current 7 (0 MB/s), iops average 12 (0 MB/s)\r\
                      iops average 15606 (60 MB/s)      \nfinished.\n";
        assert_eq!(last_average(output), Some(15606.0));
        assert_eq!(last_average("iops average 0 (0 MB/s)"), None);
        assert_eq!(last_average(""), None);
    }
}
