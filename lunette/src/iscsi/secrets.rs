//! Secrets that were read, and where from.

use crate::config::{SecretSource, is_for_others};
use anyhow::Result;
use lunette_iscsi::chap::Secret;

/// Secrets in use.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<Known>);

#[derive(Clone)]
struct Known {
    source: SecretSource,
    /// It may be one that can be guessed.
    short: bool,
    secret: Secret,
}

impl Secrets {
    /// That of this source, if it is good enough.
    fn find(&self, source: &SecretSource, short: bool) -> Option<Secret> {
        let found = self.0.iter().find(|known| known.source == *source && (short || !known.short));
        found.map(|known| known.secret.clone())
    }
}

/// Reads secrets.
#[derive(Default)]
pub(crate) struct SecretReader {
    becomes: Option<u32>,
    known: Secrets,
    read: Secrets,
}

impl SecretReader {
    /// Before the daemon `becomes` another user.
    pub(crate) fn before(becomes: Option<u32>) -> Self {
        Self { becomes, ..Self::default() }
    }

    /// Reads again. A secret that only others can read by now, as a file of root's after the daemon has become somebody else,
    /// stays what it was.
    pub(crate) fn again(known: Secrets) -> Self {
        Self { known, ..Self::default() }
    }

    /// Reads a secret. A `short` one may be so short that it can be guessed.
    pub(super) fn read(&mut self, source: &SecretSource, short: bool) -> Result<Secret> {
        let secret = match source.load(short, self.becomes) {
            Err(error) if is_for_others(&error) => match self.known.find(source, short) {
                Some(known) => {
                    tracing::warn!("a secret stays what it was: {error:#}");
                    known
                }
                None => return Err(error),
            },
            read => read?,
        };
        self.read.0.push(Known { source: source.clone(), short, secret: secret.clone() });
        Ok(secret)
    }

    /// All that were read.
    pub(super) fn all(self) -> Secrets {
        self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that only others can read: it was passed to them.
    fn passed(name: &str) -> SecretSource {
        SecretSource::Credential(name.parse().unwrap())
    }

    fn known(short: bool) -> Secrets {
        let secret = Secret::new(b"twelve bytes".to_vec()).unwrap();
        Secrets(vec![Known { source: passed("a"), short, secret }])
    }

    #[test]
    fn what_only_others_can_read_stays_what_it_was() {
        let mut reader = SecretReader::again(known(false));
        let secret = reader.read(&passed("a"), false).unwrap();
        assert!(secret.is_same(&known(false).0[0].secret));
        // It is kept, and so it is the next time.
        assert!(SecretReader::again(reader.all()).read(&passed("a"), true).is_ok());
        for (known, name, short) in
            [(known(false), "b", false), (known(true), "a", false), (Secrets::default(), "a", true)]
        {
            let refused = SecretReader::again(known).read(&passed(name), short).unwrap_err();
            assert!(is_for_others(&refused), "{refused:#}");
        }
    }

    #[test]
    fn what_is_gone_is_refused() {
        let gone = SecretSource::File("/no/such/secret".parse().unwrap());
        let known = Secrets(vec![Known { source: gone.clone(), ..known(false).0.remove(0) }]);
        assert!(SecretReader::again(known).read(&gone, false).is_err());
    }
}
