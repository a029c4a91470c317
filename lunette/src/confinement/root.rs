//! What root does at the next start, which is not for the user to decide that the daemon becomes.

use crate::cli::Serve;
use crate::config::Daemon;
use anyhow::{Result, bail};
use lunette_confine::privileges::User;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The keys of `[daemon]` that say what root does before it becomes another user, and which of them differ.
fn differing(a: &Daemon, b: &Daemon) -> Vec<&'static str> {
    let keys = [
        ("user", a.user != b.user),
        ("group", a.group != b.group),
        ("allowed-paths", a.allowed_paths != b.allowed_paths),
        ("confine", a.confine != b.confine),
        ("state-dir", a.state_dir != b.state_dir),
        ("control-admin-groups", a.control_admin_groups != b.control_admin_groups),
        ("control-read-groups", a.control_read_groups != b.control_read_groups),
    ];
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// Why clients of the control socket may not have the next start begin with `wanted` instead of `next`, if so.
pub(crate) fn refusal(next: &Daemon, wanted: &Daemon) -> Option<String> {
    next.user.as_ref()?;
    let keys = differing(next, wanted);
    (!keys.is_empty()).then(|| {
        format!(
            "[daemon] ({}) says what root does before it becomes the daemon's `user`, so nobody changes it by the control socket: \
             change it in the file",
            keys.join(", ")
        )
    })
}

/// Refuses files that `user` could change, unless the command line says all that root does before it becomes that user.
///
/// # Errors
/// Which file it is.
pub(super) fn check_files(options: &Serve, files: &[PathBuf], user: &User) -> Result<()> {
    let said = &options.confine;
    let is_settled = said.user.is_some()
        && said.group.is_some()
        && said.mode.is_some()
        && !said.allowed_paths.is_empty()
        && options.state_dir.is_some();
    let changeable = files.iter().find_map(|file| weak_spot(file, user).map(|spot| (file, spot)));
    let Some((file, spot)) = changeable.filter(|_| !is_settled) else { return Ok(()) };
    bail!(
        "{} says what root does before it becomes the user {}, and that user may change {}: take that right away, or say all of \
         --user, --group, --allow-path, --confine and --state-dir on the command line",
        file.display(),
        user.user,
        spot.display()
    )
}

/// What of `path` the user can change: the file, or a directory on the way to it, whatever links lead there.
fn weak_spot(path: &Path, user: &User) -> Option<PathBuf> {
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = fs::canonicalize(path).ok();
    let spots = std::iter::once(&named).chain(&real);
    spots.flat_map(|path| path.ancestors()).find(|spot| is_weak(spot, user)).map(Path::to_owned)
}

fn is_weak(spot: &Path, user: &User) -> bool {
    // What is not there cannot be made without a right to its directory, which is looked at, too.
    let Ok(there) = fs::metadata(spot) else { return false };
    // In a directory like /tmp everybody keeps his own.
    let is_shared = there.is_dir() && there.mode() & libc::S_ISVTX != 0 && there.uid() != user.user;
    !is_shared && may_write(spot, &there, user)
}

fn may_write(path: &Path, there: &Metadata, user: &User) -> bool {
    let is_member = there.gid() == user.group || user.groups.contains(&there.gid());
    // Where there is a list of who may what, the bits of the group say what the most is (acl(5)).
    let has_list = || rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok();
    there.uid() == user.user
        || there.mode() & 0o002 != 0
        || there.mode() & 0o020 != 0 && (is_member || has_list())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    const USER: User = User { user: 12345, group: 12346, groups: Vec::new() };

    fn weak(path: &Path) -> Option<PathBuf> {
        weak_spot(path, &User { groups: vec![12347], ..USER })
    }

    #[test]
    fn files_are_weak_that_the_user_can_change_or_replace() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, link) = (folder.path().join("etc"), folder.path().join("link"));
        let file = directory.join("lunette.toml");
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        let by_link = link.join("lunette.toml");
        let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&directory, 0o755);
        mode(&file, 0o664);
        assert_eq!((weak(&file), weak(&by_link)), (None, None));
        mode(&file, 0o666);
        assert_eq!((weak(&file), weak(&by_link)), (Some(file.clone()), Some(by_link.clone())));
        mode(&file, 0o600);
        mode(&directory, 0o777);
        assert_eq!(weak(&file), Some(directory.clone()));
        assert_eq!(weak(&directory.join("not-there.toml")), Some(directory.clone()));
        // As in /tmp.
        mode(&directory, 0o1777);
        assert_eq!(weak(&file), None);
        mode(&directory, 0o755);
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root gives files away");
        }
        for (owner, group, bits, is_weak) in [
            (12345, 0, 0o400, true),
            (0, 12346, 0o660, true),
            (0, 12347, 0o660, true),
            (0, 12347, 0o640, false),
        ] {
            chown(&file, Some(owner), Some(group)).unwrap();
            mode(&file, bits);
            assert_eq!(weak(&file).is_some(), is_weak, "{owner}:{group} {bits:o}");
        }
    }

    #[test]
    fn what_root_does_is_changed_in_the_file_only() {
        let alone = Daemon { reactors: Some(1), ..Daemon::default() };
        let next = Daemon { user: Some("lunette".parse().unwrap()), ..alone.clone() };
        assert_eq!(refusal(&next, &Daemon { reactors: Some(2), save_changes: true, ..next.clone() }), None);
        assert_eq!(
            refusal(&alone, &Daemon { allowed_paths: vec!["/".parse().unwrap()], ..alone.clone() }),
            None
        );
        let wanted = Daemon { allowed_paths: vec!["/".parse().unwrap()], ..alone.clone() };
        let why = refusal(&next, &wanted).unwrap();
        assert!(why.starts_with("[daemon] (user, allowed-paths) says what root does"), "{why}");
    }
}
