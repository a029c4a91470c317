//! Where the configuration of a daemon comes from, to be read and written once more.

use super::load::of_directory;
use super::options::{Sockets, configure, daemon, file};
use super::{Daemon, Document, Model, Report, to_toml};
use crate::cli::Serve;
use crate::inherited::Inherited;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Where the configuration of a daemon comes from.
pub(crate) struct Origin {
    options: Serve,
    sockets: Sockets,
    /// What the command line says of the daemon itself, which counts more than files.
    overriding: Daemon,
    /// What the file has said when it was read or written last, as a number.
    seen: Mutex<Option<u64>>,
}

impl Origin {
    /// That of a daemon with this command line, and these sockets.
    pub(crate) fn new(options: &Serve, inherited: &Inherited) -> Result<Self> {
        let (options, sockets) = (options.clone(), Sockets::from(inherited));
        Ok(Self { overriding: daemon(&options)?, options, sockets, seen: Mutex::default() })
    }

    /// Reads the configuration. What is hardly meant is logged.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(&self) -> Result<Model> {
        // Before: if it is changed meanwhile, it is not the one that was read.
        let seen = self.fingerprint();
        let (model, report) = self.understand()?;
        for warning in report.warnings() {
            tracing::warn!("{}", warning.one_line());
        }
        self.see(seen);
        Ok(model)
    }

    /// Whether the configuration says this by now. Nothing is logged.
    pub(crate) fn says(&self, model: &Model) -> bool {
        let seen = self.fingerprint();
        // As files: of several portals with port 0, those that are left keep their numbers while the daemon runs.
        let is_it = |said: &Model| Document::from(said) == Document::from(model);
        let is_it = self.has_file() && self.understand().is_ok_and(|(said, _)| is_it(&said));
        if is_it {
            self.see(seen);
        }
        is_it
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

    /// Writes `text` beside `path`, or beside the one file, whose place it takes when it is [put](Draft::put) there.
    ///
    /// # Errors
    /// It cannot be written; or the one file says something else than when it was read last, unless `overwrite`.
    pub(crate) fn draft(
        &self,
        path: Option<&Path>,
        text: &str,
        overwrite: bool,
    ) -> Result<Draft<'_>, String> {
        let own = self.file();
        let path = path.map_or_else(|| own.clone(), |path| Ok(path.to_owned()))?;
        let is_own = own.as_ref() == Ok(&path);
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if is_own && !overwrite && self.fingerprint() != seen {
            return Err(format!(
                "{} says something else than when the daemon has read it: apply it first, or say `overwrite`",
                path.display()
            ));
        }
        let origin = is_own.then_some(self);
        Draft::write(&path, text, origin).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Whether the one file could be written now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn try_to_write(&self, model: &Model) -> Result<(), String> {
        let text = to_toml(model).map_err(|error| error.to_string())?;
        self.draft(None, &text, false).map(drop)
    }

    fn fingerprint(&self) -> Option<u64> {
        Some(fingerprint(&fs::read(self.path()?).ok()?))
    }

    fn see(&self, seen: Option<u64>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// A file that is to take the place of another; otherwise it is removed.
pub(crate) struct Draft<'a> {
    temporary: PathBuf,
    path: PathBuf,
    fingerprint: u64,
    /// Whose file it becomes.
    origin: Option<&'a Origin>,
}

impl<'a> Draft<'a> {
    fn write(path: &Path, text: &str, origin: Option<&'a Origin>) -> io::Result<Self> {
        // The place of a link is that of the file.
        let path = match fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            path => path?,
        };
        let mut temporary = path.clone().into_os_string();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let before = fs::metadata(&path).ok();
        let mode = before.as_ref().map_or(0o600, |before| before.mode() & 0o777);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&temporary)?;
        let draft = Self { temporary, path, fingerprint: fingerprint(text.as_bytes()), origin };
        file.write_all(text.as_bytes())?;
        if let Some(before) = before {
            // Who may not give files away has one of his own.
            let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
        }
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.sync_all()?;
        Ok(draft)
    }

    /// Whether it becomes the one file that says everything.
    pub(crate) fn is_own(&self) -> bool {
        self.origin.is_some()
    }

    /// Takes the place. After a power loss there is the old file or the new.
    pub(crate) fn put(self) -> Result<PathBuf> {
        let path = self.path.clone();
        let renamed = fs::rename(&self.temporary, &path);
        renamed.with_context(|| format!("cannot replace {}", path.display()))?;
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(|| format!("cannot sync {}", directory.display()))?;
        if let Some(origin) = self.origin {
            origin.see(Some(self.fingerprint));
        }
        Ok(path)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Put, it is not there any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Call;
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

    #[test]
    fn one_file_is_written_as_a_whole() {
        let (folder, path, origin) = one_file();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let model = origin.read().unwrap();
        assert!(origin.says(&model) && origin.file().unwrap() == path);
        drop(origin.draft(None, "no", false).unwrap());
        origin.try_to_write(&model).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("# mine"), "it was not put");
        assert_eq!(origin.draft(None, "\n", false).unwrap().put().unwrap(), path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(!origin.says(&model));
        origin.draft(None, "# again\n", false).unwrap().put().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_have_written_is_not_lost() {
        let (folder, path, origin) = one_file();
        origin.read().unwrap();
        fs::write(&path, "# theirs\n").unwrap();
        let refused = origin.draft(None, "", false).err().unwrap();
        assert!(refused.contains("says something else"), "{refused}");
        origin.draft(Some(&folder.path().join("other.toml")), "", false).unwrap().put().unwrap();
        origin.draft(None, "# ours\n", true).unwrap().put().unwrap();
        origin.draft(None, "# ours again\n", false).unwrap().put().unwrap();
        // A link stays one.
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        origin.draft(Some(&link), "# by a link\n", true).unwrap().put().unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&path).unwrap() == "# by a link\n");
        let refused = origin.draft(Some(&folder.path().join("no/x.toml")), "", false).err().unwrap();
        assert!(refused.contains("no/x.toml"), "{refused}");
    }

    #[test]
    fn several_files_and_options_are_not_written() {
        let (folder, _, one) = one_file();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("conf.d/more.toml"), "").unwrap();
        let refused = one.draft(None, "", false).err().unwrap();
        assert!(refused.contains("conf.d/more.toml among them"), "{refused}");
        let options = origin(&["--lu", "disk:ram:1M", "--iscsi", "127.0.0.1:0"]);
        assert!(!options.has_file());
        let refused = options.draft(None, "", false).err().unwrap();
        assert!(refused.contains("started with options"), "{refused}");
    }
}
