//! The mode pages of a logical unit: default, changeable and current values (SPC-4 7.5).

use lunette_scsi::{AdditionalSense, Sense};

/// A mode page as its device defines it. The bytes are those after the page header (page code and length).
#[derive(Clone, Debug)]
pub struct ModePageSpec {
    /// Page code.
    pub code: u8,
    /// Subpage code; 0 for the page itself.
    pub subpage: u8,
    /// Values after a reset.
    pub default: Vec<u8>,
    /// A one for each bit that MODE SELECT may change.
    pub changeable: Vec<u8>,
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
        specs.sort_by_key(|page| (page.code, page.subpage));
        Self { pages: specs.into_iter().map(|spec| (spec.clone(), spec.default)).collect() }
    }

    /// The codes of all pages, ascending.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (u8, u8)> {
        self.pages.iter().map(|(spec, _)| (spec.code, spec.subpage))
    }

    /// The bytes of one page after its header.
    pub(crate) fn values(&self, code: u8, subpage: u8, control: PageControl) -> Option<&[u8]> {
        let (spec, current) = self.find(code, subpage)?;
        Some(match control {
            PageControl::Current => current,
            PageControl::Changeable => &spec.changeable,
            PageControl::Default => &spec.default,
        })
    }

    /// Checks that `values` changes only what may be changed; `at` is where they stand in the parameter list. Returns
    /// whether they change anything.
    pub(crate) fn check(&self, code: u8, subpage: u8, values: &[u8], at: usize) -> Result<bool, Sense> {
        let refused = |at: usize, bit| Sense::invalid_field_in_parameter_list(at.min(0xffff) as u16, bit);
        let header = if subpage == 0 { 2 } else { 4 };
        let Some((spec, current)) = self.find(code, subpage) else {
            return Err(refused(at.saturating_sub(header), Some(5)));
        };
        if values.len() != current.len() {
            return Err(refused(at.saturating_sub(1), None));
        }
        for (n, ((new, old), changeable)) in values.iter().zip(current).zip(&spec.changeable).enumerate() {
            let wrong = (new ^ old) & !changeable;
            if wrong != 0 {
                return Err(refused(at + n, Some(7 - wrong.leading_zeros() as u8)));
            }
        }
        Ok(values != current)
    }

    /// Puts values in force that [`check`](Self::check) has passed.
    pub(crate) fn set(&mut self, code: u8, subpage: u8, values: &[u8]) {
        if let Some((_, current)) =
            self.pages.iter_mut().find(|(p, _)| (p.code, p.subpage) == (code, subpage))
        {
            current.copy_from_slice(values);
        }
    }

    /// Back to the defaults.
    pub(crate) fn reset(&mut self) {
        for (spec, current) in &mut self.pages {
            current.clone_from(&spec.default);
        }
    }

    fn find(&self, code: u8, subpage: u8) -> Option<&(ModePageSpec, Vec<u8>)> {
        self.pages.iter().find(|(page, _)| (page.code, page.subpage) == (code, subpage))
    }
}

/// The sense data for saved values, which no logical unit keeps yet.
pub(crate) fn saving_not_supported() -> Sense {
    Sense::illegal_request(AdditionalSense::SAVING_PARAMETERS_NOT_SUPPORTED)
}
