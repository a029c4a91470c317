//! The state directory: the identities that were made once and are kept. (What units save is in `unit_state.rs`.)
//!
//! A logical unit is recognised by its `name=`, else by its file itself (file system, inode and time of birth), else by the
//! file's path, so that neither the order of the units nor a new path changes what initiators see.

use anyhow::{Context, Result};
use lunette_scsi::Naa;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The directory; several daemons may share one.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

/// What a logical unit or export is recognised by.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    /// A name that the user gave, or that stands for the one of its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The file system, inode and time of birth of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The path of the file or socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
}

/// An identity that was made once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    key: Key,
    /// Unit serial number.
    #[serde(deserialize_with = "checked_serial")]
    pub(crate) serial: String,
    /// World-wide name. What is kept of a unit is kept under it.
    #[serde(serialize_with = "naa_as_text", deserialize_with = "naa_from_text")]
    pub(crate) naa: Naa,
}

fn checked_serial<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let fits =
        (1..=MAX_SERIAL).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if fits { Ok(text) } else { Err(D::Error::custom("a serial number is short printable ASCII")) }
}

fn naa_as_text<S: Serializer>(naa: &Naa, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(naa)
}

fn naa_from_text<'de, D: Deserializer<'de>>(from: D) -> Result<Naa, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

#[derive(Default, Serialize, Deserialize)]
struct Identities {
    version: u32,
    records: Vec<Record>,
}

const VERSION: u32 = 1;
const FILE: &str = "identities.json";
/// Longest serial number, in characters.
pub(crate) const MAX_SERIAL: usize = 36;

impl StateDir {
    /// The default place: `$LUNETTE_STATE_DIR`, else `/var/lib/lunette` for root, else under `$XDG_STATE_HOME`. A variable
    /// that is set to nothing is not set.
    pub(crate) fn default_path() -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("LUNETTE_STATE_DIR") {
            return path.into();
        }
        if rustix::process::geteuid().is_root() {
            return "/var/lib/lunette".into();
        }
        let home = || Path::new(&variable("HOME").unwrap_or_else(|| ".".into())).join(".local/state");
        variable("XDG_STATE_HOME").map_or_else(home, PathBuf::from).join("lunette")
    }

    /// Opens the directory, making it if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        create_durably(path)
            .with_context(|| format!("cannot make the state directory {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The identities for `keys`, in their order: the kept ones, and new ones, which are kept from now on. No record is
    /// given to two keys, and what the empty key stands for gets a new identity each time.
    pub(crate) fn identities(&self, keys: &[Key]) -> Result<Vec<Record>> {
        let _lock = self.lock()?;
        let mut identities = self.read()?;
        let mut given = HashSet::new();
        let mut found: Vec<Option<usize>> = vec![None; keys.len()];
        // Stronger evidence of all keys first, so that a file that took over another's path does not take its identity.
        let rules: [fn(&Key, &Key) -> bool; 3] = [
            |a, b| a.name.is_some() && a.name == b.name,
            |a, b| a.name.is_none() && b.name.is_none() && a.file.is_some() && a.file == b.file,
            |a, b| a.name.is_none() && b.name.is_none() && a.path.is_some() && a.path == b.path,
        ];
        for same in rules {
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                let mut records = identities.records.iter().enumerate();
                *found = records
                    .find(|(index, record)| !given.contains(index) && same(&record.key, key))
                    .map(|(index, _)| index);
                given.extend(*found);
            }
        }
        let before = identities.records.clone();
        let mut records = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            if *key == Key::default() {
                records.push(Record::new(key.clone())?);
                continue;
            }
            let index = match found {
                Some(index) => index,
                None => {
                    identities.records.push(Record::new(key.clone())?);
                    identities.records.len() - 1
                }
            };
            identities.records[index].key = key.clone();
            records.push(identities.records[index].clone());
        }
        if identities.records != before {
            self.write(&identities)?;
        }
        Ok(records)
    }

    fn lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    fn read(&self) -> Result<Identities> {
        let path = self.path.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Identities::default()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let identities: Identities = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; restore it, or move it away to have new identities made", path.display())
        })?;
        anyhow::ensure!(
            identities.version == VERSION,
            "{} has version {}, which this lunette does not know",
            path.display(),
            identities.version
        );
        Ok(identities)
    }

    fn write(&self, identities: &Identities) -> Result<()> {
        let identities = Identities { version: VERSION, records: identities.records.clone() };
        let mut text = serde_json::to_string_pretty(&identities)?;
        text.push('\n');
        write_durably(&self.path, FILE, text.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.join(FILE).display()))
    }
}

/// Makes a directory, and those above it, so that they are still there after a power loss.
pub(crate) fn create_durably(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if !(error.kind() == ErrorKind::AlreadyExists && path.is_dir()) => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Replaces a file so that after a power loss there is the old content or the new.
pub(crate) fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

impl Record {
    /// Whether it will be the same at the next start.
    pub(crate) fn lasts(&self) -> bool {
        self.key != Key::default()
    }

    fn new(key: Key) -> Result<Self> {
        let random = || {
            let mut bytes = [0; 8];
            let flags = rustix::rand::GetRandomFlags::empty();
            rustix::rand::getrandom(&mut bytes, flags).context("cannot get random numbers")?;
            anyhow::Ok(u64::from_ne_bytes(bytes))
        };
        Ok(Self { key, serial: format!("{:016x}", random()?), naa: Naa::locally_assigned(random()?) })
    }

    /// The world-wide name of a SCSI port of an export, which follows from the export's. Those of one export differ from
    /// each other; those of two differ as their random numbers do.
    pub(crate) fn port_name(&self, port: PortRole) -> Naa {
        // Odd, so that its multiples differ; large, so that they are far from one another.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = match port {
            PortRole::Target(target) => u64::from(target),
            PortRole::Initiator => 256,
        };
        let own = self.naa.as_bytes().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte));
        Naa::locally_assigned(own.wrapping_add(number.wrapping_mul(STEP)))
    }
}

/// Which SCSI port of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PortRole {
    /// The target port of this target.
    Target(u8),
    /// The initiator port that the virtual machine is.
    Initiator,
}

impl Key {
    /// A vhost-user export: the path of its socket, or what stands for it. No path of a file looks like that, since those
    /// are absolute.
    pub(crate) fn endpoint(name: &str) -> Self {
        Self { name: None, file: None, path: Some(name.into()) }
    }

    /// A file that exists. Its time of birth, where the file system keeps one, tells it from an earlier file whose inode
    /// it got. Block devices are known by their path only: their inodes are made anew at every boot.
    pub(crate) fn file(path: &Path) -> std::io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let file_system = rustix::fs::statvfs(path)?.f_fsid;
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or_else(String::new, |born| format!(":{}", born.as_nanos()));
        let file = metadata.is_file().then(|| format!("{file_system:x}:{}{born}", metadata.ino()));
        Ok(Self { name: None, file, path: Some(fs::canonicalize(path)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, StateDir) {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDir::open(temporary.path()).unwrap();
        (temporary, state)
    }

    fn file(directory: &Path, name: &str) -> Key {
        let path = directory.join(name);
        fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        Key::file(&path).unwrap()
    }

    #[test]
    fn identities_do_not_depend_on_the_order() {
        let (temporary, state) = dir();
        let (a, b) = (file(temporary.path(), "a"), file(temporary.path(), "b"));
        let first = state.identities(&[a.clone(), b.clone()]).unwrap();
        let second = state.identities(&[b, a]).unwrap();
        assert_eq!((&first[0], &first[1]), (&second[1], &second[0]));
        assert_ne!(first[0].naa, first[1].naa);
    }

    #[test]
    fn a_renamed_file_keeps_its_identity_and_its_successor_gets_another() {
        let (temporary, state) = dir();
        let old = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
        fs::rename(temporary.path().join("a"), temporary.path().join("b")).unwrap();
        let keys = [file(temporary.path(), "a"), file(temporary.path(), "b")];
        let new = state.identities(&keys).unwrap();
        assert_eq!(new[1].serial, old.serial);
        assert_ne!(new[0].serial, old.serial);
    }

    #[test]
    fn a_file_that_was_replaced_in_its_place_keeps_the_identity() {
        let (temporary, state) = dir();
        let old = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
        file(temporary.path(), "copy");
        fs::rename(temporary.path().join("copy"), temporary.path().join("a")).unwrap();
        let new = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
        assert_eq!((new.serial, new.naa), (old.serial, old.naa));
    }

    #[test]
    fn what_does_not_last_gets_a_new_identity_and_leaves_nothing_behind() {
        let (_temporary, state) = dir();
        let first = state.identities(&[Key::default(), Key::default()]).unwrap();
        let second = state.identities(&[Key::default()]).unwrap();
        assert_ne!(first[0].naa, first[1].naa);
        assert_ne!(first[0].naa, second[0].naa);
        assert!(state.read().unwrap().records.is_empty());
    }

    #[test]
    fn names_are_independent_of_paths() {
        let (_temporary, state) = dir();
        let named = Key { name: Some("root".into()), ..Key::endpoint("/x") };
        let a = state.identities(std::slice::from_ref(&named)).unwrap();
        let moved = Key { name: Some("root".into()), ..Key::endpoint("/y") };
        let both = state.identities(&[Key::endpoint("/x"), moved]).unwrap();
        assert_eq!(a[0].serial, both[1].serial);
        assert_ne!(both[0].serial, both[1].serial);
    }

    #[test]
    fn a_file_that_got_the_inode_of_another_gets_an_identity_of_its_own() {
        let (temporary, state) = dir();
        let a = temporary.path().join("a");
        let key = file(temporary.path(), "a");
        let born = |path: &Path| fs::metadata(path).unwrap().created().unwrap();
        let (old, old_born) = (state.identities(&[key]).unwrap().remove(0), born(&a));
        fs::remove_file(&a).unwrap();
        let b = temporary.path().join("b");
        let key = loop {
            let key = file(temporary.path(), "b");
            if born(&b) != old_born {
                break key;
            }
            fs::remove_file(&b).unwrap();
        };
        assert_ne!(state.identities(&[key]).unwrap()[0].serial, old.serial);
    }

    #[test]
    fn two_units_of_one_file_keep_their_identities() {
        let (temporary, state) = dir();
        let key = file(temporary.path(), "a");
        let keys = [key.clone(), key];
        let first = state.identities(&keys).unwrap();
        assert_ne!(first[0].naa, first[1].naa);
        assert_eq!(state.identities(&keys).unwrap(), first);
    }

    #[test]
    fn the_ports_of_an_export_have_names_that_differ_and_last() {
        let (_temporary, state) = dir();
        let key = Key::endpoint("/run/vm.sock");
        let names = || {
            let record = state.identities(std::slice::from_ref(&key)).unwrap().remove(0);
            let targets = (0..=255).map(PortRole::Target);
            let names = targets.chain([PortRole::Initiator]).map(|port| record.port_name(port)).collect();
            (record.naa, names)
        };
        let (naa, first): (_, Vec<_>) = names();
        assert_eq!(first[0], naa);
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 257);
        assert!(first.iter().all(|name| name.kind() == 3));
        assert_eq!(names().1, first);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let (temporary, state) = dir();
        let record = |serial: &str, naa: &str| {
            format!(r#"{{"version": 1, "records": [{{"name": "x", "serial": "{serial}", "naa": "{naa}"}}]}}"#)
        };
        let naa = "naa.3000000000000001";
        let texts = ["{".into(), record("abc", "naa.3"), record("", naa), record(&"x".repeat(1 << 20), naa)];
        for text in texts {
            fs::write(temporary.path().join(FILE), text).unwrap();
            let error = format!(
                "{:#}",
                state.identities(&[Key { name: Some("x".into()), ..Key::default() }]).unwrap_err()
            );
            assert!(error.contains("is damaged"), "{error}");
        }
        fs::write(temporary.path().join(FILE), record("abc", naa)).unwrap();
        assert_eq!(
            state.identities(&[Key { name: Some("x".into()), ..Key::default() }]).unwrap()[0].serial,
            "abc"
        );
    }

    #[test]
    fn the_directory_is_made_with_those_above_it() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/c");
        StateDir::open(&path).unwrap();
        StateDir::open(&path).unwrap();
        assert!(path.is_dir());
        fs::write(temporary.path().join("file"), []).unwrap();
        assert!(StateDir::open(&temporary.path().join("file/below")).is_err());
    }
}
