//! "Did you mean": the known name that is nearest to a misspelt one.

/// The candidate with the fewest edits from `word`, if they are at most a third of its length or one
/// swap of neighbours; else the only one that has `word` in it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    let candidates: Vec<(String, &str)> =
        candidates.into_iter().map(|candidate| (candidate.to_lowercase(), candidate)).collect();
    let close = candidates
        .iter()
        .map(|(lower, candidate)| (if is_swap(&word, lower) { 1 } else { distance(&word, lower) }, *candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits);
    let mut containing = candidates.iter().filter(|(lower, _)| word.len() > 2 && lower.contains(&word));
    match (close, containing.next(), containing.next()) {
        (Some((_, candidate)), ..) | (None, Some(&(_, candidate)), None) => Some(candidate),
        _ => None,
    }
}

/// Whether two neighbours changed places, and nothing else.
fn is_swap(from: &str, to: &str) -> bool {
    let mut differing = from.chars().zip(to.chars()).enumerate().filter(|(_, (a, b))| a != b);
    let pair = (differing.next(), differing.next(), differing.next());
    let (Some((i, (a, b))), Some((j, (c, d))), None) = pair else { return false };
    from.chars().count() == to.chars().count() && j == i + 1 && (a, b) == (d, c)
}

/// Insertions, deletions and replacements that make one word of the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, above) in to.chars().zip(row.iter_mut().skip(1)) {
            let edits = (diagonal + usize::from(a != b)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, edits);
            left = edits;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_close_name_is_found_and_a_far_one_is_not() {
        let keys = ["no_answer", "no_answer_header", "progress"];
        assert_eq!(nearest("no_anwser", keys), Some("no_answer"));
        assert_eq!(nearest("Progres", keys), Some("progress"));
        assert_eq!(nearest("inof", ["info", "warn"]), Some("info"));
        assert_eq!(nearest("Busy", ["NumberBusy", "NumberChanged"]), Some("NumberBusy"));
        assert_eq!(nearest("Number", ["NumberBusy", "NumberChanged"]), None);
        assert_eq!(nearest("colour", keys), None);
    }
}
