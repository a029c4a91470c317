//! What somebody who has written something wrong can write.

/// What there is, as far as it fits into a line.
pub(super) fn there_are<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 12;
    let mut words = words.into_iter();
    let first: Vec<_> = words.by_ref().take(MOST).collect();
    match (first.is_empty(), words.count()) {
        (true, _) => "there are none".into(),
        (_, 0) => format!("there are {}", first.join(", ")),
        (_, more) => format!("there are {} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(there_are([]), "there are none");
        assert_eq!(there_are(["a", "b"]), "there are a, b");
        assert!(there_are(["x"; 20]).ends_with("x and 8 more"));
    }
}
