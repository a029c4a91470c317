//! `lunette serve`: opens the units, starts the reactors and the exports, and stops them again in order.

use crate::cli::Serve;
use crate::exports::{Exports, Places};
use crate::inherited::Inherited;
use crate::signals::StopSignals;
use crate::socket::SocketSpec;
use crate::state::StateDir;
use crate::units::{self, Unit, Units};
use crate::{summary, units::default_spec};
use anyhow::{Context, Result};
use lunette_engine::LogicalUnit;
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_store::{Cx, IoId, IoResult, Op, ReactorId, Sink, Store, Submit};
use lunette_transport_vhost_user::Endpoint;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;

/// The iSCSI address when none is given.
const DEFAULT_ISCSI: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3260);

/// Runs the daemon until it is told to stop, or until the last virtual machine of those that were handed over has gone.
pub(crate) fn serve(options: &Serve) -> Result<()> {
    // SAFETY: the program has done nothing but parse its command line.
    let inherited = unsafe { Inherited::take(&options.fds) }?;
    allow_descriptors();
    let state = StateDir::open(options.state_dir.as_deref().unwrap_or(&StateDir::default_path()))?;
    let specs = if options.units.is_empty() { &[default_spec(&state)][..] } else { &options.units };
    let units = units::open(specs, &state)?;
    let reactors = Reactors::start(&ReactorOptions {
        reactors: options.reactors,
        poll: options.poll.into(),
        io: options.io.into(),
        ..ReactorOptions::default()
    })?;
    let version = env!("CARGO_PKG_VERSION");
    say(&format!("lunette {version}: {} on {}\n", threads(&reactors), reactors.backend()));
    say(&summary::units(&units));
    // Until now there is nothing to end gently: a signal ends the program, also one that waits for a lock.
    let signals = StopSignals::catch()?;
    units.values().for_each(|unit| unit.unit.resume(&*reactors.poster()));
    let places = places(options, inherited, &state);
    let exports = Exports::start(places, &units, &state, &reactors, signals.waker())?;
    // Those that were interrupted are not ready yet, and live where their exports want them by now.
    units.values().for_each(|unit| unit.unit.resume(&*reactors.poster()));
    say(&exports.summary());
    say("ready\n");
    tell_manager(NotifyState::Ready);
    match signals.wait() {
        Some(signal) => tracing::info!("{signal}: stopping; another one ends the program at once"),
        None => tracing::info!("the last virtual machine has gone: stopping"),
    }
    tell_manager(NotifyState::Stopping);
    exports.stop(&reactors);
    let flushed = flush(&units, &reactors);
    reactors.stop();
    flushed
}

/// Raises the soft limit of open descriptors, which is meant for programs that use `select`, to the hard one.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// Tells people; whether they still listen is not our concern.
fn say(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Tells the service manager, if there is one (sd_notify(3)).
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

fn threads(reactors: &Reactors) -> String {
    match reactors.count() {
        1 => "1 reactor".into(),
        count => format!("{count} reactors"),
    }
}

fn places(options: &Serve, inherited: Inherited, state: &StateDir) -> Places {
    let sockets = options.vhost_user.iter().cloned();
    let plain = options.socket_paths.iter().cloned().map(SocketSpec::new);
    let mut places = Places {
        target: options.target.clone(),
        iscsi: options.iscsi.clone(),
        iscsi_sockets: inherited.iscsi,
        vhost_user: sockets.chain(plain).map(Endpoint::from).chain(inherited.vhost_user).collect(),
        pin_memory: options.pin_memory,
    };
    if places.count() == 0 {
        if !options.is_back_end {
            places.iscsi.push(DEFAULT_ISCSI);
        }
        places.vhost_user.push(Endpoint::at(state.path().join("vhost-user.sock")));
    }
    places
}

/// Flushes every writable unit; the first that cannot be flushed is reported.
fn flush(units: &Units, reactors: &Reactors) -> Result<()> {
    let mut first = Ok(());
    for (address, Unit { unit, .. }) in units {
        let result =
            flush_unit(unit, reactors).with_context(|| format!("cannot flush {address} ({})", unit.name));
        if let Err(error) = &result {
            tracing::error!("{error:#}");
        }
        first = first.and(result);
    }
    first
}

fn flush_unit(unit: &LogicalUnit, reactors: &Reactors) -> Result<()> {
    let Some(backing) = unit.backing().filter(|backing| !backing.caps().read_only).cloned() else {
        return Ok(());
    };
    let (tell, told) = mpsc::channel();
    reactors.call(ReactorId(0), move |cx| {
        let store = backing.attach(cx);
        let flush = Rc::new(Flush { tell, _store: store.clone(), sink: Cell::new(None) });
        let sink = cx.register(flush.clone());
        flush.sink.set(Some(sink));
        let id = IoId { sink, token: 0 };
        match store.submit(Op::Flush, id, cx) {
            Submit::Queued => {}
            done => cx.complete(id, done.done().unwrap_or(Ok(0))),
        }
    });
    told.recv().context("the reactor has ended")??;
    Ok(())
}

/// Waits for one flush.
struct Flush {
    tell: mpsc::Sender<IoResult>,
    /// Kept until its operation has completed.
    _store: Rc<dyn Store>,
    sink: Cell<Option<lunette_store::SinkId>>,
}

impl Sink for Flush {
    fn complete(&self, _: u64, result: IoResult, cx: &mut dyn Cx) {
        let _ = self.tell.send(result);
        if let Some(sink) = self.sink.take() {
            cx.unregister(sink);
        }
    }
}
