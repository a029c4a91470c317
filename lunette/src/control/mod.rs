//! Control of a daemon that runs: the control socket, and the methods that there are. `client` calls them.

mod access;
mod config;
pub(crate) mod events;
mod export;
mod patch;
mod place;
mod portal;
mod session;
mod stats;
mod target;
mod unit;

pub(crate) use access::{ControlAccess, ControlOptions};
pub(crate) use portal::PortalStatus;
pub(crate) use session::End;

use crate::config::values::Name;
use crate::metrics::{self, Stats};
use crate::running::Running;
use anyhow::Result;
use lunette_control::{About, Crew, Door, Effect, Failure, Feed, Method, Table, Task};
use lunette_reactor::Workers;
use lunette_store::log::LineBudget;
use lunette_transport_vhost_user::{Access, SocketFile};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What methods work on.
pub(crate) struct Daemon {
    pub(crate) running: Running,
    /// When it was started.
    pub(crate) since: Instant,
}

impl Daemon {
    /// What all units have done, or the one of this name.
    pub(crate) fn stats(&self, unit: Option<&str>) -> Stats {
        let units = self.running.units().into_values().map(|unit| unit.unit);
        let units = units.filter(|known| unit.is_none_or(|wanted| wanted == known.name));
        metrics::stats(self.running.reactors, units, self.since)
    }
}

pub(crate) type Call<'a> = lunette_control::Call<'a, Daemon>;
pub(crate) type Plane = lunette_control::Plane<Daemon>;
pub(crate) type Server = lunette_control::Server<Daemon>;

/// All methods of the daemon, a row each.
pub(crate) fn table() -> Table<Daemon> {
    use Effect::{Acts, Changes, Reads};
    Table::new([
        Method::new(Reads, "session.list", "All iSCSI sessions.", session::list),
        Method::new(Acts, "session.end", "Ends an iSCSI session.", session::end),
        Method::new(Reads, "config.show", "The configuration that is in force.", config::show),
        Method::new(Reads, "config.plan", "What would change if a configuration were applied.", config::plan),
        Method::new(Changes, "config.apply", "Changes what is served to a configuration.", config::apply)
            .long(),
        Method::new(Reads, "unit.list", "All logical units, and where they are seen.", unit::list),
        Method::new(Reads, "unit.show", "One logical unit.", unit::show),
        Method::new(Changes, "unit.create", "Serves a logical unit, if it is not served yet.", unit::create),
        Method::new(
            Changes,
            "unit.delete",
            "Takes a logical unit out of service; its bytes stay.",
            unit::delete,
        ),
        Method::new(Changes, "unit.change", "Changes keys of a logical unit.", unit::change),
        Method::new(Changes, "unit.resize", "Makes a logical unit larger or smaller.", unit::resize).long(),
        Method::new(Changes, "unit.refresh", "Gives a logical unit the size of its store.", unit::refresh)
            .long(),
        Method::new(Acts, "unit.quiesce", "Holds the commands of a logical unit back.", unit::quiesce).long(),
        Method::new(Acts, "unit.resume", "Lets the commands of a logical unit go on.", unit::resume),
        Method::new(Reads, "target.list", "All iSCSI targets, and what they show.", target::list),
        Method::new(Reads, "target.show", "One iSCSI target.", target::show),
        Method::new(
            Changes,
            "target.create",
            "Serves an iSCSI target, if it is not served yet.",
            target::create,
        ),
        Method::new(Changes, "target.delete", "Takes an iSCSI target out of service.", target::delete),
        Method::new(Changes, "target.change", "Changes keys of an iSCSI target.", target::change),
        Method::new(Changes, "target.attach", "Has an iSCSI target show a logical unit.", target::attach),
        Method::new(Changes, "target.detach", "Has it show a logical unit no more.", target::detach),
        Method::new(Reads, "portal.list", "All iSCSI portals.", portal::list),
        Method::new(Changes, "portal.create", "Listens for iSCSI initiators at an address.", portal::create),
        Method::new(Changes, "portal.delete", "Listens there no more.", portal::delete),
        Method::new(Reads, "export.list", "All vhost-user exports, and what they show.", export::list),
        Method::new(Reads, "export.show", "One vhost-user export.", export::show),
        Method::new(Changes, "export.create", "Serves virtual machines at a socket.", export::create),
        Method::new(Changes, "export.delete", "Serves them there no more.", export::delete),
        Method::new(Changes, "export.change", "Changes keys of a vhost-user export.", export::change),
        Method::new(Changes, "export.rename", "Calls a vhost-user export otherwise.", export::rename),
        Method::new(Changes, "export.attach", "Has an export show a logical unit.", export::attach),
        Method::new(Changes, "export.detach", "Has it show a logical unit no more.", export::detach),
        Method::new(Reads, "stats.show", "What units have done, and for whom.", stats::show),
    ])
}

/// There is no such unit.
fn no_unit(name: &Name) -> Failure {
    Failure::not_found(format!("there is no unit `{name}`"))
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
    use crate::running::tests::Rig;
    use lunette_control::{CODES, Ticket};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Receiver, channel};

    /// Asks for something; what comes of it is received later.
    fn ask(plane: &Arc<Plane>, method: &str, params: Value) -> Receiver<Result<Value, Failure>> {
        let (tell, told) = channel();
        let ticket = Ticket::new(move |result| _ = tell.send(result));
        plane.call_own(method, params.as_object().cloned().unwrap_or_default(), ticket);
        told
    }

    #[test]
    fn many_who_create_at_once_get_one_object_of_each_name() {
        let portal = "[[portal]]\nlisten = \"127.0.0.1:0\"\n";
        let rig =
            Rig::new(&format!("{portal}[[target]]\nname = \"iqn.2026-11.org.example:a\"\nunits = {{}}\n"));
        let plane = plane(Daemon { running: rig.running, since: Instant::now() }, &rig.feed);
        let create = |client: usize| {
            let plane = plane.clone();
            std::thread::spawn(move || {
                let mut created = Vec::new();
                for unit in 0..4 {
                    // The first is everybody's.
                    let name = if unit == 0 { "all".to_owned() } else { format!("{client}-{unit}") };
                    let unit = json!({ "name": name, "store": "ram:1M" });
                    let answer = ask(&plane, "unit.create", unit).recv().unwrap().unwrap();
                    created.push(answer["created"] == true);
                    let place = json!({ "name": "iqn.2026-11.org.example:a", "unit": name });
                    let answer = ask(&plane, "target.attach", place).recv().unwrap().unwrap();
                    assert_eq!(answer["attached"], created[created.len() - 1]);
                }
                created
            })
        };
        let clients: Vec<_> = (0..32).map(create).collect();
        let created: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert_eq!(created.iter().filter(|created| created[0]).count(), 1);
        assert!(created.iter().all(|created| created[1..] == [true; 3]));
        let units = ask(&plane, "unit.list", json!({})).recv().unwrap().unwrap();
        assert_eq!(units.as_array().unwrap().len(), 32 * 3 + 1);
        let target = ask(&plane, "target.show", json!({ "name": "iqn.2026-11.org.example:a" }));
        let shown: BTreeMap<String, String> =
            serde_json::from_value(target.recv().unwrap().unwrap()["shown"].clone()).unwrap();
        assert_eq!(shown.len(), 32 * 3 + 1);
        assert!((0..97).all(|lun| shown.contains_key(&lun.to_string())), "the lowest numbers");
    }

    #[test]
    fn what_is_there_in_another_form_is_a_conflict() {
        let rig = Rig::new("[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n");
        let vm = rig.folder.path().join("vm.sock").display().to_string();
        let plane = plane(Daemon { running: rig.running, since: Instant::now() }, &rig.feed);
        let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
        let code = |method: &str, params: Value| call(method, params).unwrap_err().code;
        assert_eq!(call("unit.create", json!({ "name": "a", "store": "ram:1M" })).unwrap()["created"], false);
        assert_eq!(code("unit.create", json!({ "name": "a", "store": "ram:2M" })), Failure::CONFLICT);
        assert_eq!(code("unit.create", json!({ "name": "b", "store": "b.img" })), Failure::PARAMETERS);
        assert_eq!(
            code("unit.create", json!({ "name": "b", "store": "ram:1M", "size": 5 })),
            Failure::PARAMETERS
        );
        assert_eq!(code("unit.change", json!({ "name": "b", "waiting": 5 })), Failure::NOT_FOUND);
        assert_eq!(code("unit.change", json!({ "name": "a", "wating": 5 })), Failure::PARAMETERS);
        assert_eq!(
            call("unit.change", json!({ "name": "a", "waiting": 5 })).unwrap()["config"]["waiting"],
            5
        );
        let export = json!({ "name": "vm", "socket": vm, "units": {} });
        assert_eq!(call("export.create", export.clone()).unwrap()["created"], true);
        assert_eq!(call("export.create", export).unwrap()["created"], false);
        assert_eq!(code("export.create", json!({ "name": "vm", "socket": vm })), Failure::CONFLICT);
        assert_eq!(code("export.attach", json!({ "name": "vm", "unit": "b" })), Failure::NOT_FOUND);
        let attached = call("export.attach", json!({ "name": "vm", "unit": "a", "at": "7:3" })).unwrap();
        assert_eq!((&attached["at"], &attached["attached"]), (&json!("7:3"), &json!(true)));
        assert_eq!(call("unit.show", json!({ "name": "a" })).unwrap()["shown"][0]["at"], "7:3");
        assert_eq!(code("unit.delete", json!({ "name": "a" })), Failure::FAILED);
        assert_eq!(call("export.rename", json!({ "name": "vm", "to": "web" })).map(drop), Ok(()));
        let detached = call("export.detach", json!({ "name": "web", "unit": "a" })).unwrap();
        assert_eq!(detached["places"], json!(["7:3"]));
        assert!(call("unit.delete", json!({ "name": "a" })).is_ok());
        assert_eq!(code("unit.delete", json!({ "name": "a" })), Failure::NOT_FOUND);
        let portal = call("portal.create", json!({ "listen": "127.0.0.1:0" })).unwrap();
        assert!(call("portal.delete", json!({ "listen": portal["address"] })).is_ok());
        assert_eq!(code("portal.delete", json!({ "listen": portal["address"] })), Failure::NOT_FOUND);
    }

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
