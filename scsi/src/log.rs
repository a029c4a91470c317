//! Log pages: parameters with numbers, in data of LOG SENSE and lists of LOG SELECT (SPC-4 7.3).

use crate::bytes::{bit, u8_at, u16_at};
use crate::sense::{AdditionalSense, Sense};
use std::fmt;

/// PAGE CODE and SUBPAGE CODE of a log page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPageCode {
    /// PAGE CODE, 6 bits.
    pub page: u8,
    /// SUBPAGE CODE.
    pub subpage: u8,
}

impl LogPageCode {
    /// Supported Log Pages (SPC-4 7.3).
    pub const SUPPORTED_PAGES: Self = Self::page(0x00);
    /// Supported Log Pages and Subpages (SPC-4 7.3).
    pub const SUPPORTED_SUBPAGES: Self = Self { page: 0x00, subpage: 0xff };
    /// Write Error Counters (SPC-4 7.3).
    pub const WRITE_ERROR_COUNTERS: Self = Self::page(0x02);
    /// Read Error Counters (SPC-4 7.3).
    pub const READ_ERROR_COUNTERS: Self = Self::page(0x03);
    /// Verify Error Counters (SPC-4 7.3).
    pub const VERIFY_ERROR_COUNTERS: Self = Self::page(0x05);
    /// Logical Block Provisioning (SBC-4 6.4).
    pub const LOGICAL_BLOCK_PROVISIONING: Self = Self::page(0x0c);
    /// Temperature (SPC-4 7.3).
    pub const TEMPERATURE: Self = Self::page(0x0d);
    /// Start-Stop Cycle Counter (SPC-4 7.3).
    pub const START_STOP_CYCLE_COUNTER: Self = Self::page(0x0e);
    /// Self-Test Results (SPC-4 7.3).
    pub const SELF_TEST_RESULTS: Self = Self::page(0x10);
    /// General Statistics and Performance (SPC-4 7.3).
    pub const GENERAL_STATISTICS: Self = Self::page(0x19);
    /// Informational Exceptions (SPC-4 7.3).
    pub const INFORMATIONAL_EXCEPTIONS: Self = Self::page(0x2f);

    /// A page without subpage.
    pub const fn page(page: u8) -> Self {
        Self { page, subpage: 0 }
    }

    /// The standards' name of it.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SUPPORTED_PAGES => "Supported Log Pages",
            Self::SUPPORTED_SUBPAGES => "Supported Log Pages and Subpages",
            Self::WRITE_ERROR_COUNTERS => "Write Error Counters",
            Self::READ_ERROR_COUNTERS => "Read Error Counters",
            Self::VERIFY_ERROR_COUNTERS => "Verify Error Counters",
            Self::LOGICAL_BLOCK_PROVISIONING => "Logical Block Provisioning",
            Self::TEMPERATURE => "Temperature",
            Self::START_STOP_CYCLE_COUNTER => "Start-Stop Cycle Counter",
            Self::SELF_TEST_RESULTS => "Self-Test Results",
            Self::GENERAL_STATISTICS => "General Statistics and Performance",
            Self::INFORMATIONAL_EXCEPTIONS => "Informational Exceptions",
            _ => return None,
        })
    }
}

impl fmt::Debug for LogPageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogPageCode({:02x}h/{:02x}h)", self.page, self.subpage)
    }
}

/// What the value of a parameter is (FORMAT AND LINKING, SPC-4 7.3.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// A counter that stops at its largest value.
    Counter,
    /// Binary data.
    Binary,
}

/// One parameter of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogParameter {
    /// PARAMETER CODE.
    pub code: u16,
    /// What its value is.
    pub format: LogFormat,
    /// PARAMETER VALUE, at most 255 bytes.
    pub value: Vec<u8>,
}

/// TSD: the device does not save the parameter by itself (SPC-4 7.3.2.2).
const TARGET_SAVE_DISABLED: u8 = 0x20;
const BINARY_LIST: u8 = 0b11;
const HEADER: usize = 4;

impl LogParameter {
    /// A counter of eight bytes.
    pub fn counter(code: u16, value: u64) -> Self {
        Self { code, format: LogFormat::Counter, value: value.to_be_bytes().into() }
    }

    /// Binary data.
    pub fn binary(code: u16, value: impl Into<Vec<u8>>) -> Self {
        Self { code, format: LogFormat::Binary, value: value.into() }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        let format = match self.format {
            LogFormat::Counter => 0,
            LogFormat::Binary => BINARY_LIST,
        };
        let length = self.value.len().min(usize::from(u8::MAX));
        out.extend(self.code.to_be_bytes());
        out.extend([TARGET_SAVE_DISABLED | format, length as u8]);
        out.extend(&self.value[..length]);
    }
}

/// A whole page of parameters, which are never saved (DS).
pub fn encode_log_page(code: LogPageCode, parameters: &[LogParameter]) -> Vec<u8> {
    let mut body = Vec::new();
    parameters.iter().for_each(|parameter| parameter.append_to(&mut body));
    page(code, true, body)
}

/// The Supported Log Pages page, or with subpages that of all subpages.
pub fn encode_supported_log_pages(pages: &[LogPageCode], subpages: bool) -> Vec<u8> {
    if subpages {
        let body = pages.iter().flat_map(|code| [code.page, code.subpage]).collect();
        return page(LogPageCode::SUPPORTED_SUBPAGES, false, body);
    }
    let mut body: Vec<u8> = pages.iter().map(|code| code.page).collect();
    body.dedup();
    page(LogPageCode::SUPPORTED_PAGES, false, body)
}

fn page(code: LogPageCode, disable_save: bool, mut body: Vec<u8>) -> Vec<u8> {
    body.truncate(u16::MAX.into());
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend([bit(disable_save, 7) | bit(code.subpage != 0, 6) | (code.page & 0x3f), code.subpage]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

/// One parameter of a LOG SELECT list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEntry<'a> {
    /// The page that it is of.
    pub page: LogPageCode,
    /// Where the page begins in the list, for field pointers.
    pub page_offset: u16,
    /// PARAMETER CODE.
    pub code: u16,
    /// ETC: a threshold is to be compared with.
    pub threshold_comparison: bool,
    /// PARAMETER VALUE.
    pub value: &'a [u8],
    /// Where the parameter begins in the list.
    pub offset: u16,
}

/// The parameters of a LOG SELECT list in their order (SPC-4 6.7).
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR if the list ends inside a page, and INVALID FIELD IN PARAMETER LIST with a pointer to the length
/// of a page that ends inside a parameter.
pub fn parse_log_list(list: &[u8]) -> Result<Vec<LogEntry<'_>>, Sense> {
    const TRUNCATED: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    if list.len() > usize::from(u16::MAX) {
        return Err(TRUNCATED);
    }
    let mut entries = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let header = list.get(at..at + HEADER).ok_or(TRUNCATED)?;
        let subpage_format = u8_at(header, 0) & 0x40 != 0;
        if !subpage_format && header[1] != 0 {
            return Err(Sense::invalid_field_in_parameter_list(at as u16 + 1, None));
        }
        let page = LogPageCode { page: header[0] & 0x3f, subpage: header[1] };
        let (page_offset, end) = (at as u16, at + HEADER + usize::from(u16_at(header, 2)));
        if end > list.len() {
            return Err(TRUNCATED);
        }
        at += HEADER;
        while at < end {
            let cut = Sense::invalid_field_in_parameter_list(page_offset + 2, None);
            let parameter = list[at..end].get(..HEADER).ok_or(cut)?;
            let length = usize::from(parameter[3]);
            let value = list[at + HEADER..end].get(..length).ok_or(cut)?;
            let (code, threshold_comparison) = (u16_at(parameter, 0), parameter[2] & 0x10 != 0);
            entries.push(LogEntry {
                page,
                page_offset,
                code,
                threshold_comparison,
                value,
                offset: at as u16,
            });
            at += HEADER + length;
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: LogPageCode = LogPageCode::READ_ERROR_COUNTERS;

    #[test]
    fn pages_have_parameters() {
        let page = encode_log_page(PAGE, &[LogParameter::counter(5, 258), LogParameter::binary(6, [7])]);
        assert_eq!(page[..8], [0x83, 0, 0, 17, 0, 5, 0x20, 8]);
        assert_eq!(page[8..], [0, 0, 0, 0, 0, 0, 1, 2, 0, 6, 0x23, 1, 7]);
    }

    #[test]
    fn supported_pages() {
        let codes = [LogPageCode::SUPPORTED_PAGES, LogPageCode::SUPPORTED_SUBPAGES, PAGE];
        assert_eq!(encode_supported_log_pages(&codes, false), [0, 0, 0, 2, 0, 3]);
        assert_eq!(encode_supported_log_pages(&codes, true), [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 3, 0]);
    }

    #[test]
    fn lists_are_taken_apart() {
        let list = encode_log_page(PAGE, &[LogParameter::counter(5, 1), LogParameter::binary(6, [])]);
        let list = [list, encode_log_page(LogPageCode::GENERAL_STATISTICS, &[])].concat();
        let entries = parse_log_list(&list).unwrap();
        let seen: Vec<_> =
            entries.iter().map(|entry| (entry.code, entry.value.len(), entry.offset)).collect();
        assert_eq!(seen, [(5, 8, 4), (6, 0, 16)]);
        assert!(entries.iter().all(|entry| entry.page == PAGE && !entry.threshold_comparison));
        assert_eq!(parse_log_list(&[]), Ok(Vec::new()));
        for length in 1..list.len() {
            assert_eq!(parse_log_list(&list[..length]).is_ok(), length == 20, "{length}");
        }
        for cut in [&[0x03, 0, 0, 3, 0, 5, 0][..], &[0x03, 0, 0, 5, 0, 5, 0, 2, 7]] {
            assert_eq!(parse_log_list(cut), Err(Sense::invalid_field_in_parameter_list(2, None)));
        }
        let wrong = parse_log_list(&[0x03, 1, 0, 0]).unwrap_err();
        assert_eq!(wrong, Sense::invalid_field_in_parameter_list(1, None));
    }

    proptest! {
        #[test]
        fn random_lists_never_panic(list in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse_log_list(&list);
        }
    }
}
