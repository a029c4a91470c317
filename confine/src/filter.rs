//! Filters of system calls (seccomp(2)), one for each kind of thread.
//!
//! A call that is not in the table is refused with EPERM, told on standard error once, and the thread goes on: to end it, or the
//! process, would take the disks from everybody, and a call that has done nothing can do no harm. (An error of a call that a
//! store makes is an error of its command.) Calls that are newer than the table are refused with ENOSYS, which libraries expect.

use crate::table::{Kinds, Only, Row, TABLE, UNKNOWN};
use crate::trap;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use thiserror::Error;

/// What happens to a call that is not in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It is refused.
    Refuse,
    /// It is carried out, and the kernel logs it (audit(8)).
    Log,
}

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum Error {
    /// The processor is none that the table is for.
    #[error("there is no filter of system calls for this processor")]
    Processor,
    /// The table makes no filter.
    #[error("the table of system calls is wrong: {0}")]
    Table(#[from] seccompiler::BackendError),
    /// The handler of refused calls could not be set.
    #[error("cannot handle refused system calls: {0}")]
    Handler(std::io::Error),
    /// The kernel refuses.
    #[error("cannot filter system calls: {0}")]
    Kernel(#[from] seccompiler::Error),
}

/// The filters, by kind.
static FILTERS: OnceLock<Vec<(Kinds, BpfProgram)>> = OnceLock::new();

/// Makes the filters of all kinds, and confines the calling thread, and those that it starts, to what `kind` needs.
///
/// # Errors
/// When the kernel or the processor has no filters. Nothing is filtered then.
pub fn begin(mode: Mode, kind: Kinds) -> Result<(), Error> {
    let filters = Kinds::all().iter().map(|kind| Ok((kind, program(kind, mode)?)));
    let filters = filters.collect::<Result<Vec<_>, Error>>()?;
    trap::catch().map_err(Error::Handler)?;
    seccompiler::apply_filter(&unknown()?)?;
    apply(&filters, kind)?;
    let _ = FILTERS.set(filters);
    Ok(())
}

/// Confines the calling thread, and those that it starts, to what `kind` needs; to nothing if filters have not [begun](begin).
///
/// # Errors
/// When the kernel refuses.
pub fn enter(kind: Kinds) -> Result<(), Error> {
    FILTERS.get().map_or(Ok(()), |filters| apply(filters, kind))
}

fn apply(filters: &[(Kinds, BpfProgram)], kind: Kinds) -> Result<(), Error> {
    let Some((_, program)) = filters.iter().find(|(of, _)| *of == kind) else { return Ok(()) };
    trap::set_kind(kind);
    Ok(seccompiler::apply_filter(program)?)
}

fn processor() -> Result<TargetArch, Error> {
    TargetArch::try_from(std::env::consts::ARCH).map_err(|_| Error::Processor)
}

/// A filter that comes before all others: it tells nobody, so it also holds where signals are blocked.
fn unknown() -> Result<BpfProgram, Error> {
    let rules = UNKNOWN.iter().map(|number| (*number, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, missing, processor()?)?.try_into()?)
}

/// The filter of a kind.
fn program(kind: Kinds, mode: Mode) -> Result<BpfProgram, Error> {
    let otherwise = match mode {
        Mode::Refuse => SeccompAction::Trap,
        Mode::Log => SeccompAction::Log,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = UNKNOWN.to_vec();
    for Row { calls, kinds, only, .. } in TABLE {
        if !kinds.intersects(kind) {
            continue;
        }
        for (_, number) in *calls {
            let of_call = rules.entry(*number).or_default();
            match only {
                Only::Any => always.push(*number),
                _ => of_call.extend(conditions(*only)?),
            }
        }
    }
    // Without a rule all arguments are right.
    always.iter().for_each(|number| drop(rules.insert(*number, Vec::new())));
    Ok(SeccompFilter::new(rules, otherwise, SeccompAction::Allow, processor()?)?.try_into()?)
}

/// A rule for each way in which arguments are right.
fn conditions(only: Only) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let rule = |index, length, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(index, length, operator, value)?])
    };
    match only {
        Only::Any => Ok(Vec::new()),
        Only::One(index, values) => values.iter().map(|value| rule(index, Dword, Eq, *value)).collect(),
        Only::Null(index) => Ok(vec![rule(index, Qword, Eq, 0)?]),
        Only::Without(index, bits) => Ok(vec![rule(index, Qword, MaskedEq(bits), 0)?]),
        Only::With(index, bits) => Ok(vec![rule(index, Qword, MaskedEq(bits), bits)?]),
        Only::Own(index) => Ok(vec![rule(index, Dword, Eq, std::process::id().into())?]),
    }
}
