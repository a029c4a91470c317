//! Texts: lists of `key=value` pairs, each ended by a zero byte (RFC 7143 6.1).

use thiserror::Error;

use crate::limits::{MAX_BINARY_VALUE, MAX_KEY, MAX_VALUE};

/// Reserved values of answers (RFC 7143 6.2).
pub mod answer {
    /// The key is unknown.
    pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
    /// The key has no meaning in this negotiation.
    pub const IRRELEVANT: &str = "Irrelevant";
    /// The value is refused.
    pub const REJECT: &str = "Reject";
    /// No value.
    pub const NONE: &str = "None";
}

/// A text is not a list of pairs within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// Not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A part without `=`.
    #[error("a part of the text is not key=value")]
    NoPair,
    /// A key that is empty, too long or has characters no key may have.
    #[error("the text has a malformed key")]
    BadKey,
    /// A value longer than any key allows.
    #[error("the text has a value that is too long")]
    LongValue,
}

/// Splits a text into pairs. Nothing is returned unless all of it is well formed.
///
/// A missing last zero byte is forgiven: several initiators leave it out.
pub fn parse(text: &[u8]) -> Result<impl Iterator<Item = (&str, &str)>, TextError> {
    let text = std::str::from_utf8(text).map_err(|_| TextError::NotUtf8)?;
    let pairs = || text.split('\0').filter(|part| !part.is_empty());
    for part in pairs() {
        let (key, value) = part.split_once('=').ok_or(TextError::NoPair)?;
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(is_key_byte) {
            return Err(TextError::BadKey);
        }
        if value.len() > longest_value(key) {
            return Err(TextError::LongValue);
        }
    }
    Ok(pairs().filter_map(|part| part.split_once('=')))
}

/// Standard-label characters (RFC 7143 6.1).
fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-+@_:/".contains(&byte)
}

fn longest_value(key: &str) -> usize {
    match key {
        "CHAP_R" | "CHAP_C" | "SendTargets" => MAX_BINARY_VALUE,
        _ => MAX_VALUE,
    }
}

/// Appends one pair.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number, decimal or `0x` and hexadecimal digits, that fits in 32 bits.
pub fn number(value: &str) -> Option<u32> {
    let hexadecimal = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((value, 10), |digits| (digits, 16));
    // from_str_radix would also take a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
        Ok(parse(text)?.collect())
    }

    #[test]
    fn well_formed() {
        assert_eq!(pairs(b""), Ok(vec![]));
        assert_eq!(pairs(b"\0\0"), Ok(vec![]));
        assert_eq!(pairs(b"A=1\0B=\0C=x=y"), Ok(vec![("A", "1"), ("B", ""), ("C", "x=y")]));
        let long = format!("CHAP_R={}", "a".repeat(8192));
        assert_eq!(pairs(long.as_bytes()).unwrap().len(), 1);
        let mut text = Vec::new();
        push(&mut text, "A", "1");
        push(&mut text, "B", "");
        assert_eq!(text, b"A=1\0B=\0");
    }

    #[test]
    fn malformed() {
        let key = format!("{}=1", "k".repeat(64));
        let value = format!("Key={}", "v".repeat(256));
        let binary = format!("CHAP_R={}", "a".repeat(8193));
        for (text, error) in [
            (&b"junk"[..], TextError::NoPair),
            (b"A=1\0junk\0", TextError::NoPair),
            (b"=1\0", TextError::BadKey),
            (b"A B=1\0", TextError::BadKey),
            (key.as_bytes(), TextError::BadKey),
            (value.as_bytes(), TextError::LongValue),
            (binary.as_bytes(), TextError::LongValue),
            (b"A=\xff\0", TextError::NotUtf8),
        ] {
            assert_eq!(pairs(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0", Some(0)),
            ("16777215", Some(16_777_215)),
            ("0xfF", Some(255)),
            ("4294967296", None),
            ("", None),
            ("0x", None),
            ("+1", None),
            ("-1", None),
            ("1a", None),
            ("1 ", None),
        ] {
            assert_eq!(number(text), value, "{text}");
        }
    }
}
