//! What somebody may have meant.

/// Longer words are nobody's slip, and comparing takes the product of both lengths.
const LONGEST: usize = 128;

/// The word that is most like `written`, if any is much like it.
pub fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
pub fn did_you_mean<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, words).map(|word| format!("did you mean `{word}`?"))
}

/// The end of a sentence that says that `word` is not there; empty if no name is like it.
pub(crate) fn hint<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    did_you_mean(word, names).map_or_else(String::new, |meant| format!("; {meant}"))
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
    fn methods_are_suggested_at_the_end_of_a_sentence() {
        let of = |word| hint(word, ["session.list", "session.end", "job.list"]);
        assert_eq!(of("sesion.list"), "; did you mean `session.list`?");
        assert_eq!(of("jobs.list"), "; did you mean `job.list`?");
        assert_eq!(of("xyz"), "");
    }
}
