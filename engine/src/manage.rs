//! Task management functions (SAM-5 7): what they select, what they do, when they are answered.
//!
//! The reactor that received the function tells every reactor that may hold such tasks. Each marks them as aborted and
//! acknowledges when the last of them has ended; the function is answered when all have acknowledged.

use crate::checks::decode_again;
use crate::engine::{Engine, Token};
use crate::jobs::{Asker, JobId, Over, Until};
use crate::outcome::Aborted;
use crate::running::Running;
use crate::session::{Management, Session};
use crate::tasks::{Abort, Phase, Task, TaskId};
use crate::{LogicalUnit, Nexus, NexusId};
use lunette_scsi::{AdditionalSense, SenseKey, ServiceResponse, TaskAttribute, TaskManagementFunction};
use lunette_store::{Cx, IoError, IoId, ReactorId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which tasks a function is about; `None` means all.
#[derive(Clone, Default)]
struct Selector {
    units: Option<Units>,
    nexuses: Option<Arc<[NexusId]>>,
    tag: Option<u64>,
    /// Only those with the ACA task attribute.
    of_allegiance: bool,
    /// Units whose tasks end with TASK ABORTED if another nexus aborts them: those that did so before a reset.
    told: Units,
    /// Not this one, which is on the reactor that asks.
    except: Option<(ReactorId, TaskId)>,
    /// The nexus that is reset: what its commands have begun in the time until now ends here too.
    reset: Option<Arc<Nexus>>,
}

/// Numbers of logical units, ascending: a target may have thousands, and a reactor thousands of tasks.
#[derive(Clone, Default)]
pub(crate) struct Units(Arc<[u64]>);

impl Units {
    fn of(units: &[&Arc<LogicalUnit>], wanted: impl Fn(&LogicalUnit) -> bool) -> Self {
        let mut numbers: Vec<_> =
            units.iter().filter(|unit| wanted(unit)).map(|unit| unit.number()).collect();
        numbers.sort_unstable();
        Self(numbers.into())
    }

    pub(crate) fn contain(&self, unit: u64) -> bool {
        self.0.binary_search(&unit).is_ok()
    }
}

/// What a function does with the tasks.
#[derive(Clone, Copy)]
enum Action {
    /// Only says whether there are any.
    Query,
    /// Waits until those that are being processed have ended; `anew`: and decodes again those that are not yet.
    Await { anew: bool },
    /// The same for who is no command of the unit, and need not fear that one of them waits for it.
    AwaitBegun { anew: bool },
    /// The same for reads and writes that have not taken their ranges.
    AwaitTransfers,
    /// Aborts them. `requester` is the nexus that the function came by.
    Abort { requester: NexusId, because: Because },
    /// Ends them, and what goes on in the background, because the unit is retired; then lets go of it.
    Retire,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    Function,
    /// PREEMPT AND ABORT, which has unit attentions of its own.
    Preempted,
    /// The error of another command.
    Error,
    Reset,
    NexusLost,
}

impl Selector {
    fn matches(&self, task: &Task) -> bool {
        self.is_for_units_of(task) && self.names(task)
    }

    /// Whether the task is at work on one of the units, though it is for another.
    fn reaches(&self, task: &Task) -> bool {
        let cell = task.running.as_ref().map(|running| &running.cell);
        let reached = cell.zip(self.units.as_ref()).is_some_and(|(cell, units)| cell.reaches(units));
        reached && !self.is_for_units_of(task) && self.names(task)
    }

    /// The unit that is retired, if that is what `action` is about.
    fn retired(&self, action: Action) -> Option<u64> {
        self.units.as_ref().filter(|_| matches!(action, Action::Retire))?.0.first().copied()
    }

    fn is_for_units_of(&self, task: &Task) -> bool {
        self.units.as_ref().is_none_or(|units| units.contain(task.itl.unit().number()))
    }

    fn names(&self, task: &Task) -> bool {
        self.nexuses.as_ref().is_none_or(|nexuses| nexuses.contains(&task.itl.nexus.id()))
            && self.tag.is_none_or(|tag| tag == task.tag)
            && (!self.of_allegiance || task.attribute == TaskAttribute::Aca)
    }
}

impl Action {
    /// Whether the action is about this task, if it was selected. Those that have not begun are looked at again when they do.
    fn concerns(self, task: &Task) -> bool {
        let settling = || task.running.as_ref().is_some_and(Running::is_settling);
        let apart = || task.running.as_ref().is_some_and(Running::is_apart);
        match self {
            Action::Await { .. } => task.phase == Phase::Running && !settling() && !apart(),
            Action::AwaitBegun { .. } => task.phase == Phase::Running,
            Action::AwaitTransfers => task.is_io(),
            Action::Abort { because: Because::Error, .. } => !settling(),
            Action::Query | Action::Abort { .. } | Action::Retire => true,
        }
    }

    /// Whether it is also about tasks that are at work on the unit, though they are for another.
    fn concerns_visitors(self) -> bool {
        match self {
            Action::Await { .. } | Action::AwaitBegun { .. } | Action::Retire => true,
            Action::Abort { because, .. } => matches!(because, Because::Reset | Because::Preempted),
            Action::Query | Action::AwaitTransfers => false,
        }
    }

    /// What is waited for.
    fn waits_until(self) -> Until {
        match self {
            Action::AwaitTransfers => Until::Transferred,
            Action::AwaitBegun { .. } | Action::Retire => Until::LetGo,
            Action::Query | Action::Await { .. } | Action::Abort { .. } => Until::Ended,
        }
    }

    /// How a task of `nexus` ends that is aborted.
    fn end_of(self, told: bool, nexus: NexusId) -> Option<Abort> {
        let (requester, because) = match self {
            Action::Abort { requester, because } => (requester, because),
            Action::Retire => return Some(Abort::Retired),
            _ => return None,
        };
        if requester != nexus && told {
            return Some(Abort::Told);
        }
        Some(Abort::Silent(match because {
            Because::Reset => Aborted::ByReset,
            Because::NexusLost => Aborted::NexusLost,
            _ if requester == nexus => Aborted::ByItsNexus,
            _ => Aborted::ByAnotherNexus,
        }))
    }

    /// Whether the initiator of an aborted command has to be told (COMMANDS CLEARED BY ANOTHER INITIATOR).
    fn clears_commands_of(self, told: bool, nexus: NexusId) -> bool {
        let asks = matches!(self, Action::Abort { because: Because::Function | Because::Error, .. });
        asks && self.end_of(told, nexus) == Some(Abort::Silent(Aborted::ByAnotherNexus))
    }
}

/// What a function does.
pub(crate) struct Effect {
    /// All logical units that the nexus sees, or only the addressed one.
    all_units: bool,
    /// Only tasks of the nexus that the function came by.
    own_tasks: bool,
    /// Only the task with the tag.
    tagged: bool,
    /// What is done with the tasks.
    tasks: On,
    /// It clears an auto contingent allegiance.
    clears: Clears,
    /// The byte and the bit that stand for it in REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS; those of target resets are
    /// obsolete.
    pub(crate) reported: Option<(usize, u8)>,
}

/// Which auto contingent allegiance a function clears (SAM-5 5.10.5).
#[derive(Clone, Copy)]
enum Clears {
    None,
    /// That of the nexus that it came by.
    Own,
    Any,
}

/// What a function does with the tasks that it selects.
enum On {
    Abort(Because),
    Query,
    /// It is not about tasks.
    Nothing,
}

impl Effect {
    pub(crate) fn of(function: TaskManagementFunction) -> Self {
        use Because::{Function as Asked, NexusLost, Reset};
        use On::{Abort, Nothing, Query};
        use TaskManagementFunction as Function;
        let (all_units, own_tasks, tagged, tasks, reported) = match function {
            Function::AbortTask => (false, true, true, Abort(Asked), Some((0, 7))),
            Function::AbortTaskSet => (false, true, false, Abort(Asked), Some((0, 6))),
            Function::ClearAca => (false, true, false, Abort(Asked), Some((0, 5))),
            Function::ClearTaskSet => (false, false, false, Abort(Asked), Some((0, 4))),
            Function::LogicalUnitReset => (false, false, false, Abort(Reset), Some((0, 3))),
            Function::QueryTask => (false, true, true, Query, Some((0, 2))),
            Function::QueryAsynchronousEvent => (false, true, false, Nothing, Some((1, 2))),
            Function::QueryTaskSet => (false, true, false, Query, Some((1, 1))),
            Function::ITNexusReset => (true, true, false, Abort(NexusLost), Some((1, 0))),
            Function::TargetWarmReset | Function::TargetColdReset => (true, false, false, Abort(Reset), None),
        };
        let clears = match function {
            Function::ClearAca | Function::ITNexusReset => Clears::Own,
            Function::LogicalUnitReset | Function::TargetWarmReset | Function::TargetColdReset => Clears::Any,
            _ => Clears::None,
        };
        Self { all_units, own_tasks, tagged, tasks, clears, reported }
    }

    /// Whether the function, which came by `nexus`, clears an allegiance of `faulted`.
    fn clears_allegiance_of(&self, nexus: NexusId, faulted: NexusId) -> bool {
        match self.clears {
            Clears::None => false,
            Clears::Own => faulted == nexus,
            Clears::Any => true,
        }
    }
}

impl Engine {
    pub(crate) fn manage(&self, session: &Session, function: &Management, cookie: u64, cx: &mut dyn Cx) {
        let nexus = session.nexus();
        let inventory = nexus.inventory();
        let unit = inventory.resolve(function.lun);
        let job = self.jobs.borrow_mut().insert(Asker::of(session, cookie, Some(function.function)));
        let effect = Effect::of(function.function);
        if !effect.all_units && unit.device().is_placeholder() {
            return self.answer(job, ServiceResponse::IncorrectLogicalUnitNumber, cx);
        }
        let action = match effect.tasks {
            On::Abort(because) => Action::Abort { requester: nexus.id(), because },
            On::Query => Action::Query,
            On::Nothing => {
                let pending = nexus.itl(unit).and_then(|itl| itl.attention());
                return self.answer(job, asynchronous_event(pending), cx);
            }
        };
        let units: Vec<_> = if effect.all_units { inventory.each_unit().collect() } else { vec![unit] };
        let told = Units::of(&units, LogicalUnit::tells_aborted);
        units.iter().for_each(|unit| establish(function.function, unit, nexus));
        let reset = (function.function == TaskManagementFunction::ITNexusReset).then(|| nexus.clone());
        // A nexus has tasks also at units that it does not see any more.
        let (selected, reactors) = match reset {
            Some(_) => (None, nexus.reactors()),
            None => (Some(Units::of(&units, |_| true)), reactors_of(&units)),
        };
        let selector = Selector {
            units: selected,
            nexuses: effect.own_tasks.then(|| [nexus.id()].into()),
            tag: effect.tagged.then_some(function.tag),
            told,
            of_allegiance: function.function == TaskManagementFunction::ClearAca,
            except: None,
            reset,
        };
        self.spread(job, reactors, &selector, action, cx);
        // What it has suspended does not begin before it is aborted.
        let cleared = |faulted| effect.clears_allegiance_of(nexus.id(), faulted);
        let poster = cx.poster();
        units.iter().for_each(|unit| unit.end_allegiance(cleared, &*poster));
    }

    /// The end of a nexus: aborts its tasks everywhere.
    pub(crate) fn close(&self, session: &Session, cookie: u64, cx: &mut dyn Cx) {
        let nexus = session.nexus();
        nexus.lose();
        let inventory = nexus.inventory();
        inventory.each_unit().for_each(|unit| unit.lose(nexus));
        let job = self.jobs.borrow_mut().insert(Asker::of(session, cookie, None));
        let selector = Selector { units: None, nexuses: Some([nexus.id()].into()), ..Selector::default() };
        let action = Action::Abort { requester: nexus.id(), because: Because::NexusLost };
        self.spread(job, nexus.reactors(), &selector, action, cx);
        let cleared = |faulted| faulted == nexus.id();
        let poster = cx.poster();
        inventory.each_unit().for_each(|unit| unit.end_allegiance(cleared, &*poster));
    }

    /// Aborts the commands of some nexuses for the unit of a command, which is told when they have ended.
    pub(crate) fn abort_commands_of(&self, nexuses: Box<[NexusId]>, command: TaskId, cx: &mut dyn Cx) {
        let Some(unit) = self.unit_of(command) else { return };
        let abort = |requester| Action::Abort { requester, because: Because::Preempted };
        let nexuses: Arc<[NexusId]> = nexuses.into();
        self.act_for(command, Some(nexuses.clone()), abort, cx);
        unit.end_allegiance(|nexus| nexuses.contains(&nexus), &*cx.poster());
    }

    /// Aborts the other commands for the unit of a command that has failed, all or those of its nexus.
    pub(crate) fn abort_others(&self, own: bool, command: TaskId, cx: &mut dyn Cx) {
        let nexus = self.tasks.borrow_mut().get(command).map(|task| task.itl.nexus.id());
        let nexuses = nexus.filter(|_| own).map(|nexus| [nexus].into());
        let abort = |requester| Action::Abort { requester, because: Because::Error };
        self.act_for(command, nexuses, abort, cx);
    }

    /// Clears the auto contingent allegiance of a command's nexus, and lets the command go on.
    pub(crate) fn clear_allegiance_of(&self, command: TaskId, cx: &mut dyn Cx) {
        let nexus = self.tasks.borrow_mut().get(command).map(|task| task.itl.nexus.id());
        if let Some((unit, nexus)) = self.unit_of(command).zip(nexus) {
            unit.end_allegiance(|faulted| faulted == nexus, &*cx.poster());
            self.tell(Token::Task(command), Ok(0), cx);
        }
    }

    fn unit_of(&self, command: TaskId) -> Option<Arc<LogicalUnit>> {
        self.tasks.borrow_mut().get(command).map(|task| task.itl.unit().clone())
    }

    /// Waits until the other commands for the unit of a command have ended, which is then told.
    pub(crate) fn wait_for_others(&self, command: TaskId, anew: bool, cx: &mut dyn Cx) {
        self.act_for(command, None, |_| Action::Await { anew }, cx);
    }

    /// Waits until the reads and writes for the unit of a command that have not taken their ranges have ended.
    pub(crate) fn wait_for_transfers(&self, command: TaskId, cx: &mut dyn Cx) {
        self.act_for(command, None, |_| Action::AwaitTransfers, cx);
    }

    /// Waits until everything has ended that has begun for a unit, or works on it for another; `id` is told. `anew`: what has
    /// not begun is decoded again.
    pub(crate) fn wait_for_begun(&self, unit: &Arc<LogicalUnit>, id: IoId, anew: bool, cx: &mut dyn Cx) {
        let job = self.jobs.borrow_mut().insert(Asker::Steps(id));
        let selector = Selector { units: Some(Units::of(&[unit], |_| true)), ..Selector::default() };
        self.spread(job, reactors_of(&[unit]), &selector, Action::AwaitBegun { anew }, cx);
    }

    /// Does something with the other tasks of a command's unit, and tells it when those have ended.
    fn act_for(
        &self,
        command: TaskId,
        nexuses: Option<Arc<[NexusId]>>,
        action: impl FnOnce(NexusId) -> Action,
        cx: &mut dyn Cx,
    ) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(command) else { return };
        let (unit, requester) = (task.itl.unit().clone(), task.itl.nexus.id());
        drop(tasks);
        let job = self.jobs.borrow_mut().insert(Asker::Steps(self.id(Token::Task(command))));
        let units = Some(Units::of(&[&unit], |_| true));
        let selector = Selector {
            told: Units::of(&[&unit], LogicalUnit::tells_aborted),
            units,
            nexuses,
            except: Some((self.reactor, command)),
            ..Selector::default()
        };
        self.spread(job, reactors_of(&[&unit]), &selector, action(requester), cx);
    }

    /// Ends all work on a unit that is retired, on these reactors and this one, which let go of it then.
    pub(crate) fn end_work_on(&self, unit: u64, reactors: BTreeSet<ReactorId>, job: u32, cx: &mut dyn Cx) {
        let selector = Selector { units: Some(Units([unit].into())), ..Selector::default() };
        self.spread(job, reactors, &selector, Action::Retire, cx);
    }

    /// Has `action` done on this reactor and on others that may have such tasks.
    fn spread(
        &self,
        job: u32,
        mut reactors: BTreeSet<ReactorId>,
        selector: &Selector,
        action: Action,
        cx: &mut dyn Cx,
    ) {
        reactors.remove(&self.reactor);
        self.jobs.borrow_mut().expect(job, reactors.len() + 1);
        let id = JobId { reactor: self.reactor, job };
        for reactor in reactors {
            let selector = selector.clone();
            Self::post(reactor, cx, move |engine, cx| engine.act(&selector, action, id, cx));
        }
        self.act(selector, action, id, cx);
    }

    /// Does here what a function asks for, and acknowledges it at once or when the last aborted task has ended.
    fn act(&self, selector: &Selector, action: Action, job: JobId, cx: &mut dyn Cx) {
        if let Selector { units: None, nexuses: Some(nexuses), reset: None, .. } = selector {
            nexuses.iter().for_each(|nexus| self.hops.forget(*nexus));
        }
        if let Some(nexus) = &selector.reset {
            let is_here =
                |unit: &&Arc<LogicalUnit>| unit.coordination().parts().any(|part| part == self.reactor);
            nexus.inventory().each_unit().filter(is_here).for_each(|unit| unit.lose(nexus));
        }
        if matches!(action, Action::Await { anew: true } | Action::AwaitBegun { anew: true }) {
            self.decode_waiting_again(selector);
        }
        let retired = selector.retired(action);
        if retired.is_some() {
            // So that nothing more comes.
            self.forget_left();
        }
        let visits = |task: &Task| action.concerns_visitors() && selector.reaches(task);
        let concerns = |task: &Task| (selector.matches(task) || visits(task)) && action.concerns(task);
        let mut selected = self.tasks.borrow().select(concerns);
        selected.retain(|task| selector.except != Some((self.reactor, *task)));
        let found = !selected.is_empty();
        if matches!(action, Action::Query) {
            return Self::acknowledge(job, found, cx);
        }
        for id in &selected {
            self.abort(*id, selector, action, cx);
        }
        let works = retired.map_or(Vec::new(), |unit| self.end_works(unit, cx));
        let tasks = selected.into_iter().map(|task| Token::Task(task).encode());
        let left = match &selector.units {
            Some(units) if action.waits_until() == Until::LetGo => self.detached.of(units),
            _ => Vec::new(),
        };
        let waited_for: Vec<_> = tasks.chain(works).chain(left).collect();
        let over = Over { job, retired };
        if waited_for.is_empty() {
            return self.is_over(over, found, cx);
        }
        self.waits.borrow_mut().add(&waited_for, action.waits_until(), over);
    }

    fn decode_waiting_again(&self, selector: &Selector) {
        let mut tasks = self.tasks.borrow_mut();
        let waits =
            |task: &Task| task.phase != Phase::Running && task.failure.is_none() && selector.matches(task);
        for id in tasks.select(waits) {
            tasks.get(id).map(decode_again);
        }
    }

    fn abort(&self, id: TaskId, selector: &Selector, action: Action, cx: &mut dyn Cx) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get(id) else { return };
        let itl = task.itl.clone();
        let told = selector.told.contain(itl.unit().number());
        let Some(end) = action.end_of(told, itl.nexus.id()) else { return };
        // What is for another unit only stops, and its initiator is told.
        let visits = !selector.matches(task);
        let first = task.aborted.is_none() && !visits;
        let is_read = first && task.is_read() && end != Abort::Retired;
        if !visits {
            task.aborted = task.aborted.or(Some(end));
            task.running.iter().for_each(|running| running.cell.discard());
        }
        let idle = task.running.as_mut().is_some_and(Running::abort);
        if first && task.phase != Phase::Running || idle {
            task.phase = Phase::Running;
            task.parked = None;
            // If it sleeps.
            cx.cancel(self.id(Token::Task(id)));
            self.tell(Token::Task(id), Err(IoError::Aborted), cx);
        }
        if is_read {
            // Later, for its transport may be in use now.
            Self::post(self.reactor, cx, move |engine, cx| engine.detach(id, cx));
        }
        if first && action.clears_commands_of(told, itl.nexus.id()) {
            itl.shared.establish(AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
        }
    }
}

/// Those that have parts of the units' task sets.
fn reactors_of(units: &[&Arc<LogicalUnit>]) -> BTreeSet<ReactorId> {
    let mut reactors = BTreeSet::new();
    for unit in units {
        reactors.extend(unit.coordination().parts());
        // Its first command may be on the way there.
        reactors.extend(unit.home());
    }
    reactors
}

/// The answer of QUERY ASYNCHRONOUS EVENT (SAM-5 7.10): whether a unit attention is pending, and which.
fn asynchronous_event(pending: Option<AdditionalSense>) -> ServiceResponse {
    match pending {
        Some(condition) => ServiceResponse::FunctionSucceeded {
            additional: [SenseKey::UNIT_ATTENTION.0, condition.asc, condition.ascq],
        },
        None => ServiceResponse::FunctionComplete,
    }
}

/// What a function does beside aborting tasks and clearing an allegiance: unit attention conditions (SAM-5 5.14, 6.3), and
/// what a reset ends.
fn establish(function: TaskManagementFunction, unit: &LogicalUnit, nexus: &Nexus) {
    use TaskManagementFunction as Function;
    match function {
        Function::LogicalUnitReset => {
            unit.reset(AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED, nexus);
        }
        Function::TargetWarmReset | Function::TargetColdReset => {
            unit.reset(AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED, nexus);
        }
        Function::ITNexusReset => {
            unit.lose(nexus);
            nexus.itl(unit).iter().for_each(|itl| itl.establish(AdditionalSense::I_T_NEXUS_LOSS_OCCURRED));
        }
        _ => {}
    }
}
