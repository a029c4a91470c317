//! The mode pages of a logical unit: default, changeable and current values (SPC-4 7.5).

use lunette_scsi::Sense;
use lunette_scsi::mode::{ModePageCode, ModePageEntry, ModePageHeader};

/// A mode page as its device defines it: whole pages, header included.
#[derive(Clone, Debug)]
pub struct ModePageSpec {
    code: ModePageCode,
    default: Vec<u8>,
    changeable: Vec<u8>,
}

impl ModePageSpec {
    /// A page with its values after a reset, and the same page with a one for each bit that MODE SELECT may change.
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
    /// Those after a reset.
    Default,
}

/// The pages of one logical unit with their current values, sorted by code and subpage.
#[derive(Debug, Default)]
pub(crate) struct ModePages {
    pages: Vec<(ModePageSpec, Vec<u8>)>,
}

impl ModePages {
    pub(crate) fn new(mut specs: Vec<ModePageSpec>) -> Self {
        specs.sort_by_key(|page| page.code);
        Self { pages: specs.into_iter().map(|spec| (spec.clone(), spec.default)).collect() }
    }

    /// The codes of all pages, ascending.
    pub(crate) fn codes(&self) -> impl Iterator<Item = ModePageCode> {
        self.pages.iter().map(|(spec, _)| spec.code)
    }

    /// One whole page.
    pub(crate) fn page(&self, code: ModePageCode, control: PageControl) -> Option<&[u8]> {
        let (spec, current) = self.find(code)?;
        Some(match control {
            PageControl::Current => current,
            PageControl::Changeable => &spec.changeable,
            PageControl::Default => &spec.default,
        })
    }

    /// Checks that `page` changes only what may be changed. Returns whether it changes anything.
    pub(crate) fn check(&self, page: &ModePageEntry<'_>) -> Result<bool, Sense> {
        let refused = |at: usize, bit| {
            Err(Sense::invalid_field_in_parameter_list(page.offset.saturating_add(at as u16), bit))
        };
        let Some((spec, current)) = self.find(page.code) else { return refused(0, Some(5)) };
        let header = if page.code.subpage == 0 { 2 } else { 4 };
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
        Ok(changes)
    }

    /// Puts values in force that [`check`](Self::check) has passed.
    pub(crate) fn set(&mut self, page: &ModePageEntry<'_>) {
        let header = if page.code.subpage == 0 { 2 } else { 4 };
        if let Some((_, current)) = self.pages.iter_mut().find(|(spec, _)| spec.code == page.code) {
            current[header..].copy_from_slice(&page.bytes[header..]);
        }
    }

    /// Back to the defaults.
    pub(crate) fn reset(&mut self) {
        for (spec, current) in &mut self.pages {
            current.clone_from(&spec.default);
        }
    }

    fn find(&self, code: ModePageCode) -> Option<&(ModePageSpec, Vec<u8>)> {
        self.pages.iter().find(|(page, _)| page.code == code)
    }
}
