//! What the service manager is told, if there is one (sd_notify(3)).

use sd_notify::NotifyState;

/// Everything is served. `status` says what, for people.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again; [`ready`] says that this is over. A manager that has sent the signal for it waits for both.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("applying the configuration")]),
        Err(error) => tracing::warn!(%error, "cannot read the clock for the service manager"),
    }
}

/// No more commands are taken, those under way end.
pub(crate) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: commands under way end, then all is flushed"),
    ]);
}

/// Everything answers.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
