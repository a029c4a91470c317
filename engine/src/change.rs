//! What an operator changes about a logical unit while it is used: its size, whether it may be written, and whether it is quiet.
//!
//! Each is work in the background of the unit, one after the other. What it rests on is one step,
//! [`await_begun`](Steps::await_begun): everything that has begun before it has ended after it, on all reactors. That may never
//! happen, so until then each can be [withdrawn](ChangeRequest::withdraw).

mod request;

pub use request::ChangeRequest;

use crate::{LogicalUnit, Steps};
use lunette_scsi::AdditionalSense;
use lunette_store::{Backing, IoError, Post};
use serde::Serialize;
use serde_json::Value;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// Why a logical unit cannot be changed, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ChangeError {
    /// The device has no capacity.
    #[error("this logical unit has no size that could be changed")]
    NoSize,
    /// There would be no block left.
    #[error("a size of 0 bytes leaves no block")]
    Empty,
    /// The last block would be incomplete.
    #[error("{size} bytes are not a multiple of the block length, {block_length} bytes")]
    NotWholeBlocks {
        /// The size asked for, or found, in bytes.
        size: u64,
        /// Logical block length in bytes.
        block_length: u32,
    },
    /// No store can be so large.
    #[error("{size} bytes are too many")]
    TooLarge {
        /// The size asked for in bytes.
        size: u64,
    },
    /// A block device, or something else whose size is made elsewhere.
    #[error(
        "the store cannot be resized from here: change its size where it is made, and refresh the logical unit then"
    )]
    NotResizable,
    /// The store takes no writes.
    #[error("the store was opened read-only")]
    ReadOnlyStore,
    /// The device works on its medium by itself.
    #[error("the logical unit is busy {0}: try again when that has ended")]
    Busy(&'static str),
    /// A FORMAT UNIT or SANITIZE has failed.
    #[error("the last FORMAT UNIT or SANITIZE of this logical unit has failed: repeat it first")]
    Unusable,
    /// Who has asked for it wants it no more.
    #[error("it was withdrawn")]
    Withdrawn,
    /// Commands were let go on before the unit was quiet.
    #[error("the commands were let go on before the logical unit was quiet")]
    LetGoOn,
    /// It is retired, or the reactors have ended.
    #[error("the logical unit has gone")]
    Gone,
    /// The state cannot be saved, or nothing is kept of the unit.
    #[error("the state of the logical unit cannot be saved")]
    NotSaved,
    /// The store has failed.
    #[error("the store has failed: {0}")]
    Store(IoError),
}

impl LogicalUnit {
    /// Gives the unit and its store a size of `size` bytes, whole logical blocks. `done` is told the size that the unit has,
    /// mostly on a reactor, when that survives a power loss. It is always called, once, and must not wait.
    ///
    /// All initiators are told of it by CAPACITY DATA HAS CHANGED. Commands that are in the unit when it becomes smaller come
    /// to their end before anything is taken away, if they have begun; those that have not, and new ones, are refused beyond
    /// the new size at once.
    ///
    /// `done` gets the reason if the size cannot be changed; if the store has failed meanwhile, the unit has the size that is
    /// left. It can be withdrawn until the store begins to change its size.
    pub fn resize(
        self: &Arc<Self>,
        size: u64,
        post: &dyn Post,
        done: impl FnOnce(Result<u64, ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        self.change(post, async move |steps, request| resize(steps, request, Some(size)).await, done)
    }

    /// Gives the unit the size that its store has: others may have made that larger or smaller. Otherwise as
    /// [`resize`](Self::resize).
    pub fn refresh(
        self: &Arc<Self>,
        post: &dyn Post,
        done: impl FnOnce(Result<u64, ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        self.change(post, async |steps, request| resize(steps, request, None).await, done)
    }

    /// Forbids to write to the unit, or allows it again. `done` is called on a reactor; what has begun to write before has
    /// ended then. All initiators are told by MODE PARAMETERS CHANGED, and see WP in the mode parameter header; commands
    /// that would write end with WRITE PROTECTED. It lasts as long as the unit.
    ///
    /// `done` gets the reason if that cannot be.
    pub fn set_read_only(
        self: &Arc<Self>,
        read_only: bool,
        post: &dyn Post,
        done: impl FnOnce(Result<(), ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        self.change(post, async move |steps, request| set_read_only(steps, request, read_only).await, done)
    }

    /// Holds back commands until [`resume_commands`](Self::resume_commands). `done` is called on a reactor when those that had
    /// begun have ended, and what a volatile cache has held is on the medium.
    ///
    /// Commands that come meanwhile wait, as they do when the store has no room, and no more of them than
    /// [can wait](Self::limit_waiting) then; they can be aborted. What is answered without the store and without changing
    /// anything, such as INQUIRY, REPORT LUNS, REQUEST SENSE and TEST UNIT READY, is answered. A self-test in the background
    /// goes on reading.
    ///
    /// `done` gets the reason if the unit does not become quiet; its commands go on then.
    pub fn quiesce(
        self: &Arc<Self>,
        post: &dyn Post,
        done: impl FnOnce(Result<(), ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        let number = self.coordination().quiesce();
        let unit = self.clone();
        let go_on = move |post: &dyn Post| {
            let is_held = unit.coordination().is_quiesced_by(number);
            if is_held {
                unit.resume_commands(post);
            }
        };
        let request = ChangeRequest::begun(go_on.clone());
        let work = async move |steps: &Steps, request: &ChangeRequest| {
            let result = become_quiet(steps, request, number).await;
            if result.is_err() {
                go_on(&*steps.poster());
            }
            result
        };
        self.request(request, post, work, done)
    }

    /// Saves a section of the unit's state, what `make` says when nothing else of it is being saved. `done` is told, mostly on a
    /// reactor, when it survives a power loss, or why it does not; what there was before is then saved again, as far as that can be.
    pub fn save_section<T: Serialize + Send + 'static>(
        self: &Arc<Self>,
        section: &'static str,
        make: impl FnOnce(&Self) -> T + Send + 'static,
        post: &dyn Post,
        done: impl FnOnce(Result<(), ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        self.change(post, async move |steps, request| save(steps, request, section, make).await, done)
    }

    /// Whether commands are held back.
    pub fn is_quiesced(&self) -> bool {
        self.coordination().is_quiesced()
    }

    /// Whether the operator has forbidden to write to the unit.
    pub fn is_read_only(&self) -> bool {
        self.state().read_only
    }

    /// Does something about the unit when what others have asked for before is done.
    fn change<T: 'static>(
        self: &Arc<Self>,
        post: &dyn Post,
        work: impl AsyncFnOnce(&Steps, &ChangeRequest) -> Result<T, ChangeError> + Send + 'static,
        done: impl FnOnce(Result<T, ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        self.request(ChangeRequest::new(), post, work, done)
    }

    fn request<T: 'static>(
        self: &Arc<Self>,
        request: ChangeRequest,
        post: &dyn Post,
        work: impl AsyncFnOnce(&Steps, &ChangeRequest) -> Result<T, ChangeError> + Send + 'static,
        done: impl FnOnce(Result<T, ChangeError>) + Send + 'static,
    ) -> ChangeRequest {
        let mut told = Told(Some(done), PhantomData);
        let of_asker = request.clone();
        self.begin(post, async move |steps: Steps| {
            let turn = steps.unit.changes().take(&steps).await?;
            let result = work(&steps, &request).await;
            // What has failed cannot be withdrawn either.
            let result = request.settle().and(result);
            drop(turn);
            told.tell(result);
            Ok(())
        });
        of_asker
    }

    /// The unit has so many bytes from now on, and everybody learns of it.
    fn show_size(&self, size: u64) {
        self.device().set_size(size);
        self.establish_attention(AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
    }

    /// Sets whether the operator forbids to write. Returns whether that has changed.
    fn protect(&self, read_only: bool) -> bool {
        let changed = std::mem::replace(&mut self.state().read_only, read_only) != read_only;
        if changed {
            self.apply_modes();
            self.establish_attention(AdditionalSense::MODE_PARAMETERS_CHANGED, None);
        }
        changed
    }
}

/// Who waits for a change, and is told that nothing becomes of it when the work is dropped.
struct Told<T, F: FnOnce(Result<T, ChangeError>)>(Option<F>, PhantomData<fn(T)>);

impl<T, F: FnOnce(Result<T, ChangeError>)> Told<T, F> {
    fn tell(&mut self, result: Result<T, ChangeError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl<T, F: FnOnce(Result<T, ChangeError>)> Drop for Told<T, F> {
    fn drop(&mut self) {
        self.tell(Err(ChangeError::Gone));
    }
}

/// Keeps the device from what needs to know how large it is.
struct Resizing<'a>(&'a LogicalUnit);

impl Drop for Resizing<'_> {
    fn drop(&mut self) {
        self.0.device().end_resize();
    }
}

/// Gives the unit another size; that of its store if none is asked for.
async fn resize(steps: &Steps, request: &ChangeRequest, size: Option<u64>) -> Result<u64, ChangeError> {
    let unit = &steps.unit;
    let backing = unit.backing().ok_or(ChangeError::NoSize)?;
    let found = steps.call_on(backing, |backing| backing.measure()).await.map_err(failed)?;
    let size = size.unwrap_or(found);
    unit.device().begin_resize(size)?;
    let _resizing = Resizing(unit);
    if size != found && !backing.is_resizable() {
        return Err(if backing.caps().read_only {
            failed(IoError::ReadOnly)
        } else {
            failed(IoError::Unsupported)
        });
    }
    let before = backing.caps().size.get();
    let result = match size < before {
        true => take_away(steps, request, backing, size..before).await,
        false => set_size(steps, request, backing, size).await,
    };
    // Whatever has become of it: nothing else is there.
    let now = backing.caps().size.get();
    if request.settle().is_ok() && now != size.min(before) {
        unit.show_size(now);
    }
    result.map(|()| now)
}

/// Makes the store end where `bytes` begin, when nobody uses them any more. Initiators see that size at once.
async fn take_away(
    steps: &Steps,
    request: &ChangeRequest,
    backing: &Arc<dyn Backing>,
    bytes: Range<u64>,
) -> Result<(), ChangeError> {
    let Range { start: size, end: before } = bytes;
    let (unit, shown) = (&steps.unit, steps.unit.clone());
    let show = || {
        unit.show_size(size);
        true
    };
    request.show(show, move |_| shown.show_size(before))?;
    steps.await_begun(true).await.map_err(failed)?;
    // What is left is what goes on for commands that have ended.
    let _range = steps.claim_settled(bytes).await;
    let _range = _range.map_err(|_| ChangeError::Busy("undoing a write that has failed"))?;
    set_size(steps, request, backing, size).await
}

async fn set_size(
    steps: &Steps,
    request: &ChangeRequest,
    backing: &Arc<dyn Backing>,
    size: u64,
) -> Result<(), ChangeError> {
    request.settle()?;
    let resize = steps.call_on(backing, move |backing| backing.resize(size).map(|()| size));
    resize.await.map(drop).map_err(failed)
}

async fn set_read_only(steps: &Steps, request: &ChangeRequest, read_only: bool) -> Result<(), ChangeError> {
    let unit = &steps.unit;
    if !read_only && unit.backing().is_some_and(|backing| backing.caps().read_only) {
        return Err(ChangeError::ReadOnlyStore);
    }
    is_unoccupied(unit)?;
    let (mut changed, protected) = (false, unit.clone());
    let protect = || {
        changed = unit.protect(read_only);
        changed
    };
    request.show(protect, move |_| _ = protected.protect(!read_only))?;
    if !changed || !read_only {
        return Ok(());
    }
    steps.await_begun(true).await.map_err(failed)?;
    request.settle()?;
    // What has just ended may have begun something.
    let result = is_unoccupied(unit);
    if result.is_err() {
        unit.protect(false);
    }
    result
}

async fn become_quiet(steps: &Steps, request: &ChangeRequest, number: u64) -> Result<(), ChangeError> {
    let unit = &steps.unit;
    is_unoccupied(unit)?;
    steps.await_begun(false).await.map_err(failed)?;
    is_unoccupied(unit)?;
    if let Some(caps) = unit.backing().map(|backing| backing.caps())
        && caps.volatile_cache
        && !caps.read_only
    {
        steps.flush().await.map_err(failed)?;
    }
    request.settle()?;
    let is_quiet = unit.coordination().is_quiesced_by(number);
    is_quiet.then_some(()).ok_or(ChangeError::LetGoOn)
}

async fn save<T: Serialize + Send + 'static>(
    steps: &Steps,
    request: &ChangeRequest,
    section: &'static str,
    make: impl FnOnce(&LogicalUnit) -> T,
) -> Result<(), ChangeError> {
    if !steps.unit.keeps_state() {
        return Err(ChangeError::NotSaved);
    }
    let turn = steps.turn().await.map_err(|_| ChangeError::Gone)?;
    request.settle()?;
    let before: Option<Value> = steps.unit.saved().get(section).map_err(|_| ChangeError::NotSaved)?;
    let value = make(&steps.unit);
    let saved = steps.save(&turn, section, value, |_| ()).await;
    if saved.is_err() {
        // It may be there all the same.
        let _ = steps.save(&turn, section, before, |_| ()).await;
    }
    saved.map_err(|_| ChangeError::NotSaved)
}

fn is_unoccupied(unit: &LogicalUnit) -> Result<(), ChangeError> {
    unit.device().occupation().map_or(Ok(()), |what| Err(ChangeError::Busy(what)))
}

fn failed(error: IoError) -> ChangeError {
    match error {
        IoError::Unsupported => ChangeError::NotResizable,
        IoError::ReadOnly => ChangeError::ReadOnlyStore,
        other => ChangeError::Store(other),
    }
}
