//! The parsed document before it is typed: walking it, and leaving out what was found to be wrong so
//! that the rest can still be checked.

use std::borrow::Cow;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A value of the document with its place.
pub type Node<'i> = Spanned<DeValue<'i>>;

/// Paths of what was left out: it has had its mistake, and is not to be called missing too.
#[derive(Debug, Default)]
pub struct Pruned {
    paths: BTreeSet<String>,
    all: bool,
}

impl Pruned {
    /// Notes that the value at `path` was left out.
    pub fn add(&mut self, path: &str) {
        self.paths.insert(path.to_owned());
    }

    /// Notes that anything may have been left out: the document as a whole could not be read.
    pub fn add_anything(&mut self) {
        self.all = true;
    }

    /// Whether the value at `path`, something in it, or a table around it was left out.
    pub fn touches(&self, path: &str) -> bool {
        self.all || self.paths.iter().any(|pruned| is_within(pruned, path) || is_within(path, pruned))
    }
}

/// Goes through every value under `table`, tables aside, outer ones first; what `keep` refuses is left out.
pub fn sift<'i>(
    table: &mut DeTable<'i>,
    path: &str,
    pruned: &mut Pruned,
    keep: &mut dyn FnMut(&str, &mut Node<'i>) -> bool,
) {
    retain_entries(table, path, pruned, |_, path, node, pruned| sift_node(node, path, pruned, keep));
}

/// Keeps the entries of one table that `keep` wants; it is given key, path and value.
pub fn retain_entries<'i>(
    table: &mut DeTable<'i>,
    path: &str,
    pruned: &mut Pruned,
    mut keep: impl FnMut(&Spanned<Cow<'i, str>>, &str, &mut Node<'i>, &mut Pruned) -> bool,
) {
    for (key, mut node) in std::mem::replace(table, DeTable::new()) {
        let path = join(path, key.get_ref());
        if keep(&key, &path, &mut node, pruned) {
            table.insert(key, node);
        } else {
            pruned.add(&path);
        }
    }
}

/// Keeps the elements of one array that `keep` wants; it is given path and value.
pub fn retain_elements<'i>(
    array: &mut DeArray<'i>,
    path: &str,
    pruned: &mut Pruned,
    mut keep: impl FnMut(&str, &mut Node<'i>, &mut Pruned) -> bool,
) {
    let elements = std::mem::replace(array, DeArray::new());
    for (index, mut element) in elements.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        if keep(&path, &mut element, pruned) {
            array.push(element);
        } else {
            pruned.add(&path);
        }
    }
}

/// The path of `key` in the table at `path`.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn sift_node<'i>(
    node: &mut Node<'i>,
    path: &str,
    pruned: &mut Pruned,
    keep: &mut dyn FnMut(&str, &mut Node<'i>) -> bool,
) -> bool {
    if !node.get_ref().is_table() && !keep(path, node) {
        return false;
    }
    match node.get_mut() {
        DeValue::Table(table) => sift(table, path, pruned, keep),
        DeValue::Array(array) => {
            retain_elements(array, path, pruned, |path, element, pruned| sift_node(element, path, pruned, keep));
        }
        _ => {}
    }
    true
}

fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_touches_what_is_around_and_in_it() {
        let mut pruned = Pruned::default();
        pruned.add("telephony.servers[0].uri");
        assert!(pruned.touches("telephony.servers"));
        assert!(pruned.touches("telephony.servers[0].uri"));
        assert!(!pruned.touches("telephony.servers[1]"));
        assert!(!pruned.touches("telephony.server"));
        pruned.add("dialer");
        assert!(pruned.touches("dialer.sources"));
    }

    #[test]
    fn what_is_refused_is_left_out_at_any_depth() {
        let mut root = DeTable::parse("a = 1\nb = [1, 'x', [1, 2]]\n[c]\nd = 1\ne = 'x'").unwrap().into_inner();
        let mut pruned = Pruned::default();
        sift(&mut root, "", &mut pruned, &mut |_, node| !node.get_ref().is_integer());
        assert_eq!(root.keys().map(|key| key.get_ref().as_ref()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(pruned.paths.into_iter().collect::<Vec<_>>(), ["a", "b[0]", "b[2][0]", "b[2][1]", "c.d"]);
    }
}
