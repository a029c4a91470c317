//! Which files the process may open, by landlock(7).
//!
//! It says what may be opened from now on; what is open stays so. Sockets are not opened, and devices that the [opener](crate::opener)
//! hands over are not either.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope, make_bitflags,
};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What may be done in a place, and everywhere below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Files and directories are read.
    Read,
    /// Files are read, written, made and removed, and devices used: stores.
    Stores,
    /// Existing files and devices are read and written.
    Open,
    /// Files are read, and others take their places: a configuration that is saved.
    Replace,
    /// Sockets are made and removed.
    Sockets,
    /// All that, and directories: state.
    State,
    /// Everything but programs, devices and links.
    Everything,
}

impl Use {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let open = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});
        let sockets = make_bitflags!(AccessFs::{ReadDir | MakeSock | RemoveFile});
        let stores = open | make_bitflags!(AccessFs::{ReadDir | MakeReg | RemoveFile});
        let state = stores | sockets | make_bitflags!(AccessFs::{MakeDir | RemoveDir | Refer});
        match self {
            Self::Read => read,
            Self::Open => open,
            Self::Sockets => sockets,
            Self::Stores => stores,
            Self::Replace => stores & !AccessFs::IoctlDev,
            Self::State | Self::Everything => state,
        }
    }
}

/// What is allowed.
#[derive(Clone, Default, Debug)]
pub struct Places {
    /// Directories, or single files, and what may be done there. What does not exist is left out.
    pub files: Vec<(PathBuf, Use)>,
    /// Whether abstract Unix sockets of others may be connected to.
    pub abstract_sockets: bool,
}

/// Why files are not confined.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel has no landlock, or it is turned off.
    #[error("the kernel has no landlock")]
    Missing,
    /// The kernel refuses.
    #[error("{0}")]
    Kernel(#[from] landlock::RulesetError),
}

/// Confines the calling thread, and those that it starts, to `places`. Nobody may then connect by TCP, or signal other processes,
/// where the kernel can see to that. Returns what it cannot, if anything.
///
/// # Errors
/// When nothing is confined.
pub fn confine(places: &Places) -> Result<Option<&'static str>, Error> {
    // Connecting to sockets by their paths, which later versions know, is left alone.
    let known = ABI::V7;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(known))?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(Scope::Signal)?;
    if !places.abstract_sockets {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    }
    let mut created = ruleset.create()?;
    for (path, rights) in &places.files {
        let Ok(place) = PathFd::new(path) else { continue };
        created = created.add_rule(PathBeneath::new(place, fitting(path, rights.rights(), known)))?;
    }
    match created.restrict_self()?.landlock {
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Err(Error::Missing),
        LandlockStatus::Available { effective_abi, .. } => Ok(gaps(effective_abi)),
    }
}

/// What a kernel does not see to.
fn gaps(abi: ABI) -> Option<&'static str> {
    match abi as i32 {
        ..3 => Some("truncation, devices, connections and signals"),
        3 => Some("devices, connections and signals"),
        4 => Some("devices and signals"),
        5 => Some("signals"),
        _ => None,
    }
}

/// Of the rights those that make sense there: a single file has no files in it.
fn fitting(path: &Path, rights: BitFlags<AccessFs>, known: ABI) -> BitFlags<AccessFs> {
    if path.is_dir() { rights } else { rights & AccessFs::from_file(known) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_see_to_less() {
        let gaps = |abi: ABI| gaps(abi).unwrap_or_default();
        assert_eq!(gaps(ABI::V1), "truncation, devices, connections and signals");
        assert_eq!(gaps(ABI::V2), gaps(ABI::V1));
        assert_eq!(gaps(ABI::V3), "devices, connections and signals");
        assert_eq!(gaps(ABI::V4), "devices and signals");
        assert_eq!(gaps(ABI::V5), "signals");
        assert_eq!((gaps(ABI::V6), gaps(ABI::V7)), ("", ""));
    }
}
