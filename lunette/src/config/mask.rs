//! Secrets that somebody has written where only the name of their file belongs. They are not shown with the mistake.

/// Keys whose values may be secrets.
const SECRET: [&str; 4] = ["secret", "passw", "userid", "key"];
/// Keys whose values are not, also where they stand within such a value.
const HARMLESS: [&str; 3] = ["file", "credential", "name"];

/// A line of which the characters that may be secret are stars.
pub(super) fn masked(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    if !SECRET.iter().any(|word| lower.contains(word)) {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len());
    let mut masker =
        Masker { depth: 0, secret_above: None, key: String::new(), is_value: false, quote: None };
    line.chars().for_each(|c| out.push(masker.next(c)));
    out
}

struct Masker {
    /// Tables and lists that are open.
    depth: usize,
    /// The depth of the table that stands where a secret should.
    secret_above: Option<usize>,
    /// The last key.
    key: String,
    /// It is the value of the key that stands here.
    is_value: bool,
    quote: Option<char>,
}

impl Masker {
    fn next(&mut self, c: char) -> char {
        if let Some(quote) = self.quote {
            if c == quote {
                self.quote = None;
                return c;
            }
            return self.inner(c);
        }
        match c {
            '"' | '\'' => self.quote = Some(c),
            '{' | '[' => {
                if self.is_value && self.is_secret() {
                    self.secret_above.get_or_insert(self.depth);
                }
                self.depth += 1;
                if c == '{' {
                    self.start_key();
                }
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.secret_above.is_some_and(|above| above >= self.depth) {
                    self.secret_above = None;
                }
                self.start_key();
            }
            ',' => self.start_key(),
            '=' => self.is_value = true,
            c if c.is_whitespace() => {}
            c => return self.inner(c),
        }
        c
    }

    fn start_key(&mut self) {
        self.is_value = false;
        self.key.clear();
    }

    /// A character of a key or a value.
    fn inner(&mut self, c: char) -> char {
        match self.is_value {
            false => {
                self.key.push(c.to_ascii_lowercase());
                c
            }
            true if self.is_secret() => '*',
            true => c,
        }
    }

    fn is_secret(&self) -> bool {
        let key = self.key.rsplit('.').next().unwrap_or_default();
        match HARMLESS.contains(&key) {
            true => self.key.starts_with("secret.") && key == "name",
            false => self.secret_above.is_some() || SECRET.iter().any(|word| key.contains(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_secret_is_masked() {
        for (line, shown) in [
            (r#"store = "/a""#, r#"store = "/a""#),
            (r#"secret = { file = "a", credential = 'b' }"#, r#"secret = { file = "a", credential = 'b' }"#),
            (r#"secret = "to p", x = 1"#, r#"secret = "****", x = 1"#),
            (r#"secret = top, name = "x""#, r#"secret = ***, name = "x""#),
            (
                r#"{ name = "x", secret = { fle = "top" } }, { name = "y" }"#,
                r#"{ name = "x", secret = { fle = "***" } }, { name = "y" }"#,
            ),
            (r#"chap.Password = ["top"]"#, r#"chap.Password = ["***"]"#),
            ("secret = 'unfinished", "secret = '**********"),
        ] {
            assert_eq!(masked(line), shown);
        }
    }
}
