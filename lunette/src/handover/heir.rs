//! Another program that asks for all that is served, to go on with it: `lunette upgrade`.

use crate::custodian::Custodian;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How a daemon was started.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Invocation {
    /// Number of its process.
    pub(crate) pid: u32,
    /// The program's name, and its arguments.
    pub(crate) arguments: Vec<String>,
    /// The directory in which it was started.
    pub(crate) directory: PathBuf,
    /// Variables of its environment by which it goes.
    pub(crate) variables: BTreeMap<String, String>,
    /// A service manager looks after it, and so is to start the next one.
    #[serde(default)]
    pub(crate) managed: bool,
    /// Where it keeps its state. (Older ones do not say.)
    #[serde(default)]
    pub(crate) state_directory: Option<PathBuf>,
    /// How many descriptors it has open.
    #[serde(default)]
    pub(crate) descriptors: Option<usize>,
    /// Its command line, or that of the first of those for which it goes on, has named sockets (`--fd`), so it reads no default file.
    #[serde(default)]
    pub(crate) by_option: bool,
}

/// Variables that say where state and secrets are.
const PLACES: [&str; 3] = ["HOME", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"];

impl Invocation {
    /// Whether a daemon goes by this variable of its environment, and says so. (Older ones do not of those that say `places`.)
    pub(crate) fn goes_by(variable: &str, places: bool) -> bool {
        variable.starts_with("LUNETTE_") || places && PLACES.contains(&variable)
    }

    /// That of this process. What is no UTF-8 cannot be told in JSON, and is left out or spoilt.
    pub(crate) fn own() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| Self::goes_by(name, true))?;
            Some((name, value.into_string().ok()?))
        });
        Self {
            pid: std::process::id(),
            arguments: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            directory: std::env::current_dir().unwrap_or_default(),
            variables: variables.collect(),
            managed: std::env::var_os("NOTIFY_SOCKET").is_some(),
            state_directory: None,
            descriptors: None,
            by_option: false,
        }
    }

    /// The same with what there is by now.
    pub(crate) fn by_now(&self, state: &Path) -> Self {
        let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
        Self { state_directory: Some(self.directory.join(state)), descriptors: open.ok(), ..self.clone() }
    }
}

/// Whoever has asked for everything.
pub(crate) struct Heir {
    asked: Mutex<Option<Custodian>>,
    /// Has the daemon end.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Heir {
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { asked: Mutex::default(), wake: Box::new(wake) }
    }

    /// Has the daemon end, and hand everything over to who listens at `path`. Returns whether nobody else has asked.
    pub(crate) fn ask(&self, path: &Path) -> io::Result<bool> {
        let custodian = Custodian::heir(path)?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some() {
            return Ok(false);
        }
        *asked = Some(custodian);
        drop(asked);
        (self.wake)();
        Ok(true)
    }

    /// Who has asked.
    pub(crate) fn take(&self) -> Option<Custodian> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
