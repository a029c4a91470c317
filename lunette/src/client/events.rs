//! `lunette events`.

use super::table::is_shown;
use super::{connect, print_text};
use crate::cli::EventsCall;
use anyhow::Result;
use lunette_control::{Error, Subscribe, Subscribed, Told};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

/// How long it takes until a daemon that has gone is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Up to where events are known: so many of this run of the daemon.
type Known = (u64, String);

/// Carries out `lunette events`: ends with an error only.
pub(super) fn run(call: &EventsCall) -> Result<()> {
    let mut known = None;
    let mut is_away = false;
    loop {
        let before = known.is_some();
        let Err(error) = follow(call, &mut known, &mut is_away);
        // One that was never there is not waited for, and who is refused would be again.
        if !matches!(error.downcast_ref(), Some(Error::Socket(_))) || (!before && known.is_none()) {
            return Err(error);
        }
        if !is_away {
            let _ = writeln!(std::io::stderr(), "lunette: {error:#}; waiting for it");
        }
        is_away = true;
        std::thread::sleep(AGAIN);
    }
}

/// Prints what happens until the connection ends.
fn follow(call: &EventsCall, known: &mut Option<Known>, is_away: &mut bool) -> Result<Infallible> {
    let mut daemon = connect(&call.control)?;
    let (since, instance) = known.clone().unzip();
    let subscribe = Subscribe {
        kinds: call.kinds.clone(),
        objects: call.objects.clone(),
        since: since.or(call.since),
        instance: instance.clone(),
    };
    let subscribed: Subscribed = daemon.call("events.subscribe", &json!(subscribe))?;
    let is_other = instance.is_some_and(|before| before != subscribed.instance);
    if is_other {
        let _ = writeln!(std::io::stderr(), "lunette: the daemon was started again");
    }
    *is_away = false;
    // What was asked for is known when it has come.
    let first = if is_other { 0 } else { subscribe.since.unwrap_or(u64::MAX).min(subscribed.sequence) };
    let mut last = (first, subscribed.instance);
    loop {
        *known = Some(last.clone());
        let told = daemon.event()?;
        last.0 = last.0.max(told.sequence);
        print_text(&if call.json { json_line(&told) } else { line(&told) })?;
    }
}

fn json_line(told: &Told) -> String {
    let value = json!({
        "sequence": told.sequence, "time": told.time, "kind": told.kind, "object": told.object,
        "details": told.details,
    });
    super::clean(&value.to_string()) + "\n"
}

/// The time, the kind, the object, and then what more there is.
fn line(Told { time, kind, object, details, .. }: &Told) -> String {
    let mut text = format!("{time:24}  {kind:20}  {object}");
    for (name, value) in details.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => continue,
            Value::String(value) if !value.contains([' ', '"']) => value.clone(),
            value => value.to_string(),
        };
        text += &format!("  {name}={value}");
    }
    text.trim_end().replace(|c| !is_shown(c), "\u{fffd}") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_whatever_is_in_it() {
        let told = Told {
            subscription: 1,
            sequence: 7,
            time: "2026-11-23T01:02:03.000Z".into(),
            kind: "session.ended".into(),
            object: "3".into(),
            details: json!({ "initiator": "iqn.a\n\u{1b}[2J", "why": "it was told", "target": null, "n": 5 }),
        };
        let expected = "2026-11-23T01:02:03.000Z  session.ended         3  initiator=iqn.a\u{fffd}\u{fffd}[2J  n=5  why=\"it was told\"\n";
        assert_eq!(line(&told), expected);
        let json = json_line(&told);
        assert_eq!(json.lines().count(), 1);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["sequence"], &value["details"]), (&json!(7), &told.details));
    }
}
