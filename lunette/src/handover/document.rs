//! What is said beside the descriptors, as JSON.

use crate::state::Record;
use lunette_engine::UnitState;
use lunette_transport_vhost_user as vhost_user;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use thiserror::Error;

/// What is understood. Who changes what fields mean counts up; those that are new have a value when they are missing.
pub(super) const VERSION: u32 = 1;

/// The name of the [document](Document) at the custodian.
pub(super) const STATE: &str = "state";
/// What names of [guests](Guest) begin with.
pub(super) const GUEST: char = 'g';

/// Most bytes of a document.
const MOST: u64 = 256 << 20;

/// All that is handed over at a planned restart, but for guests.
#[derive(Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    pub(super) version: u32,
    /// By their world-wide names.
    pub(super) units: BTreeMap<String, UnitState>,
    /// How often those had been taken that several daemons can serve, by their world-wide names.
    pub(super) terms: BTreeMap<String, u64>,
    /// The bytes of disks in memory, by the names of units.
    pub(super) memories: BTreeMap<String, KeptMemory>,
    pub(super) portals: Vec<KeptPortal>,
    /// By the names of their endpoints.
    pub(super) exports: BTreeMap<String, KeptExport>,
    pub(super) sessions: Vec<KeptSession>,
    /// Sockets that the daemon was started with: what they are called there, and their descriptors.
    pub(super) given: Vec<(String, String)>,
    /// The descriptor of a [`Once`].
    pub(super) once: Option<String>,
}

/// A file in memory that says whether somebody has gone on with a document: it is out of date then, however long it is kept.
#[derive(Debug)]
pub(super) struct Once(File);

impl Once {
    /// Nobody has so far.
    pub(super) fn new() -> io::Result<Self> {
        let file = File::from(memfd_create("lunette-once", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all_at(&[0], 0)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(file))
    }

    /// One that a custodian has given back.
    pub(super) fn adopt(file: OwnedFd) -> Self {
        Self(file.into())
    }

    /// Whether nobody has gone on so far. What is no such file says no.
    pub(super) fn is_new(&self) -> bool {
        let mut byte = [1];
        let is_ours = fcntl_get_seals(&self.0).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        is_ours && self.0.read_exact_at(&mut byte, 0).is_ok() && byte == [0]
    }

    /// Somebody goes on.
    pub(super) fn use_up(&self) -> io::Result<()> {
        self.0.write_all_at(&[1], 0)
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A disk in memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptMemory {
    pub(super) descriptor: String,
    /// Bytes.
    pub(super) size: u64,
    /// Who it is, if it is not known by its name.
    pub(super) record: Option<Record>,
}

/// A portal that listens.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptPortal {
    /// As in the configuration.
    pub(super) listen: SocketAddr,
    pub(super) number: usize,
    pub(super) descriptor: String,
}

/// An export beside its connection.
#[derive(Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeptExport {
    /// States of its nexuses, by target.
    pub(super) nexuses: Value,
    pub(super) listener: Option<KeptListener>,
    /// It ends with its connection.
    pub(super) is_connected: bool,
}

/// A socket that was made at a path.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptListener {
    pub(super) descriptor: String,
    /// Device and inode of its file.
    pub(super) file: (u64, u64),
}

/// An iSCSI session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptSession {
    pub(super) descriptor: String,
    pub(super) state: Value,
}

/// The connection of a vhost-user front end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Guest {
    pub(super) version: u32,
    /// The name of the endpoint.
    pub(super) export: String,
    /// By their roles.
    pub(super) descriptors: BTreeMap<String, String>,
    pub(super) record: vhost_user::Record,
}

/// Why something cannot be read.
#[derive(Debug, Error)]
pub(super) enum Unreadable {
    #[error("it is no file in memory that nobody can change")]
    File,
    #[error("it has more than {MOST} bytes")]
    Long,
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("{0}")]
    Text(#[from] serde_json::Error),
    #[error("it is of another version ({0}, not {VERSION})")]
    Version(u32),
}

/// Seals of what is read: it is what was written, and all of it is there.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// Puts a value into a file in memory that nobody can change any more.
pub(super) fn write(value: &impl Serialize) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create("lunette-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    let mut writer = BufWriter::new(&file);
    serde_json::to_writer(&mut writer, value)?;
    writer.flush()?;
    drop(writer);
    fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Reads one.
pub(super) fn read<T: DeserializeOwned>(file: OwnedFd) -> Result<T, Unreadable> {
    // Before anything else: to read from other descriptors may wait, and only such files have seals.
    if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)) {
        return Err(Unreadable::File);
    }
    let length = u64::try_from(fstat(&file).map_err(io::Error::from)?.st_size).unwrap_or(u64::MAX);
    if length > MOST {
        return Err(Unreadable::Long);
    }
    let mut bytes = vec![0; length as usize];
    File::from(file).read_exact_at(&mut bytes, 0)?;
    // Looked at first: what is of another version may look otherwise.
    let Version { version } = serde_json::from_slice(&bytes)?;
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}
