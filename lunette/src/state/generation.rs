//! The generation of what is configured by the control socket: where the next run of a daemon begins to count.

use super::file::{Folder, Kind, Unusable};
use anyhow::{Context, Result, anyhow};

pub(super) const KIND: Kind = Kind { name: "generation", version: 1, most: 256 };
const FILE: &str = "generation";

/// How far a run may count. So much changes in no run; and there may be so many runs that no number grows beyond what a reader
/// of JSON holds as a floating point number.
const RUN: u64 = 1 << 32;

/// A generation that is larger than all those before it, as far as they are known, `now` if possible: the milliseconds since 1970;
/// and whether the next run will know of this one. To be called by one at a time.
pub(super) fn begin(folder: &Folder, now: u64) -> (u64, Result<()>) {
    let path = folder.path().join(FILE);
    let end = match end(folder) {
        Ok(end) => end,
        Err(why) => {
            let why = anyhow!(
                "{} {why}; restore it, or move it away to begin anew with the time of day",
                path.display()
            );
            return (now, Err(why));
        }
    };
    let first = end.map_or(now, |end| end.max(now));
    let saved = folder.save(&KIND, FILE, first.saturating_add(RUN).to_string().as_bytes());
    (first, saved.with_context(|| format!("cannot write {}", path.display())))
}

/// Where the run before this one ends.
fn end(folder: &Folder) -> Result<Option<u64>, Unusable> {
    let Some(content) = folder.load(&KIND, FILE)? else { return Ok(None) };
    let end = str::from_utf8(&content.bytes).ok().and_then(|text| text.parse().ok());
    end.map(Some).ok_or(Unusable::Damaged)
}
