//! Identities: what a unit or an export is recognised by, and what it is called by initiators.
//!
//! A logical unit is recognised by its `name=`, else by its file itself (file system, inode and time of birth), else by the
//! file's path, so that neither the order of the units nor a new path changes what initiators see.

use anyhow::{Context, Result};
use lunette_scsi::Naa;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

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
    pub(super) key: Key,
    /// Unit serial number.
    #[serde(deserialize_with = "checked_serial")]
    pub(crate) serial: String,
    /// World-wide name, locally assigned. What is kept of a unit is kept under it.
    #[serde(serialize_with = "naa_as_text", deserialize_with = "naa_from_text")]
    pub(crate) naa: Naa,
}

/// A number that nobody can know.
pub(crate) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes, flags).context("cannot get random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Longest serial number, in characters.
pub(crate) const MAX_SERIAL: usize = 36;

fn checked_serial<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let fits =
        (1..=MAX_SERIAL).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if fits { Ok(text) } else { Err(D::Error::custom("a serial number is short printable ASCII")) }
}

pub(super) fn naa_as_text<S: Serializer>(naa: &Naa, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(naa)
}

pub(super) fn naa_from_text<'de, D: Deserializer<'de>>(from: D) -> Result<Naa, D::Error> {
    let naa: Naa = String::deserialize(from)?.parse().map_err(D::Error::custom)?;
    if naa.kind() == 3 { Ok(naa) } else { Err(D::Error::custom("a kept name is locally assigned")) }
}

impl Record {
    /// Whether it will be the same at the next start.
    pub(crate) fn lasts(&self) -> bool {
        self.key != Key::default()
    }

    /// Whether it is that of a unit for sure: what is known by its path only may be an export too.
    pub(super) fn is_of_unit(&self) -> bool {
        self.key.name.is_some() || self.key.file.is_some()
    }

    /// A new one.
    pub(super) fn new(key: Key) -> Result<Self> {
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

    /// A file that exists and is open, if only by name. Its time of birth, where the file system keeps one, tells it from an earlier
    /// file whose inode it got. Block devices are known by their path only: their inodes are made anew at every boot.
    pub(crate) fn file(path: &Path, open: OwnedFd) -> io::Result<Self> {
        let open = fs::File::from(open);
        let metadata = open.metadata()?;
        let file_system = rustix::fs::fstatvfs(&open)?.f_fsid;
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or_else(String::new, |born| format!(":{}", born.as_nanos()));
        let file = metadata.is_file().then(|| format!("{file_system:x}:{}{born}", metadata.ino()));
        let path = match fs::canonicalize(path) {
            // It is below a directory that others may search.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd()))?
            }
            real => real?,
        };
        Ok(Self { name: None, file, path: Some(path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_ports_of_an_export_have_names_that_differ() {
        let record = Record::new(Key::endpoint("/run/vm.sock")).unwrap();
        let targets = (0..=255).map(PortRole::Target);
        let names: Vec<_> = targets.chain([PortRole::Initiator]).map(|port| record.port_name(port)).collect();
        assert_eq!(names[0], record.naa);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 257);
        assert!(names.iter().all(|name| name.kind() == 3));
    }
}
