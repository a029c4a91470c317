//! `lunette serve`: opens the units, starts the reactors and the exports, and stops them again in order.

use crate::cli::{CONTROL_SOCKET, Serve};
use crate::config;
use crate::config::origin::Origin;
use crate::confinement;
use crate::control::{self, ControlAccess, ControlSocket, Daemon, Plane};
use crate::handover::{Heir, Recorder};
use crate::inherited::Inherited;
use crate::iscsi::Plan;
use crate::log::Log;
use crate::manager;
use crate::metrics::Endpoint;
use crate::reasons;
use crate::running::{Basis, Keeper, Running};
use crate::signals::StopSignals;
use crate::state::StateDir;
use crate::stop::{self, Deadline};
use crate::summary;
use crate::units;
use crate::watchdog::Watchdog;
use anyhow::{Result, anyhow};
use lunette_control::{Failure, Feed, Ticket};
use lunette_reactor::{Options as ReactorOptions, Reactors, answer_where, settle_threads};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long what was asked for by the control socket has to end.
const CONTROL_TIME: Duration = Duration::from_secs(2);

/// Descriptors that are needed for other things than connections, at least.
const OTHER_DESCRIPTORS: u64 = 64;

/// Runs the daemon until it is told to stop, or until the last virtual machine of those that were handed over has gone.
pub(crate) fn serve(options: &Serve, log: &Log) -> Result<()> {
    // SAFETY: the program has done nothing but parse its command line.
    let mut inherited = unsafe { Inherited::take(&options.fds) }?;
    let descriptors = allow_descriptors();
    let origin = Origin::new(options, &inherited)?;
    if let Some(file) = origin.described() {
        tracing::info!("the configuration is {file}");
    }
    let (model, seen) = origin.read()?;
    origin.see(seen);
    if model.daemon.save_changes {
        origin.file().map_err(|why| anyhow!("`save-changes` cannot be: {why}"))?;
    }
    model.daemon.log_level.into_iter().for_each(|level| log.set_level(level));
    let plan = Plan::new(&model)?;
    let state_dir = StateDir::place(model.daemon.state_dir.as_ref().map(|path| path.as_path()));
    // SAFETY: nobody has started a thread so far.
    unsafe { confinement::become_user(options, &origin.files(), &model, &state_dir) }?;
    if let Err(error) = Plan::new(&model) {
        tracing::warn!("a secret stays what it is now, as the daemon's user cannot read it: {error:#}");
    }
    let state = StateDir::open(&state_dir)?;
    if let Some(most) =
        descriptors.filter(|most| *most < plan.options.logins.connections as u64 + OTHER_DESCRIPTORS)
    {
        tracing::warn!(
            "there may be {most} open descriptors: too few for as many iSCSI connections as are allowed"
        );
    }
    let exports_time = stop::exports_time(plan.options.stop_time);
    let units = units::open(model.units.values(), &state, &mut inherited.handed)?;
    let access = ControlAccess::of(&model.daemon)?;
    // To give it to its group may take a right that is given up then.
    let control = open_control(inherited.control.take(), &model.daemon, &access, &state)?;
    if let Err(error) = answer_where() {
        tracing::warn!(%error, "reactors that do not answer will not tell where they are");
    }
    confinement::begin(options, &origin, &model, &state)?;
    if model.daemon.save_changes
        && let Err(why) = origin.try_to_write(&model)
    {
        tracing::error!("`save-changes` will refuse every change: {}", reasons(&why));
    }
    let reactors = Reactors::start(&ReactorOptions {
        reactors: model.daemon.reactors.unwrap_or_default(),
        poll: model.daemon.poll.unwrap_or_default().into(),
        io: model.daemon.io.unwrap_or_default().into(),
        ..ReactorOptions::default()
    })?;
    settle_threads();
    lunette_transport_vhost_user::prepare(reactors.count());
    // They end with the process: to stop them waits for everything that is under way, and so for what never ends.
    let reactors: &'static Reactors = Box::leak(Box::new(reactors));
    let version = env!("CARGO_PKG_VERSION");
    say(&format!("lunette {version}: {} on {}\n", threads(reactors), reactors.backend()));
    say(&summary::units(&units));
    say(&summary::standby(&model));
    // Until now there is nothing to end gently: a signal ends the program, also one that waits for a lock.
    let signals = StopSignals::catch()?;
    let metrics = model.daemon.metrics.as_ref().map(|place| Endpoint::open(place.as_str())).transpose()?;
    let feed = Feed::new(SystemTime::now, state.generation())?;
    let events = feed.events();
    control::events::watch_units(&units, &events);
    let (all_ended, heir) = (Box::new(signals.waker()), Heir::new(signals.waker()));
    let (given, by_option) = (std::mem::take(&mut inherited.given), inherited.by_option);
    let keeper = Some(Keeper::new(origin, model.clone()));
    // Until now nothing is lost if this cannot start.
    let recorder = inherited.handed.settle().map(Recorder::start);
    let basis = Basis { reactors, state, events: events.clone(), keeper, all_ended, recorder };
    let running = Running::start(model, plan, units, inherited, basis)?;
    running.recorder.iter().for_each(|recorder| recorder.settle());
    // Those that were interrupted are not ready yet, and live where their exports want them by now.
    running.units().values().for_each(|unit| unit.unit.resume(&*reactors.poster()));
    say(&running.summary());
    metrics.iter().for_each(|metrics| say(&metrics.summary()));
    say("ready\n");
    manager::ready(&running.status());
    let mut watchdog = Watchdog::start(reactors, &events)?;
    let mut daemon = Daemon::new(running, events.clone(), heir);
    daemon.invocation.by_option = by_option;
    let plane = control::plane(daemon, &feed);
    let served = plane.clone();
    let metrics_file = metrics.and_then(|metrics| metrics.serve(move || served.daemon().stats(None)));
    let (mut server, control_file) = control::server(control, &access, plane.clone(), feed)?;
    confinement::settle();
    let why = signals.wait(&mut server, watchdog.as_mut(), || reload(&plane));
    let mut heir = plane.daemon().heir.take();
    let has_store = plane.daemon().running.recorder.is_some();
    let hands_over = heir.is_some() || why == Some("SIGTERM") && has_store;
    let deadline = Deadline::after(stop::whole(exports_time, hands_over));
    match (why, &heir) {
        (Some(signal), _) => tracing::info!("{signal}: stopping; another one ends the program at once"),
        (None, Some(_)) => tracing::info!("another program takes over: stopping"),
        (None, None) => tracing::info!("the last virtual machine has gone: stopping"),
    }
    let why = match &heir {
        Some(_) => "another program takes over",
        None => why.unwrap_or("the last virtual machine has gone"),
    };
    manager::stopping();
    if !plane.daemon().running.is_saved() {
        tracing::warn!(
            "what was changed while the daemon ran is not saved, and will not be there after the next start"
        );
    }
    events.emit(control::events::STOPPING, "", json!({ "why": why }));
    if !plane.stop(CONTROL_TIME) {
        tracing::warn!("what was asked for by the control socket has not ended within {CONTROL_TIME:?}");
    }
    // The last answers and events.
    server.turn();
    drop((server, control_file, metrics_file));
    let running = &plane.daemon().running;
    let mut books = running.recorder.as_ref().and_then(|recorder| recorder.end());
    let custodian = match (&mut heir, &mut books) {
        (Some(heir), _) => Some((heir, 0)),
        (None, Some(books)) if why == "SIGTERM" => Some(books.custodian()),
        _ => None,
    };
    let handed =
        custodian.map(|custodian| stop::hand_over(running, &given, custodian, exports_time, deadline));
    // Not before: whoever is killed while it hands over has not ended anything.
    books.into_iter().for_each(|books| books.clear(deadline.within(stop::GIVE)));
    match handed {
        Some(Ok(())) => return Ok(()),
        Some(Err(error)) => tracing::error!("nothing is handed over, everything is ended: {error:#}"),
        None => {}
    }
    stop::stop(running, exports_time, deadline)
}

/// Applies the files again from which the daemon was started. What is wrong with them is logged, and nothing changes then, as
/// far as that can be.
fn reload(plane: &Arc<Plane>) {
    manager::reloading();
    let (after, wait) = (plane.clone(), Map::from_iter([("wait".to_owned(), true.into())]));
    let ended = Ticket::new(move |result| {
        match result {
            Ok(done) => tracing::info!("the configuration was applied: {}", one_line(&done)),
            Err(failure) if failure.code == Failure::PARTLY => {
                tracing::error!(
                    "the configuration is not applied, and not everything is as it was: {failure}"
                )
            }
            Err(failure) => {
                tracing::error!("the configuration is not applied, nothing has changed: {failure}")
            }
        }
        manager::ready(&after.daemon().running.status());
    });
    plane.call_own("config.reload", wait, ended);
}

/// What was done, for the log.
fn one_line(done: &Value) -> String {
    let text = done["text"].as_str().unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Raises the soft limit of open descriptors, which is meant for programs that use `select`, to the hard one.
/// Returns how many there may be, unless that is unlimited.
pub(crate) fn allow_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open descriptors");
            limit.current
        }
    }
}

/// Tells people; whether they still listen is not our concern.
fn say(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn threads(reactors: &Reactors) -> String {
    match reactors.count() {
        1 => "1 reactor".into(),
        count => format!("{count} reactors"),
    }
}

/// The control socket: the one that was `given`, or one of our own. Daemons may share a state directory, so where it is not asked for, there may be none.
fn open_control(
    given: Option<UnixListener>,
    daemon: &config::Daemon,
    access: &ControlAccess,
    state: &StateDir,
) -> Result<Option<ControlSocket>> {
    if let Some(listener) = given {
        return ControlSocket::adopt(listener).map(Some);
    }
    match &daemon.control {
        Some(path) => Ok(Some(ControlSocket::open(path.as_path(), access)?)),
        None => match ControlSocket::open(&state.path().join(CONTROL_SOCKET), access) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) => {
                tracing::warn!(
                    "no control socket, so the daemon cannot be controlled: {error}; see --control"
                );
                Ok(None)
            }
        },
    }
}
