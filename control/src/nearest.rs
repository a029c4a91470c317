//! What somebody may have meant.

/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.75;

/// The end of a sentence that says that `word` is not there; empty if no name is like it.
pub(crate) fn hint<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    // What is longer is no slip of the fingers, and comparing takes the product of both lengths.
    if word.len() > 64 {
        return String::new();
    }
    let scored = names.map(|name| (strsim::jaro_winkler(word, name), name));
    let best = scored.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(String::new(), |(_, name)| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_like_it_is_suggested() {
        let of = |word| hint(word, ["session.list", "session.end", "job.list"].into_iter());
        assert_eq!(of("sesion.list"), "; did you mean `session.list`?");
        assert_eq!(of("jobs.list"), "; did you mean `job.list`?");
        assert_eq!(of("xyz"), "");
        assert_eq!(of(&"session.list".repeat(10)), "");
    }
}
