//! Directories below which files are to be.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Directories as they were when this was made: what is later given their names is not them.
#[derive(Debug)]
pub struct Roots(Vec<Root>);

#[derive(Debug)]
struct Root {
    /// Without symbolic links.
    path: PathBuf,
    directory: OwnedFd,
}

impl Roots {
    /// Takes directories, or single files, that exist.
    ///
    /// # Errors
    /// Which of them does not exist or cannot be opened, and why.
    pub fn open<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, (PathBuf, io::Error)> {
        let root = |path: &Path| {
            let real = std::fs::canonicalize(path)?;
            let directory = open(&real, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            Ok(Root { path: real, directory })
        };
        let roots = paths.into_iter().map(|path| root(path).map_err(|error| (path.to_owned(), error)));
        Ok(Self(roots.collect::<Result<_, _>>()?))
    }

    /// Whether what `path` leads to, or the directory in which it would be made, is below one of the roots, wherever symbolic links
    /// lead on the way.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn hold(&self, path: &Path) -> io::Result<bool> {
        let real = match std::fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                std::fs::canonicalize(parent)?.join(name)
            }
            real => real?,
        };
        match self.open_real(&real, OFlags::PATH) {
            Ok(opened) => Ok(opened.is_some()),
            // To be made, in a directory that is there.
            Err(Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens an existing regular file or block device below one of the roots; `None` if it is not there.
    ///
    /// # Errors
    /// When it is something else, or cannot be opened.
    pub fn open_store(&self, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let real = std::fs::canonicalize(path)?;
        // Opening anything else may have effects, so it is looked at first; and what was looked at is what is opened.
        let Some(found) = self.open_real(&real, OFlags::PATH)? else { return Ok(None) };
        let before = fstat(&found)?;
        if !matches!(FileType::from_raw_mode(before.st_mode), FileType::RegularFile | FileType::BlockDevice) {
            return Err(Errno::NOTBLK.into());
        }
        let Some(opened) = self.open_real(&real, flags)? else { return Ok(None) };
        let after = fstat(&opened)?;
        let is_same = (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino);
        if is_same { Ok(Some(opened)) } else { Err(Errno::STALE.into()) }
    }

    /// Opens a path without symbolic links; what has become one meanwhile is refused.
    fn open_real(&self, real: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        let Some(root) = self.0.iter().find(|root| real.starts_with(&root.path)) else { return Ok(None) };
        // Terminals are never opened, so that none becomes the daemon's needs no flag.
        let flags = flags | OFlags::CLOEXEC;
        let rest = real.strip_prefix(&root.path).unwrap_or(real);
        if rest.as_os_str().is_empty() {
            // The root itself, which may be a single file.
            return open(&root.path, flags | OFlags::NOFOLLOW, Mode::empty()).map(Some);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&root.directory, rest, flags, Mode::empty(), resolve).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Place {
        _folder: tempfile::TempDir,
        inside: PathBuf,
        outside: PathBuf,
        roots: Roots,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let [inside, outside] = ["inside", "outside"].map(|name| folder.path().join(name));
        for directory in [&inside, &outside] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("a.img"), "a").unwrap();
        }
        symlink(outside.join("a.img"), inside.join("out")).unwrap();
        symlink(&outside, inside.join("up")).unwrap();
        symlink(inside.join("a.img"), inside.join("in")).unwrap();
        let roots = Roots::open([inside.as_path()]).unwrap();
        Place { _folder: folder, inside, outside, roots }
    }

    #[test]
    fn nothing_leads_out() {
        let Place { inside, outside, roots, .. } = &place();
        for (path, held) in [
            (inside.join("a.img"), true),
            (inside.join("in"), true),
            (inside.join("new.img"), true),
            (outside.join("../inside/a.img"), true),
            (outside.join("a.img"), false),
            (outside.join("new.img"), false),
            (inside.join("../outside/a.img"), false),
            (inside.join("out"), false),
            (inside.join("up/a.img"), false),
            (inside.join("up/new.img"), false),
            ("/proc/self/root/etc/passwd".into(), false),
        ] {
            assert_eq!(roots.hold(&path).unwrap(), held, "{}", path.display());
            let opened = roots.open_store(&path, OFlags::RDONLY);
            assert_eq!(
                opened.is_ok_and(|opened| opened.is_some()),
                held && path.exists(),
                "{}",
                path.display()
            );
        }
        assert!(roots.hold(&inside.join("no/such/directory")).is_err());
    }

    #[test]
    fn what_becomes_a_link_meanwhile_is_refused() {
        let Place { inside, outside, roots, .. } = &place();
        let real = inside.join("a.img");
        fs::remove_file(&real).unwrap();
        symlink(outside.join("a.img"), &real).unwrap();
        assert_eq!(roots.open_real(&real, OFlags::RDONLY).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn only_files_and_block_devices_are_opened() {
        let Place { inside, roots, .. } = &place();
        assert!(roots.open_store(inside, OFlags::RDONLY).is_err());
        let devices = Roots::open([Path::new("/dev")]).unwrap();
        assert!(devices.open_store(Path::new("/dev/null"), OFlags::RDWR).is_err());
        let file = Roots::open([inside.join("a.img").as_path()]).unwrap();
        assert!(file.open_store(&inside.join("a.img"), OFlags::RDONLY).unwrap().is_some());
        assert!(Roots::open([Path::new("/no/such/directory")]).is_err());
    }
}
