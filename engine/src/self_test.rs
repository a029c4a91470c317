//! Self-tests of a logical unit, and what has become of them (SPC-4 clause 5).
//!
//! There is one thing that a test can find out: whether the store gives back its bytes. The short one reads samples, the
//! extended one everything.

use crate::{IoKind, LogicalUnit, NotReady, Progress, Steps, sense_of};
use lunette_scsi::log::LogParameter;
use lunette_scsi::mode::BlockDescriptor;
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::{IoError, Memory};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many results are kept (SPC-4 7.3).
const RESULTS: usize = 20;
/// Bytes that are read at a time; a multiple of every block length.
const STEP: u64 = 256 << 10;
/// Places that a short test looks at.
const SAMPLES: u64 = 64;

/// Which test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SelfTest {
    /// SELF-TEST CODE of the SEND DIAGNOSTIC command that asked for it.
    pub(crate) code: u8,
    /// Everything is read, not only samples.
    pub(crate) extended: bool,
}

/// How a test has ended: SELF-TEST RESULTS (SPC-4 7.3).
mod results {
    pub(super) const PASSED: u8 = 0x0;
    pub(super) const ABORTED_BY_SEND_DIAGNOSTIC: u8 = 0x1;
    pub(super) const ABORTED_OTHERWISE: u8 = 0x2;
    pub(super) const FAILED: u8 = 0x7;
    pub(super) const IN_PROGRESS: u8 = 0xf;
}

/// All tests of one unit.
#[derive(Default, Debug)]
pub(crate) struct SelfTests(Mutex<Tests>);

#[derive(Default, Debug)]
struct Tests {
    running: Option<Arc<Running>>,
    /// The newest first.
    ended: VecDeque<[u8; 16]>,
}

/// A test at work.
#[derive(Debug)]
pub(crate) struct Running {
    test: SelfTest,
    /// How it is to end, if it is to be ended; otherwise zero.
    abort: AtomicU8,
    progress: Arc<Progress>,
}

impl Running {
    fn sense(&self) -> Sense {
        Sense::not_ready(AdditionalSense::LOGICAL_UNIT_NOT_READY_SELF_TEST_IN_PROGRESS)
            .with_progress(self.progress.get())
    }

    /// What keeps other commands out while a test runs in the foreground.
    pub(crate) fn not_ready(&self) -> NotReady {
        let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_SELF_TEST_IN_PROGRESS;
        NotReady::busy(why, self.progress.clone())
    }
}

impl SelfTests {
    /// A test begins.
    ///
    /// # Errors
    /// NOT READY while another one runs.
    pub(crate) fn begin(&self, test: SelfTest) -> Result<Arc<Running>, Sense> {
        let mut tests = self.lock();
        if let Some(running) = &tests.running {
            return Err(running.sense());
        }
        let running = Arc::new(Running { test, abort: AtomicU8::new(0), progress: Arc::default() });
        tests.running = Some(running.clone());
        Ok(running)
    }

    /// Ends the test soon, because an initiator asks for that. Returns whether there is one.
    pub(crate) fn abort_by_command(&self) -> bool {
        self.abort(results::ABORTED_BY_SEND_DIAGNOSTIC)
    }

    /// Ends the test soon, because of a reset, or of a command that it cannot go on beside.
    pub(crate) fn abort_otherwise(&self) {
        self.abort(results::ABORTED_OTHERWISE);
    }

    fn abort(&self, how: u8) -> bool {
        let tests = self.lock();
        if let Some(running) = &tests.running {
            running.abort.store(how, Ordering::Relaxed);
        }
        tests.running.is_some()
    }

    /// What REQUEST SENSE says while one runs.
    pub(crate) fn sense(&self) -> Option<Sense> {
        self.lock().running.as_ref().map(|running| running.sense())
    }

    /// Forgets all results.
    pub(crate) fn forget(&self) {
        self.lock().ended.clear();
    }

    /// The Self-Test Results page: twenty parameters, empty where there was no test.
    pub(crate) fn parameters(&self) -> Vec<LogParameter> {
        let tests = self.lock();
        let running = tests.running.as_ref().map(|running| {
            let mut result = [0; 16];
            result[0] = running.test.code << 5 | results::IN_PROGRESS;
            result[4..12].fill(0xff);
            result
        });
        let all = running.into_iter().chain(tests.ended.iter().copied()).chain(std::iter::repeat([0; 16]));
        (1..).zip(all.take(RESULTS)).map(|(code, result)| LogParameter::binary(code, result)).collect()
    }

    fn end(
        &self,
        running: &Running,
        result: u8,
        failed_at: Option<u64>,
        sense: Option<&Sense>,
        now: Duration,
    ) {
        let hours = u16::try_from(now.as_secs() / 3600).unwrap_or(u16::MAX);
        let mut bytes = [0; 16];
        bytes[0] = running.test.code << 5 | result;
        bytes[2..4].copy_from_slice(&hours.to_be_bytes());
        bytes[4..12].copy_from_slice(&failed_at.unwrap_or(u64::MAX).to_be_bytes());
        if let Some(sense) = sense {
            bytes[12..15].copy_from_slice(&[sense.key.0, sense.additional.asc, sense.additional.ascq]);
        }
        let mut tests = self.lock();
        tests.ended.push_front(bytes);
        tests.ended.truncate(RESULTS);
        tests.running = None;
    }

    fn lock(&self) -> MutexGuard<'_, Tests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a test to its end; `paced` leaves half of the time to others.
///
/// # Errors
/// HARDWARE ERROR if the unit has failed.
pub(crate) async fn run(steps: &Steps, running: Arc<Running>, paced: bool) -> Result<(), Sense> {
    let tests = steps.unit.self_tests();
    let result = read(steps, running.test.extended, Some(&running), paced).await;
    match result {
        Ok(()) => tests.end(&running, results::PASSED, None, None, steps.now()),
        Err(Ended::Aborted) => {
            let how = match running.abort.load(Ordering::Relaxed) {
                0 => results::ABORTED_OTHERWISE,
                how => how,
            };
            tests.end(&running, how, None, None, steps.now());
            return Err(Sense::aborted_command(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION));
        }
        Err(Ended::Failed { offset, error }) => {
            let block = block_length(&steps.unit);
            let sense = sense_of(IoKind::Read, error);
            tests.end(&running, results::FAILED, Some(offset / block), Some(&sense), steps.now());
            return Err(failed());
        }
    }
    Ok(())
}

/// The default self-test, which leaves no result (SPC-4 clause 5).
///
/// # Errors
/// HARDWARE ERROR if the unit has failed.
pub(crate) async fn run_default(steps: &Steps) -> Result<(), Sense> {
    read(steps, false, None, false).await.map_err(|_| failed())
}

fn failed() -> Sense {
    Sense::hardware_error(AdditionalSense::LOGICAL_UNIT_FAILED_SELF_TEST)
}

fn block_length(unit: &LogicalUnit) -> u64 {
    match unit.device().block_descriptor(true) {
        Some(BlockDescriptor::Long { block_length, .. } | BlockDescriptor::Short { block_length, .. }) => {
            u64::from(block_length.max(1))
        }
        None => 1,
    }
}

enum Ended {
    Aborted,
    Failed { offset: u64, error: IoError },
}

async fn read(steps: &Steps, extended: bool, running: Option<&Running>, paced: bool) -> Result<(), Ended> {
    let Some(caps) = steps.unit.backing().map(|backing| backing.caps().clone()) else { return Ok(()) };
    let block = u64::from(caps.logical_block.max(1));
    let step = (STEP.min(caps.max_transfer).min(caps.size.get()) / block * block).max(block);
    let (length, stride) = match extended {
        true => (step, step),
        false => (block, (caps.size.get() / SAMPLES / block * block).max(block)),
    };
    let memory = Rc::new(Memory::zeroed(length as usize));
    let mut offset = 0;
    // It may become larger or smaller meanwhile.
    while offset < caps.size.get() {
        let length = length.min(caps.size.get() - offset);
        if running.is_some_and(|running| running.abort.load(Ordering::Relaxed) != 0) {
            return Err(Ended::Aborted);
        }
        let began = steps.now();
        match steps.read(offset, &memory, length).await {
            Ok(_) => {}
            Err(_) if offset + length > caps.size.get() => continue,
            Err(IoError::Aborted) => return Err(Ended::Aborted),
            Err(error) => return Err(Ended::Failed { offset, error }),
        }
        offset += stride;
        if let Some(running) = running {
            running.progress.set(offset, caps.size.get());
        }
        if paced {
            let rest = (steps.now() - began).max(Duration::from_millis(1));
            steps.sleep(rest).await.map_err(|_| Ended::Aborted)?;
        }
    }
    Ok(())
}
