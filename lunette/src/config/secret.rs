//! Where secrets come from: a file that nobody else can read, or a credential of the service manager. Never from the
//! configuration itself, the command line or the environment, which others get to see.

use super::values::{FilePath, Label};
use anyhow::{Context, Result, anyhow, ensure};
use lunette_iscsi::chap::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A secret, as a configuration names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SecretSource {
    /// A file that only the daemon's user can read.
    File(FilePath),
    /// The name of a credential that the service manager passes (systemd.exec(5), LoadCredential=).
    Credential(Label),
}

/// The two ways, for mistakes. They do not tell what is written there: somebody may have written the secret itself.
const WAYS: &str = "a secret, which is written { file = \"PATH\" } or { credential = \"NAME\" }";

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TableVisitor;
        impl<'de> Visitor<'de> for TableVisitor {
            type Value = SecretSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WAYS)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
                let wrong = || A::Error::custom(format!("here should be {WAYS}"));
                let source = match map.next_key::<String>()?.as_deref() {
                    Some("file") => SecretSource::File(map.next_value()?),
                    Some("credential") => SecretSource::Credential(map.next_value()?),
                    _ => return Err(wrong()),
                };
                match map.next_key::<String>()? {
                    None => Ok(source),
                    Some(_) => Err(wrong()),
                }
            }
        }
        from.deserialize_map(TableVisitor)
    }
}

impl Serialize for SecretSource {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        match self {
            Self::File(path) => map.serialize_entry("file", path)?,
            Self::Credential(name) => map.serialize_entry("credential", name)?,
        }
        map.end()
    }
}

impl JsonSchema for SecretSource {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (file, credential) = (generator.subschema_for::<FilePath>(), generator.subschema_for::<Label>());
        let only = |key: &str, value: Schema, description: &str| {
            json_schema!({
                "type": "object",
                "description": description,
                "properties": { key: value },
                "required": [key],
                "additionalProperties": false
            })
        };
        json_schema!({ "oneOf": [
            only("file", file, "A file that only the daemon's user can read. A relative path begins where the file is."),
            only("credential", credential, "A credential that the service manager passes (LoadCredential=).")
        ]})
    }
}

/// The variable with the directory of credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// More than any secret has, in bytes.
const LONGEST: u64 = 4096;

impl SecretSource {
    /// Reads the secret. A `short` one may be so short that it can be guessed. What belongs to the `user` that this process is to
    /// become is as good as its own.
    pub(crate) fn load(&self, short: bool, user: Option<u32>) -> Result<Secret> {
        let path = match self {
            Self::File(path) => path.as_path().to_owned(),
            Self::Credential(name) => {
                credential(name.as_str(), std::env::var_os(CREDENTIALS).map(PathBuf::from))?
            }
        };
        let told = || format!("cannot use the secret in {}", path.display());
        let mut bytes = read(&path, matches!(self, Self::File(_)), user).with_context(told)?;
        // As editors and `echo` leave it.
        for end in [b'\n', b'\r'] {
            if bytes.last() == Some(&end) {
                bytes.pop();
            }
        }
        let bytes = std::mem::take(&mut *bytes);
        let secret = if short { Secret::weak(bytes) } else { Secret::new(bytes) };
        secret.with_context(told)
    }
}

/// The file of a credential.
fn credential(name: &str, directory: Option<PathBuf>) -> Result<PathBuf> {
    let is_name = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    ensure!(is_name, "`{name}` is not the name of a credential");
    Ok(directory.ok_or_else(|| NotPassed(name.to_owned()))?.join(name))
}

/// A credential that only another process has been passed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the credential `{0}` has not been passed: ${CREDENTIALS} is not set. systemd sets it for a service with LoadCredential="
)]
struct NotPassed(String);

/// Whether a secret could not be loaded only because of who we are: others may be able to.
pub(crate) fn is_for_others(error: &anyhow::Error) -> bool {
    let is_denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    error.chain().any(|cause| cause.is::<NotPassed>() || cause.downcast_ref().is_some_and(is_denied))
}

/// The bytes of a file. What is the user's own `must_be_private`; the service manager has seen to that for its own.
fn read(path: &Path, must_be_private: bool, becomes: Option<u32>) -> Result<Zeroizing<Vec<u8>>> {
    // A pipe must not keep the daemon from starting.
    let mut open = File::options();
    let file = open.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let data = file.metadata()?;
    ensure!(data.is_file(), "it is not a file");
    let mode = data.mode() & 0o7777;
    let owners = [Some(0), Some(rustix::process::geteuid().as_raw()), becomes];
    if must_be_private && !owners.contains(&Some(data.uid())) {
        return Err(anyhow!("it belongs to the user {}, who can change it", data.uid()));
    }
    if must_be_private && mode & 0o077 != 0 {
        return Err(anyhow!("others can read or write it (mode {mode:04o}): chmod 600 it"));
    }
    // In one piece, so that no copy is left where it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize));
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn file(path: impl AsRef<Path>) -> SecretSource {
        SecretSource::File(path.as_ref().to_str().unwrap().parse().unwrap())
    }

    fn load(content: &[u8], mode: u32, short: bool) -> Result<Secret> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), content).unwrap();
        fs::set_permissions(directory.path().join("a"), Permissions::from_mode(mode)).unwrap();
        file(directory.path().join("a")).load(short, None)
    }

    fn refusal(content: &[u8], mode: u32) -> String {
        format!("{:#}", load(content, mode, false).unwrap_err())
    }

    #[test]
    fn one_end_of_line_does_not_belong_to_a_secret() {
        let same =
            |a: &[u8], b: &[u8]| load(a, 0o600, false).unwrap().is_same(&load(b, 0o400, false).unwrap());
        assert!(same(b"twelve bytes", b"twelve bytes\n") && same(b"twelve bytes", b"twelve bytes\r\n"));
        assert!(!same(b"twelve bytes", b"twelve bytes\n\n"));
        assert!(!same(b"twelve bytes", b"twelve bytes "));
        assert!(load(b"short\n", 0o600, true).is_ok());
    }

    #[test]
    fn secrets_that_are_none_are_refused() {
        for (content, mode, part) in [
            (&b"twelve bytes"[..], 0o640, "others can read or write it (mode 0640): chmod 600"),
            (b"twelve bytes", 0o602, "mode 0602"),
            (b"elevenbytes\n", 0o600, "11 bytes"),
            (b"\n", 0o600, "is empty"),
            (&[b'x'; 4096], 0o600, "more than"),
        ] {
            let error = refusal(content, mode);
            assert!(error.contains(part) && error.contains("cannot use the secret in /"), "{error}");
        }
        let missing = file("/no/such/secret").load(false, None);
        assert!(format!("{:#}", missing.unwrap_err()).contains("/no/such/secret: No such file"));
        let directory = tempfile::tempdir().unwrap();
        let not_a_file = file(directory.path()).load(false, None);
        assert!(format!("{:#}", not_a_file.unwrap_err()).contains("it is not a file"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::chown(file.path(), Some(65534), None).unwrap();
        let refused = read(file.path(), true, Some(65533)).unwrap_err().to_string();
        assert!(refused.contains("the user 65534"), "{refused}");
        assert!(read(file.path(), true, Some(65534)).is_ok(), "it is about to become that user");
        assert!(read(file.path(), false, None).is_ok(), "the service manager knows what it does");
    }

    #[test]
    fn credentials_are_names_in_their_directory() {
        let directory = Some(PathBuf::from("/run/credentials/lunette.service"));
        let path = credential("chap-a", directory.clone()).unwrap();
        assert_eq!(path, Path::new("/run/credentials/lunette.service/chap-a"));
        for name in ["", ".", "..", "../a", "a/b"] {
            assert!(credential(name, directory.clone()).is_err(), "{name}");
        }
        let not_passed = credential("a", None).unwrap_err();
        assert!(not_passed.to_string().contains("LoadCredential=") && is_for_others(&not_passed));
        assert!(!is_for_others(&credential("..", None).unwrap_err()));
        assert!(!is_for_others(&file("/no/such/secret").load(false, None).unwrap_err()));
    }
}
