//! The network entity: what targets and portals have in common (RFC 7143 4.4).

use crate::access::DiscoveryAccess;
use crate::gatekeeper::{Gatekeeper, LoginLimits};
use crate::local::{self, Local, Place};
use crate::offer::Offer;
use crate::patterns::{Network, among, fold};
use crate::portal::Shared;
use crate::sessions::SessionTable;
use crate::{EndHow, Error, SessionEvent, SessionStatus, Target, TargetOptions};
use lunette_iscsi::target::Portal;
use lunette_reactor::Reactors;
use lunette_store::log::LineBudget;
use lunette_store::{Cx, Message, ReactorId};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// How long the reactors have to say what they have.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How a network entity behaves.
#[derive(Clone, Debug)]
pub struct EntityOptions {
    /// Where connections may come from; empty: from anywhere. Others are closed at once.
    pub addresses: Vec<Network>,
    /// Who may ask which targets there are.
    pub discovery: DiscoveryAccess,
    /// How many may connect and log in, and how often.
    pub logins: LoginLimits,
    /// How long a login may take.
    pub login_time: Duration,
    /// How long a session may be idle before the initiator is asked for a sign of life.
    pub idle_time: Duration,
    /// How long the sign of life may take, and the data-out that commands wait for.
    pub silence_time: Duration,
    /// How long initiators are given to log out when a portal stops, and what has to be ended or sent before a connection
    /// is closed may take.
    pub stop_time: Duration,
}

impl Default for EntityOptions {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            discovery: DiscoveryAccess::default(),
            logins: LoginLimits::default(),
            login_time: Duration::from_secs(15),
            // With the sign of life more than a minute: initiators that poll only once a minute, as the tools of libiscsi
            // do while a disk is being sanitized, answer nothing in between.
            idle_time: Duration::from_secs(45),
            silence_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(5),
        }
    }
}

/// A network entity (RFC 7143 4.4): targets, and the portals through which they are reached. A target is reached through
/// every portal whose group it has.
///
/// All its portals run on the same [`Reactors`](lunette_reactor::Reactors).
pub struct NetworkEntity {
    options: RwLock<Arc<EntityOptions>>,
    targets: RwLock<BTreeMap<String, Arc<Target>>>,
    portals: Mutex<Vec<Weak<Shared>>>,
    /// No connections are accepted.
    holding: AtomicBool,
    pub(crate) loads: Loads,
    gatekeeper: Mutex<Gatekeeper>,
    sessions: Mutex<SessionTable>,
    log: LineBudget,
    /// Bounds what is said of reactors that do not answer; that is asked by others than reactors, whose clock begins here.
    unanswered: (LineBudget, Instant),
    observer: OnceLock<Observer>,
}

/// Who wants to know what happens to sessions.
type Observer = Box<dyn Fn(SessionEvent<'_>) + Send + Sync>;

impl NetworkEntity {
    /// One without targets and portals.
    pub fn new(options: EntityOptions) -> Arc<Self> {
        Arc::new(Self {
            gatekeeper: Mutex::new(Gatekeeper::new(options.logins.clone())),
            sessions: Mutex::new(SessionTable::new(options.logins.sessions_of_initiator)),
            options: RwLock::new(Arc::new(options)),
            targets: RwLock::default(),
            portals: Mutex::default(),
            holding: AtomicBool::new(false),
            loads: Loads::default(),
            log: LineBudget::default(),
            unanswered: (LineBudget::default(), Instant::now()),
            observer: OnceLock::new(),
        })
    }

    /// Behaves otherwise from now on. Who is connected stays, even if he would not be let in any more; times count from when he
    /// is looked at next.
    pub fn configure(&self, options: EntityOptions) {
        self.gatekeeper().set_limits(options.logins.clone());
        self.table().set_most_of_initiator(options.logins.sessions_of_initiator);
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
    }

    /// How it behaves now.
    pub fn options(&self) -> Arc<EntityOptions> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has `act` called when a session begins or ends, and when a login is refused, on the reactor where that happens: it must not
    /// wait. Of refusals, no more are told than are logged. To be said once; said again, it has no effect.
    pub fn observe(&self, act: impl Fn(SessionEvent<'_>) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(act));
    }

    pub(crate) fn tell(&self, event: SessionEvent<'_>) {
        if let Some(tell) = self.observer.get() {
            tell(event);
        }
    }

    /// Adds a target, which can be reached from now on.
    ///
    /// # Errors
    /// When its name is not an iSCSI name, or that of another target.
    pub fn add(self: &Arc<Self>, options: TargetOptions) -> Result<Arc<Target>, Error> {
        let target = Arc::new(Target::new(options, Arc::downgrade(self))?);
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        if targets.contains_key(target.name()) {
            return Err(Error::NameTaken(target.name().to_owned()));
        }
        targets.insert(target.name().to_owned(), target.clone());
        Ok(target)
    }

    /// Makes the target of this name what `options` say. Sessions that would be let in again and see the same logical units, or
    /// see what their access rule shows, go on undisturbed, with what they have agreed on; the connections of others are closed. The rule
    /// of a session stays the same as long as one is for the same names and addresses: if it shows other units, these come and go.
    /// Asks each reactor, so it is not to be called on one.
    ///
    /// # Errors
    /// When there is no such target.
    pub fn update(&self, options: TargetOptions, reactors: &Reactors) -> Result<(), Error> {
        let target = self.target(&options.name).ok_or_else(|| Error::NoTarget(options.name.clone()))?;
        let end_others = || {
            let answers = reactors.call_all_within(ANSWER_TIME, || reconsider(&target));
            for (reactor, _) in answers.iter().enumerate().filter(|(_, answer)| answer.is_none()) {
                tracing::warn!(
                    reactor,
                    "the reactor does not answer: its iSCSI sessions are looked at when it does"
                );
            }
        };
        target.change(options, &*reactors.poster(), end_others);
        Ok(())
    }

    /// Removes the target of this name, in whatever case, which another may have from now on. The initiators of its sessions are
    /// asked to log out; after [`EntityOptions::stop_time`] their connections are closed. Returns whether there is one.
    pub fn remove(&self, name: &str, reactors: &Reactors) -> bool {
        let removed = self.targets.write().unwrap_or_else(PoisonError::into_inner).remove(&fold(name));
        let Some(target) = removed else { return false };
        target.remove();
        for reactor in 0..reactors.count() {
            reactors.poster().post(ReactorId(reactor), Box::new(reconsider(&target)));
        }
        true
    }

    /// Its targets, by name.
    pub fn targets(&self) -> Vec<Arc<Target>> {
        self.targets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The target of this name, in whatever case.
    pub fn target(&self, name: &str) -> Option<Arc<Target>> {
        self.targets.read().unwrap_or_else(PoisonError::into_inner).get(&fold(name)).cloned()
    }

    /// How many connections each reactor has that are normal sessions or may become one, those of all portals.
    pub fn loads(&self) -> Vec<usize> {
        self.loads
            .0
            .get()
            .map_or(Vec::new(), |loads| loads.iter().map(|load| load.load(Ordering::Relaxed)).collect())
    }

    /// Whether connections from `address` are taken.
    pub(crate) fn takes(&self, address: IpAddr) -> bool {
        among(&self.options().addresses, address)
    }

    /// All sessions, by their handles, also those for discovery. Asks each reactor, so it is not to be called on one. Those of
    /// a reactor that does not answer are left out, which is said in the log.
    pub fn sessions(self: &Arc<Self>, reactors: &Reactors) -> Vec<SessionStatus> {
        let list = || {
            let entity = self.clone();
            move |cx: &mut dyn Cx| {
                let connections = Local::of(cx).connections();
                let ours = connections.iter().filter(|connection| Arc::ptr_eq(connection.entity(), &entity));
                ours.filter_map(|connection| connection.status(cx)).collect::<Vec<_>>()
            }
        };
        let answers = reactors.call_all_within(ANSWER_TIME, list);
        let mut sessions = Vec::new();
        let (budget, begun) = &self.unanswered;
        for (reactor, answer) in answers.into_iter().enumerate() {
            match answer {
                Some(theirs) => sessions.extend(theirs),
                None if budget.allows("iSCSI", begun.elapsed()) => {
                    tracing::warn!(reactor, "the reactor does not answer: its iSCSI sessions are not listed");
                }
                None => {}
            }
        }
        sessions.sort_by_key(|session| session.tsih);
        sessions
    }

    /// Has a session end, also one for discovery. Returns whether there is one of this handle; it may last for a while yet.
    pub fn end_session(self: &Arc<Self>, tsih: u16, how: EndHow, reactors: &Reactors) -> bool {
        let place = match how {
            EndHow::Drop => self.table().begin_end(tsih),
            EndHow::LogoutRequest(_) => self.table().place_of(tsih),
        };
        let Some(place) = place else { return false };
        reactors.poster().post(place.reactor, self.clone().end_at(place, tsih, how));
        true
    }

    /// Has a session end that is at `place`, or wherever it has gone until the message is read.
    fn end_at(self: Arc<Self>, place: Place, tsih: u16, how: EndHow) -> Message {
        Box::new(move |cx: &mut dyn Cx| {
            let now_at = self.table().place_of(tsih);
            match now_at {
                Some(now_at) if now_at == place => {
                    local::message(place, move |connection, cx| connection.unwanted(how, cx), |_| ())(cx);
                }
                // Another connection has taken the session over.
                Some(now_at) => cx.poster().post(now_at.reactor, self.end_at(now_at, tsih, how)),
                None => {}
            }
        })
    }

    pub(crate) fn gatekeeper(&self) -> MutexGuard<'_, Gatekeeper> {
        self.gatekeeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, SessionTable> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_portal(&self, portal: &Arc<Shared>) {
        let mut portals = self.portals.lock().unwrap_or_else(PoisonError::into_inner);
        portals.retain(|portal| portal.strong_count() > 0);
        portals.push(Arc::downgrade(portal));
    }

    /// The portals that there are.
    pub(crate) fn portals(&self) -> Vec<Arc<Shared>> {
        let portals = self.portals.lock().unwrap_or_else(PoisonError::into_inner);
        portals.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether portals are to accept nothing.
    pub(crate) fn is_holding(&self) -> bool {
        self.holding.load(Ordering::Acquire)
    }

    pub(crate) fn set_holding(&self, holding: bool) {
        self.holding.store(holding, Ordering::Release);
    }

    /// Where `target` can be reached, for one who has reached `reached` through the portal `through`: this first.
    pub(crate) fn portals_of(&self, target: &Offer, through: &Shared, reached: SocketAddr) -> Vec<Portal> {
        let mut found = Vec::new();
        let portals = self.portals();
        let (first, others): (Vec<_>, Vec<_>) =
            portals.iter().partition(|portal| std::ptr::eq(&raw const ***portal, through));
        for portal in first.into_iter().chain(others) {
            let group_tag = portal.group_tag;
            if !portal.is_listening() || target.port(group_tag).is_none() {
                continue;
            }
            for address in portal.told(reached) {
                // Without a scope, which means nothing elsewhere.
                let address = SocketAddr::new(address.ip(), address.port());
                let portal = Portal { address, group_tag };
                if !found.contains(&portal) {
                    found.push(portal);
                }
            }
        }
        found
    }

    /// Whether a line may be written to the log that whoever connects causes, as often as he likes.
    pub(crate) fn may_log(&self, cx: &dyn Cx) -> bool {
        self.log.allows("iSCSI", cx.now())
    }
}

/// Has the sessions of a reactor look whether `target` lets them in.
fn reconsider(target: &Arc<Target>) -> impl FnOnce(&mut dyn Cx) + Send + 'static {
    let target = target.clone();
    move |cx| {
        let connections = Local::of(cx).connections();
        connections.iter().for_each(|connection| connection.reconsider(&target, cx));
    }
}

impl fmt::Debug for NetworkEntity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkEntity").field("targets", &self.targets()).finish_non_exhaustive()
    }
}

/// How many connections each reactor has that are normal sessions, or may become one.
#[derive(Default)]
pub(crate) struct Loads(OnceLock<Box<[AtomicUsize]>>);

impl Loads {
    /// There are so many reactors.
    pub(crate) fn spread_over(&self, reactors: u16) {
        self.0.get_or_init(|| (0..reactors).map(|_| AtomicUsize::new(0)).collect());
    }

    /// Adds to the least loaded.
    pub(crate) fn add(&self) -> Option<ReactorId> {
        let loads = self.0.get()?.iter().enumerate();
        let (index, load) = loads.min_by_key(|(_, load)| load.load(Ordering::Relaxed))?;
        load.fetch_add(1, Ordering::Relaxed);
        Some(ReactorId(index as u16))
    }

    pub(crate) fn remove(&self, reactor: ReactorId) {
        if let Some(load) = self.0.get().and_then(|loads| loads.get(usize::from(reactor.0))) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_reactor_is_next() {
        let loads = Loads::default();
        assert_eq!(loads.add(), None);
        loads.spread_over(3);
        let next = || loads.add().unwrap().0;
        assert_eq!([next(), next(), next(), next()], [0, 1, 2, 0]);
        loads.remove(ReactorId(2));
        assert_eq!([next(), next()], [2, 1]);
    }

    #[test]
    fn targets_have_different_names() {
        let entity = NetworkEntity::new(EntityOptions::default());
        let options = |name: &str| TargetOptions { name: name.to_owned(), ..TargetOptions::default() };
        let target = entity.add(options("iqn.2026-11.dev.lunette:a")).unwrap();
        let error = entity.add(options("IQN.2026-11.dev.lunette:A")).unwrap_err();
        assert_eq!(error.to_string(), "there are two targets of the name iqn.2026-11.dev.lunette:a");
        entity.add(options("iqn.2026-11.dev.lunette:b")).unwrap();
        assert_eq!(entity.targets().len(), 2);
        assert!(Arc::ptr_eq(&entity.target("iqn.2026-11.DEV.lunette:a").unwrap(), &target));
        assert!(entity.target("iqn.2026-11.dev.lunette:c").is_none());
    }
}
