//! What the fuzzers of the workspace call.

use crate::config::{Model, Setting, diff, from_text, import_text, to_toml};
use std::path::Path;

/// Nothing that somebody writes into a configuration makes the program panic, and what can be used can be printed and read again.
///
/// # Panics
/// If that is not so.
pub fn configuration(data: &[u8]) {
    let Some(model) = understand(&String::from_utf8_lossy(data)) else { return };
    let printed = to_toml(&model).expect("a model can be printed");
    assert_eq!(understand(&printed).as_ref(), Some(&model), "{printed}");
    assert!(diff::diff(&model, &model).is_empty());
    // There and back again, whatever is in the model.
    for (from, to) in [(Model::default(), &model), (model.clone(), &Model::default())] {
        let mut now = from.clone();
        diff::diff(&from, to).steps.iter().for_each(|step| step.effect.apply(&mut now));
        assert_eq!(now, *to);
    }
}

/// Nothing that somebody writes into a configuration of another target makes the program panic.
pub fn foreign_configuration(data: &[u8]) {
    if let Some(printed) = import_text(&String::from_utf8_lossy(data)) {
        // What is printed may lack something, but can be read.
        understand(&printed);
    }
}

fn understand(text: &str) -> Option<Model> {
    let setting =
        Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system: false, is_whole: true };
    match from_text(Path::new("/etc/lunette/lunette.toml"), text.to_owned(), setting) {
        Ok((model, _)) => Some(model),
        Err(report) => {
            assert!(report.to_string().contains("error: "));
            None
        }
    }
}
