//! What each choice of a guest costs, against the default.

use anyhow::Result;
use lunette_guest::ring::Form;

use super::ring::run;
use super::{Guest, GuestCell, random_read};
use crate::report::{Others, Section};
use crate::run::{Contender, Settings, Tally};

/// The guests that are compared, the default first.
fn guests() -> [(&'static str, Guest); 10] {
    let default = Guest::default();
    [
        ("default", default),
        ("noted", Guest { noted: true, ..default }),
        ("logged", Guest { logged: true, ..default }),
        ("packed", Guest { packed: true, ..default }),
        ("packed, noted", Guest { packed: true, noted: true, ..default }),
        ("packed, logged", Guest { packed: true, logged: true, ..default }),
        ("chained", Guest { form: Form::Chained, ..default }),
        ("packed, chained", Guest { packed: true, form: Form::Chained, ..default }),
        ("no EVENT_IDX", Guest { event_idx: false, ..default }),
        ("two queues", Guest { queues: 2, ..default }),
    ]
}

pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let contender = |(name, guest): (&'static str, Guest)| {
        Contender::new(name, move |cell: &GuestCell| {
            let guest = Guest { waiting: cell.guest.waiting, ..guest };
            run(&GuestCell { guest, ..*cell }, settings)
        })
    };
    let mut contenders: Vec<_> = guests().into_iter().map(contender).collect();
    // 32 chains of three descriptors fill the ring.
    let cells = [GuestCell::new(random_read(32)), GuestCell::polled(random_read(32))];
    let tally = Tally::of(settings, &cells, &mut contenders)?;
    let mut section = Section::new("vhost-user: what a guest's choices cost", settings)?;
    section.fact(
        "lunette's ring with a store that does nothing, as in \"The vhost-user ring alone\". The default is a split ring, \
         indirect descriptors, EVENT_IDX and one request queue; each other line differs in what it names; \
         \"noted\" is with notes of what is in flight, \"logged\" with a dirty log."
            .to_owned(),
    );
    section.table(&tally, Others::Variants);
    Ok(section)
}
