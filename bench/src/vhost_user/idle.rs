//! What a daemon costs whose guests do nothing.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::{Guest, Scsi};
use crate::load;
use crate::report::{Bar, Section};
use crate::run::Settings;

/// Guests that are connected.
const GUESTS: usize = 64;
/// Per cent of a CPU that the daemon may take.
const MOST: f64 = 0.1;

pub(crate) fn watch(settings: &Settings) -> Result<Section> {
    let mut section = Section::without_rounds("vhost-user: idle guests", settings)?;
    let Some(lunette) = settings.lunette().filter(|_| "idle".contains(&settings.filter)) else {
        return Ok(section);
    };
    let sockets: Vec<_> = (0..GUESTS).map(|number| format!("vm{number}.sock")).collect();
    let mut exports = vec!["--lu", "disk:ram:256M,w"];
    exports.extend(sockets.iter().flat_map(|socket| ["--vhost-user", socket]));
    let daemon = lunette.serve(settings, &exports)?;
    let mut guests = Vec::new();
    for socket in &sockets {
        let mut guest = Scsi::connect(&daemon.path(socket), 4, 4096, &Guest::default())?;
        load::prepare(&mut guest)?;
        guests.push(guest);
    }
    // Whatever still spins after the last command, or has not been served yet on a busy machine.
    sleep(Duration::from_secs(2));
    let before = daemon.usage()?;
    sleep(settings.idle);
    let used = daemon.usage()?.daemon_since(&before);
    let share = used.as_secs_f64() / settings.idle.as_secs_f64() * 100.0;
    eprintln!("{GUESTS} idle guests: {used:?} of CPU in {:?}", settings.idle);
    let shown = lunette.shown(settings, "--lu disk:ram:256M,w --vhost-user SOCKET …");
    section.fact(format!("`{shown}`, with a socket for each guest"));
    section.fact(format!(
        "{GUESTS} guests have sent a few commands and now send none for {:?}; the daemon uses {used:?} of CPU meanwhile.",
        settings.idle
    ));
    section.claim_value(
        format!("{GUESTS} idle guests: per cent of a CPU at most {MOST}"),
        Some(share),
        Bar::AtMost(MOST),
    )?;
    Ok(section)
}
