//! Broken configurations and what is said of them, and places where a text does not tell enough.

use super::*;
use std::fs;

/// With this variable set the expected messages are written instead of compared.
const BLESS: &str = "LUNETTE_TEST_BLESS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests/broken")
}

#[test]
fn broken_configurations_are_told_as_expected() {
    let mut paths: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    assert!(paths.len() >= 60);
    for path in paths {
        let name = path.file_name().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let report = from_text(Path::new(name), text, UNKNOWN).err();
        let told = format!("{}\n", report.unwrap_or_else(|| panic!("{name:?} is taken")));
        assert!(!told.contains("top secret"), "{told}");
        let expected = path.with_extension("expected");
        if std::env::var_os(BLESS).is_some() {
            fs::write(&expected, &told).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap();
        assert_eq!(told, expected, "{name:?}: if this is right, run the test once more with {BLESS}=1");
    }
}

#[test]
fn huge_and_odd_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lunette.toml");
    let refusal = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        load(&path, Files::WithDirectory, Document::default(), UNKNOWN).unwrap_err().to_string()
    };
    assert!(refusal(&vec![b'\n'; (16 << 20) + 1]).contains("the file has more than 16 MiB"));
    let odd = refusal(b"[daemon]\nstate-dir = \"/\xff\xfe\"\n");
    assert!(odd.contains("not UTF-8") && odd.contains("lunette.toml:2:15\n"), "{odd}");
    // A mistake in each of many lines is told once, and not all of them.
    let many = refusal("[[unit]]\nx = 1\n".repeat(20_000).as_bytes());
    assert!(
        many.len() < 50_000 && many.ends_with("… and 39950 more; 40000 errors"),
        "{}",
        &many[many.len() - 99..]
    );
    fs::remove_file(&path).unwrap();
    let missing = load(&path, Files::WithDirectory, Document::default(), UNKNOWN).unwrap_err().to_string();
    assert!(
        missing.contains("cannot read the configuration: No such file") && missing.contains("lunette.toml\n")
    );
    let directory =
        load(directory.path(), Files::Alone, Document::default(), UNKNOWN).unwrap_err().to_string();
    assert!(directory.contains("Is a directory"), "{directory}");
}

#[test]
fn many_mistakes_in_one_table_end() {
    let keys: String = (0..5000).map(|key| format!("key{key} = 1\n")).collect();
    let report = from_text(Path::new("x"), format!("[daemon]\n{keys}"), UNKNOWN).unwrap_err().to_string();
    assert!(report.ends_with("\n\n32 errors"), "{report}");
}
