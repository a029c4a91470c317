//! The watchdog of the service manager: it is told that the daemon is alive only as long as every reactor answers. The thread
//! that serves the control socket asks them and tells it, so that also this one must go on. What a reactor does that does not
//! answer is logged.

use crate::control::events::{ANSWERS, SILENT};
use crate::manager;
use anyhow::{Context, Result};
use lunette_control::Events;
use lunette_reactor::Reactors;
use lunette_store::{Cx, Post, ReactorId};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde_json::json;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the reactors are asked within the time after which the manager takes the daemon for dead. A reactor has the time
/// from one question to the next to answer.
const QUESTIONS: u32 = 4;

/// How long a thread has to say where it is: the control socket waits meanwhile.
const ANSWER: Duration = Duration::from_millis(100);

pub(crate) struct Watchdog {
    timer: OwnedFd,
    rounds: Rounds,
}

impl Watchdog {
    /// For the time that the service manager gives; `None` if it does not watch.
    pub(crate) fn start(reactors: &'static Reactors, events: &Events) -> Result<Option<Self>> {
        let Some(time) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else {
            return Ok(None);
        };
        let timer = every(time / QUESTIONS).context("cannot make the timer of the watchdog")?;
        tracing::info!(seconds = time.as_secs_f64(), "the service manager watches over the daemon");
        let events = events.clone();
        let observer = Box::new(move |silent: &[u16]| match silent {
            [] => events.emit(ANSWERS, "", json!({})),
            silent => {
                events.emit(SILENT, "", json!({ "reactors": silent }));
                silent.iter().for_each(|reactor| tell_whereabouts(reactors, *reactor));
            }
        });
        Ok(Some(Self { timer, rounds: Rounds::new(reactors.poster(), reactors.count(), observer) }))
    }

    /// Tells the manager that the daemon is alive, if it is time for that and all reactors have answered.
    pub(crate) fn turn(&mut self) {
        let mut times = [0; 8];
        if rustix::io::read(&self.timer, &mut times).is_ok() && self.rounds.next() {
            manager::alive();
        }
    }
}

/// Logs what a reactor does that does not answer.
fn tell_whereabouts(reactors: &Reactors, reactor: u16) {
    let whereabouts = reactors.whereabouts(ReactorId(reactor), ANSWER);
    tracing::error!(reactor, "where it is: {whereabouts}");
}

/// Becomes readable when it is time for a [turn](Watchdog::turn).
impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

fn every(period: Duration) -> Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let period = Timespec::try_from(period.max(Duration::from_millis(1)))?;
    let spec = Itimerspec { it_interval: period, it_value: period };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
    Ok(timer)
}

/// Is told which reactors do not answer, and of none when all do again.
type Observer = Box<dyn Fn(&[u16])>;

/// Questions to all reactors, one after the other.
struct Rounds {
    post: Arc<dyn Post>,
    /// For each reactor whether it was asked and has not answered.
    silent: Arc<[AtomicBool]>,
    was_alive: bool,
    observer: Observer,
}

impl Rounds {
    fn new(post: Arc<dyn Post>, reactors: u16, observer: Observer) -> Self {
        let silent = (0..reactors).map(|_| AtomicBool::new(false)).collect();
        Self { post, silent, was_alive: true, observer }
    }

    /// Returns whether all have answered, and asks those again.
    fn next(&mut self) -> bool {
        let mut silent = Vec::new();
        for (reactor, is_silent) in (0..).zip(self.silent.iter()) {
            match is_silent.swap(true, Ordering::AcqRel) {
                // One question more would change nothing.
                true => silent.push(reactor),
                false => self.ask(reactor),
            }
        }
        let is_alive = silent.is_empty();
        match (self.was_alive, is_alive) {
            (true, false) => {
                tracing::error!(reactors = ?silent, "no answer: the service manager is not told of life");
                (self.observer)(&silent);
            }
            (false, true) => {
                tracing::warn!("all reactors answer again");
                (self.observer)(&[]);
            }
            _ => {}
        }
        self.was_alive = is_alive;
        is_alive
    }

    fn ask(&self, reactor: u16) {
        let silent = self.silent.clone();
        let answer = move |_: &mut dyn Cx| {
            if let Some(silent) = silent.get(usize::from(reactor)) {
                silent.store(false, Ordering::Release);
            }
        };
        self.post.post(ReactorId(reactor), Box::new(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_reactor::{Options, Poll};
    use rustix::event::{PollFd, PollFlags};
    use std::sync::mpsc::channel;

    #[test]
    fn a_reactor_that_hangs_ends_the_signs_of_life_until_it_goes_on() {
        let options = Options { reactors: 2, poll: Poll::Never, ..Options::default() };
        let reactors = Reactors::start(&options).unwrap();
        let (tell, told) = channel();
        let observer = Box::new(move |silent: &[u16]| tell.send(silent.to_vec()).unwrap());
        let mut rounds = Rounds::new(reactors.poster(), 2, observer);
        let answered = |reactor| assert!(reactors.call(ReactorId(reactor), |_| ()).is_some());
        for _ in 0..3 {
            assert!(rounds.next());
            (0..2).for_each(answered);
        }
        let (release, wait) = channel::<()>();
        reactors.poster().post(ReactorId(1), Box::new(move |_| wait.recv().unwrap_or_default()));
        assert!(rounds.next(), "it hangs since the last answer");
        for _ in 0..3 {
            answered(0);
            assert!(!rounds.next());
        }
        drop(release);
        (0..2).for_each(answered);
        assert!(rounds.next());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [vec![1], vec![]], "once each");
    }

    #[test]
    fn names_are_found_where_files_are_confined() {
        use lunette_confine::files::{Places, Use, confine};
        let confined = std::thread::spawn(|| {
            let program = std::env::current_exe().unwrap();
            let files = vec![(program, Use::Read), ("/proc".into(), Use::Read)];
            // Without landlock there is nothing to try.
            if confine(&Places { files, abstract_sockets: false }).is_ok() {
                let here = names_are_found_where_files_are_confined as fn() as usize + 1;
                let told = lunette_reactor::Whereabouts::Stack(vec![here]).to_string();
                assert!(told.contains("names_are_found_where_files_are_confined"), "{told}");
            }
        });
        confined.join().unwrap();
    }

    #[test]
    fn the_timer_comes_again_and_again() {
        let timer = every(Duration::ZERO).unwrap();
        for _ in 0..2 {
            let mut sources = [PollFd::new(&timer, PollFlags::IN)];
            rustix::event::poll(&mut sources, None).unwrap();
            assert_eq!(rustix::io::read(&timer, &mut [0; 8]).unwrap(), 8);
        }
    }
}
