//! A file system in memory that forgets what was not synced, or only a part of it.

use crate::state::files::{Files, LockFile, NewFile, OpenDirectory};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A file system in memory.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Mutex<World>>);

/// All there is after a power loss: the content of each file, and directories.
pub(super) type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[derive(Clone, Default, Debug)]
struct World {
    files: Vec<Content>,
    directories: BTreeMap<PathBuf, Directory>,
    /// How many operations succeed from now on; `None`: all.
    left: Option<usize>,
    /// More were tried.
    interrupted: bool,
    opens_no_directories: bool,
}

#[derive(Clone, Default, Debug)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    is_dirty: bool,
}

#[derive(Clone, Default, Debug)]
struct Directory {
    now: Names,
    synced: Names,
    /// What has been done since, each of which may survive or not.
    since: Vec<Change>,
}

type Names = BTreeMap<String, Node>;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Node {
    File(usize),
    Directory,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, Node),
    Rename(String, String, Node),
    Remove(String),
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Content {
    /// What a power loss may leave of it.
    fn left(&self) -> BTreeSet<Vec<u8>> {
        let Self { now, synced, is_dirty } = self;
        if !is_dirty {
            return [now.clone()].into();
        }
        let half = now.len() / 2;
        let hole = [&vec![0; half], &now[half..]].concat();
        [now.clone(), synced.clone(), now[..half].to_vec(), vec![0; now.len()], hole].into()
    }
}

impl Directory {
    /// The names that may be there after a power loss.
    fn left(&self) -> Vec<Names> {
        assert!(self.since.len() < 16, "{self:?}");
        let choices = 0..1u32 << self.since.len();
        let left = |choice: u32| {
            let mut names = self.synced.clone();
            let survives = |at: usize| choice & 1 << at != 0;
            let since = self.since.iter().enumerate().filter(|(at, _)| survives(*at));
            since.for_each(|(_, change)| change.apply(&mut names));
            names
        };
        let mut all: Vec<Names> = Vec::new();
        for names in choices.map(left) {
            if !all.contains(&names) {
                all.push(names);
            }
        }
        all
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.since.push(change);
    }
}

impl World {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => {
                self.interrupted = true;
                Err(Error::other("interrupted"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The directory that a path is in, and its name there.
    fn parent(&mut self, path: &Path) -> io::Result<(&mut Directory, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(ErrorKind::InvalidInput)?;
        let parent = path.parent().and_then(|parent| self.directories.get_mut(parent));
        Ok((parent.ok_or(ErrorKind::NotFound)?, name.to_owned()))
    }

    fn file(&mut self, path: &Path) -> io::Result<usize> {
        let (parent, name) = self.parent(path)?;
        match parent.now.get(&name) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Adds to each of `images` what there may be of a directory.
    fn add_to(&self, images: Vec<Image>, path: &Path) -> Vec<Image> {
        let directory = &self.directories[path];
        let mut all = Vec::new();
        for names in directory.left() {
            let mut some = images.clone();
            some.iter_mut().for_each(|image| drop(image.insert(path.to_owned(), None)));
            for (name, node) in names {
                let path = path.join(name);
                some = match node {
                    Node::Directory => self.add_to(some, &path),
                    Node::File(file) => {
                        let with = |content: Vec<u8>, image: &Image| {
                            let mut image = image.clone();
                            image.insert(path.clone(), Some(content));
                            image
                        };
                        let left = self.files[file].left();
                        left.into_iter()
                            .flat_map(|content| {
                                some.iter().map(move |image| with(content.clone(), image)).collect::<Vec<_>>()
                            })
                            .collect()
                    }
                };
            }
            all.extend(some);
        }
        all
    }
}

impl Disk {
    /// One with these directories, which are safe.
    pub(super) fn with_directories<const N: usize>(paths: [&str; N]) -> Self {
        Self::of(&paths.into_iter().map(|path| (path.into(), None)).collect())
    }

    /// One that has survived a power loss.
    pub(super) fn of(image: &Image) -> Self {
        let disk = Self(Arc::default());
        for (path, content) in image {
            match content {
                Some(bytes) => disk.put(path, bytes),
                None => {
                    let mut world = disk.world();
                    if let Ok((parent, name)) = world.parent(path) {
                        parent.now.insert(name.clone(), Node::Directory);
                        parent.synced.insert(name, Node::Directory);
                    }
                    world.directories.insert(path.clone(), Directory::default());
                }
            }
        }
        disk
    }

    /// Puts a file there, which is safe.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        let node = Node::File(world.files.len());
        world.files.push(Content { now: bytes.to_vec(), synced: bytes.to_vec(), is_dirty: false });
        let (parent, name) = world.parent(path).unwrap();
        parent.now.insert(name.clone(), node);
        parent.synced.insert(name, node);
    }

    /// Another one that is the same.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.world().clone())))
    }

    /// Only so many operations succeed from now on, or all.
    pub(super) fn limit(&self, operations: Option<usize>) {
        let mut world = self.world();
        (world.left, world.interrupted) = (operations, false);
    }

    /// Whether directories can be opened from now on.
    pub(super) fn open_directories(&self, can_be: bool) {
        self.world().opens_no_directories = !can_be;
    }

    /// Whether more operations were tried than succeed.
    pub(super) fn is_interrupted(&self) -> bool {
        self.world().interrupted
    }

    /// All that may be there after a power loss.
    pub(super) fn images(&self) -> BTreeSet<Image> {
        let world = self.world();
        world.add_to(vec![Image::new()], Path::new("/")).into_iter().collect()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

impl Files for Disk {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut world = self.world();
        let file = world.file(path)?;
        let bytes = &world.files[file].now;
        Ok(bytes[..bytes.len().min(most as usize)].to_vec())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let directory = world.directories.get(directory).ok_or(ErrorKind::NotFound)?;
        Ok(directory.now.keys().cloned().collect())
    }

    fn has_directory(&self, path: &Path) -> bool {
        self.world().directories.contains_key(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        if world.directories.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        world.operate()?;
        let (parent, name) = world.parent(path)?;
        parent.change(Change::Add(name, Node::Directory));
        world.directories.insert(path.to_owned(), Directory::default());
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut world = self.world();
        world.operate()?;
        let file = match world.file(path) {
            Ok(file) => file,
            Err(_) => {
                let file = world.files.len();
                world.files.push(Content::default());
                let (parent, name) = world.parent(path)?;
                parent.change(Change::Add(name, Node::File(file)));
                file
            }
        };
        let content = &mut world.files[file];
        content.now.clear();
        content.is_dirty = true;
        Ok(Box::new(Handle { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        let node = Node::File(world.file(from)?);
        let (_, to) = world.parent(to)?;
        let (parent, from) = world.parent(from)?;
        parent.change(Change::Rename(from, to, node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.operate()?;
        world.file(path)?;
        let (parent, name) = world.parent(path)?;
        parent.change(Change::Remove(name));
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn OpenDirectory>> {
        let world = self.world();
        if world.opens_no_directories {
            return Err(Error::other("too many open files"));
        }
        world.directories.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(Opened { disk: self.clone(), path: path.to_owned() }))
    }

    fn open_locks(&self, _: &Path) -> io::Result<Box<dyn LockFile>> {
        Ok(Box::new(Unlocked))
    }
}

struct Handle {
    disk: Disk,
    file: usize,
}

impl NewFile for Handle {
    /// In two parts, as what is interrupted may have written some.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
            let mut world = self.disk.world();
            world.operate()?;
            world.files[self.file].now.extend(part);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        let content = &mut world.files[self.file];
        content.synced = content.now.clone();
        content.is_dirty = false;
        Ok(())
    }
}

/// A directory that is open.
struct Opened {
    disk: Disk,
    path: PathBuf,
}

impl OpenDirectory for Opened {
    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.operate()?;
        let directory = world.directories.get_mut(&self.path).ok_or(ErrorKind::NotFound)?;
        directory.synced = directory.now.clone();
        directory.since.clear();
        Ok(())
    }
}

/// Whoever had the locks is dead.
#[derive(Debug)]
struct Unlocked;

impl LockFile for Unlocked {
    fn try_lock(&self, _: u64) -> io::Result<bool> {
        Ok(true)
    }

    fn is_locked(&self, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn unlock(&self, _: u64) {}
}
