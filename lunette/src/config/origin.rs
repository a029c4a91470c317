//! Where the configuration of a daemon comes from, to be read and written once more.

use super::draft::{Put, Replacement, place};
use super::load::of_directory;
use super::options::{Sockets, configure, daemon, file};
use super::{Daemon, Model, Report, to_toml};
use crate::cli::Serve;
use crate::inherited::Inherited;
use anyhow::{Context, Error, Result};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thiserror::Error;

/// The one file that says everything would be written over, and others have written to it.
#[derive(Debug, Error)]
#[error("{} says something else than when the daemon has read it: apply it first", .0.display())]
pub(crate) struct WrittenByOthers(PathBuf);

/// Where the configuration of a daemon comes from.
pub(crate) struct Origin {
    options: Serve,
    sockets: Sockets,
    /// What the command line says of the daemon itself, which counts more than files.
    overriding: Daemon,
    /// What the file said when the daemon took it over or wrote it.
    seen: Mutex<Seen>,
}

/// What the file says, as a number; nothing: it cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Seen(Option<u64>);

impl Seen {
    fn of(text: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(text);
        Self(Some(hasher.finish()))
    }
}

impl Origin {
    /// That of a daemon with this command line, and these sockets.
    pub(crate) fn new(options: &Serve, inherited: &Inherited) -> Result<Self> {
        let (options, sockets) = (options.clone(), Sockets::from(inherited));
        Ok(Self { overriding: daemon(&options)?, options, sockets, seen: Mutex::default() })
    }

    /// Reads the configuration. What is hardly meant is logged. Who takes it over says so ([`Self::see`]).
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(&self) -> Result<(Model, Seen)> {
        // Before: if it is changed meanwhile, it is not the one that was read.
        let seen = self.says();
        let (model, report) = self.understand()?;
        for warning in report.warnings() {
            tracing::warn!("{}", warning.one_line());
        }
        Ok((model, seen))
    }

    /// The same in silence; nothing, if there is no file or something is wrong with it.
    pub(crate) fn peek(&self) -> Option<(Model, Seen)> {
        let seen = self.says();
        let understood = self.has_file().then(|| self.understand().ok());
        understood.flatten().map(|(model, _)| (model, seen))
    }

    /// The daemon has taken over, or written, a file that says this.
    pub(crate) fn see(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Whether nobody has written to the file since then.
    pub(crate) fn is_as_seen(&self) -> bool {
        self.says() == *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file says by now.
    pub(crate) fn says(&self) -> Seen {
        let text = self.path().and_then(|path| fs::read(path).ok());
        text.map_or_else(Seen::default, |text| Seen::of(&text))
    }

    fn understand(&self) -> Result<(Model, Report)> {
        configure(&self.options, self.sockets)
    }

    /// What the daemon itself is, if a file says that.
    pub(crate) fn overridden(&self, said: Daemon) -> Daemon {
        said.overridden_by(self.overriding.clone())
    }

    /// Whether there is a file, which may say something else by now.
    pub(crate) fn has_file(&self) -> bool {
        self.options.iscsi_config.is_some() || self.path().is_some()
    }

    /// All files that are read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let own = self.path().into_iter().chain(self.options.iscsi_config.as_deref());
        let more = self.path().and_then(|path| of_directory(path).ok()).unwrap_or_default();
        own.map(Path::to_owned).chain(more).collect()
    }

    /// The file, as people know it.
    pub(crate) fn described(&self) -> Option<impl std::fmt::Display> {
        self.path().map(Path::display)
    }

    fn path(&self) -> Option<&Path> {
        file(&self.options, self.sockets)
    }

    /// The one file that says everything.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub(crate) fn file(&self) -> Result<PathBuf, String> {
        let Some(path) = self.path().filter(|_| self.options.iscsi_config.is_none()) else {
            return Err("the daemon was started with options, not from one file that says everything: save to a file, and \
                        start it with --config and that"
                .into());
        };
        match of_directory(path).map(|files| files.first().cloned()) {
            Ok(None) => Ok(path.to_owned()),
            Ok(Some(other)) => Err(format!(
                "the configuration is in several files, {} among them: save to another file, or have one file say everything",
                other.display()
            )),
            Err(mistake) => Err(mistake.one_line()),
        }
    }

    /// The directory in which the one file is replaced, if there is such a file.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let place = place(&self.file().ok()?).ok()?;
        place.parent().map(Path::to_owned)
    }

    /// Writes `text` beside `path`, or beside the one file, whose place it takes when it is [put](Draft::put) there.
    ///
    /// # Errors
    /// It cannot be written; or [`WrittenByOthers`], unless `overwrite`.
    pub(crate) fn draft(&self, path: Option<&Path>, text: &str, overwrite: bool) -> Result<Draft<'_>> {
        let own = || self.file().map_err(Error::msg);
        let path = path.map_or_else(own, |path| Ok(path.to_owned()))?;
        let told = || format!("cannot write {}", path.display());
        let at = place(&path).with_context(told)?;
        // Whatever way it is named.
        let is_own = self.path().is_some_and(|own| place(own).is_ok_and(|own| own == at));
        let own =
            is_own.then(|| own().map(|_| Own { origin: self, says: Seen::of(text.as_bytes()), overwrite }));
        let own = own.transpose()?;
        own.iter().try_for_each(Own::is_as_seen)?;
        Ok(Draft { file: Replacement::write(at, text).with_context(told)?, own })
    }

    /// Whether the one file could be written now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn try_to_write(&self, model: &Model) -> Result<()> {
        self.draft(None, &to_toml(model)?, false).map(drop)
    }
}

/// A file that is to take the place of another; otherwise it is removed.
pub(crate) struct Draft<'a> {
    file: Replacement,
    /// It becomes the one file that says everything.
    own: Option<Own<'a>>,
}

struct Own<'a> {
    origin: &'a Origin,
    /// What it will say.
    says: Seen,
    /// Whatever others have written there.
    overwrite: bool,
}

impl Own<'_> {
    fn is_as_seen(&self) -> Result<(), WrittenByOthers> {
        if self.overwrite || self.origin.is_as_seen() {
            return Ok(());
        }
        Err(WrittenByOthers(self.origin.path().map(Path::to_owned).unwrap_or_default()))
    }
}

impl Draft<'_> {
    /// Whether it becomes the one file that says everything.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Takes the place.
    ///
    /// # Errors
    /// It cannot; or [`WrittenByOthers`] by now.
    pub(crate) fn put(self) -> Result<Put> {
        self.own.iter().try_for_each(Own::is_as_seen)?;
        let put = self.file.put()?;
        self.own.iter().for_each(|own| own.origin.see(own.says));
        Ok(put)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Call;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn origin(words: &[&str]) -> Origin {
        let words = [&["lunette", "serve"], words].concat();
        let words: Vec<_> = words.into_iter().map(Into::into).collect();
        match Call::parse(&words).unwrap() {
            Call::Serve(options) => Origin::new(&options, &Inherited::default()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn one_file() -> (TempDir, PathBuf, Origin) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lunette.toml");
        fs::write(&path, "# mine\n[[unit]]\nname = \"a\"\nstore = \"a.img\"\n").unwrap();
        let origin = origin(&["--config", path.to_str().unwrap()]);
        (folder, path, origin)
    }

    /// Takes over what the file says.
    fn take_over(origin: &Origin) -> Model {
        let (model, seen) = origin.read().unwrap();
        origin.see(seen);
        model
    }

    fn put(draft: Result<Draft<'_>>) -> PathBuf {
        draft.unwrap().put().unwrap().sync().unwrap()
    }

    #[test]
    fn one_file_is_written_as_a_whole() {
        let (folder, path, origin) = one_file();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let model = take_over(&origin);
        assert_eq!(origin.peek().unwrap().0, model);
        assert_eq!(origin.file().unwrap(), path);
        drop(origin.draft(None, "no", false).unwrap());
        origin.try_to_write(&model).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("# mine"), "it was not put");
        assert_eq!(put(origin.draft(None, "\n", false)), path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_ne!(origin.peek().unwrap().0, model);
        put(origin.draft(None, "# again\n", false));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_have_written_is_not_lost() {
        let (folder, path, origin) = one_file();
        take_over(&origin);
        // Also if it has been read, and while something is about to be saved.
        let late = origin.draft(None, "# late\n", false).unwrap();
        fs::write(&path, "# theirs\n").unwrap();
        origin.read().unwrap();
        for refused in [origin.draft(None, "", false).err().unwrap(), late.put().err().unwrap()] {
            assert!(refused.is::<WrittenByOthers>(), "{refused:#}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "# theirs\n");
        put(origin.draft(Some(&folder.path().join("other.toml")), "", false));
        put(origin.draft(None, "# ours\n", true));
        put(origin.draft(None, "# ours again\n", false));
        let refused = origin.draft(Some(&folder.path().join("no/x.toml")), "", false).err().unwrap();
        assert!(refused.to_string().contains("no/x.toml"), "{refused:#}");
    }

    #[test]
    fn the_one_file_is_known_by_all_its_names() {
        let (folder, path, origin) = one_file();
        take_over(&origin);
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let roundabout =
            folder.path().join("../").join(folder.path().file_name().unwrap()).join("lunette.toml");
        for name in [&path, &link, &roundabout] {
            assert!(origin.draft(Some(name), "", false).unwrap().is_own(), "{}", name.display());
        }
        fs::write(&path, "# theirs\n").unwrap();
        assert!(origin.draft(Some(&link), "", false).err().unwrap().is::<WrittenByOthers>());
        // A link stays one.
        put(origin.draft(Some(&link), "# by a link\n", true));
        assert!(link.is_symlink() && fs::read_to_string(&path).unwrap() == "# by a link\n");
        assert!(origin.is_as_seen());
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let (folder, path, origin) = one_file();
        take_over(&origin);
        let theirs = folder.path().join("lunette.toml.new");
        fs::write(&theirs, "# mine\n").unwrap();
        let (one, other) = (origin.draft(None, "# one\n", false), origin.draft(None, "# other\n", false));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "each writes a file of its own");
        drop(other);
        put(one);
        assert_eq!(fs::read_to_string(&path).unwrap(), "# one\n");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "# mine\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn several_files_and_options_are_not_written() {
        let (folder, _, one) = one_file();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("conf.d/more.toml"), "").unwrap();
        let refused = one.draft(None, "", false).err().unwrap();
        assert!(refused.to_string().contains("conf.d/more.toml among them"), "{refused:#}");
        let refused = one.draft(Some(&folder.path().join("lunette.toml")), "", true).err().unwrap();
        assert!(refused.to_string().contains("conf.d/more.toml among them"), "{refused:#}");
        let options = origin(&["--lu", "disk:ram:1M", "--iscsi", "127.0.0.1:0"]);
        assert!(!options.has_file());
        let refused = options.draft(None, "", false).err().unwrap();
        assert!(refused.to_string().contains("started with options"), "{refused:#}");
    }
}
