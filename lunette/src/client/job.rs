//! `lunette job`.

use super::progress::wait_for;
use super::table::Table;
use super::{connect, print_json, print_table};
use crate::cli::{JobCall, JobCommand};
use anyhow::Result;
use lunette_control::JobStatus;
use serde_json::{Value, json};

/// Carries out `lunette job`.
pub(super) fn run(what: &JobCall) -> Result<()> {
    let mut daemon = connect(&what.control)?;
    match what.command {
        JobCommand::List { json } => {
            let jobs: Value = daemon.call("job.list", &json!({}))?;
            match json {
                true => print_json(&jobs),
                false => print_table(&table(serde_json::from_value(jobs)?)),
            }
        }
        JobCommand::Show { job } => print_json(&daemon.call("job.show", &json!({ "job": job }))?),
        JobCommand::Cancel { job } => Ok(daemon.call("job.cancel", &json!({ "job": job }))?),
        JobCommand::Wait { job, cancel } => match wait_for(&mut daemon, job, cancel)? {
            Value::Null => Ok(()),
            result => print_json(&result),
        },
    }
}

fn table(jobs: Vec<JobStatus>) -> Table<7> {
    let mut table = Table::new(["JOB", "METHOD", "USER", "STATE", "DONE", "BEGUN", "WHAT"]).sparing(&[2, 5]);
    for job in jobs {
        let state = serde_json::to_value(job.state).unwrap_or_default();
        let what = job.failure.map_or(job.text, |failure| failure.message);
        table.row([
            job.job.to_string(),
            job.method,
            job.user.to_string(),
            state.as_str().unwrap_or_default().to_owned(),
            format!("{:.0} %", job.progress * 100.0),
            job.begun,
            what,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_shown_a_line_each() {
        let jobs = json!([{
            "job": 3, "method": "a.b", "user": 0, "state": "failed", "progress": 0.456, "text": "copying",
            "begun": "2026-11-23T01:02:03.000Z", "ended": null, "failure": { "code": 1, "message": "no room" }
        }]);
        let text = table(serde_json::from_value(jobs).unwrap()).lines(None);
        let expected = "3    a.b     0     failed  46 %  2026-11-23T01:02:03.000Z  no room";
        assert_eq!(text.lines().nth(1), Some(expected), "{text}");
    }
}
