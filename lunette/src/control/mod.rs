//! Control of a daemon that runs: the control socket, and the methods that there are. `client` calls them.

mod access;
mod config;
mod daemon;
pub(crate) mod events;
mod export;
mod patch;
mod place;
mod portal;
mod session;
mod stats;
mod target;
mod throttle;
mod unit;

pub(crate) use access::{ControlAccess, ControlOptions};
pub(crate) use config::{Saved, Shown, Steps};
pub(crate) use daemon::{HandOver, MANAGED};
pub(crate) use portal::PortalStatus;
pub(crate) use session::End;
pub(crate) use unit::Resized;

use crate::config::Throttle;
use crate::config::values::Name;
use crate::handover::{Heir, Invocation};
use crate::metrics::{self, ExportStats, Stats, ThrottleStats};
use crate::running::Running;
use anyhow::{Context, Result};
use lunette_control::{About, Crew, Door, Effect, Events, Failure, Feed, Method, Table, Task};
use lunette_reactor::Workers;
use lunette_store::log::LineBudget;
use lunette_transport_vhost_user::{Access, SocketFile};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What methods work on.
pub(crate) struct Daemon {
    pub(crate) running: Arc<Running>,
    pub(crate) events: Events,
    /// When it was started.
    pub(crate) since: Instant,
    /// How it was started.
    pub(crate) invocation: Invocation,
    /// Who asks for all of it.
    pub(crate) heir: Heir,
}

impl Daemon {
    /// A daemon that has just been started.
    pub(crate) fn new(running: Arc<Running>, events: Events, heir: Heir) -> Self {
        Self { running, events, since: Instant::now(), invocation: Invocation::own(), heir }
    }

    /// What all units have done, or the one of this name, and who waits for throttles.
    pub(crate) fn stats(&self, unit: Option<&str>) -> Stats {
        let units = self.running.units().into_values().map(|unit| unit.unit);
        let units = units.filter(|known| unit.is_none_or(|wanted| wanted == known.name));
        let throttles = self.running.delays();
        let throttles = throttles.iter().map(|(name, delays)| ThrottleStats::new(name, delays)).collect();
        let now = self.running.now();
        let exports = now.links().map(|(name, link)| ExportStats::new(name, &link)).collect();
        metrics::stats(self.running.reactors, units, exports, throttles, self.since)
    }
}

pub(crate) type Call<'a> = lunette_control::Call<'a, Daemon>;
pub(crate) type Plane = lunette_control::Plane<Daemon>;
pub(crate) type Server = lunette_control::Server<Daemon>;

/// All methods of the daemon, a row each.
pub(crate) fn table() -> Table<Daemon> {
    use Effect::{Acts, Changes, Reads};
    Table::new([
        Method::new(Reads, "daemon.invocation", "How the daemon was started.", daemon::invocation),
        Method::new(
            Acts,
            "daemon.hand_over",
            "Ends the daemon, and hands all that it serves over to another program.",
            daemon::hand_over,
        ),
        Method::new(Reads, "session.list", "All iSCSI sessions.", session::list),
        Method::new(Acts, "session.end", "Ends an iSCSI session.", session::end),
        Method::new(Reads, "config.show", "The configuration that is in force.", config::show),
        Method::new(Reads, "config.plan", "What would change if a configuration were applied.", config::plan),
        Method::new(Changes, "config.apply", "Changes what is served to a configuration.", config::apply)
            .long(),
        Method::new(Changes, "config.reload", "Applies the files it was started from.", config::reload)
            .long(),
        Method::new(
            Acts,
            "config.save",
            "Writes the configuration that is in force to a file.",
            config::save,
        )
        .in_turn(),
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
        Method::new(Changes, "unit.move", "Has another target or export show a logical unit.", unit::move_to),
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
        Method::new(Reads, "throttle.list", "All throttles.", throttle::list),
        Method::new(Reads, "throttle.show", "One throttle.", throttle::show),
        Method::new(Changes, "throttle.create", "Has a throttle count from now on.", throttle::create),
        Method::new(Changes, "throttle.delete", "Has a throttle count no more.", throttle::delete),
        Method::new(Changes, "throttle.change", "Changes keys of a throttle.", throttle::change),
        Method::new(Reads, "stats.show", "What units have done, and for whom.", stats::show),
    ])
}

/// There is no such unit.
fn no_unit(name: &Name) -> Failure {
    Failure::not_found(format!("there is no unit `{name}`"))
}

/// A `kind` of object has this name, and is another.
fn taken(kind: &str, name: impl Display) -> Failure {
    Failure::new(Failure::CONFLICT, format!("there is another {kind} of the name `{name}`"))
}

/// Has there be an object of this `kind` and name, to be said as often as one likes. Returns whether it was not there before.
fn create_once<N: Ord + Display, T: PartialEq>(
    known: &mut BTreeMap<N, T>,
    kind: &str,
    name: N,
    object: T,
) -> Result<bool, Failure> {
    match known.entry(name) {
        Entry::Vacant(place) => {
            place.insert(object);
            Ok(true)
        }
        Entry::Occupied(known) if *known.get() == object => Ok(false),
        Entry::Occupied(known) => Err(taken(kind, known.key())),
    }
}

/// Something cannot go: without it, the throttle would be for others.
fn named_by(throttle: &Throttle, what: &str) -> Failure {
    Failure::failed(format!(
        "the throttle `{}` names the {what}: leave it out there first, or the throttle out of the configuration (config.apply)",
        throttle.name
    ))
}

/// What the daemon says of itself.
pub(crate) const ABOUT: About = About { version: env!("CARGO_PKG_VERSION"), kinds: events::KINDS };

/// How many threads do what is asked for. A job waits for a unit that may be stuck, so there are several.
const THREADS: [(Crew, &str, usize); 5] = [
    (Crew::Readers, "control-read", 1),
    (Crew::Administrators, "control", 2),
    (Crew::Acts, "control-act", 2),
    (Crew::Changes, "control-change", 1),
    (Crew::Jobs, "control-job", 16),
];

/// A crew of workers each, so that none holds up another.
struct Crews([(Crew, Workers); 5]);

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
    let plane = lunette_control::Plane::new(daemon, table(), ABOUT, Crews(crews), feed);
    plane.tell_unsaved(|daemon| daemon.running.is_unsaved());
    plane
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
        let (mode, group) = access.rules.socket_mode();
        let (listener, file) = SocketFile::bind(path, &Access { mode, user: None, group })?;
        Ok(Self { listener, file: Some(file) })
    }

    /// Takes over a socket that listens already. Who can connect is up to whoever made it. From now on it shows those who do that
    /// it is this process (SO_PEERCRED is of the last one that has called listen(2)).
    ///
    /// # Errors
    /// Those of listen(2).
    pub(crate) fn adopt(listener: UnixListener) -> Result<Self> {
        rustix::net::listen(&listener, i32::from(u16::MAX)).context("cannot listen at the control socket")?;
        Ok(Self { listener, file: None })
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
    let door = Door { rules: access.rules.clone(), clients: access.clients.into(), refused };
    let (listener, file) = socket.map(|socket| (socket.listener, socket.file)).unzip();
    Ok((Server::new(listener, door, plane, feed)?, file.flatten()))
}

#[cfg(test)]
mod tests;
