//! Configurations of other targets as ours: tgt's `targets.conf` and LIO's `saveconfig.json`.
//!
//! Names, logical unit numbers, identities, and who may do what with which proof are kept. What cannot be kept is told, and
//! nobody is let in, or may write, who was not or could not before.

mod lio;
mod tgt;
mod tgt_file;
mod tgt_units;

use super::check::{Setting, check};
use super::document::Document;
use super::iscsi::{Account, Chap, Digest, Parameters};
use super::print::document_to_toml;
use super::report::visible;
use super::secret::SecretSource;
use super::unit::Unit;
use super::values::{Bytes, FilePath, Label, Name, StoreSpec, Text};
use anyhow::{Context, Result, bail};
use lunette_scsi::Naa;
use lunette_transport_iscsi::NamePattern;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest file, in bytes.
const LONGEST_FILE: u64 = 16 << 20;

/// What has become of a configuration.
#[derive(Default)]
pub(super) struct Import {
    pub(super) document: Document,
    /// What does not carry over: where it stands, and why.
    pub(super) lost: Vec<(String, String)>,
    /// The secrets by the names of their files, as far as they are known.
    secrets: BTreeMap<String, Option<Zeroizing<String>>>,
    names: BTreeSet<String>,
    /// How many names were made of the same wish.
    wishes: BTreeMap<String, usize>,
    /// The units that have a store, by its path.
    by_store: BTreeMap<FilePath, Vec<usize>>,
    /// Where the files of secrets are going to be.
    directory: PathBuf,
}

/// What `tgt-admin --dump` prints instead of secrets. Everybody knows it.
const NO_SECRET: &str = "PLEASE_CORRECT_THE_PASSWORD";

/// Where secrets are put when no directory is named: beside the configuration.
const DIRECTORY: &str = "chap";

/// Reads a configuration of another target. Returns ours, and what is to be told besides. With `secrets` the secrets are written
/// into files in that directory.
pub(super) fn import(path: &Path, secrets: Option<&Path>) -> Result<(String, String)> {
    let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let directory = match secrets {
        Some(directory) => std::path::absolute(directory)?,
        None => DIRECTORY.into(),
    };
    let import = understand(path, &text, directory)?;
    let mut comments = String::new();
    if let Some(directory) = secrets {
        import.write_secrets(directory)?;
    }
    for name in
        import.secrets.iter().filter(|(_, secret)| secrets.is_none() || secret.is_none()).map(|of| of.0)
    {
        let path = import.directory.join(name);
        let _ = writeln!(
            comments,
            "# {}: put the secret there, readable for the daemon alone (mode 600)",
            path.display()
        );
    }
    let told = import.told(path);
    Ok((format!("{comments}{}", document_to_toml(&import.document)?), told))
}

/// What is printed of a text of either kind, if it is one.
pub(crate) fn import_text(text: &str) -> Option<String> {
    // Files that it includes are not there.
    let import = understand(Path::new("/nonexistent/targets.conf"), text, DIRECTORY.into()).ok()?;
    import.told(Path::new("x"));
    document_to_toml(&import.document).ok()
}

/// What a text of either kind means.
pub(super) fn understand(path: &Path, text: &str, directory: PathBuf) -> Result<Import> {
    let mut import = Import { directory, ..Import::default() };
    match text.trim_start().starts_with('{') {
        true => lio::import(text, &mut import)?,
        false => tgt::import(path, text, &mut import)?,
    }
    Ok(import)
}

/// A file, which holds secrets.
fn read(path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    // A pipe must not hold it up.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut file = file.take(LONGEST_FILE + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_FILE {
        bail!("it has more than {} MiB", LONGEST_FILE >> 20);
    }
    Ok(text)
}

impl Import {
    fn lose(&mut self, place: impl Into<String>, why: impl Into<String>) {
        self.lost.push((place.into(), why.into()));
    }

    /// A name for a unit that is called, or lies, there.
    fn name(&mut self, wish: &str) -> Name {
        let base = wish.rsplit('/').find(|part| !part.is_empty()).unwrap_or("unit");
        let base = base.strip_suffix(".img").unwrap_or(base);
        let clean: String = base.chars().filter(|c| c.is_ascii_graphic()).take(48).collect();
        let clean = if clean.is_empty() { "unit".to_owned() } else { clean };
        Name::of(&unique(&mut self.names, &mut self.wishes, &clean))
    }

    /// Adds a unit, for which there is this wish for a name. What is in the same store already is shown instead: two may not
    /// write there. Returns what it is called, if it can be shown.
    fn add_unit(&mut self, mut unit: Unit, wish: &str, place: &str) -> Option<Name> {
        let path = match &unit.store {
            StoreSpec::Path(path) => Some(path.clone()),
            StoreSpec::Ram(_) => None,
        };
        let known = path.as_ref().and_then(|path| self.by_store.get(path)).into_iter().flatten();
        let mut others = known.filter_map(|index| self.document.units.get(*index));
        if let Some(other) = others.find(|other| !(other.read_only && unit.read_only)) {
            let name = other.name.clone();
            if (other.read_only, other.block) != (unit.read_only, unit.block) {
                self.lose(
                    place,
                    format!("it is left out: the unit {name} has the same store and is used otherwise"),
                );
                return None;
            }
            self.lose(
                place,
                format!("it is the unit {name} here too, with its identity, as the store is the same"),
            );
            return Some(name);
        }
        unit.name = self.name(wish);
        let name = unit.name.clone();
        if let Some(path) = path {
            self.by_store.entry(path).or_default().push(self.document.units.len());
        }
        self.document.units.push(unit.into());
        Some(name)
    }

    /// Who may log in: all `accounts`, and what the target proves itself with, as names and secrets.
    fn chap(
        &mut self,
        accounts: &[(String, String)],
        own: Option<&(String, String)>,
        place: &str,
    ) -> Option<Chap> {
        let short = accounts.iter().chain(own).any(|(_, secret)| secret.len() < 12);
        if short {
            self.lose(
                place,
                "a secret has fewer than 12 bytes and can be guessed; `short-secrets` allows it",
            );
        }
        let own = own.and_then(|own| self.account(own, place));
        let accounts: Vec<_> = accounts.iter().filter_map(|account| self.account(account, place)).collect();
        (!accounts.is_empty()).then(|| Chap {
            algorithms: Vec::new(),
            accounts,
            target: own,
            short_secrets: short,
        })
    }

    fn account(&mut self, (name, secret): &(String, String), place: &str) -> Option<Account> {
        let Ok(label) = name.parse::<Label>() else {
            self.lose(place, "an account has a name that CHAP cannot have");
            return None;
        };
        let clean: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .take(64)
            .collect();
        let mut file = clean.clone();
        let mut number = 1;
        let secret = (secret != NO_SECRET).then(|| Zeroizing::new(secret.clone()));
        if secret.is_none() {
            self.lose(place, format!("the secret of {name} does not stand there"));
        }
        // The same name may have other secrets elsewhere.
        while self.secrets.get(&file).is_some_and(|other| *other != secret) {
            number += 1;
            file = format!("{clean}-{number}");
        }
        self.secrets.insert(file.clone(), secret);
        let path: FilePath = self.directory.join(file).to_str()?.parse().ok()?;
        Some(Account { name: label, secret: SecretSource::File(path) })
    }

    fn write_secrets(&self, directory: &Path) -> Result<()> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, secret) in &self.secrets {
            let Some(secret) = secret else { continue };
            let path = directory.join(name);
            let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
            match file {
                Ok(mut file) => file.write_all(secret.as_bytes()),
                // What is there may be somebody's.
                Err(error)
                    if error.kind() == ErrorKind::AlreadyExists
                        && read(&path).is_ok_and(|old| *old == **secret) =>
                {
                    Ok(())
                }
                Err(error) => Err(error),
            }
            .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// What does not carry over, and what is wrong with what does.
    fn told(&self, path: &Path) -> String {
        let mut text = String::new();
        for (place, why) in &self.lost {
            let _ = writeln!(text, "{}:{place}: {why}", path.display());
        }
        let setting =
            Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system: false, is_whole: true };
        for issue in check(&self.document, setting) {
            let _ = writeln!(text, "in what is printed: {}", issue.what);
        }
        // What stands in the file does nothing to a terminal.
        text.chars().map(|c| if c == '\n' { c } else { visible(c) }).collect()
    }
}

/// A name that is not taken, and now is.
fn unique(taken: &mut BTreeSet<String>, wishes: &mut BTreeMap<String, usize>, wish: &str) -> String {
    let number = wishes.entry(wish.to_owned()).or_insert(0);
    loop {
        *number += 1;
        let name = if *number == 1 { wish.to_owned() } else { format!("{wish}-{number}") };
        if taken.insert(name.clone()) {
            return name;
        }
    }
}

/// The world-wide name that LIO makes from a unit serial number: NAA 6, the company identifier 001405h, and up to 25 of its
/// hexadecimal digits, whatever else is between them.
fn naa_of_lio(serial: &str) -> Option<Text<Naa>> {
    let digits: String = serial.chars().filter(char::is_ascii_hexdigit).take(25).collect();
    format!("naa.6001405{digits:0<25}").to_ascii_lowercase().parse().ok()
}

/// The world-wide name that tgt makes from a SCSI identifier: NAA 6 with the characters as hexadecimal digits on the right, of
/// which those that are none count as 0.
fn naa_of_tgt(scsi_id: &str) -> Option<Text<Naa>> {
    let digits: String = scsi_id.chars().map(|c| if c.is_ascii_hexdigit() { c } else { '0' }).collect();
    (digits.len() < 32).then(|| format!("naa.6{digits:0>31}").to_ascii_lowercase().parse().ok())?
}

/// The name of one initiator: neither of the others has patterns.
fn whole_name(name: &str) -> Result<Text<NamePattern>, String> {
    match name.parse() {
        Ok(pattern) if !name.contains(['*', '?']) => Ok(pattern),
        _ => Err(format!("`{name}` is not the name of an initiator")),
    }
}

/// Whether a parameter says what is so here in any case, or leaves to the initiator what it is about.
fn is_usual(key: &str, value: &str) -> bool {
    match key {
        "MaxConnections" => value == "1",
        "DataPDUInOrder" | "DataSequenceInOrder" => value == "Yes",
        "IFMarker" | "OFMarker" => value == "No",
        "ErrorRecoveryLevel" => value == "0",
        "DefaultTime2Wait"
        | "DefaultTime2Retain"
        | "IFMarkInt"
        | "OFMarkInt"
        | "MaxXmitDataSegmentLength" => true,
        _ => false,
    }
}

/// What is told of a key that has no equivalent. Only short numbers and switches are told with it: what stands at a key that is
/// misspelt may be a secret.
fn nothing_like(key: &str, value: &str) -> String {
    let is_number = value.len() <= 10 && value.bytes().all(|byte| byte.is_ascii_digit());
    let told = if is_number || matches!(value, "Yes" | "No") { value } else { "what stands there" };
    format!("`{key}` has nothing that is like it, or not with {told}")
}

/// Sets what both others call like the standard does. Returns whether the key is one of these, and fits.
fn set_parameter(parameters: &mut Parameters, key: &str, value: &str) -> bool {
    let digest = || {
        let words: Vec<&str> = value.split(',').map(str::trim).collect();
        match (words.contains(&"CRC32C"), words.contains(&"None")) {
            (true, true) => Some(Digest::Allow),
            (true, false) => Some(Digest::Require),
            (false, true) => Some(Digest::Forbid),
            (false, false) => None,
        }
    };
    let switch = || match value {
        "Yes" | "yes" | "1" => Some(true),
        "No" | "no" | "0" => Some(false),
        _ => None,
    };
    let length = || value.parse::<u64>().ok().filter(|bytes| (512..1 << 24).contains(bytes)).map(Bytes);
    fn put<T>(field: &mut Option<T>, value: Option<T>) -> bool {
        let fits = value.is_some();
        *field = value.or(field.take());
        fits
    }
    match key {
        "HeaderDigest" => put(&mut parameters.header_digest, digest()),
        "DataDigest" => put(&mut parameters.data_digest, digest()),
        "InitialR2T" => put(&mut parameters.initial_r2t, switch()),
        "ImmediateData" => put(&mut parameters.immediate_data, switch()),
        "MaxRecvDataSegmentLength" => put(&mut parameters.max_recv_data_segment_length, length()),
        "MaxBurstLength" => put(&mut parameters.max_burst_length, length()),
        "FirstBurstLength" => put(&mut parameters.first_burst_length, length()),
        "MaxOutstandingR2T" => {
            let count = value.parse().ok().filter(|count| (1..=65535).contains(count));
            put(&mut parameters.max_outstanding_r2t, count)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
