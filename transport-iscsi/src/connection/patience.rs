//! How long an initiator may take: to log in, to finish a PDU, to send the data of its commands, to take its answers, to
//! give a sign of life.

use super::full_feature::{Env, FullFeature};
use super::{Connection, Phase, State};
use crate::error::End;
use crate::limits::LEAST_PROGRESS;
use crate::slots::Stage;
use lunette_iscsi::target::SessionType;
use lunette_store::Cx;
use std::time::Duration;

/// What an initiator was seen to owe, and since when. It is looked at now and then, not with each command.
#[derive(Default)]
pub(super) struct Patience {
    /// The PDU of which a part has come, and the bytes received since the beginning that have to become so many.
    pdu: Option<Debt<(u32, u64)>>,
    data: Option<Debt<Lack>>,
    /// The bytes sent since the beginning that have to become so many.
    answers: Option<Debt<u64>>,
}

/// What the marked commands lacked.
struct Lack {
    bytes: u64,
    /// They are asked for when so many bytes have been sent since the beginning.
    asked_at: u64,
}

/// The initiator is asked for a sign of life.
pub(super) struct Ping {
    since: Duration,
    /// When so many bytes have been sent since the beginning.
    asked_at: u64,
}

impl Ping {
    /// For how long the initiator knows of it. As long as it is behind other answers, those have to be taken in time.
    fn age(&mut self, sent: u64, now: Duration) -> Duration {
        if sent < self.asked_at {
            self.since = now;
        }
        now.saturating_sub(self.since)
    }
}

struct Debt<T> {
    since: Duration,
    of: T,
}

impl<T> Debt<T> {
    const fn new(since: Duration, of: T) -> Self {
        Self { since, of }
    }
}

/// What is looked at.
struct Seen {
    now: Duration,
    /// How long something may be owed.
    limit: Duration,
}

impl Seen {
    fn is_overdue<T>(&self, debt: &Debt<T>) -> bool {
        self.now.saturating_sub(debt.since) >= self.limit
    }
}

/// The commands that wait for the initiator, of those that were marked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    /// Bytes of data-out that they lack.
    lack: u64,
    /// Some wait for commands before them.
    held: bool,
    /// Some wait for buffers.
    hungry: bool,
}

impl Patience {
    fn is_tested(&self) -> bool {
        self.pdu.is_some() || self.data.is_some() || self.answers.is_some()
    }

    /// Whether too little has come of the PDU that has not come whole, if there is one. A long one may take long.
    fn pdu_is_late(&mut self, unfinished: Option<u32>, received: u64, seen: &Seen) -> bool {
        let is_owed = |&(number, goal): &(u32, u64)| unfinished == Some(number) && received < goal;
        let same = self.pdu.take().filter(|debt| is_owed(&debt.of));
        let goal = received + LEAST_PROGRESS;
        self.pdu = same.or_else(|| unfinished.map(|number| Debt::new(seen.now, (number, goal))));
        self.pdu.as_ref().is_some_and(|debt| seen.is_overdue(debt))
    }

    /// Whether of `queued` bytes that were to be sent too few are.
    fn answers_are_late(&mut self, sent: u64, queued: usize, seen: &Seen) -> bool {
        let goal = sent + LEAST_PROGRESS.min(queued as u64);
        let same = self.answers.take().filter(|debt| sent < debt.of);
        self.answers = same.or_else(|| (queued > 0).then(|| Debt::new(seen.now, goal)));
        self.answers.as_ref().is_some_and(|debt| seen.is_overdue(debt))
    }

    /// Judges what the marked commands lack. True: it is time to mark anew.
    fn judge_data(&mut self, waiting: Option<Waiting>, sent: u64, seen: &Seen) -> Result<bool, End> {
        if let Some(debt) = &mut self.data
            && sent < debt.of.asked_at
        {
            debt.since = seen.now;
        }
        match (&self.data, waiting) {
            (Some(debt), Some(_)) if !seen.is_overdue(debt) => Ok(false),
            (Some(_), Some(Waiting { held: true, .. })) => Err(End::Gap),
            (Some(debt), Some(Waiting { lack, .. }))
                if lack > 0 && debt.of.bytes.saturating_sub(lack) < LEAST_PROGRESS =>
            {
                Err(End::NoData)
            }
            _ => Ok(true),
        }
    }
}

impl FullFeature {
    /// Marks the commands that wait for the initiator, or for buffers. Returns how many bytes they lack; `None`: none waits.
    fn mark_waiting(&mut self) -> Option<u64> {
        self.relieved = false;
        for slot in self.slots.iter_mut() {
            slot.marked = slot.stage.takes_data();
        }
        Some(self.waiting()?.lack)
    }

    /// Those of the marked commands that still wait.
    fn waiting(&self) -> Option<Waiting> {
        let waiting = self.slots.iter().filter(|(_, slot)| slot.marked && slot.stage.takes_data());
        waiting.fold(None, |sum, (_, slot)| {
            let Waiting { lack, held, hungry } = sum.unwrap_or_default();
            Some(Waiting {
                lack: lack + u64::from(self.session.data_left(slot.request.task)),
                held: held || slot.stage == Stage::Held,
                hungry: hungry || slot.stage == Stage::Hungry,
            })
        })
    }

    /// Answers BUSY to marked commands that wait for buffers if none of the session's have come back since: who has them may be
    /// stuck, and what the waiting ones have may be what others wait for.
    fn turn_back_hungry(&mut self, env: &mut Env<'_>) {
        if self.relieved {
            return;
        }
        let hungry = self.slots.iter().filter(|(_, slot)| slot.marked && slot.stage == Stage::Hungry);
        let ids: Vec<_> = hungry.map(|(id, _)| id).collect();
        for id in ids {
            self.abandon(id, env.cx);
            self.busy(id, env);
        }
        env.local.feed_hungry(env.cx);
    }
}

impl Connection {
    /// Asks for a sign of life, or gives up.
    pub(super) fn tick(&self, state: &mut State, cx: &mut dyn Cx) {
        // What has come is not missed even if nobody told of it.
        self.receive(state, cx);
        if state.socket.is_none() {
            return;
        }
        let next = match state.phase {
            // Nothing is received, so nobody is late.
            Phase::FullFeature(_) if state.is_still() => Ok(self.portal.entity.options().idle_time),
            Phase::FullFeature(_) if !state.waiting => self.try_patience(state, cx),
            Phase::FullFeature(_) => self.login_time_left(state, cx).ok_or(End::Blocked),
            Phase::Login(..) => self.wait_for_login(state, cx),
        };
        match next {
            Ok(next) => self.tick_after(next, cx),
            Err(why) => self.end(state, &why, cx),
        }
    }

    /// How long until it is to be looked at again.
    fn wait_for_login(&self, state: &State, cx: &dyn Cx) -> Result<Duration, End> {
        let left = self.login_time_left(state, cx);
        if left.is_none() && self.portal.entity.may_log(cx) {
            tracing::info!(address = %self.peer, "iSCSI login took too long");
        }
        left.ok_or(End::SlowLogin)
    }

    fn login_time_left(&self, state: &State, cx: &dyn Cx) -> Option<Duration> {
        let taken = cx.now().saturating_sub(state.started);
        let left = self.portal.entity.options().login_time.saturating_sub(taken);
        (!left.is_zero()).then_some(left)
    }

    fn try_patience(&self, state: &mut State, cx: &mut dyn Cx) -> Result<Duration, End> {
        let options = self.portal.entity.options();
        let seen = Seen { now: cx.now(), limit: options.silence_time };
        let State { phase: Phase::FullFeature(full), out, patience, .. } = state else {
            return Ok(options.idle_time);
        };
        if patience.answers_are_late(state.sent, out.len(), &seen) {
            return Err(End::SlowReader);
        }
        if state.paused {
            // Nothing is received, so nothing that comes can be late.
            (patience.pdu, patience.data) = (None, None);
            return self.ask_for_life(state, cx).map(|next| next.min(seen.limit));
        }
        if patience.pdu_is_late(full.machine.unfinished(), state.received, &seen) {
            return Err(End::SlowPdu);
        }
        let waiting = full.waiting().filter(|_| patience.data.is_some());
        if patience.judge_data(waiting, state.sent, &seen)? {
            if waiting.is_some_and(|waiting| waiting.hungry) {
                full.turn_back_hungry(&mut self.env(out, cx));
            }
            let asked_at = state.sent + out.len() as u64;
            let lack = full.mark_waiting();
            patience.data = lack.map(|bytes| Debt::new(seen.now, Lack { bytes, asked_at }));
        }
        let next = self.ask_for_life(state, cx)?;
        Ok(if state.patience.is_tested() { next.min(seen.limit) } else { next })
    }

    fn ask_for_life(&self, state: &mut State, cx: &dyn Cx) -> Result<Duration, End> {
        let options = self.portal.entity.options();
        let now = cx.now();
        let silent = now.saturating_sub(state.heard);
        match state.pinged.as_mut().map(|ping| ping.age(state.sent, now)) {
            Some(asked) if asked >= options.silence_time => Err(End::Silent),
            Some(asked) => Ok(options.idle_time.min(options.silence_time - asked)),
            None if silent >= options.idle_time => {
                state.shrink();
                if let State { phase: Phase::FullFeature(full), out, closing: None, .. } = state
                    && full.session.info().session_type == SessionType::Normal
                {
                    full.machine.ping(&full.session, 0, out);
                }
                state.pinged = Some(Ping { since: now, asked_at: state.sent + state.out.len() as u64 });
                Ok(options.idle_time.min(options.silence_time))
            }
            None => Ok(options.idle_time - silent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 30;

    fn at(seconds: u64) -> Seen {
        Seen { now: Duration::from_secs(seconds), limit: Duration::from_secs(LIMIT) }
    }

    #[test]
    fn a_pdu_has_its_time_and_the_next_one_has_its_own() {
        let mut patience = Patience::default();
        assert!(!patience.pdu_is_late(None, 0, &at(0)) && !patience.is_tested());
        assert!(!patience.pdu_is_late(Some(7), 100, &at(100)) && patience.is_tested());
        assert!(!patience.pdu_is_late(Some(7), 101, &at(129)));
        assert!(!patience.pdu_is_late(Some(8), 102, &at(131)));
        assert!(!patience.pdu_is_late(Some(8), 103, &at(160)));
        assert!(patience.pdu_is_late(Some(8), 104, &at(161)));
        assert!(!patience.pdu_is_late(None, 104, &at(162)) && !patience.is_tested());
    }

    #[test]
    fn a_long_pdu_comes_at_a_least_rate() {
        let mut patience = Patience::default();
        assert!(!patience.pdu_is_late(Some(7), 50, &at(0)));
        assert!(!patience.pdu_is_late(Some(7), 50 + LEAST_PROGRESS, &at(31)), "enough, and then again");
        assert!(!patience.pdu_is_late(Some(7), 49 + 2 * LEAST_PROGRESS, &at(60)));
        assert!(patience.pdu_is_late(Some(7), 49 + 2 * LEAST_PROGRESS, &at(61)), "a byte too few");
    }

    #[test]
    fn answers_are_taken_at_a_least_rate() {
        let mut patience = Patience::default();
        let much = 10 * LEAST_PROGRESS as usize;
        assert!(!patience.answers_are_late(50, much, &at(0)));
        assert!(!patience.answers_are_late(50 + LEAST_PROGRESS, much, &at(31)), "enough, and then again");
        assert!(!patience.answers_are_late(49 + 2 * LEAST_PROGRESS, much, &at(60)));
        assert!(patience.answers_are_late(49 + 2 * LEAST_PROGRESS, much, &at(61)), "a byte too few");
        let mut patience = Patience::default();
        assert!(!patience.answers_are_late(0, 10, &at(0)));
        assert!(!patience.answers_are_late(10, 10, &at(31)), "what there was is sent");
        assert!(!patience.answers_are_late(20, 0, &at(62)) && !patience.is_tested());
    }

    fn owing(bytes: u64, asked_at: u64) -> Patience {
        let debt = Debt::new(Duration::ZERO, Lack { bytes, asked_at });
        Patience { data: Some(debt), ..Patience::default() }
    }

    fn lacking(lack: u64) -> Option<Waiting> {
        Some(Waiting { lack, ..Waiting::default() })
    }

    #[test]
    fn data_comes_at_a_least_rate() {
        let judge = |mut patience: Patience, waiting, seconds| patience.judge_data(waiting, 0, &at(seconds));
        assert!(matches!(judge(Patience::default(), lacking(10), 9), Ok(true)), "nothing is marked");
        assert!(matches!(judge(owing(10, 0), None, 9), Ok(true)), "all has come");
        assert!(matches!(judge(owing(10, 0), lacking(10), 29), Ok(false)));
        assert!(matches!(judge(owing(10, 0), lacking(1), 30), Err(End::NoData)));
        let enough = 5 * LEAST_PROGRESS;
        assert!(matches!(judge(owing(enough, 0), lacking(4 * LEAST_PROGRESS), 30), Ok(true)));
        assert!(matches!(judge(owing(enough, 0), lacking(4 * LEAST_PROGRESS + 1), 30), Err(End::NoData)));
        let held = Waiting { lack: 0, held: true, hungry: false };
        assert!(matches!(judge(owing(0, 0), Some(held), 30), Err(End::Gap)));
        let hungry = Waiting { lack: 0, held: false, hungry: true };
        assert!(matches!(judge(owing(0, 0), Some(hungry), 30), Ok(true)), "not the initiator's fault");
    }

    #[test]
    fn nobody_is_late_with_what_was_not_asked_for_yet() {
        let mut patience = owing(10, 1000);
        assert!(matches!(patience.judge_data(lacking(10), 999, &at(100)), Ok(false)));
        assert!(matches!(patience.judge_data(lacking(10), 1000, &at(129)), Ok(false)));
        assert!(matches!(patience.judge_data(lacking(10), 1000, &at(130)), Err(End::NoData)));
        let mut ping = Ping { since: Duration::ZERO, asked_at: 1000 };
        assert_eq!(ping.age(999, Duration::from_secs(100)), Duration::ZERO);
        assert_eq!(ping.age(1000, Duration::from_secs(130)), Duration::from_secs(30));
    }
}
