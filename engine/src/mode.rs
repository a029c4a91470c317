//! The mode pages of a logical unit: default, changeable, current and saved values (SPC-4 7.5).

use crate::failure::OnError;
use crate::saved::HexBytes;
use crate::{LogicalUnit, Nexus};
use lunette_scsi::mode::{ModePageCode, ModePageEntry, ModePageHeader};
use lunette_scsi::{AdditionalSense, Sense};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// A mode page as its device defines it: whole pages, header included.
#[derive(Clone, Debug)]
pub struct ModePageSpec {
    code: ModePageCode,
    default: Vec<u8>,
    changeable: Vec<u8>,
}

impl ModePageSpec {
    /// A page with its values when nothing was saved, and the same page with a one for each bit that MODE SELECT may change.
    ///
    /// # Panics
    /// If these are not two pages of the same code and length.
    pub fn new(default: &[u8], changeable: &[u8]) -> Self {
        let header = ModePageHeader::parse(default).expect("a mode page");
        assert_eq!(Ok(header), ModePageHeader::parse(changeable), "two pages of one code");
        assert!(
            default.len() == header.size() + usize::from(header.length) && changeable.len() == default.len()
        );
        Self { code: header.code, default: default.to_vec(), changeable: changeable.to_vec() }
    }

    /// A page of which nothing can be changed.
    ///
    /// # Panics
    /// If this is not a page.
    pub fn fixed(default: &[u8]) -> Self {
        let header = ModePageHeader::parse(default).expect("a mode page").size();
        let mut changeable = default.to_vec();
        changeable[header..].fill(0);
        Self::new(default, &changeable)
    }
}

/// Which values of a page (the PC field of MODE SENSE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageControl {
    /// Those in force.
    Current,
    /// A mask of the bits that can be changed.
    Changeable,
    /// Those of a unit of which nothing was saved.
    Default,
    /// Those after a reset.
    Saved,
}

/// The pages of one logical unit, sorted by code and subpage.
#[derive(Debug, Default)]
pub(crate) struct ModePages {
    pages: Vec<Page>,
}

#[derive(Debug)]
struct Page {
    spec: ModePageSpec,
    current: Vec<u8>,
    saved: Vec<u8>,
}

/// Values that have been checked, but are not in force yet.
pub(crate) struct Selection {
    pages: Vec<(ModePageCode, Vec<u8>)>,
    /// Whether they differ from those in force.
    pub(crate) changes: bool,
}

impl Selection {
    /// Whether the page was sent.
    pub(crate) fn has(&self, code: ModePageCode) -> bool {
        self.pages.iter().any(|(sent, _)| *sent == code)
    }
}

/// Whole pages in hexadecimal, by their codes.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SavedModes(BTreeMap<String, HexBytes>);

impl SavedModes {
    /// Its section of the saved state.
    pub(crate) const SECTION: &str = "mode-pages";

    /// The values of a page, if they are of its length.
    fn of(&self, page: &Page) -> Option<&[u8]> {
        let HexBytes(bytes) = self.0.get(&page.spec.code.to_string())?;
        (bytes.len() == page.spec.default.len()).then_some(bytes)
    }
}

/// PS of a page's header: its values can be saved.
const SAVABLE: u8 = 0x80;

impl Page {
    fn header(&self) -> usize {
        header(self.spec.code)
    }

    /// Whether something in it can be changed, and therefore saved.
    fn is_savable(&self) -> bool {
        self.spec.changeable[self.header()..].iter().any(|byte| *byte != 0)
    }

    /// The page with the changeable bits of `values` and the others as they are.
    fn merged(&self, values: &[u8]) -> Vec<u8> {
        let bytes = self.spec.default.iter().zip(values).zip(&self.spec.changeable).enumerate();
        let merge = |(at, ((default, value), mask)): (usize, ((&u8, &u8), &u8))| match at < self.header() {
            true => *default,
            false => default & !mask | value & mask,
        };
        bytes.map(merge).collect()
    }
}

fn header(code: ModePageCode) -> usize {
    if code.subpage == 0 { 2 } else { 4 }
}

impl ModePages {
    pub(crate) fn new(mut specs: Vec<ModePageSpec>) -> Self {
        specs.sort_by_key(|page| page.code);
        let page =
            |spec: ModePageSpec| Page { current: spec.default.clone(), saved: spec.default.clone(), spec };
        Self { pages: specs.into_iter().map(page).collect() }
    }

    /// The codes of all pages, ascending.
    pub(crate) fn codes(&self) -> impl Iterator<Item = ModePageCode> {
        self.pages.iter().map(|page| page.spec.code)
    }

    /// One whole page.
    pub(crate) fn page(&self, code: ModePageCode, control: PageControl) -> Option<Vec<u8>> {
        let page = self.find(code)?;
        let mut bytes = match control {
            PageControl::Current => &page.current,
            PageControl::Changeable => &page.spec.changeable,
            PageControl::Default => &page.spec.default,
            PageControl::Saved => &page.saved,
        }
        .clone();
        if page.is_savable() {
            bytes[0] |= SAVABLE;
        }
        Some(bytes)
    }

    /// Checks that `pages` change only what may be changed.
    pub(crate) fn select(&self, pages: &[ModePageEntry<'_>]) -> Result<Selection, Sense> {
        let mut selection = Selection { pages: Vec::new(), changes: false };
        for entry in pages {
            selection.changes |= self.check(entry)?;
            selection.pages.push((entry.code, entry.bytes.to_vec()));
        }
        Ok(selection)
    }

    /// Returns whether `page` changes anything.
    fn check(&self, page: &ModePageEntry<'_>) -> Result<bool, Sense> {
        let refused = |at: usize, bit| {
            Err(Sense::invalid_field_in_parameter_list(page.offset.saturating_add(at as u16), bit))
        };
        let Some(Page { spec, current, .. }) = self.find(page.code) else { return refused(0, Some(5)) };
        let header = header(page.code);
        if page.bytes.len() != current.len() {
            return refused(header / 2, None);
        }
        let fields = page.bytes.iter().zip(current).zip(&spec.changeable).enumerate().skip(header);
        let mut changes = false;
        for (at, ((new, old), changeable)) in fields {
            let wrong = (new ^ old) & !changeable;
            if wrong != 0 {
                return refused(at, Some(7 - wrong.leading_zeros() as u8));
            }
            changes |= new != old;
        }
        // QERR has a reserved value (SPC-4 7.5.8).
        if page.code == ModePageCode::page(0x0a) && page.bytes[3] & 0x06 == 0x04 {
            return refused(3, Some(2));
        }
        Ok(changes)
    }

    /// Puts values in force.
    pub(crate) fn set(&mut self, selection: &Selection) {
        for (code, bytes) in &selection.pages {
            if let Some(page) = self.pages.iter_mut().find(|page| page.spec.code == *code) {
                page.current = page.merged(bytes);
            }
        }
    }

    /// What is to be saved when `selection` is put in force and saved: all that can be.
    pub(crate) fn to_save(&self, selection: &Selection) -> SavedModes {
        let savable = self.pages.iter().filter(|page| page.is_savable());
        let values = savable.map(|page| {
            let selected = selection.pages.iter().rfind(|(code, _)| *code == page.spec.code);
            let bytes = page.merged(selected.map_or(&page.current, |(_, bytes)| bytes));
            (page.spec.code.to_string(), HexBytes(bytes))
        });
        SavedModes(values.collect())
    }

    /// What is in force of all that can be changed.
    pub(crate) fn in_force(&self) -> SavedModes {
        self.to_save(&Selection { pages: Vec::new(), changes: false })
    }

    /// The same in force again. Pages that are not there, or have another length, are left out.
    pub(crate) fn put_in_force(&mut self, modes: &SavedModes) {
        for page in &mut self.pages {
            if let Some(bytes) = modes.of(page) {
                page.current = page.merged(bytes);
            }
        }
    }

    /// These values have been saved. Pages that are not there any more, or have another length, are left out.
    pub(crate) fn set_saved(&mut self, saved: &SavedModes) {
        for page in &mut self.pages {
            if let Some(bytes) = saved.of(page) {
                page.saved = page.merged(bytes);
            }
        }
    }

    /// Back to the saved values.
    pub(crate) fn reset(&mut self) {
        for page in &mut self.pages {
            page.current.clone_from(&page.saved);
        }
    }

    fn find(&self, code: ModePageCode) -> Option<&Page> {
        self.pages.iter().find(|page| page.spec.code == code)
    }
}

/// Bits of the mode pages that commands look at, in one word.
struct Flag;

impl Flag {
    const WRITE_CACHE: u32 = 1;
    const WRITE_PROTECT: u32 = 2;
    const DESCRIPTOR_SENSE: u32 = 4;
    const TASK_ABORTED_STATUS: u32 = 8;
    const ABORT_ON_ERROR: u32 = 16;
    const ABORT_OWN_ONLY: u32 = 32;
    const PROTECTED_FROM_OUTSIDE: u32 = 64;
}

impl LogicalUnit {
    /// Whether completed writes may stay in a volatile cache (WCE of the Caching mode page).
    pub fn write_cache_enabled(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & Flag::WRITE_CACHE != 0
    }

    /// Whether writes are refused: SWP of the Control mode page, the operator's wish, or a store that is read-only.
    pub fn write_protected(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & Flag::WRITE_PROTECT != 0
    }

    /// Why writes are refused, if they are: initiators can lift what SWP of the Control mode page does, but not the operator's
    /// wish or that the store is read-only.
    pub fn write_protection(&self) -> Option<AdditionalSense> {
        let flags = self.flags.load(Ordering::Relaxed);
        (flags & Flag::WRITE_PROTECT != 0).then_some(match flags & Flag::PROTECTED_FROM_OUTSIDE {
            0 => AdditionalSense::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED,
            _ => AdditionalSense::WRITE_PROTECTED,
        })
    }

    /// Whether sense data is returned in descriptor format (D_SENSE of the Control mode page).
    pub fn descriptor_sense(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & Flag::DESCRIPTOR_SENSE != 0
    }

    /// Whether commands that another nexus aborts end with TASK ABORTED (TAS of the Control mode page).
    pub(crate) fn tells_aborted(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & Flag::TASK_ABORTED_STATUS != 0
    }

    /// What an error does to other commands (QERR of the Control mode page).
    pub(crate) fn on_error(&self) -> OnError {
        let flags = self.flags.load(Ordering::Relaxed);
        match (flags & Flag::ABORT_ON_ERROR != 0, flags & Flag::ABORT_OWN_ONLY != 0) {
            (true, false) => OnError::AbortAll,
            (true, true) => OnError::AbortOwn,
            (false, _) => OnError::GoOn,
        }
    }

    /// A whole mode page, header included.
    pub fn mode_page(&self, code: ModePageCode, control: PageControl) -> Option<Vec<u8>> {
        self.state().modes.page(code, control)
    }

    /// The codes of its mode pages, ascending.
    pub fn mode_page_codes(&self) -> Vec<ModePageCode> {
        self.state().modes.codes().collect()
    }

    /// Checks a set of mode pages, all or none.
    pub(crate) fn select_modes(&self, pages: &[ModePageEntry<'_>]) -> Result<Selection, Sense> {
        self.state().modes.select(pages)
    }

    /// Puts mode pages in force and tells the other nexuses.
    pub(crate) fn set_modes(&self, selection: &Selection, by: &Nexus) {
        self.state().modes.set(selection);
        if selection.changes {
            self.apply_modes();
            self.establish_attention(AdditionalSense::MODE_PARAMETERS_CHANGED, Some(by));
        }
    }

    /// What is to be saved with them.
    pub(crate) fn modes_to_save(&self, selection: &Selection) -> SavedModes {
        self.state().modes.to_save(selection)
    }

    /// These have been saved.
    pub(crate) fn keep_modes(&self, saved: &SavedModes) {
        self.state().modes.set_saved(saved);
    }

    pub(crate) fn apply_modes(&self) {
        let state = self.state();
        let bit = |code, byte: usize, mask: u8| {
            let page = state.modes.page(ModePageCode::page(code), PageControl::Current);
            page.and_then(|bytes| bytes.get(byte).copied()).is_some_and(|byte| byte & mask != 0)
        };
        let mut flags = 0;
        if bit(0x08, 2, 0x04) {
            flags |= Flag::WRITE_CACHE;
        }
        let from_outside = state.read_only || self.backing().is_some_and(|b| b.caps().read_only);
        if from_outside {
            flags |= Flag::PROTECTED_FROM_OUTSIDE;
        }
        if from_outside || bit(0x0a, 4, 0x08) {
            flags |= Flag::WRITE_PROTECT;
        }
        if bit(0x0a, 2, 0x04) {
            flags |= Flag::DESCRIPTOR_SENSE;
        }
        if bit(0x0a, 5, 0x40) {
            flags |= Flag::TASK_ABORTED_STATUS;
        }
        if bit(0x0a, 3, 0x02) {
            flags |= Flag::ABORT_ON_ERROR;
        }
        if bit(0x0a, 3, 0x04) {
            flags |= Flag::ABORT_OWN_ONLY;
        }
        // Still locked, so that the flags are those of the last change.
        self.flags.store(flags, Ordering::Relaxed);
    }
}
