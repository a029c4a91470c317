//! What somebody may have meant.

/// Longer words are nobody's slip.
const LONGEST: usize = 128;

/// The word that is most like `written`, if any is much like it.
pub(super) fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > LONGEST {
        return None;
    }
    let folded = fold(written);
    let distance = |word: &'a str| (strsim::damerau_levenshtein(&folded, &fold(word)), word);
    let short = words.into_iter().filter(|word| word.len() <= LONGEST);
    let (distance, word) = short.map(distance).min_by_key(|(distance, _)| *distance)?;
    let longer = folded.chars().count().max(word.chars().count());
    (distance <= (longer / 3).max(1) && distance < longer).then_some(word)
}

/// Words that differ only in this are the same to people.
fn fold(word: &str) -> String {
    word.to_lowercase().replace('_', "-")
}

/// `did you mean …?`
pub(crate) fn did_you_mean<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, words).map(|word| format!("did you mean `{word}`?"))
}

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
    fn slips_are_recognised() {
        let words = ["initiators", "addresses", "units", "chap"];
        for (written, meant) in [
            ("initator", Some("initiators")),
            ("Addreses", Some("addresses")),
            ("unit", Some("units")),
            ("chpa", Some("chap")),
            ("nothing-of-that", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, words), meant, "{written}");
        }
        assert_eq!(nearest("read_only", ["read-only"]), Some("read-only"));
        assert_eq!(nearest(&"x".repeat(1 << 20), words), None);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(there_are([]), "there are none");
        assert_eq!(there_are(["a", "b"]), "there are a, b");
        assert!(there_are(["x"; 20]).ends_with("x and 8 more"));
    }
}
