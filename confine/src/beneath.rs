//! Directories below which files are to be.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
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

/// An existing regular file or block device below a root, and nothing else, whatever its name is given to later.
#[derive(Debug)]
pub struct Found {
    file: OwnedFd,
    is_block_device: bool,
}

impl Roots {
    /// Takes directories, or single files, that exist.
    ///
    /// # Errors
    /// Which of them does not exist or cannot be opened, and why: a kernel before Linux 5.6, or a filter of system calls around this
    /// process, that does not open below a directory only (openat2(2)), among others.
    pub fn open<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, (PathBuf, io::Error)> {
        let root = |path: &Path| {
            let real = std::fs::canonicalize(path)?;
            let directory = open(&real, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            match open_below(&directory, Path::new("."), OFlags::PATH, Mode::empty()) {
                // A single file, or a directory that others search.
                Ok(_) | Err(Errno::NOTDIR | Errno::ACCESS) => Ok(Root { path: real, directory }),
                Err(error) => Err(io::Error::new(
                    io::Error::from(error).kind(),
                    format!("nothing can be opened below it only, as openat2(2) does: {error}"),
                )),
            }
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.would_hold(path),
            real => real?,
        };
        Ok(self.open_real(&real, OFlags::PATH, Mode::empty())?.is_some())
    }

    /// The same for a file that is to be made.
    fn would_hold(&self, path: &Path) -> io::Result<bool> {
        match self.open_real(&real_of_new(path)?, OFlags::PATH, Mode::empty()) {
            Ok(opened) => Ok(opened.is_some()),
            Err(Errno::NOENT) => Ok(true),
            // Nothing is made where a link leads; whoever tries says so.
            Err(Errno::LOOP) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks for an existing regular file or block device; `None` if what is there is below no root. Nothing is opened by that
    /// which opening could have an effect on.
    ///
    /// # Errors
    /// `ENOTBLK` when it is something else, or what the kernel says when it cannot be looked at.
    pub fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        let real = std::fs::canonicalize(path)?;
        let Some(file) = self.open_real(&real, OFlags::PATH, Mode::empty())? else { return Ok(None) };
        let is_block_device = match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(Errno::NOTBLK.into()),
        };
        Ok(Some(Found { file, is_block_device }))
    }

    /// Makes a file that was not there, with a mode of 0600, and opens it to read and write; `None` if that is below no root.
    ///
    /// # Errors
    /// What the kernel says when it cannot be made.
    pub fn create(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(self.open_real(&real_of_new(path)?, flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// Opens a path without symbolic links; what has become one meanwhile is refused.
    fn open_real(&self, real: &Path, flags: OFlags, mode: Mode) -> Result<Option<OwnedFd>, Errno> {
        let Some(root) = self.0.iter().find(|root| real.starts_with(&root.path)) else { return Ok(None) };
        let rest = real.strip_prefix(&root.path).unwrap_or(real);
        if rest.as_os_str().is_empty() {
            // The root itself, which may be a single file.
            let opened = open(&root.path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)?;
            return Ok(is_same(&fstat(&opened)?, &fstat(&root.directory)?).then_some(opened));
        }
        open_below(&root.directory, rest, flags, mode).map(Some)
    }
}

impl Found {
    /// Whether it is a block device, and no regular file.
    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// Opens it with these flags of open(2).
    ///
    /// # Errors
    /// What the kernel says when it cannot be opened.
    pub fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        // By its name it could be something else by now.
        let name = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(open(name, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// A descriptor that only names it (`O_PATH`).
    pub fn into_handle(self) -> OwnedFd {
        self.file
    }
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// Where a file that is not there would be made, without symbolic links.
fn real_of_new(path: &Path) -> io::Result<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(std::fs::canonicalize(parent)?.join(name))
}

/// Opens what is below a directory, and refuses to follow any link. (Terminals are never opened, so that none becomes the daemon's
/// needs no flag.)
fn open_below(directory: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve)
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

    fn text(file: OwnedFd) -> String {
        io::read_to_string(fs::File::from(file)).unwrap()
    }

    fn errno<T>(result: io::Result<T>) -> Option<Errno> {
        result.err().and_then(|error| Errno::from_io_error(&error))
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
            let found = roots.find(&path).is_ok_and(|found| found.is_some());
            assert_eq!(found, held && path.exists(), "{}", path.display());
            let made = roots.create(&path).is_ok_and(|made| made.is_some());
            assert_eq!(made, held && path.ends_with("new.img"), "{}", path.display());
            if made {
                fs::remove_file(&path).unwrap();
            }
        }
        assert!(roots.hold(&inside.join("no/such/directory")).is_err());
        assert!(!outside.join("new.img").exists());
    }

    /// Whoever may write to a directory can put anything in the place of what was found.
    #[test]
    fn what_was_found_is_what_is_opened() {
        let Place { inside, outside, roots, .. } = &place();
        let name = inside.join("a.img");
        let found = roots.find(&name).unwrap().unwrap();
        fs::write(outside.join("a.img"), "outside").unwrap();
        fs::rename(&name, inside.join("b.img")).unwrap();
        symlink(outside.join("a.img"), &name).unwrap();
        assert_eq!(text(found.open(OFlags::RDONLY).unwrap()), "a");
        // A named pipe: to open it would wait for a writer.
        let found = roots.find(&inside.join("b.img")).unwrap().unwrap();
        fs::remove_file(inside.join("b.img")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, inside.join("b.img"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(text(found.open(OFlags::RDONLY).unwrap()), "a");
        assert_eq!(errno(roots.find(&inside.join("b.img"))), Some(Errno::NOTBLK));
    }

    #[test]
    fn what_gets_the_name_of_a_root_is_none() {
        let Place { inside, .. } = &place();
        let name = inside.join("a.img");
        let roots = Roots::open([name.as_path()]).unwrap();
        assert!(roots.hold(&name).unwrap() && roots.find(&name).unwrap().is_some());
        // The first is kept, so that its number is not given to another.
        fs::rename(&name, inside.join("b.img")).unwrap();
        fs::write(&name, "another").unwrap();
        assert!(!roots.hold(&name).unwrap() && roots.find(&name).unwrap().is_none());
    }

    #[test]
    fn what_becomes_a_link_meanwhile_is_refused() {
        let Place { inside, outside, roots, .. } = &place();
        let real = inside.join("a.img");
        fs::remove_file(&real).unwrap();
        symlink(outside.join("a.img"), &real).unwrap();
        assert_eq!(roots.open_real(&real, OFlags::RDONLY, Mode::empty()).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn only_files_and_block_devices_are_found() {
        let Place { inside, roots, .. } = &place();
        assert_eq!(errno(roots.find(inside)), Some(Errno::NOTBLK));
        let devices = Roots::open([Path::new("/dev")]).unwrap();
        assert_eq!(errno(devices.find(Path::new("/dev/null"))), Some(Errno::NOTBLK));
        assert!(Roots::open([Path::new("/no/such/directory")]).is_err());
    }
}
