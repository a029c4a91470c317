//! Power cuts and deaths at every point of everything that is written.

mod disk;

use super::tests::kept;
use super::*;
use disk::{Disk, Image};
use lunette_engine::StateKeeper;
use lunette_scsi::Naa;
use std::collections::BTreeMap;

const DIRECTORY: &str = "/var/lib/lunette";
/// How many steps are taken before the first interruption, at most.
const STEPS: usize = 7;

/// What somebody was told.
trait Scenario {
    /// What is sure.
    type Told: Clone + PartialEq;

    /// Takes so many steps from `told` on, as far as that is possible.
    fn work(&self, state: &StateDir, steps: usize, told: &mut Self::Told) -> Result<()>;

    /// Looks at what there is, which is sure from then on: it must be what was told, or what comes next.
    fn look(&self, state: &StateDir, told: &Self::Told) -> Result<Self::Told>;
}

fn open(disk: &Disk) -> Result<StateDir> {
    Ok(StateDir::open_on(Arc::new(disk.clone()), Path::new(DIRECTORY))?)
}

/// Starts on `disk`, looks, takes steps, and is interrupted after each operation. Returns all the disks and what was told then.
fn interrupted<S: Scenario>(scenario: &S, steps: usize, disk: &Disk, told: &S::Told) -> Vec<(Disk, S::Told)> {
    let mut ends = Vec::new();
    for operations in 0.. {
        let (disk, mut told) = (disk.copy(), told.clone());
        disk.limit(Some(operations));
        let work = open(&disk).and_then(|state| {
            told = scenario.look(&state, &told)?;
            scenario.work(&state, steps, &mut told)
        });
        assert!(work.is_ok() || disk.is_interrupted(), "{work:?}");
        let is_last = !disk.is_interrupted();
        disk.limit(None);
        ends.push((disk, told));
        if is_last {
            return ends;
        }
    }
    unreachable!()
}

/// Each disk that there can be after a power loss, with what was told before and what is sure then.
type Seen<T> = BTreeMap<Image, Vec<[T; 2]>>;

/// What can be there after a power loss must be usable, and what was told.
fn check_images<S: Scenario>(scenario: &S, disk: &Disk, told: &S::Told, seen: &mut Seen<S::Told>) {
    for image in disk.images() {
        let before = seen.entry(image.clone()).or_default();
        if before.iter().all(|[before, _]| before != told) {
            let state = open(&Disk::of(&image)).unwrap();
            before.push([told.clone(), scenario.look(&state, told).unwrap()]);
        }
    }
}

fn check<S: Scenario>(scenario: &S, start: &Disk, told: S::Told) {
    let (mut images, mut last) = (Seen::new(), Seen::new());
    for (disk, told) in interrupted(scenario, STEPS, start, &told) {
        check_images(scenario, &disk, &told, &mut images);
        // Killed, and the power fails while the next one runs.
        for (disk, told) in interrupted(scenario, 1, &disk, &told) {
            check_images(scenario, &disk, &told, &mut last);
        }
    }
    // The power fails once more after it did.
    let images = images.iter().flat_map(|(image, all)| all.iter().map(move |[_, told]| (image, told)));
    for (image, told) in images {
        for (disk, told) in interrupted(scenario, 1, &Disk::of(image), told) {
            check_images(scenario, &disk, &told, &mut last);
        }
    }
}

/// One daemon takes a step and is interrupted after each operation, when another has started already: what that sees then
/// survives power losses.
fn check_successor<S: Scenario>(scenario: &S, told: &S::Told) {
    for operations in 0.. {
        let disk = Disk::with_directories(["/"]);
        let [first, second] = [(); 2].map(|()| open(&disk).unwrap());
        scenario.work(&first, 1, &mut told.clone()).unwrap();
        let mut told = scenario.look(&second, told).unwrap();
        disk.limit(Some(operations));
        let _ = scenario.work(&first, 1, &mut told);
        let is_last = !disk.is_interrupted();
        disk.limit(None);
        let seen = scenario.look(&second, &told).unwrap();
        for image in disk.images() {
            let after = scenario.look(&open(&Disk::of(&image)).unwrap(), &seen).unwrap();
            assert!(after == seen, "after {operations} operations");
        }
        if is_last {
            return;
        }
    }
}

/// Two units that save their state many times: how often each has.
struct Units;

const UNITS: [Naa; 2] = [Naa::locally_assigned(5), Naa::locally_assigned(6)];

fn saved(times: usize) -> Vec<u8> {
    vec![b'0' + times as u8; 1 + 5 * times]
}

impl Scenario for Units {
    type Told = [usize; 2];

    fn work(&self, state: &StateDir, steps: usize, told: &mut [usize; 2]) -> Result<()> {
        let units = [state.unit(UNITS[0])?, state.unit(UNITS[1])?];
        // One of them more often.
        for which in [0, 1, 0].into_iter().cycle().take(steps) {
            units[which].save(&saved(told[which] + 1))?;
            told[which] += 1;
        }
        Ok(())
    }

    fn look(&self, state: &StateDir, told: &[usize; 2]) -> Result<[usize; 2]> {
        let mut seen = *told;
        for (seen, naa) in seen.iter_mut().zip(UNITS) {
            let content = state.unit(naa)?.load()?;
            let next = *seen + 1;
            if content == Some(saved(next)) {
                *seen = next;
            } else {
                let expected = (*seen > 0).then(|| saved(*seen));
                assert_eq!(content, expected, "neither what was saved nor what was to be");
            }
        }
        Ok(seen)
    }
}

#[test]
fn the_state_of_units_survives_power_cuts() {
    check(&Units, &Disk::with_directories(["/", "/var"]), [0, 0]);
    check_successor(&Units, &[0, 0]);
}

#[test]
fn what_fails_for_lack_of_descriptors_is_not_done() {
    let disk = Disk::with_directories(["/", "/var"]);
    let unit = open(&disk).unwrap().unit(UNITS[0]).unwrap();
    unit.save(&saved(1)).unwrap();
    disk.open_directories(false);
    unit.save(&saved(2)).unwrap_err();
    disk.open_directories(true);
    assert_eq!(unit.load().unwrap(), Some(saved(1)));
}

/// Units and exports that come, move and go: after how many steps, what is kept.
struct Identities {
    steps: Vec<Vec<Key>>,
    /// What is recognised after so many.
    expected: Vec<Vec<Key>>,
}

impl Identities {
    fn new() -> Self {
        let name = |name: &str| Key { name: Some(name.into()), ..Key::default() };
        let file = |file: &str| Key { file: Some(file.into()), ..Key::endpoint("/disk") };
        let steps = vec![
            vec![name("a"), name("b")],
            vec![file("1")],
            // Another file in its place.
            vec![file("2"), Key::default()],
            vec![Key::endpoint("/vm.sock")],
            vec![name("c"), name("a")],
            // So many that the first ones are forgotten.
            (0..MOST_UNUSED + MANY_MORE).map(|number| name(&number.to_string())).collect(),
            vec![name("d")],
        ];
        let state = open(&Disk::with_directories(["/"])).unwrap();
        let mut expected = vec![Vec::new()];
        for step in &steps {
            state.identities(step).unwrap();
            expected.push(kept(&state).unwrap().into_iter().map(|record| record.key).collect());
        }
        Self { steps, expected }
    }
}

impl Scenario for Identities {
    type Told = (usize, Vec<Record>);

    fn work(&self, state: &StateDir, steps: usize, (taken, records): &mut Self::Told) -> Result<()> {
        for keys in self.steps.iter().skip(*taken).take(steps) {
            let told = state.identities(keys)?;
            *records = kept(state)?;
            assert!(told.iter().all(|record| !record.lasts() || records.contains(record)));
            *taken += 1;
        }
        Ok(())
    }

    fn look(&self, state: &StateDir, (taken, records): &Self::Told) -> Result<Self::Told> {
        let seen = kept(state)?;
        if seen == *records {
            return Ok((*taken, seen));
        }
        let keys = seen.iter().map(|record| &record.key);
        assert!(keys.eq(&self.expected[taken + 1]), "after {taken} steps: {seen:?}");
        for record in records {
            let same = |seen: &&Record| seen.naa == record.naa || seen.key == record.key;
            if let Some(seen) = seen.iter().find(same) {
                assert_eq!((seen.naa, &seen.serial), (record.naa, &record.serial));
            }
        }
        Ok((taken + 1, seen))
    }
}

#[test]
fn identities_survive_power_cuts() {
    let empty = Disk::with_directories(["/", "/var"]);
    check(&Identities::new(), &empty, (0, Vec::new()));
    check_successor(&Identities::new(), &(0, Vec::new()));
}

/// Identities that an older version has kept.
struct Old;

impl Scenario for Old {
    type Told = Vec<Record>;

    fn work(&self, state: &StateDir, _: usize, told: &mut Self::Told) -> Result<()> {
        assert_eq!(kept(state)?, *told);
        Ok(())
    }

    fn look(&self, state: &StateDir, told: &Self::Told) -> Result<Self::Told> {
        assert_eq!(kept(state)?, *told);
        Ok(told.clone())
    }
}

#[test]
fn what_an_older_version_has_kept_survives_power_cuts() {
    let key = Key { name: Some("x".into()), ..Key::default() };
    let record = Record { key, serial: "abc".into(), naa: UNITS[0] };
    let text = format!(r#"{{"version": 1, "records": [{}]}}"#, serde_json::to_string(&record).unwrap());
    let disk = Disk::with_directories(["/", "/var", "/var/lib", DIRECTORY]);
    disk.put(&Path::new(DIRECTORY).join("identities.json"), text.as_bytes());
    check(&Old, &disk, vec![record]);
}

/// The generation that was told last.
struct Generation;

impl Scenario for Generation {
    type Told = u64;

    fn work(&self, state: &StateDir, steps: usize, told: &mut u64) -> Result<()> {
        for _ in 0..steps {
            let (next, kept) = generation::begin(&state.0.folder, 1000);
            kept?;
            assert!(next > *told, "{next} after {told}");
            *told = next;
        }
        Ok(())
    }

    fn look(&self, _: &StateDir, told: &u64) -> Result<u64> {
        Ok(*told)
    }
}

#[test]
fn the_generation_survives_power_cuts() {
    check(&Generation, &Disk::with_directories(["/", "/var"]), 0);
}
