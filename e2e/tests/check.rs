//! `lunette check`, on configurations that can be used and on all of those that cannot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lunette_e2e::daemon::{Lunette, binary};
use lunette_e2e::tools::{self, Output};

/// As somebody does it who is in the directory.
fn check(path: &Path) -> Result<Output> {
    let (folder, name) = path.parent().zip(path.file_name()).context("a file")?;
    let mut check = tools::command(&binary()?.display().to_string())?;
    let said = tools::run(check.arg("check").arg(name).current_dir(folder), tools::LIMIT)?;
    assert!(!said.stderr.contains("panicked"), "{said}");
    Ok(said)
}

/// Where the unit tests keep them, with what is to be said.
fn broken() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lunette/src/config/tests/broken");
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect())
}

#[test]
fn every_mistake_is_told_with_its_place() -> Result<()> {
    let paths = broken()?;
    assert!(paths.len() >= 60, "{}", paths.len());
    for path in paths {
        let said = check(&path)?;
        assert_eq!((said.status, &*said.stdout), (1, ""), "{}: {said}", path.display());
        let expected = fs::read_to_string(path.with_extension("expected"))?;
        // What is wrong with the system here is told besides.
        let is_said = |line: &str| said.stderr.lines().any(|other| other.trim_start() == line.trim_start());
        for line in expected.lines().filter(|line| line.starts_with("error:") || line.contains("--> ")) {
            assert!(is_said(line), "{}: {line:?} is not said: {said}", path.display());
        }
    }
    Ok(())
}

#[test]
fn what_is_said_in_several_files_is_told_of_the_right_one() -> Result<()> {
    let lunette = Lunette::new()?;
    fs::create_dir(lunette.path("conf.d"))?;
    let main = lunette.path("lunette.toml");
    fs::write(&main, "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n")?;
    fs::write(lunette.path("conf.d/10-b.toml"), "[[unit]]\nname = \"b\"\nstore = \"ram:1M\"\n")?;
    let said = check(&main)?.ok()?;
    assert_eq!(said.stdout, "lunette.toml: 2 units, 0 portals, 0 targets, 0 vhost-user exports\n");
    fs::write(lunette.path("conf.d/20-c.toml"), "# Again.\n[[unit]]\nname = \"a\"\nstor = \"ram:1M\"\n")?;
    let said = check(&main)?;
    assert_eq!(said.status, 1, "{said}");
    assert!(
        said.stderr.contains("--> conf.d/20-c.toml:4:1\n") && said.stderr.contains("did you mean `store`?"),
        "{said}"
    );
    Ok(())
}
