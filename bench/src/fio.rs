//! fio with its own io_uring loop: what the machine gives without any daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cpu::Usage;
use crate::load::Sample;
use crate::load::workload::{Access, Direction, Workload};
use crate::peers::{installed, output};
use crate::run::Settings;

/// The program.
pub(crate) struct Fio(PathBuf);

/// How it hands requests to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Batching {
    /// One system call for each, as is its default.
    Single,
    /// In portions of a quarter of the depth, and as many completions as there are.
    Portions,
}

impl Batching {
    fn options(self, depth: usize) -> Vec<String> {
        match self {
            Self::Single => Vec::new(),
            Self::Portions => vec![
                format!("--iodepth_batch_submit={}", (depth / 4).max(1)),
                format!("--iodepth_batch_complete_max={depth}"),
            ],
        }
    }
}

/// What is the same in all runs.
const OPTIONS: &str = "--name=fio --ioengine=io_uring --time_based --norandommap --invalidate=0 \
    --allow_file_create=0 --percentile_list=50:99 --output-format=json";

impl Fio {
    pub(crate) fn find() -> Result<Self> {
        installed("fio", "fio").map(Self)
    }

    pub(crate) fn version(&self) -> Result<String> {
        output(&self.0, &["--version"])
    }

    /// The command line and what is to be known about it, for the report.
    pub(crate) fn shown(direct: bool) -> String {
        format!(
            "`fio {OPTIONS} --direct={} --rw=… --bs=… --iodepth=…`: one thread on any CPU, with memory of its own, which \
             makes a system call for each request; \"batched\" with a quarter of the depth as `--iodepth_batch_submit` and \
             all of it as `--iodepth_batch_complete_max`. Its CPU column has the whole work, for nobody sends it commands.",
            u8::from(direct)
        )
    }

    /// One run on a file.
    pub(crate) fn measure(
        &self,
        file: &Path,
        workload: &Workload,
        direct: bool,
        batching: Batching,
        settings: &Settings,
    ) -> Result<Sample> {
        let (kind, key) = match (workload.access, workload.direction) {
            (Access::Random, Direction::Read) => ("randread", "read"),
            (Access::Random, Direction::Write) => ("randwrite", "write"),
            (Access::Sequential, Direction::Read) => ("read", "read"),
            (Access::Sequential, Direction::Write) => ("write", "write"),
            (Access::None, _) => bail!("fio has no commands without data"),
        };
        let mut command = Command::new(&self.0);
        let span = settings.span();
        command.args(OPTIONS.split_whitespace());
        command.arg(format!("--filename={}", file.display()));
        command.arg(format!("--rw={kind}"));
        command.arg(format!("--direct={}", u8::from(direct)));
        command.arg(format!("--bs={}", workload.size));
        command.arg(format!("--iodepth={}", workload.depth));
        command.args(batching.options(workload.depth));
        command.arg(format!("--runtime={}ms", span.measured.as_millis()));
        command.arg(format!("--ramp_time={}ms", span.warm_up.as_millis()));
        let before = Usage::of_children()?;
        let output = command.output()?;
        let others = Usage::of_children()?.others_since(&before);
        ensure!(output.status.success(), "fio failed: {}", String::from_utf8_lossy(&output.stderr));
        let json = serde_json::from_slice(&output.stdout).context("fio's output is no JSON")?;
        let sample = sample(&json, key).with_context(|| format!("fio's output lacks something: {json}"))?;
        Ok(Sample { others, ..sample })
    }
}

fn sample(json: &Value, key: &str) -> Option<Sample> {
    let job = json.get("jobs")?.get(0)?;
    let figures = job.get(key)?;
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64);
    let iops = number(figures, "iops").filter(|&iops| iops > 0.0)?;
    // Per cent of the time in which the job ran.
    let share = (number(job, "usr_cpu")? + number(job, "sys_cpu")?) / 100.0;
    let percentiles = figures.get("clat_ns")?.get("percentile")?;
    let latency = |rank| number(percentiles, rank).map(|nanos| Duration::from_nanos(nanos as u64));
    Some(Sample {
        iops,
        cpu: Duration::from_secs_f64(share / iops),
        guest: Duration::ZERO,
        others: 0.0,
        p50: latency("50.000000")?,
        p99: latency("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_json() {
        let json = serde_json::json!({"jobs": [{
            "read": {"iops": 200000.0, "clat_ns": {"percentile": {"50.000000": 1500, "99.000000": 9000}}},
            "usr_cpu": 30.0, "sys_cpu": 50.0,
        }]});
        let sample = sample(&json, "read").unwrap();
        assert_eq!((sample.iops, sample.cpu), (200_000.0, Duration::from_micros(4)));
        assert_eq!((sample.p50, sample.p99), (Duration::from_nanos(1500), Duration::from_micros(9)));
        assert!(super::sample(&json, "write").is_none());
    }
}
