//! The user of the process, and its capabilities.

use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::io;

pub use rustix::thread::CapabilitySet as Capabilities;

/// Somebody to become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The number of the user.
    pub user: u32,
    /// The number of the group.
    pub group: u32,
    /// All other groups.
    pub groups: Vec<u32>,
}

/// Whether the process is root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes `user`, if one is given, and keeps of all capabilities no more than `keep`, for good: neither programs nor files can give
/// any back. To be called while there is one thread.
///
/// # Errors
/// When the kernel refuses, most likely because the process is not root.
pub fn drop_to(user: Option<&User>, keep: Capabilities) -> io::Result<()> {
    let kept = capabilities(None)?.permitted & keep;
    // What can be got by running programs: nothing is run. It takes a capability to change this set, which goes now, and without one
    // there is nothing in it that could be had.
    for capability in CapabilitySet::all().iter() {
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    if let Some(User { user, group, groups }) = user {
        set_keep_capabilities(true)?;
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        set_thread_groups(&groups)?;
        let (group, user) = (Gid::from_raw(*group), Uid::from_raw(*user));
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        set_keep_capabilities(false)?;
        // The kernel hides the process's own descriptors from it otherwise.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    }
    // Kernels before Linux 4.3 have no such set.
    let _ = clear_ambient_capability_set();
    keep_only(kept)?;
    Ok(set_no_new_privs(true)?)
}

/// Keeps of the capabilities of the calling thread, and of those that it starts, no more than `keep`.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_only(keep: Capabilities) -> io::Result<()> {
    let kept = capabilities(None)?.permitted & keep;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}
