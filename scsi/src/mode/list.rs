//! Parsing mode parameter lists.

use super::{BlockDescriptor, ModeForm, ModeHeader, ModePageCode, ModePageHeader};
use crate::bytes::{bit_at, u16_at};
use crate::error::ParseError;
use crate::sense::{AdditionalSense, Sense};

/// A MODE SELECT parameter list, checked as a whole (SPC-4 7.5.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModeParameterList<'a> {
    /// The header. MODE DATA LENGTH is reserved in MODE SELECT and not looked at.
    pub header: ModeHeader,
    /// The block descriptor, if there is one.
    pub descriptor: Option<BlockDescriptor>,
    /// Where the block descriptor begins.
    pub descriptor_offset: u16,
    /// The pages in the order they came.
    pub pages: Vec<ModePageEntry<'a>>,
}

/// One page of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModePageEntry<'a> {
    /// Which page.
    pub code: ModePageCode,
    /// The whole page, header included.
    pub bytes: &'a [u8],
    /// Where it begins in the parameter list, for field pointers.
    pub offset: u16,
}

impl<'a> ModeParameterList<'a> {
    /// Parses `list`, of which a device server refuses what it does not know afterwards.
    ///
    /// # Errors
    ///
    /// PARAMETER LIST LENGTH ERROR if the list ends inside a header, descriptor or page, and
    /// INVALID FIELD IN PARAMETER LIST with a pointer for more than one descriptor, a descriptor
    /// of a wrong length, and page codes that only MODE SENSE can use.
    pub fn parse(form: ModeForm, list: &'a [u8]) -> Result<Self, Sense> {
        const TRUNCATED: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        let start = form.header_length();
        if list.len() < start || list.len() > usize::from(u16::MAX) {
            return Err(TRUNCATED);
        }
        let (header, long, length, length_at) = match form {
            ModeForm::Six => ((list[1], list[2]), false, usize::from(list[3]), 3),
            ModeForm::Ten => ((list[2], list[3]), bit_at(list, 4, 0), usize::from(u16_at(list, 6)), 6),
        };
        if length != 0 && length != if long { 16 } else { 8 } {
            return Err(Sense::invalid_field_in_parameter_list(length_at, None));
        }
        let descriptor = list.get(start..start + length).ok_or(TRUNCATED)?;
        let mut pages = Vec::new();
        let mut at = start + length;
        while at < list.len() {
            let page = Self::page_at(list, at, TRUNCATED)?;
            at += page.bytes.len();
            pages.push(page);
        }
        Ok(Self {
            header: ModeHeader { medium_type: header.0, device_specific: header.1 },
            descriptor: BlockDescriptor::parse(descriptor),
            descriptor_offset: start as u16,
            pages,
        })
    }

    fn page_at(list: &'a [u8], at: usize, truncated: Sense) -> Result<ModePageEntry<'a>, Sense> {
        // `parse` refused lists beyond 64 KiB.
        let offset = at as u16;
        let header = ModePageHeader::parse(&list[at..]).map_err(|error| match error {
            ParseError::Truncated { .. } => truncated,
            ParseError::Invalid { byte, .. } => {
                Sense::invalid_field_in_parameter_list(offset + byte as u16, None)
            }
        })?;
        let ModePageCode { page, subpage } = header.code;
        if page == ModePageCode::ALL_PAGES {
            return Err(Sense::invalid_field_in_parameter_list(offset, Some(5)));
        }
        if subpage == ModePageCode::ALL_SUBPAGES {
            return Err(Sense::invalid_field_in_parameter_list(offset + 1, None));
        }
        let end = at + header.size() + usize::from(header.length);
        let bytes = list.get(at..end).ok_or(truncated)?;
        Ok(ModePageEntry { code: header.code, bytes, offset })
    }
}
