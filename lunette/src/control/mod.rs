//! Control of a daemon that runs: the control socket, and the methods that there are. `client` calls them.

mod access;
pub(crate) mod events;
mod session;

pub(crate) use access::{ControlAccess, ControlOptions};
pub(crate) use session::End;

use crate::exports::Exports;
use anyhow::Result;
use lunette_control::{About, Crew, Door, Effect, Feed, Method, Table, Task};
use lunette_reactor::{Reactors, Workers};
use lunette_store::log::LineBudget;
use lunette_transport_vhost_user::{Access, SocketFile};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What methods work on.
pub(crate) struct Daemon {
    pub(crate) exports: Exports,
    pub(crate) reactors: &'static Reactors,
}

pub(crate) type Call<'a> = lunette_control::Call<'a, Daemon>;
pub(crate) type Plane = lunette_control::Plane<Daemon>;
pub(crate) type Server = lunette_control::Server<Daemon>;

/// All methods of the daemon, a row each.
pub(crate) fn table() -> Table<Daemon> {
    Table::new([
        Method::new(Effect::Reads, "session.list", "All iSCSI sessions.", session::list),
        Method::new(Effect::Acts, "session.end", "Ends an iSCSI session.", session::end),
    ])
}

/// What the daemon says of itself.
pub(crate) const ABOUT: About = About { version: env!("CARGO_PKG_VERSION"), kinds: events::KINDS };

/// How many threads do what is asked for.
const THREADS: [(Crew, &str, usize); 3] = [
    (Crew::Readers, "control-read", 1),
    (Crew::Administrators, "control", 2),
    (Crew::Jobs, "control-job", 4),
];

/// A crew of workers each, so that none holds up another.
struct Crews([(Crew, Workers); 3]);

impl lunette_control::Workers for Crews {
    fn run(&self, crew: Crew, task: Task) {
        if let Some((_, workers)) = self.0.iter().find(|(its, _)| *its == crew) {
            workers.run(task);
        }
    }
}

/// Has the methods carried out on `daemon`.
pub(crate) fn plane(daemon: Daemon, feed: &Feed) -> Arc<Plane> {
    let crews = THREADS.map(|(crew, name, most)| (crew, Workers::new(name, most)));
    lunette_control::Plane::new(daemon, table(), ABOUT, Crews(crews), feed)
}

/// The file of the control socket, which is removed in the end, and who may connect to it.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    /// Nothing, if it is somebody else's.
    file: Option<SocketFile>,
}

impl ControlSocket {
    /// Listens at `path`. Those who have no access cannot connect, as far as the file's mode and group can say that.
    pub(crate) fn open(path: &Path, access: &ControlAccess) -> Result<Self> {
        let (mode, group) = access.rules().socket_mode();
        let (listener, file) = SocketFile::bind(path, &Access { mode, user: None, group })?;
        Ok(Self { listener, file: Some(file) })
    }

    /// Takes over a socket that listens already. Who can connect is up to whoever made it.
    pub(crate) fn adopt(listener: UnixListener) -> Self {
        Self { listener, file: None }
    }
}

/// Serves those who connect to `socket`, if there is one. The file is removed when the other value is dropped.
pub(crate) fn server(
    socket: Option<ControlSocket>,
    access: &ControlAccess,
    plane: Arc<Plane>,
    feed: Feed,
) -> Result<(Server, Option<SocketFile>)> {
    let (budget, start) = (LineBudget::default(), Instant::now());
    let refused = Box::new(move |who: &lunette_control::Credentials, why: &lunette_control::Failure| {
        if budget.allows("control", start.elapsed()) {
            tracing::warn!(uid = who.uid, pid = who.pid, "control connection refused: {why}");
        }
    });
    let door = Door { rules: access.rules(), clients: access.clients.into(), refused };
    let (listener, file) = socket.map(|socket| (socket.listener, socket.file)).unzip();
    Ok((Server::new(listener, door, plane, feed)?, file.flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_control::CODES;

    #[test]
    fn the_documentation_tells_every_method_event_and_error() {
        let text = include_str!("../../../docs/control.md");
        let section = |name: &str| {
            let heading = format!("### {name}\n");
            let rest = text.split_once(&heading).map(|(_, rest)| rest);
            let rest = rest.unwrap_or_else(|| panic!("docs/control.md does not tell of {name}"));
            rest.split("\n#").next().unwrap_or_default()
        };
        for method in table().described() {
            let section = section(&method.name);
            let effect = serde_json::to_value(method.effect).unwrap();
            assert!(section.contains(effect.as_str().unwrap()), "whether {} reads or changes", method.name);
            let own = method.params["properties"].as_object().cloned().unwrap_or_default();
            let common = ["if_generation", "request_id", "wait", "cancel_on_close"];
            for parameter in own.keys().filter(|name| !common.contains(&name.as_str())) {
                assert!(section.contains(&format!("`{parameter}`")), "{} takes {parameter}", method.name);
            }
            assert!(section.contains("socat"), "{} has an example", method.name);
        }
        for kind in ABOUT.all_kinds() {
            assert!(
                text.contains(&format!("| `{}` |", kind.name)),
                "docs/control.md does not tell of {}",
                kind.name
            );
        }
        for (code, name, _) in CODES {
            assert!(text.contains(&format!("| {code} |")), "docs/control.md does not tell of {name}");
        }
    }

    #[test]
    fn methods_are_named_object_and_verb_and_refuse_what_they_do_not_know() {
        for method in table().described() {
            let parts: Vec<_> = method.name.split('.').collect();
            assert_eq!(parts.len(), 2, "{}", method.name);
            assert_eq!(method.params["additionalProperties"], false, "{}", method.name);
            assert!(method.summary.ends_with('.'), "{}", method.name);
            if method.effect == Effect::Changes {
                let result = method.result["type"].as_str().unwrap_or("object");
                assert!(["object", "null"].contains(&result), "{} answers no object", method.name);
            }
        }
    }
}
