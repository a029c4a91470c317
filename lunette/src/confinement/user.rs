//! The user that the daemon becomes.

use crate::config;
use crate::config::{group_number, user_number};
use crate::state::StateDir;
use anyhow::{Context, Result, anyhow, bail, ensure};
use lunette_confine::privileges::{self, User};
use nix::unistd::{Gid, Uid, User as Entry, getgrouplist};
use std::ffi::CString;
use std::path::Path;

/// Who is named, if that is somebody else.
pub(super) fn wanted(daemon: &config::Daemon) -> Result<Option<User>> {
    let Some(name) = &daemon.user else {
        ensure!(daemon.group.is_none(), "`group` of [daemon] needs a `user`");
        return Ok(None);
    };
    let user = user_number(name).map_err(|why| anyhow!(why))?;
    if !privileges::is_root() {
        let own = Uid::effective();
        ensure!(own.as_raw() == user, "only root can become the user {name}, and this is user {own}");
        return Ok(None);
    }
    let entry = Entry::from_uid(Uid::from_raw(user)).context("cannot look up the user")?;
    let group = match (&daemon.group, &entry) {
        (Some(group), _) => group_number(group).map_err(|why| anyhow!(why))?,
        (None, Some(entry)) => entry.gid.as_raw(),
        (None, None) => bail!("user {user} has no entry that tells the group: say `group` of [daemon], too"),
    };
    let groups = match entry {
        Some(entry) => {
            let name = CString::new(entry.name).context("a user's name")?;
            getgrouplist(&name, Gid::from_raw(group)).context("cannot look up the user's groups")?
        }
        None => Vec::new(),
    };
    Ok(Some(User { user, group, groups: groups.into_iter().map(Gid::as_raw).collect() }))
}

/// Makes the state directory if there is none, and gives it to the user.
pub(super) fn prepare_state(path: &Path, user: Option<&User>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let given = |user: &User| std::os::unix::fs::chown(path, Some(user.user), Some(user.group));
    StateDir::make(path)
        .and_then(|()| user.map_or(Ok(()), given))
        .with_context(|| format!("cannot make the state directory {}", path.display()))
}
