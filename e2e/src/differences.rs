//! Transcripts of what targets answer to the same words, and the list of where they differ.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

/// What a target answers: lines of `STEP | ANSWER`; other lines are none of it.
#[derive(Debug, Default)]
pub struct Transcript(Vec<(String, String)>);

impl Transcript {
    /// Reads the lines. No step may be there twice with different answers.
    pub fn parse(text: &str) -> Result<Transcript> {
        let mut transcript = Transcript::default();
        for (step, answer) in text.lines().filter_map(|line| line.split_once(" | ")) {
            let (step, answer) = (step.trim().to_owned(), answer.trim().to_owned());
            match transcript.answer(&step) {
                None => transcript.0.push((step, answer)),
                Some(before) => ensure!(before == answer, "{step}: {before}, and then {answer}"),
            }
        }
        Ok(transcript)
    }

    fn answer(&self, step: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == step).map(|(_, answer)| &**answer)
    }
}

/// Where peers are known to differ: lines of `PEER | STEP | its answer | our answer | reason`, `#` begins a comment.
#[derive(Debug)]
pub struct Differences(BTreeMap<(String, String), (String, String)>);

impl Differences {
    /// Reads the list. Every entry must give a reason.
    pub fn parse(text: &str) -> Result<Differences> {
        let mut listed = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let parts: Vec<&str> = line.splitn(5, " | ").map(str::trim).collect();
            let [peer, step, theirs, ours, reason] = parts[..] else {
                bail!("{line:?}: expected `PEER | STEP | its answer | our answer | reason`");
            };
            ensure!(!reason.is_empty(), "{line:?} has no reason");
            let key = (peer.to_owned(), step.to_owned());
            ensure!(
                listed.insert(key, (theirs.to_owned(), ours.to_owned())).is_none(),
                "{line:?} is there twice"
            );
        }
        Ok(Differences(listed))
    }

    /// Fails unless the peers differ from us just as the list says. The error has the lines to change.
    pub fn compare(&self, ours: &Transcript, peers: &[(&str, Transcript)]) -> Result<()> {
        let mut wrong = String::new();
        let mut found = 0;
        for (peer, theirs) in peers {
            let mut steps: Vec<&str> = ours.0.iter().chain(&theirs.0).map(|(step, _)| &**step).collect();
            let mut seen = std::collections::BTreeSet::new();
            steps.retain(|step| seen.insert(*step));
            for step in steps {
                let answers =
                    [theirs.answer(step), ours.answer(step)].map(|answer| answer.unwrap_or("not asked"));
                let [their, our] = answers;
                let listed = self.0.get(&((*peer).to_owned(), step.to_owned()));
                match listed {
                    Some((a, b)) if their != our && (&**a, &**b) == (their, our) => found += 1,
                    Some(_) => {
                        found += 1;
                        let _ = writeln!(wrong, "{peer} | {step} | {their} | {our} | listed otherwise");
                    }
                    None if their != our => {
                        let _ = writeln!(wrong, "{peer} | {step} | {their} | {our} | not listed");
                    }
                    None => {}
                }
            }
        }
        if found < self.0.len() {
            let known = |(peer, step): &(String, String)| {
                let theirs = peers.iter().find(|(name, _)| name == peer).map(|(_, theirs)| theirs);
                ours.answer(step).or(theirs.and_then(|theirs| theirs.answer(step))).is_some()
            };
            for key in self.0.keys().filter(|key| !known(key)) {
                let _ = writeln!(wrong, "{} | {} | is listed, but nobody was asked", key.0, key.1);
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(anyhow::anyhow!("{wrong}"))
            .context("the differences from other targets are not those that are listed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Transcript {
        Transcript::parse(text).unwrap()
    }

    #[test]
    fn both_directions_count() {
        let ours = said("a | 1\nnoise\nb | 2\n");
        let list = Differences::parse("# known\nother | b | 3 | 2 | because\n").unwrap();
        let compare = |theirs: &str| list.compare(&ours, &[("other", said(theirs))]);
        compare("a | 1\nb | 3\n").unwrap();
        for wrong in
            ["a | 1\nb | 2\n", "a | 1\nb | 4\n", "a | 0\nb | 3\n", "b | 3\n", "a | 1\nb | 3\nc | 1\n"]
        {
            assert!(compare(wrong).is_err(), "{wrong:?}");
        }
        assert!(
            list.compare(&said("a | 1\n"), &[("other", said("a | 1\n"))]).is_err(),
            "a step is forgotten"
        );
    }

    #[test]
    fn an_entry_needs_its_parts() {
        for wrong in ["other | b | 3 | 2", "other | b | 3 | 2 | ", "o | b | 3 | 2 | why\no | b | 4 | 2 | why"]
        {
            assert!(Differences::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Transcript::parse("a | 1\na | 2\n").is_err());
    }
}
