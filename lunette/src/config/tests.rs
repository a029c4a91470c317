use super::check::Setting;
use super::document::{Document, Model};
use super::load::{Files, from_text, load};
use super::print::to_toml;
use std::path::{Path, PathBuf};

mod changing;
mod corpus;
mod random;
mod reading;
mod reference;
mod schema;

/// A configuration by itself, of which nothing is looked up.
const UNKNOWN: Setting =
    Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system: false, is_whole: true };

/// What a text means.
fn model(text: &str) -> Model {
    from_text(Path::new("/etc/lunette/lunette.toml"), text.to_owned(), UNKNOWN)
        .unwrap_or_else(|report| panic!("{report}"))
        .0
}
