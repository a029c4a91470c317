//! Reading the files of a configuration.

use super::check::{self, Issue, Setting, Where};
use super::decode::{self, Fault, Kind};
use super::document::{Document, Model, Rebase, SECTIONS};
use super::iscsi::some;
use super::report::{Mistake, Report, Severity, Spot, line_ends};
use super::system;
use super::unit::Unit;
use super::values::{Place, Text, Value};
use lunette_control::did_you_mean;
use lunette_transport_iscsi::Network;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where the configuration is if nothing else is said.
pub(crate) const DEFAULT_FILE: &str = "/etc/lunette/lunette.toml";
/// The directory beside the file whose files belong to it.
const DIRECTORY: &str = "conf.d";
/// The longest file, in bytes: ten thousand units have less.
const LONGEST_FILE: u64 = 16 << 20;
/// All files together, in bytes.
const MOST_BYTES: usize = 32 << 20;
/// The most files in the directory.
const MOST_FILES: usize = 4096;

/// The text of a file.
struct Source {
    path: PathBuf,
    /// Where relative paths begin.
    base: PathBuf,
    text: String,
    /// Where its lines end.
    ends: Vec<usize>,
}

/// What is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Files {
    /// The file, and those in `conf.d` beside it.
    WithDirectory,
    /// The file alone.
    Alone,
}

/// Reads a configuration. `before`: what the command line says, to which that of the file is added.
///
/// # Errors
/// Everything that is wrong with it, if that keeps it from being used.
pub(crate) fn load(
    path: &Path,
    files: Files,
    before: Document,
    setting: Setting,
) -> Result<(Model, Report), Report> {
    let mut report = Report::default();
    let mut paths = vec![path.to_owned()];
    if files == Files::WithDirectory {
        match of_directory(path) {
            Ok(others) => paths.extend(others),
            Err(mistake) => report.add(*mistake),
        }
    }
    let mut sources = Vec::new();
    let mut left = MOST_BYTES;
    for path in paths {
        match Source::read(&path) {
            Ok(source) => {
                let Some(rest) = left.checked_sub(source.text.len()) else {
                    let what = format!("the files have more than {} MiB together", MOST_BYTES >> 20);
                    report.add(mistake(Spot::file(&path), what));
                    return Err(report);
                };
                left = rest;
                sources.push(source);
            }
            Err(mistake) => report.add(*mistake),
        }
    }
    understand(&sources, before, setting, report)
}

/// The model of what was written elsewhere than in a file.
///
/// # Errors
/// As [`load`].
pub(crate) fn without_file(document: Document, setting: Setting) -> Result<(Model, Report), Report> {
    understand(&[], document, setting, Report::default())
}

/// What a text means, as if it stood in a file of that name.
///
/// # Errors
/// As [`load`].
pub(crate) fn from_text(path: &Path, text: String, setting: Setting) -> Result<(Model, Report), Report> {
    let source = Source::new(path, text);
    understand(&[source], Document::default(), setting, Report::default())
}

fn understand(
    sources: &[Source],
    before: Document,
    setting: Setting,
    mut report: Report,
) -> Result<(Model, Report), Report> {
    let becomes = before.daemon.user.clone();
    let trees: Vec<_> = sources.iter().map(|source| source.parse(&mut report)).collect();
    let mut reader = Reader { document: before, origins: BTreeMap::new(), report, sources };
    for (file, tree) in trees.iter().enumerate() {
        if let Some(tree) = tree {
            reader.file(file, tree.get_ref());
        }
    }
    let Reader { document, origins, mut report, .. } = reader;
    // What does not hold together may only seem so while parts are missing.
    if report.is_usable() {
        let mut issues = check::check(&document, setting);
        if setting.looks_at_system {
            issues.extend(system::check(&document, becomes.as_ref()));
        }
        let origins = Origins { origins: &origins, sources };
        for issue in issues {
            match report.is_full() && issue.severity == Severity::Error {
                true => report.count(),
                false => report.add(origins.mistake(issue)),
            }
        }
    }
    report.sort();
    match report.is_usable() {
        true => Ok((Model::from(document), report)),
        false => Err(report),
    }
}

fn mistake(spot: Spot, what: String) -> Mistake {
    Mistake { severity: Severity::Error, what, help: None, spot: Some(spot), also: None }
}

fn boxed(spot: Spot, what: String) -> Box<Mistake> {
    Box::new(mistake(spot, what))
}

/// The files of the directory, by name.
pub(super) fn of_directory(path: &Path) -> Result<Vec<PathBuf>, Box<Mistake>> {
    let directory = path.parent().unwrap_or(Path::new("")).join(DIRECTORY);
    let wrong = |error| boxed(Spot::file(&directory), format!("cannot read the directory: {error}"));
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(wrong)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension() == Some(OsStr::new("toml")) {
            paths.push(path);
        }
        if paths.len() > MOST_FILES {
            let what = format!("there are more than {MOST_FILES} files in the directory");
            return Err(boxed(Spot::file(&directory), what));
        }
    }
    paths.sort();
    Ok(paths)
}

impl Source {
    fn new(path: &Path, text: String) -> Self {
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        Self { path: path.to_owned(), base, ends: line_ends(&text), text }
    }

    fn read(path: &Path) -> Result<Self, Box<Mistake>> {
        let wrong = |what| boxed(Spot::file(path), what);
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes));
        read.map_err(|error| wrong(format!("cannot read the configuration: {error}")))?;
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(wrong(format!("the file has more than {} MiB", LONGEST_FILE >> 20)));
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                // What is written down of it means the same elsewhere.
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                let base = absolute.parent().unwrap_or(&absolute).to_owned();
                Ok(Self { base, ..Self::new(path, text) })
            }
            Err(error) => {
                let place = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let what = "here stands something that is not UTF-8".to_owned();
                Err(boxed(Spot::of(path, &text, &line_ends(&text), place..place + 1), what))
            }
        }
    }

    fn parse(&self, report: &mut Report) -> Option<Spanned<DeTable<'_>>> {
        let (tree, errors) = DeTable::parse_recoverable(&self.text);
        for error in &errors {
            if report.is_full() {
                report.count();
                continue;
            }
            report.add(mistake(self.spot(error.span().unwrap_or_default()), one_line(error.message())));
        }
        errors.is_empty().then_some(tree)
    }

    fn spot(&self, place: Range<usize>) -> Spot {
        Spot::of(&self.path, &self.text, &self.ends, place)
    }
}

/// A message of the parser, some of which have a second line.
fn one_line(message: &str) -> String {
    message.trim().replace('\n', "; ")
}

/// Where a table was read: its file and its tree.
#[derive(Clone, Copy)]
struct Origin<'a> {
    file: usize,
    value: &'a Spanned<DeValue<'a>>,
}

/// Puts the files together.
struct Reader<'a> {
    document: Document,
    /// What was read where, by section and index.
    origins: BTreeMap<(&'static str, usize), Origin<'a>>,
    report: Report,
    sources: &'a [Source],
}

/// `[[unit]]` with the notation of the command line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notation {
    lu: String,
}

/// `addresses`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Addresses(#[serde(deserialize_with = "some")] Vec<Text<Network>>);

impl Rebase for Addresses {}

impl<'a> Reader<'a> {
    fn file(&mut self, file: usize, tree: &'a DeTable<'a>) {
        for (key, value) in tree {
            let origin = Origin { file, value };
            let mut document = std::mem::take(&mut self.document);
            match key.get_ref().as_ref() {
                "addresses" => {
                    let mut addresses = Addresses(std::mem::take(&mut document.addresses));
                    self.once(&mut addresses, "addresses", origin);
                    document.addresses = addresses.0;
                }
                "daemon" => self.once(&mut document.daemon, "daemon", origin),
                "discovery" => self.once(&mut document.discovery, "discovery", origin),
                "limits" => self.once(&mut document.limits, "limits", origin),
                "times" => self.once(&mut document.times, "times", origin),
                "unit" => self.list(&mut document.units, "unit", origin, Self::unit),
                "portal" => self.list(&mut document.portals, "portal", origin, Self::table),
                "target" => self.list(&mut document.targets, "target", origin, Self::table),
                "vhost-user" => self.list(&mut document.vhost_user, "vhost-user", origin, Self::table),
                "throttle" => self.list(&mut document.throttles, "throttle", origin, Self::table),
                other => {
                    let kind = Kind::UnknownKey(other.to_owned(), SECTIONS);
                    self.tell(file, Fault { place: key.span(), kind });
                }
            }
            self.document = document;
        }
    }

    /// What may be said in one file only.
    fn once<T: DeserializeOwned + Rebase>(&mut self, to: &mut T, section: &'static str, origin: Origin<'a>) {
        if let Some(before) = self.origins.get(&(section, 0)).copied() {
            let spot = self.sources[origin.file].spot(origin.value.span());
            let first = self.sources[before.file].spot(before.value.span());
            let what = format!("`{section}` is said twice");
            self.report.add(Mistake { also: Some((first, "the other one is at")), ..mistake(spot, what) });
            return;
        }
        self.origins.insert((section, 0), origin);
        if let Some(mut value) = self.table::<T>(origin) {
            value.rebase(&self.sources[origin.file].base);
            *to = value;
        }
    }

    /// Adds tables of which there may be many.
    fn list<T: Rebase>(
        &mut self,
        to: &mut Vec<T>,
        section: &'static str,
        origin: Origin<'a>,
        read: fn(&mut Self, Origin<'a>) -> Option<T>,
    ) {
        let DeValue::Array(tables) = origin.value.get_ref() else {
            let what = format!("there may be several of these: write [[{section}]]");
            return self.tell(origin.file, Fault { place: origin.value.span(), kind: Kind::Other(what) });
        };
        for value in tables.iter() {
            let origin = Origin { value, ..origin };
            if let Some(mut table) = read(self, origin) {
                table.rebase(&self.sources[origin.file].base);
                self.origins.insert((section, to.len()), origin);
                to.push(table);
            }
        }
    }

    fn table<T: DeserializeOwned>(&mut self, origin: Origin<'a>) -> Option<T> {
        let mut faults = Vec::new();
        let table = decode::decode(origin.value, &mut faults);
        faults.into_iter().for_each(|fault| self.tell(origin.file, fault));
        table
    }

    fn unit(&mut self, origin: Origin<'a>) -> Option<Arc<Unit>> {
        let lu = origin.value.get_ref().as_table().and_then(|table| table.get("lu"));
        let Some(lu) = lu else { return self.table(origin) };
        let Notation { lu: text } = self.table(origin)?;
        let unit = match text.parse::<Unit>() {
            Ok(unit) if unit.name.is_empty() => Err("a unit of a file has a name: add name=".to_owned()),
            Ok(unit) => Ok(unit),
            Err(error) => Err(error.why().to_owned()),
        };
        let fault = |what| Fault { place: lu.span(), kind: Kind::Other(what) };
        unit.map(Arc::new).map_err(|what| self.tell(origin.file, fault(what))).ok()
    }

    fn tell(&mut self, file: usize, fault: Fault) {
        if self.report.is_full() {
            return self.report.count();
        }
        let spot = self.sources[file].spot(fault.place);
        let (what, help) = match fault.kind {
            Kind::UnknownKey(key, keys) => {
                let meant = did_you_mean(&key, keys.iter().copied());
                (
                    format!("unknown key `{key}`"),
                    meant.or_else(|| Some(format!("the keys are {}", keys.join(", ")))),
                )
            }
            Kind::UnknownWord(word, words) => {
                let meant = did_you_mean(&word, words.iter().copied());
                (format!("`{}` is none of {}", short(&word), words.join(", ")), meant)
            }
            Kind::Missing(key) => (format!("the key `{key}` is missing here"), None),
            Kind::Other(what) => (what, None),
        };
        self.report.add(Mistake { help, ..mistake(spot, short(&what).into_owned()) });
    }
}

/// A message that is not so long that it hides others.
fn short(text: &str) -> std::borrow::Cow<'_, str> {
    const LONGEST: usize = 400;
    match text.len() <= LONGEST {
        true => text.into(),
        false => format!("{}…", &text[..text.floor_char_boundary(LONGEST)]).into(),
    }
}

/// Where everything stands.
struct Origins<'a> {
    origins: &'a BTreeMap<(&'static str, usize), Origin<'a>>,
    sources: &'a [Source],
}

impl Origins<'_> {
    fn mistake(&self, issue: Issue) -> Mistake {
        let Issue { severity, at, what, help, also } = issue;
        let also = also.and_then(|(at, what)| Some((self.spot(&at)?, what)));
        Mistake { severity, what, help, spot: self.spot(&at), also }
    }

    /// The innermost thing on the way that stands somewhere.
    fn spot(&self, at: &Where) -> Option<Spot> {
        let Some(origin) = self.origins.get(&(at.section, at.index)) else {
            return at
                .section
                .is_empty()
                .then(|| self.sources.first().map(|source| Spot::file(&source.path)))?;
        };
        let mut value = origin.value;
        for key in &at.keys {
            let inner = match value.get_ref() {
                DeValue::Table(table) => {
                    let same = |other: &str| Place::read(other).is_ok_and(|place| place.write() == *key);
                    let otherwise =
                        || table.iter().find(|(other, _)| same(other.get_ref())).map(|(_, value)| value);
                    table.get(key.as_str()).or_else(|| table.get("lu")).or_else(otherwise)
                }
                DeValue::Array(list) => key.parse().ok().and_then(|index: usize| list.get(index)),
                _ => None,
            };
            match inner {
                Some(inner) => value = inner,
                None => break,
            }
        }
        Some(self.sources[origin.file].spot(value.span()))
    }
}
