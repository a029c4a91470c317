//! Who may ask for what.

use crate::{Credentials, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything.
    Reader,
    /// Look at everything and change it.
    Administrator,
}

/// Who may do what: the daemon's own user and root everything, others by their groups.
#[derive(Clone, Debug)]
pub struct AccessRules {
    /// The daemon's user number, or [`NOBODY`](Self::NOBODY).
    pub user: u32,
    /// Groups whose members are administrators.
    pub administrators: Vec<u32>,
    /// Groups whose members are readers.
    pub readers: Vec<u32>,
}

impl Default for AccessRules {
    /// The user that this process belongs to, unless others look like him, and root.
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

/// Whether the kernel shows users, or groups, that this user namespace does not know as `number`, too (user_namespaces(7)).
fn stands_for_others(number: u32, overflow: &str, map: &str) -> bool {
    const USUAL: u32 = 65534;
    let mut fields = map.split_whitespace().map(str::parse);
    let knows_all = fields.next() == Some(Ok(0)) && fields.nth(1) == Some(Ok(u32::MAX));
    overflow.trim().parse().unwrap_or(USUAL) == number && !knows_all
}

/// Leaves out the group that others look like.
fn only_known(mut groups: Vec<u32>, overflow: &str, map: &str) -> Vec<u32> {
    groups.retain(|group| {
        let is_known = !stands_for_others(*group, overflow, map);
        if !is_known {
            tracing::warn!("the group {group} gives no access: groups that are not known here look the same");
        }
        is_known
    });
    groups
}

impl AccessRules {
    /// The number that no user has.
    pub const NOBODY: u32 = u32::MAX;

    /// This process's user, root, and the members of these groups; except a user or group that those look like whom this user
    /// namespace does not know. Says so of a group.
    pub fn new(administrators: Vec<u32>, readers: Vec<u32>) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let user = rustix::process::geteuid().as_raw();
        let (overflow, map) = (text("/proc/sys/kernel/overflowuid"), text("/proc/self/uid_map"));
        let user = if stands_for_others(user, &overflow, &map) { Self::NOBODY } else { user };
        let (overflow, map) = (text("/proc/sys/kernel/overflowgid"), text("/proc/self/gid_map"));
        let known = |groups| only_known(groups, &overflow, &map);
        Self { user, administrators: known(administrators), readers: known(readers) }
    }

    /// What `peer` may do.
    ///
    /// # Errors
    /// When that is nothing.
    pub fn role_of(&self, peer: &Credentials) -> Result<Role, Failure> {
        if peer.uid == 0 || peer.uid == self.user || peer.is_in(&self.administrators) {
            return Ok(Role::Administrator);
        }
        if peer.is_in(&self.readers) {
            return Ok(Role::Reader);
        }
        let uid = peer.uid;
        Err(Failure::new(
            Failure::DENIED,
            format!(
                "user {uid} has no access: neither the daemon's user nor in one of the groups that have it"
            ),
        ))
    }

    /// The mode that the file of the socket needs, and its group if that is to be another than the daemon's. Where two groups
    /// have to come through, everybody may connect, and is refused after that.
    pub fn socket_mode(&self) -> (u32, Option<u32>) {
        let mut groups: Vec<u32> = self.administrators.iter().chain(&self.readers).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        match groups[..] {
            [] => (0o600, None),
            [group] => (0o660, Some(group)),
            _ => (0o666, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> Credentials {
        Credentials { pid: 1, uid, groups: groups.to_vec() }
    }

    #[test]
    fn users_and_groups_have_roles() {
        let rules = AccessRules { user: 7, administrators: vec![10, 11], readers: vec![20] };
        let role = |uid, groups: &[u32]| rules.role_of(&peer(uid, groups)).map_err(|error| error.code);
        assert_eq!(role(0, &[]), Ok(Role::Administrator));
        assert_eq!(role(7, &[99]), Ok(Role::Administrator));
        assert_eq!(role(8, &[99, 11]), Ok(Role::Administrator));
        assert_eq!(role(8, &[20]), Ok(Role::Reader));
        assert_eq!(role(8, &[20, 10]), Ok(Role::Administrator), "the greater of the two");
        assert_eq!(role(8, &[7, 0]), Err(Failure::DENIED), "users are not groups");
        assert_eq!(role(8, &[]), Err(Failure::DENIED));
    }

    #[test]
    fn a_user_whom_strangers_look_like_has_no_rights() {
        let (initial, container) =
            ("         0          0 4294967295\n", "         0     100000      65536\n");
        assert!(!stands_for_others(65534, "65534\n", initial));
        assert!(stands_for_others(65534, "65534\n", container));
        assert!(stands_for_others(65534, "", ""), "it is not known");
        assert!(!stands_for_others(1000, "65534\n", container));
        assert!(stands_for_others(99, "99\n", "0 1000 1\n1 100000 4294967294\n"));
    }

    #[test]
    fn a_group_that_strangers_look_like_has_no_rights() {
        let container = "         0     100000      65536\n";
        assert_eq!(only_known(vec![10, 65534, 11], "65534\n", container), [10, 11]);
        assert_eq!(only_known(vec![10, 65534], "65534\n", "0 0 4294967295\n"), [10, 65534]);
        assert_eq!(only_known(vec![99, 65534], "99\n", container), [65534]);
        assert!(only_known(vec![65534], "", "").is_empty(), "it is not known");
    }

    #[test]
    fn the_file_is_no_more_open_than_it_must_be() {
        let mode = |administrators: &[u32], readers: &[u32]| {
            let (administrators, readers) = (administrators.to_vec(), readers.to_vec());
            AccessRules { user: 7, administrators, readers }.socket_mode()
        };
        assert_eq!(mode(&[], &[]), (0o600, None));
        assert_eq!(mode(&[5], &[]), (0o660, Some(5)));
        assert_eq!(mode(&[], &[6]), (0o660, Some(6)));
        assert_eq!(mode(&[5, 5], &[5]), (0o660, Some(5)));
        assert_eq!(mode(&[5], &[6]), (0o666, None));
    }
}
