//! Binary values of texts (RFC 7143 6.1).

use base64ct::{Base64, Encoding};

/// In hexadecimal digits.
pub(super) fn encode(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.fold("0x".to_owned(), |text, byte| text + &byte)
}

/// From `0x` and hexadecimal digits or `0b` and Base64; at most `most` bytes.
pub(super) fn decode(text: &str, most: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = (text.get(..2)?, &text[2..]);
    let bytes = match prefix {
        "0x" | "0X" if digits.len() <= 2 * most => hexadecimal(digits)?,
        "0b" | "0B" if digits.len() <= most.div_ceil(3) * 4 => Base64::decode_vec(digits).ok()?,
        _ => return None,
    };
    (bytes.len() <= most).then_some(bytes)
}

/// Of an odd number of digits the first one has a byte of its own.
fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let digits = digits.bytes().map(digit).collect::<Option<Vec<_>>>()?;
    let (first, rest) = digits.split_at(digits.len() % 2);
    let pairs = rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
    Some(first.iter().copied().chain(pairs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_and_read() {
        assert_eq!(encode(&[0, 0x1f, 0xff]), "0x001fff");
        for (text, bytes) in [
            ("0x001fff", Some(&[0u8, 0x1f, 0xff][..])),
            ("0X001fFf", Some(&[0, 0x1f, 0xff])),
            ("0xfff", Some(&[0xf, 0xff])),
            ("0x", Some(&[])),
            ("0bAB//", Some(&[0, 0x1f, 0xff])),
            ("0BAB8=", Some(&[0, 0x1f])),
            ("0b", Some(&[])),
            ("0bAB8", None),
            ("0bAB8=AB8=", None),
            ("0b*B8=", None),
            ("0xfg", None),
            ("0x-f", None),
            ("0x0x", None),
            ("001fff", None),
            ("1234", None),
            ("0", None),
            ("", None),
            ("é0", None),
            ("0x00112233", Some(&[0, 0x11, 0x22, 0x33])),
            ("0x0011223344", None),
            ("0x000112233", None),
            ("0bABEiMw==", Some(&[0, 0x11, 0x22, 0x33])),
            ("0bABEiM0Q=", None),
        ] {
            assert_eq!(decode(text, 4).as_deref(), bytes, "{text}");
        }
    }
}
