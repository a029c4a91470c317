//! vhost-user exports: a target port for each socket and target.

use super::lease::ExportLease;
use super::link::{Link, LinkState, Shared};
use super::ports::{Port, PortIds};
use super::{Now, Running, WayIn};
use crate::config::values::{Label, Name, Place};
use crate::config::{self, ExportKnownBy, Model};
use crate::control::events;
use crate::handover::{Handed, Recorder};
use crate::inherited::FrontEnds;
use crate::state::{Key, PortRole, Record};
use crate::units::{self, Units};
use anyhow::{Context, Result, anyhow, bail};
use lunette_engine::{LogicalUnit, NexusState, TargetPort};
use lunette_scsi::Protocol;
use lunette_store::Post;
use lunette_transport_vhost_user::{Endpoint, HandedConnection, Handle, Opening, Options, VhostUserExport};
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The units of each target, by logical unit number.
type Targets = BTreeMap<u8, BTreeMap<u32, Arc<LogicalUnit>>>;

/// The first relative target port identifier of exports: the first of all is iSCSI's.
const FIRST_ID: u16 = 2;

/// How long an export that is taken away has to end.
const STOP: Duration = Duration::from_secs(10);

/// An export that is served.
pub(super) struct Export {
    pub(super) handle: Arc<Handle>,
    record: Record,
    /// The target port group.
    group: u16,
    ports: BTreeMap<u8, Port>,
    /// What it is called in events.
    name: Arc<Mutex<String>>,
    /// How it and its front end stand.
    link: Arc<Shared>,
    /// Which of its units are served here, of those that others could serve.
    pub(super) lease: Arc<ExportLease>,
    way_in: Option<WayIn>,
}

/// An export that serves nobody yet.
pub(super) struct Ready {
    opening: Opening,
    handle: Arc<Handle>,
    recorder: Option<Arc<Recorder>>,
}

impl Ready {
    /// Lets front ends come. Only from then on there is something to be asked what would be needed after a kill.
    pub(super) fn open(self) {
        self.opening.open();
        self.recorder.iter().for_each(|recorder| recorder.watch(&self.handle));
    }
}

/// What an export is made from.
pub(super) struct Entry {
    name: String,
    front_ends: FrontEnds,
    group: u16,
    record: Record,
    before: Before,
}

/// What another daemon has left of it.
#[derive(Default)]
struct Before {
    nexuses: BTreeMap<u8, NexusState>,
    connection: Option<HandedConnection>,
    listener: Option<(UnixListener, (u64, u64))>,
}

impl Before {
    /// That of the endpoint of this name, which is to show these. A virtual machine whose disk in memory has lost its bytes does not
    /// go on: it finds a device that was powered on.
    fn of(name: &str, handed: &mut Handed, wanted: &Targets) -> Self {
        let (listener, connection, nexuses) =
            (handed.listener(name), handed.connection(name), handed.nexuses(name));
        let shown = wanted.values().flat_map(BTreeMap::values).map(|unit| unit.identity.naa.to_string());
        let shown: Vec<_> = shown.collect();
        let has_lost = match handed.is_planned() {
            true => handed.has_lost(nexuses.values().flat_map(NexusState::units)),
            // What it saw was what is shown, as far as is known.
            false => handed.has_lost(shown.iter().map(String::as_str)),
        };
        if has_lost && connection.is_some() {
            tracing::warn!("{name} does not go on: the bytes of a disk in memory are gone");
            return Self { listener, ..Self::default() };
        }
        Self { nexuses, connection, listener }
    }
}

impl Entry {
    /// That of the configuration.
    pub(super) fn of(export: &config::VhostUser, record: Record) -> Result<Self> {
        let (name, group) = (export.name.to_string(), export.port_group.0);
        Ok(Self { name, front_ends: endpoint(export)?.into(), group, record, before: Before::default() })
    }
}

fn endpoint(export: &config::VhostUser) -> Result<Endpoint> {
    let access = config::access(export).map_err(|why| anyhow!("vhost-user export {}: {why}", export.name))?;
    let path = export.socket.as_path().to_owned();
    Ok(match export.client {
        true => Endpoint::Client { path, user: access.user },
        false => Endpoint::Path { path, access },
    })
}

/// What an export of the configuration is recognised by.
pub(super) fn key(export: &config::VhostUser) -> Result<Key> {
    Ok(match export.known_by {
        ExportKnownBy::Socket => Key::endpoint(&endpoint(export)?.name()),
        // The path of a socket is absolute.
        ExportKnownBy::Name => Key::endpoint(&format!("export:{}", export.name)),
    })
}

impl Running {
    /// Prepares the exports of the configuration, and those of sockets that are there already: one at the path of an export is that
    /// export's, and the others show all units. None serves anybody before it is opened.
    pub(super) fn prepare_exports(
        &self,
        exports: &BTreeMap<Label, config::VhostUser>,
        mut given: Vec<FrontEnds>,
        handed: &mut Handed,
    ) -> Result<Vec<Ready>> {
        let (mut all, mut keys, mut all_ready) = (Vec::new(), Vec::new(), Vec::new());
        for export in exports.values() {
            let own = FrontEnds::from(endpoint(export)?);
            keys.push(key(export)?);
            let at = given.iter().position(|given| given.name == own.name);
            if export.client && at.is_some() {
                bail!(
                    "vhost-user export {}: it is a `client`, and a socket that listens at its path was handed over",
                    export.name
                );
            }
            all.push(at.map_or(own, |at| given.remove(at)));
        }
        // Before those that end by themselves, with which the daemon would end if there were no others.
        given.sort_by_key(|front_ends| matches!(front_ends.endpoint, Endpoint::Connected(_)));
        keys.extend(given.iter().map(|front_ends| Key::endpoint(&front_ends.name)));
        all.append(&mut given);
        let records = self.state.identities(&keys)?;
        let mut entries = all.into_iter().zip(records);
        for (export, (front_ends, record)) in exports.values().zip(&mut entries) {
            let wanted = {
                let now = self.now();
                shown(export, &now.model, &now.units)
            };
            let before = Before::of(&front_ends.name, handed, &wanted);
            let entry = Entry { front_ends, before, ..Entry::of(export, record)? };
            all_ready.push(self.arrange_export(export, entry)?);
        }
        for (front_ends, record) in entries {
            let wanted = {
                let now = self.now();
                everything(&now.model, &now.units)
            };
            let name = front_ends.name.clone();
            let before = Before::of(&name, handed, &wanted);
            let entry = Entry { name, front_ends, group: TargetPort::DEFAULT_GROUP, record, before };
            let (export, ready) = self.export(entry, wanted, None)?;
            self.now_mut().adopted_exports.push(export);
            all_ready.push(ready);
        }
        Ok(all_ready)
    }

    /// Starts one that the configuration has.
    pub(super) fn start_export(&self, export: &config::VhostUser, entry: Entry) -> Result<()> {
        self.arrange_export(export, entry).map(Ready::open)
    }

    fn arrange_export(&self, export: &config::VhostUser, entry: Entry) -> Result<Ready> {
        let wanted = {
            let now = self.now();
            shown(export, &now.model, &now.units)
        };
        let (prepared, ready) = self.export(entry, wanted, Some(&export.name))?;
        self.now_mut().exports.insert(export.name.clone(), prepared);
        Ok(ready)
    }

    /// Prepares one, which the configuration has under the name `configured`.
    fn export(&self, entry: Entry, wanted: Targets, configured: Option<&Label>) -> Result<(Export, Ready)> {
        let Entry { name, front_ends: FrontEnds { name: endpoint_name, endpoint }, group, record, before } =
            entry;
        let ids = self.now().ids.clone();
        let ports = wanted
            .into_iter()
            .map(|(target, units)| Ok((target, port(&record, group, target, units, &ids)?)));
        let ports = ports.collect::<Result<BTreeMap<_, _>>>()?;
        let is_connected = matches!(endpoint, Endpoint::Connected(_));
        let link = Shared::new(matches!(endpoint, Endpoint::Client { .. }), is_connected);
        let initiator = record.port_name(PortRole::Initiator).to_string();
        self.throttles.add_export(&name, &initiator);
        let pin_memory = self.now().model.daemon.pin_memory;
        let lease = self.lease(initiator.clone(), configured);
        let keep_notes = self.recorder.is_some();
        let options = Options { initiator, pin_memory, keep_notes, ..Options::with(endpoint) };
        let shown = ports.iter().map(|(target, port)| (*target, port.port.clone())).collect();
        let name = Arc::new(Mutex::new(name));
        let link = Arc::new(link);
        let (events, called, noted) = (self.events.clone(), name.clone(), link.clone());
        let (recorder, known) = (self.recorder.clone(), endpoint_name.clone());
        let mut export =
            VhostUserExport::new(options, shown).with_lease(lease.clone()).observed(move |event| {
                recorder.iter().for_each(|recorder| recorder.note(&known));
                if noted.note(event) {
                    let name = called.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    events::export(&events, &name, event);
                }
            });
        let Before { nexuses, connection, listener } = before;
        export = export.named(endpoint_name).with_nexuses(nexuses);
        if let Some((socket, file)) = listener {
            export = export.with_listener(socket, file);
        }
        if let Some(connection) = connection {
            export = export.with_connection(connection);
        }
        if is_connected {
            let ways_in = self.ways_in.clone();
            export = export.when_ended(move || ways_in.one_ended());
        }
        let (handle, opening) = export.prepare(self.reactors.poster(), &self.all_reactors())?;
        let handle = Arc::new(handle);
        let way_in = (!is_connected).then(|| self.ways_in.open());
        let ready = Ready { opening, handle: handle.clone(), recorder: self.recorder.clone() };
        Ok((Export { handle, record, group, ports, name, link, lease, way_in }, ready))
    }

    /// Has an export show what the running configuration says.
    pub(super) fn show_export(&self, name: &Label) -> Result<()> {
        let post = self.reactors.poster();
        let mut now = self.now_mut();
        let Now { model, units, exports, ids, .. } = &mut *now;
        match exports.get_mut(name).zip(model.exports.get(name)) {
            Some((export, wanted)) => export.show(shown(wanted, model, units), ids, &*post),
            None => Ok(()),
        }
    }

    /// Has the exports of sockets that were there already show all units.
    pub(super) fn show_adopted(&self) -> Result<()> {
        let post = self.reactors.poster();
        let mut now = self.now_mut();
        let Now { model, units, adopted_exports, ids, .. } = &mut *now;
        adopted_exports.iter_mut().try_for_each(|export| export.show(everything(model, units), ids, &*post))
    }

    /// The export is called otherwise from now on.
    pub(super) fn rename_export(&self, from: &Label, to: &Label) {
        let mut now = self.now_mut();
        if let Some(export) = now.exports.remove(from) {
            *export.name.lock().unwrap_or_else(PoisonError::into_inner) = to.to_string();
            export.lease.rename(to);
            let initiator = export.record.port_name(PortRole::Initiator).to_string();
            self.throttles.add_export(to.as_str(), &initiator);
            now.exports.insert(to.clone(), export);
        }
    }

    /// Lets others connect to the socket of an export than before, or connects to others.
    pub(super) fn let_connect(&self, old: &config::VhostUser, new: &config::VhostUser) -> Result<()> {
        if (&old.mode, &old.owner, &old.group) == (&new.mode, &new.owner, &new.group) {
            return Ok(());
        }
        let mut access = config::access(new).map_err(|why| anyhow!(why))?;
        if new.client {
            self.now()
                .exports
                .get(&new.name)
                .into_iter()
                .for_each(|export| export.handle.set_user(access.user));
            return Ok(());
        }
        // What is no longer said is the daemon's again.
        if old.owner.is_some() {
            access.user.get_or_insert(rustix::process::geteuid().as_raw());
        }
        if old.group.is_some() {
            access.group.get_or_insert(rustix::process::getegid().as_raw());
        }
        match self.now().exports.get(&new.name) {
            Some(export) => Ok(export.handle.set_access(&access)?),
            None => Ok(()),
        }
    }

    /// Ends an export, and the connection of its front end. Its record, if it is to come again.
    pub(super) fn stop_export(&self, name: &Label) -> Option<Record> {
        let Export { handle, record, ports, lease, .. } = self.now_mut().exports.remove(name)?;
        lease.end();
        handle.begin_stop();
        if !handle.wait(STOP) {
            tracing::warn!(
                "vhost-user on {} has not ended within {STOP:?}: going on without it",
                handle.name()
            );
        }
        drop(ports);
        self.throttles.remove_export(&record.port_name(PortRole::Initiator).to_string());
        Some(record)
    }
}

impl Now {
    /// The exports that name a unit, or show all units if it has a place of its own.
    pub(super) fn exports_with(&self, unit: &Name, has_place: bool) -> Vec<Label> {
        let with = |export: &&config::VhostUser| match &export.units {
            Some(places) => places.values().any(|name| name == unit),
            None => has_place,
        };
        self.model.exports.values().filter(with).map(|export| export.name.clone()).collect()
    }
}

impl Export {
    pub(super) fn link(&self) -> Link {
        self.link.get()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link().state == LinkState::Connected
    }

    /// Whether it ends with its connection.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.way_in.is_none()
    }

    /// Whether a virtual machine's rings run here, or wait for its units.
    pub(super) fn is_running(&self) -> bool {
        self.is_connected() && self.lease.is_wanted()
    }

    /// As if a front end had come or gone.
    #[cfg(test)]
    pub(super) fn connect(&self, connected: bool) {
        use lunette_transport_vhost_user::ExportEvent;
        let event = if connected { ExportEvent::Connected } else { ExportEvent::Disconnected(None) };
        self.link.note(event);
    }

    /// Whether this is one of its target ports.
    pub(super) fn has(&self, port: &TargetPort) -> bool {
        self.ports.values().any(|own| std::ptr::eq(&*own.port, port))
    }

    /// The numbers of its targets.
    #[cfg(test)]
    pub(super) fn targets(&self) -> impl Iterator<Item = u8> {
        self.ports.keys().copied()
    }

    /// The port of a target.
    #[cfg(test)]
    pub(super) fn port(&self, target: u8) -> Option<Arc<TargetPort>> {
        self.ports.get(&target).map(|port| port.port.clone())
    }

    fn show(&mut self, wanted: Targets, ids: &PortIds, post: &dyn Post) -> Result<()> {
        let gone: Vec<u8> =
            self.ports.keys().filter(|target| !wanted.contains_key(target)).copied().collect();
        for (target, units) in wanted {
            match self.ports.get(&target) {
                Some(Port { port, .. }) if self.lease.stands_still() => {
                    port.luns().change_unnoticed(post, |shown| shown.clone_from(&units));
                }
                Some(Port { port, .. }) => {
                    port.luns().change(post, |shown| shown.clone_from(&units));
                }
                None => {
                    let port = port(&self.record, self.group, target, units, ids)?;
                    self.handle.add_target(target, port.port.clone());
                    self.ports.insert(target, port);
                }
            }
        }
        for target in gone {
            let port = self.ports.remove(&target);
            self.handle.remove_target(target, move || drop(port));
        }
        Ok(())
    }
}

fn port(
    record: &Record,
    group: u16,
    target: u8,
    units: BTreeMap<u32, Arc<LogicalUnit>>,
    ids: &PortIds,
) -> Result<Port> {
    let id = ids.take(FIRST_ID).context("there are too many vhost-user sockets and targets")?;
    let name = record.port_name(PortRole::Target(target)).to_string();
    Ok(id.port(|id| TargetPort::in_group(group, name, id, Protocol::SAS, units)))
}

/// What an export shows. There is always a target, so that units can come later, and one wherever a unit is that stands by.
fn shown(export: &config::VhostUser, model: &Model, units: &Units) -> Targets {
    let Some(places) = &export.units else { return everything(model, units) };
    by_target(places.iter().map(|(place, name)| (*place, units.get(name).map(|unit| &unit.unit))))
}

/// All units that have a place of their own.
fn everything(model: &Model, units: &Units) -> Targets {
    let served = units.values().filter_map(|unit| Some((unit.place?, Some(&unit.unit))));
    let others = model.units.values().filter(|spec| !units.contains_key(&spec.name));
    by_target(served.chain(others.filter_map(|spec| Some((units::place(spec)?, None)))))
}

fn by_target<'a>(units: impl Iterator<Item = (Place, Option<&'a Arc<LogicalUnit>>)>) -> Targets {
    let mut targets = Targets::new();
    for (Place { target, lun }, unit) in units {
        targets.entry(target).or_default().extend(unit.map(|unit| (lun, unit.clone())));
    }
    if targets.is_empty() {
        targets.insert(0, BTreeMap::new());
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::super::tests::Rig;
    use super::*;
    use crate::handover::tests::killed;

    const TEXT: &str = r#"
[[unit]]
name = "file"
store = "@/file.img"
size = "1M"

[[unit]]
name = "ram"
store = "ram:1M"
"#;

    #[test]
    fn nobody_goes_on_with_a_disk_in_memory_that_is_empty() {
        let rig = Rig::new(TEXT);
        let units = rig.running.units();
        let mut handed = killed("vm");
        rig.running.take_units_over(&mut handed);
        let target = |name: &str| Targets::from([(0, [(0, units[name].unit.clone())].into())]);
        assert!(Before::of("vm", &mut handed, &target("ram")).connection.is_none());
        let mut handed = killed("vm");
        rig.running.take_units_over(&mut handed);
        assert!(Before::of("vm", &mut handed, &target("file")).connection.is_some());
        let mut handed = killed("vm");
        handed.has_come("ram");
        rig.running.take_units_over(&mut handed);
        assert!(Before::of("vm", &mut handed, &target("ram")).connection.is_some());
    }
}
