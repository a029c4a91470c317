//! Tasks and task management in every order in which reactors may see each other's messages.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const REACTORS: u16 = 3;

#[derive(Clone, Debug)]
enum Doing {
    Send {
        reactor: usize,
        attribute: &'static str,
        several_steps: bool,
    },
    Manage {
        reactor: usize,
        function: TaskManagementFunction,
        tag: u64,
    },
    /// A reactor handles one message or completion.
    Step {
        reactor: usize,
    },
    /// The store completes one of its operations.
    Complete {
        which: usize,
    },
}

fn doings() -> impl Strategy<Value = Doing> {
    use TaskManagementFunction as Function;
    let reactor = 0..usize::from(REACTORS);
    let attribute = prop::sample::select(vec!["simple", "ordered", "ordered", "head of queue"]);
    let functions =
        vec![Function::AbortTask, Function::AbortTask, Function::QueryTask, Function::AbortTaskSet];
    let function = prop::sample::select(functions);
    prop_oneof![
        3 => (reactor.clone(), attribute, any::<bool>())
            .prop_map(|(reactor, attribute, several_steps)| Doing::Send { reactor, attribute, several_steps }),
        1 => (reactor.clone(), function, 0u64..20)
            .prop_map(|(reactor, function, tag)| Doing::Manage { reactor, function, tag }),
        8 => reactor.prop_map(|reactor| Doing::Step { reactor }),
        3 => (0..ROOM).prop_map(|which| Doing::Complete { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn everything_ends_once_and_nothing_stays_blocked(doings in prop::collection::vec(doings(), 1..200)) {
        let mut rig = Rig::new(REACTORS);
        let all: Vec<_> = (0..usize::from(REACTORS)).map(|reactor| rig.initiator(reactor)).collect();
        let (mut sent, mut managed) = (vec![BTreeSet::new(); all.len()], vec![0; all.len()]);
        for (tag, doing) in (0..).zip(doings) {
            match doing {
                Doing::Send { reactor, attribute, several_steps } => {
                    let spec = if several_steps { &TWO_STEPS.spec } else { &READ.spec };
                    if rig.send(&all[reactor], tag, attribute, spec).is_none() {
                        sent[reactor].insert(tag);
                    }
                }
                Doing::Manage { reactor, function, tag: behind } => {
                    rig.manage(&all[reactor], function, tag - behind.min(tag));
                    managed[reactor] += 1;
                }
                Doing::Step { reactor } => {
                    rig.sim.step(reactor);
                }
                Doing::Complete { which } => rig.complete(which, Ok(1)),
            }
        }
        rig.drain();
        for ((initiator, mut sent), mut managed) in all.iter().zip(sent).zip(managed) {
            for event in initiator.events() {
                match event {
                    Event::Ended(tag, _) => prop_assert!(sent.remove(&tag), "{} ended twice", tag),
                    Event::Managed(..) => managed -= 1,
                }
            }
            prop_assert_eq!((sent, managed), (BTreeSet::new(), 0));
        }
        for initiator in &all {
            rig.read(initiator, 0, "simple");
        }
        prop_assert_eq!(rig.at_store(), all.len());
    }
}
