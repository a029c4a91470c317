//! The log pages of a logical unit (SPC-4 7.3).

use crate::LogicalUnit;
use crate::statistics::{Counted, Totals};
use lunette_scsi::log::{LogEntry, LogFormat, LogPageCode, LogParameter};
use lunette_scsi::mode::BlockDescriptor;
use lunette_scsi::{AdditionalSense, Sense};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which values of a log page (the PC field of LOG SENSE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogControl {
    /// Those so far.
    Cumulative,
    /// Those after a reset of the log.
    Default,
}

/// Counters are never set back: what is taken off them when they are shown. By page and parameter, or by the field of the one
/// parameter of General Statistics and Performance.
#[derive(Default, Debug)]
pub(crate) struct LogBases(Mutex<BTreeMap<(LogPageCode, u16), u64>>);

impl LogBases {
    /// Those of one page. To be read before the counters: read after them, they could be those of a later reset.
    fn of(&self, page: LogPageCode) -> BTreeMap<u16, u64> {
        let bases = self.lock();
        let of_page = bases.range((page, 0)..=(page, u16::MAX));
        of_page.map(|((_, parameter), base)| (*parameter, *base)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(LogPageCode, u16), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parameters of the error counter pages.
mod error_counter {
    pub(super) const CORRECTED: std::ops::Range<u16> = 0..5;
    pub(super) const BYTES_PROCESSED: u16 = 5;
    pub(super) const UNCORRECTED: u16 = 6;
}

/// Parameters of General Statistics and Performance.
mod statistics {
    pub(super) const COMMANDS: u16 = 1;
    pub(super) const IDLE_TIME: u16 = 2;
    pub(super) const TIME_INTERVAL: u16 = 3;

    /// Where the base of a field is kept: of the number of commands, or that of bytes.
    pub(super) fn base(work: super::Counted, field: u16) -> u16 {
        work as u16 * 2 + field
    }
}

impl LogicalUnit {
    /// The codes of its log pages, ascending.
    pub fn log_page_codes(&self) -> Vec<LogPageCode> {
        let mut codes = vec![
            LogPageCode::SUPPORTED_PAGES,
            LogPageCode::SUPPORTED_SUBPAGES,
            LogPageCode::SELF_TEST_RESULTS,
            LogPageCode::INFORMATIONAL_EXCEPTIONS,
        ];
        if self.backing().is_some() {
            codes.extend([
                LogPageCode::WRITE_ERROR_COUNTERS,
                LogPageCode::READ_ERROR_COUNTERS,
                LogPageCode::VERIFY_ERROR_COUNTERS,
                LogPageCode::GENERAL_STATISTICS,
            ]);
        }
        codes.extend(self.device().log_pages());
        codes.sort_unstable();
        codes
    }

    /// The parameters of a page, but for the two that list the pages.
    pub(crate) fn log_page(&self, code: LogPageCode, control: LogControl) -> Option<Vec<LogParameter>> {
        let bases = self.log_bases().of(code);
        let mut parameters = match code {
            LogPageCode::SELF_TEST_RESULTS => self.self_tests().parameters(),
            LogPageCode::INFORMATIONAL_EXCEPTIONS => vec![no_exception()],
            LogPageCode::GENERAL_STATISTICS => self.general_statistics(&bases, control)?,
            _ => self.counter_page(code).or_else(|| self.device().log_page(code, self))?,
        };
        for parameter in parameters.iter_mut().filter(|parameter| parameter.format == LogFormat::Counter) {
            let base = bases.get(&parameter.code).copied().unwrap_or(0);
            let value = match control {
                LogControl::Cumulative => counter(&parameter.value).wrapping_sub(base),
                LogControl::Default => 0,
            };
            *parameter = LogParameter::counter(parameter.code, value);
        }
        Some(parameters)
    }

    fn counter_page(&self, code: LogPageCode) -> Option<Vec<LogParameter>> {
        self.backing()?;
        Some(match code {
            LogPageCode::WRITE_ERROR_COUNTERS => error_counters(self.statistics().totals(Counted::Write)),
            LogPageCode::READ_ERROR_COUNTERS => error_counters(self.statistics().totals(Counted::Read)),
            LogPageCode::VERIFY_ERROR_COUNTERS => error_counters(self.statistics().totals(Counted::Verify)),
            _ => return None,
        })
    }

    /// Commands and blocks, but no times: nobody looks at the clock when a command comes or goes. The page says so by
    /// intervals of no length.
    fn general_statistics(
        &self,
        bases: &BTreeMap<u16, u64>,
        control: LogControl,
    ) -> Option<Vec<LogParameter>> {
        self.backing()?;
        let block = match self.device().block_descriptor(true) {
            Some(
                BlockDescriptor::Long { block_length, .. } | BlockDescriptor::Short { block_length, .. },
            ) => u64::from(block_length.max(1)),
            None => 1,
        };
        let shown = |work| {
            let base = |field| bases.get(&statistics::base(work, field)).copied().unwrap_or(0);
            let Totals { commands, transferred, .. } = self.statistics().totals(work);
            (commands.wrapping_sub(base(0)), transferred.wrapping_sub(base(1)) / block)
        };
        let ((reads, transmitted), (writes, received)) = (shown(Counted::Read), shown(Counted::Write));
        let fields = match control {
            LogControl::Cumulative => [reads, writes, received, transmitted, 0, 0, 0, 0],
            LogControl::Default => [0; 8],
        };
        Some(vec![
            LogParameter::binary(statistics::COMMANDS, fields.map(u64::to_be_bytes).concat()),
            LogParameter::binary(statistics::IDLE_TIME, [0; 8]),
            LogParameter::binary(statistics::TIME_INTERVAL, [0; 8]),
        ])
    }

    /// Sets the counters of pages back to zero, and forgets results of self-tests.
    pub(crate) fn reset_log(&self, pages: &[LogPageCode]) {
        pages.iter().for_each(|code| self.reset_log_page(*code));
    }

    fn reset_log_page(&self, code: LogPageCode) {
        if code == LogPageCode::GENERAL_STATISTICS {
            let totals = [Counted::Read, Counted::Write].map(|work| (work, self.statistics().totals(work)));
            let mut bases = self.log_bases().lock();
            for (work, Totals { commands, transferred, .. }) in totals {
                bases.insert((code, statistics::base(work, 0)), commands);
                bases.insert((code, statistics::base(work, 1)), transferred);
            }
            return;
        }
        if code == LogPageCode::SELF_TEST_RESULTS {
            return self.self_tests().forget();
        }
        let counters = self.counter_page(code).unwrap_or_default();
        let mut bases = self.log_bases().lock();
        bases.extend(counters.iter().map(|parameter| ((code, parameter.code), counter(&parameter.value))));
    }

    /// Sets counters to what a LOG SELECT list says, all or none.
    ///
    /// # Errors
    /// INVALID FIELD IN PARAMETER LIST with a pointer, for what is no counter of this unit.
    pub(crate) fn set_log(&self, entries: &[LogEntry<'_>]) -> Result<(), Sense> {
        let mut bases = Vec::new();
        for entry in entries {
            let refused =
                |at: u16| Sense::invalid_field_in_parameter_list(entry.offset.saturating_add(at), None);
            if !self.log_page_codes().contains(&entry.page) {
                return Err(Sense::invalid_field_in_parameter_list(entry.page_offset, Some(5)));
            }
            let page = self.counter_page(entry.page).unwrap_or_default();
            let known = page.iter().find(|parameter| parameter.code == entry.code).ok_or(refused(0))?;
            if known.format != LogFormat::Counter {
                return Err(refused(0));
            }
            if entry.threshold_comparison {
                return Err(Sense::invalid_field_in_parameter_list(entry.offset.saturating_add(2), Some(4)));
            }
            let value = entry.value.try_into().map(u64::from_be_bytes).map_err(|_| refused(3))?;
            bases.push(((entry.page, entry.code), counter(&known.value).wrapping_sub(value)));
        }
        self.log_bases().lock().extend(bases);
        Ok(())
    }

    /// The other nexuses learn that log parameters are not what they were.
    pub(crate) fn log_changed(&self, by: &crate::Nexus) {
        self.establish_attention(AdditionalSense::LOG_PARAMETERS_CHANGED, Some(by));
    }
}

/// Whatever a store corrects, it does so unseen.
fn error_counters(totals: Totals) -> Vec<LogParameter> {
    let corrected = error_counter::CORRECTED.map(|code| LogParameter::counter(code, 0));
    let known = [
        LogParameter::counter(error_counter::BYTES_PROCESSED, totals.bytes),
        LogParameter::counter(error_counter::UNCORRECTED, totals.errors),
    ];
    corrected.chain(known).collect()
}

/// No exception, and no temperature.
fn no_exception() -> LogParameter {
    const NO_TEMPERATURE: u8 = 0xff;
    LogParameter::binary(0, [0, 0, NO_TEMPERATURE, 0])
}

fn counter(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}
