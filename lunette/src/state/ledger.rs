//! The identities that were made once, as they are kept.
//!
//! They lie in segments under `identities/`, numbered files that are written once. What is new or has changed goes into the
//! next segment, together with what the last ones hold if that is no more: so to add one costs the same however many there are,
//! each is written again only as often as the number of all has binary digits, and there are no more segments than that. A
//! segment says from which number on it stands for those before it, which are removed then.

use super::file::{Folder, Kind, Unusable};
use super::identity::{Key, Record, naa_as_text, naa_from_text};
use anyhow::{Context, Result, anyhow};
use lunette_scsi::Naa;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

pub(super) const KIND: Kind = Kind { name: "identities", version: 1, most: 1 << 30 };
/// What there was before there were segments: one file without a checksum, beside their directory.
const OLD: &str = "identities.json";
const MOST_OLD: u64 = 64 << 20;

const WAY_OUT: &str = "restore it, or move it away to have new identities made";

/// What a segment holds.
#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    /// The first of the segments that it stands for.
    from: u64,
    records: Vec<Cow<'a, Record>>,
    /// Those that were kept before it and are no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forgotten: Vec<NaaText>,
}

/// A world-wide name as text.
#[derive(Serialize, Deserialize)]
struct NaaText(#[serde(serialize_with = "naa_as_text", deserialize_with = "naa_from_text")] Naa);

#[derive(Deserialize)]
struct OldFile {
    version: u32,
    records: Vec<Record>,
}

/// All identities in memory.
#[derive(Debug)]
pub(super) struct Ledger {
    folder: Folder,
    /// By their numbers; `None` if they have to be read.
    segments: Option<BTreeMap<u64, Segment>>,
    records: HashMap<Naa, Numbered>,
    by_key: [HashMap<String, Vec<Naa>>; 3],
    /// How many records there were.
    numbered: u64,
    /// With so many it is time to see whether all are needed.
    pub(super) many: usize,
}

#[derive(Debug)]
struct Segment {
    from: u64,
    /// Whose records it holds, or says are forgotten.
    names: Vec<Naa>,
}

/// A record, and how many there were before it.
#[derive(Debug)]
struct Numbered {
    number: u64,
    record: Record,
}

/// A rule by which units are recognised.
type Rule = fn(&Key) -> Option<Cow<'_, str>>;

/// Stronger evidence first.
const RULES: [Rule; 3] = [
    |key| key.name.as_deref().map(Cow::from),
    |key| key.file.as_deref().filter(|_| key.name.is_none()).map(Cow::from),
    |key| key.path.as_deref().filter(|_| key.name.is_none()).map(Path::to_string_lossy),
];

impl Ledger {
    /// What is in this folder, which has to be [read](Self::refresh).
    pub(super) fn new(folder: Folder) -> Self {
        let (records, by_key) = Default::default();
        Self { folder, segments: None, records, by_key, numbered: 0, many: super::MOST_UNUSED }
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many names its segments hold.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.segments.iter().flat_map(BTreeMap::values).map(|segment| segment.names.len()).sum()
    }

    /// All records, the oldest first.
    pub(super) fn oldest(&self) -> Vec<&Record> {
        let mut all: Vec<_> = self.records.values().collect();
        all.sort_unstable_by_key(|numbered| numbered.number);
        all.into_iter().map(|numbered| &numbered.record).collect()
    }

    /// The record of each of `keys`, none given to two. Those that are `taken` are given to none that has no name: who has the
    /// name is to take the place of who had it.
    pub(super) fn find(&self, keys: &[Key], taken: impl Fn(Naa) -> bool) -> Vec<Option<&Record>> {
        let mut given = HashSet::new();
        let mut found: Vec<Option<&Record>> = vec![None; keys.len()];
        // One rule after the other, so that a file that took over another's path does not take its identity.
        for (rule, by_key) in RULES.iter().zip(&self.by_key) {
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                let same = rule(key).and_then(|text| by_key.get(&*text)).into_iter().flatten();
                let is_free = |naa: Naa| !given.contains(&naa) && (key.name.is_some() || !taken(naa));
                let free = same.copied().find(|naa| is_free(*naa));
                *found = free.and_then(|naa| self.records.get(&naa)).map(|numbered| &numbered.record);
                given.extend(free);
            }
        }
        found
    }

    /// Reads what others have written. Nobody may write meanwhile.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let path = self.folder.path();
        let names = self.folder.files().names(path);
        let names = names.with_context(|| format!("cannot read {}", path.display()))?;
        let there: BTreeSet<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        if self.segments.as_ref().is_some_and(|segments| segments.keys().eq(&there)) {
            return Ok(());
        }
        self.clear();
        // Somebody may have been killed before what he renamed was safe.
        self.folder.sync()?;
        let mut segments = BTreeMap::new();
        let (mut live, mut superseded) = (Vec::new(), Vec::new());
        let mut from = u64::MAX;
        for number in there.into_iter().rev() {
            if number >= from {
                superseded.push(number);
                continue;
            }
            let saved = self.load(number)?;
            from = saved.from;
            live.push((number, saved));
        }
        for (number, Saved { from, records, forgotten }) in live.into_iter().rev() {
            let mut names: Vec<Naa> = forgotten.into_iter().map(|NaaText(naa)| naa).collect();
            for naa in &names {
                self.remove(*naa);
            }
            names.extend(records.iter().map(|record| record.naa));
            segments.insert(number, Segment { from, names });
            records.into_iter().for_each(|record| self.insert(record.into_owned()));
        }
        self.remove_files(superseded);
        self.segments = Some(segments);
        let taken_over = self.take_over();
        if taken_over.is_err() {
            self.segments = None;
        }
        taken_over
    }

    /// Adds and replaces records, and forgets others. All of that survives a power loss when this returns, and otherwise all of
    /// it or none.
    pub(super) fn change(&mut self, records: Vec<Record>, forgotten: Vec<Naa>) -> Result<()> {
        // If this fails, they are read again.
        let mut segments = self.segments.take().unwrap_or_default();
        let number = segments.last_key_value().map_or(1, |(last, _)| last + 1);
        let names = records.iter().map(|record| record.naa).chain(forgotten.iter().copied()).collect();
        let mut new = Segment { from: number, names };
        for naa in forgotten {
            self.remove(naa);
        }
        records.into_iter().for_each(|record| self.insert(record));
        let mut superseded = Vec::new();
        while let Some(last) = segments.last_entry()
            && last.get().names.len() <= new.names.len()
        {
            let (number, last) = last.remove_entry();
            superseded.push(number);
            new.from = last.from;
            new.names.extend(last.names);
        }
        new.names.sort_unstable();
        new.names.dedup();
        if segments.is_empty() {
            // Nobody before it holds what is forgotten.
            new.names.retain(|naa| self.records.contains_key(naa));
        }
        self.write(number, &new)?;
        segments.insert(number, new);
        self.segments = Some(segments);
        self.remove_files(superseded);
        Ok(())
    }

    /// Writes a segment.
    fn write(&self, number: u64, segment: &Segment) -> Result<()> {
        let (kept, forgotten): (Vec<_>, Vec<_>) =
            segment.names.iter().partition(|naa| self.records.contains_key(naa));
        let mut records: Vec<_> = kept.into_iter().filter_map(|naa| self.records.get(naa)).collect();
        records.sort_unstable_by_key(|numbered| numbered.number);
        let saved = Saved {
            from: segment.from,
            records: records.into_iter().map(|numbered| Cow::Borrowed(&numbered.record)).collect(),
            forgotten: forgotten.into_iter().copied().map(NaaText).collect(),
        };
        let name = number.to_string();
        let saved = self.folder.save(&KIND, &name, &serde_json::to_vec(&saved)?);
        saved.with_context(|| format!("cannot write {}", self.folder.path().join(name).display()))
    }

    fn load(&self, number: u64) -> Result<Saved<'static>> {
        let name = number.to_string();
        let path = self.folder.path().join(&name);
        let content = self.folder.load(&KIND, &name);
        let content = content.map_err(|why| anyhow!("{} {why}; {WAY_OUT}", path.display()))?;
        let saved: Option<Saved<'static>> =
            content.and_then(|content| serde_json::from_slice(&content.bytes).ok());
        saved
            .filter(|saved| (1..=number).contains(&saved.from))
            .with_context(|| format!("{} {}; {WAY_OUT}", path.display(), Unusable::Damaged))
    }

    /// Takes over what an older lunette has kept, once.
    fn take_over(&mut self) -> Result<()> {
        let (files, directory) = (self.folder.files().clone(), self.folder.path().to_owned());
        let directory = directory.parent().unwrap_or(&directory);
        let path = directory.join(OLD);
        let text = match files.read(&path, MOST_OLD) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        // What was kept later counts: the old file was to be removed.
        if self.records.is_empty() {
            let old: Option<OldFile> = serde_json::from_slice(&text).ok();
            let old = old.filter(|old| old.version == 1);
            let old = old.with_context(|| format!("{} is damaged; {WAY_OUT}", path.display()))?;
            self.change(old.records, Vec::new())?;
        }
        files.remove(&path)?;
        Ok(files.sync_directory(directory)?)
    }

    /// Those that remain are removed when they are seen the next time.
    fn remove_files(&self, numbers: Vec<u64>) {
        for number in numbers {
            let _ = self.folder.files().remove(&self.folder.path().join(number.to_string()));
        }
    }

    fn clear(&mut self) {
        *self = Self { many: self.many, ..Self::new(self.folder.clone()) };
    }

    fn insert(&mut self, record: Record) {
        let number = self.remove(record.naa).unwrap_or(self.numbered);
        self.numbered = self.numbered.max(number + 1);
        for (rule, by_key) in RULES.iter().zip(&mut self.by_key) {
            if let Some(text) = rule(&record.key) {
                by_key.entry(text.into_owned()).or_default().push(record.naa);
            }
        }
        self.records.insert(record.naa, Numbered { number, record });
    }

    /// Removes the record of this name. Returns its number.
    fn remove(&mut self, naa: Naa) -> Option<u64> {
        let Numbered { number, record } = self.records.remove(&naa)?;
        for (rule, by_key) in RULES.iter().zip(&mut self.by_key) {
            if let Some(text) = rule(&record.key)
                && let Some(names) = by_key.get_mut(&*text)
            {
                names.retain(|name| *name != naa);
                if names.is_empty() {
                    by_key.remove(&*text);
                }
            }
        }
        Some(number)
    }
}

/// The number of the segment in the file of this name, if it is one.
fn number_of(name: &str) -> Option<u64> {
    let number = name.parse().ok().filter(|number| *number > 0)?;
    (u64::to_string(&number) == name).then_some(number)
}
