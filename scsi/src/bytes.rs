//! Total big-endian access to byte slices: what is missing reads as zero.

/// The `N` bytes at `at`, zero-filled past the end of `bytes`.
pub(crate) const fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    if at >= bytes.len() {
        return [0; N];
    }
    let (_, rest) = bytes.split_at(at);
    if let Some(whole) = rest.first_chunk() {
        return *whole;
    }
    let mut out = [0; N];
    let (there, _) = out.split_at_mut(rest.len());
    there.copy_from_slice(rest);
    out
}

pub(crate) const fn u8_at(bytes: &[u8], at: usize) -> u8 {
    array_at::<1>(bytes, at)[0]
}

pub(crate) const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}

pub(crate) const fn u24_at(bytes: &[u8], at: usize) -> u32 {
    let [a, b, c] = array_at(bytes, at);
    u32::from_be_bytes([0, a, b, c])
}

pub(crate) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

pub(crate) const fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

/// Whether `bit` (7 = most significant) of the byte at `at` is set.
pub(crate) const fn bit_at(bytes: &[u8], at: usize, bit: u8) -> bool {
    u8_at(bytes, at) & (1 << bit) != 0
}

/// `value` as a single bit at position `bit`.
pub(crate) const fn bit(value: bool, bit: u8) -> u8 {
    (value as u8) << bit
}

/// Writes `value` over `out[at..]`; the caller sized `out`.
pub(crate) fn put(out: &mut [u8], at: usize, value: &[u8]) {
    out[at..at + value.len()].copy_from_slice(value);
}

/// The longest prefix of `text` of at most `maximum` bytes.
pub(crate) fn prefix(text: &str, maximum: usize) -> &str {
    let end = (0..=maximum.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_bytes_read_as_zero() {
        let bytes = [1, 2, 3];
        assert_eq!(u16_at(&bytes, 1), 0x0203);
        assert_eq!(u24_at(&bytes, 0), 0x01_0203);
        assert_eq!(u32_at(&bytes, 1), 0x0203_0000);
        assert_eq!(u64_at(&bytes, usize::MAX), 0);
        assert!(bit_at(&bytes, 2, 1) && !bit_at(&bytes, 2, 2));
    }

    #[test]
    fn prefixes_end_between_characters() {
        assert_eq!((prefix("aé", 2), prefix("aé", 3), prefix("", 3)), ("a", "aé", ""));
    }
}
