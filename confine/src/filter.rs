//! Filters of system calls (seccomp(2)), one for each kind of thread.
//!
//! A call that is not in the table is refused with EPERM, told on standard error once, and the thread goes on: to end it, or the
//! process, would take the disks from everybody, and a call that has done nothing can do no harm. (An error of a call that a
//! store makes is an error of its command.) Calls that are newer than the table are refused with ENOSYS, which libraries expect.

use crate::table::{Kinds, Only, Row, TABLE, UNKNOWN};
use crate::trap;
use rustix::thread::set_no_new_privs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::io;
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
    Handler(io::Error),
    /// The kernel refuses.
    #[error("cannot filter system calls: {0}")]
    Kernel(#[from] io::Error),
}

/// The filters, by kind.
static FILTERS: OnceLock<Vec<(Kinds, BpfProgram)>> = OnceLock::new();

/// Makes the filters of all kinds, and confines the calling thread, and those that it starts, to what `kind` needs.
///
/// # Errors
/// When the kernel or the processor has no filters, or refuses one. No kind is confined then, now or later.
pub fn begin(mode: Mode, kind: Kinds) -> Result<(), Error> {
    let filters = Kinds::all().iter().map(|kind| Ok((kind, program(kind, mode)?)));
    let filters = filters.collect::<Result<Vec<_>, Error>>()?;
    trap::catch().map_err(Error::Handler)?;
    filter(&unknown()?)?;
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
    Ok(filter(program)?)
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
    alternatives(only)?.into_iter().map(SeccompRule::new).collect()
}

/// The conditions of each of these ways.
fn alternatives(only: Only) -> Result<Vec<Vec<SeccompCondition>>, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let one =
        |index, length, operator, value| Ok(vec![SeccompCondition::new(index, length, operator, value)?]);
    match only {
        Only::Any => Ok(Vec::new()),
        Only::One(index, values) => values.iter().map(|value| one(index, Dword, Eq, *value)).collect(),
        Only::Bits(index, bits, value) => Ok(vec![one(index, Dword, MaskedEq(bits), value)?]),
        Only::All(all) => all.iter().try_fold(vec![Vec::new()], |before, only| {
            let more = alternatives(*only)?;
            Ok(before.iter().flat_map(|one| more.iter().map(|other| [&one[..], other].concat())).collect())
        }),
        Only::Null(index) => Ok(vec![one(index, Qword, Eq, 0)?]),
        Only::Without(index, bits) => Ok(vec![one(index, Qword, MaskedEq(bits), 0)?]),
        Only::With(index, bits) => Ok(vec![one(index, Qword, MaskedEq(bits), bits)?]),
        Only::Own(index) => Ok(vec![one(index, Dword, Eq, std::process::id().into())?]),
    }
}

/// Applies a filter to the calling thread, and to those that it starts.
fn filter(program: &BpfProgram) -> io::Result<()> {
    // Without it only root may have a filter.
    set_no_new_privs(true)?;
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program =
        libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // Kernels before Linux 5.16 make branches and loads slower for a thread with a filter, which runs nobody else's programs here
    // (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`); those before 4.17 do not know the flag.
    match set_filter(&program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(&program, 0),
        done => done,
    }
}

fn set_filter(program: &libc::sock_fprog, flags: libc::c_ulong) -> io::Result<()> {
    const { assert!(size_of::<libc::sock_filter>() == size_of::<seccompiler::sock_filter>()) };
    // SAFETY: the kernel reads the program, whose instructions have the form that it knows.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(program))
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
