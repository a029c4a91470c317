//! Mode pages that every device has (SPC-4 7.5): Control, Power Condition, Informational Exceptions Control.

use crate::ModePageSpec;

/// The definitions.
pub(crate) fn mode_pages() -> Vec<ModePageSpec> {
    Vec::new()
}
