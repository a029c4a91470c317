//! The generation of what is configured by the control socket: where the next run of a daemon begins to count.

use super::file::{Folder, Kind};
use anyhow::{Context, Result, anyhow};

pub(super) const KIND: Kind = Kind { name: "generation", version: 1, most: 256 };
const FILE: &str = "generation";

/// How far a run may count. So much changes in no run; and there may be so many runs that no number grows beyond what a reader
/// of JSON holds as a floating point number.
const RUN: u64 = 1 << 32;

/// A generation that is larger than all those before it, `now` if possible: the milliseconds since 1970. To be called by one
/// at a time.
pub(super) fn begin(folder: &Folder, now: u64) -> Result<u64> {
    let path = folder.path().join(FILE);
    let damaged = |why: &dyn std::fmt::Display| {
        anyhow!("{} {why}; restore it, or move it away to begin anew with the time of day", path.display())
    };
    let content = folder.load(&KIND, FILE).map_err(|why| damaged(&why))?;
    let end = content.map(|content| str::from_utf8(&content.bytes).ok()?.parse::<u64>().ok());
    let end = end.map(|end| end.ok_or_else(|| damaged(&"is damaged"))).transpose()?;
    let first = end.map_or(now, |end| end.max(now));
    let saved = folder.save(&KIND, FILE, first.saturating_add(RUN).to_string().as_bytes());
    saved.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(first)
}
