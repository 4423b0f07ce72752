//! What is not shown of a configuration where its lines are: logins and paths in URLs, passwords in SIP URIs, and whatever
//! is given for a token, a secret, a password or a key itself. A report goes to logs and over the API.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// `password = "…"`, but not the name of a file.
static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let value = r#""{3}(?s:.*?)"{3}|'{3}(?s:.*?)'{3}|"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|[^\s,}\]#"']+"#;
    Regex::new(&format!(r#"(?i)([\w-]*(?:token|secret|passw|credential|key)[\w-]*)["']?\s*=\s*({value})"#)).ok()
});
/// What ends a URL in a TOML file.
const ENDS: [char; 6] = ['"', '\'', '`', ' ', '\t', '\n'];

/// The text with an asterisk for each byte that is not shown: everything keeps its place.
pub fn concealed(text: &str) -> String {
    let mut hidden = secrets(text);
    hidden.extend(text.match_indices("://").flat_map(|(at, _)| url(text, at + 3)));
    hidden.extend(["sip:", "sips:"].iter().flat_map(|scheme| passwords(text, scheme)));
    let mut bytes = text.as_bytes().to_vec();
    for range in hidden {
        for byte in bytes.get_mut(range).into_iter().flatten().filter(|byte| **byte != b'\n') {
            *byte = b'*';
        }
    }
    // All parts end where characters do.
    String::from_utf8_lossy(&bytes).into_owned()
}

fn secrets(text: &str) -> Vec<Range<usize>> {
    let Some(pattern) = SECRET.as_ref() else { return Vec::new() };
    let found = pattern.captures_iter(text).filter_map(|found| {
        let (key, value) = (found.get(1)?, found.get(2)?);
        let is_name = ["_file", "tls_key"].iter().any(|end| key.as_str().to_ascii_lowercase().ends_with(end));
        let quotes = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| value.as_str().starts_with(quotes));
        let inside = value.as_str().strip_prefix(quotes.unwrap_or_default())?;
        let start = value.end() - inside.len();
        let end = start + inside.strip_suffix(quotes.unwrap_or_default()).unwrap_or(inside).len();
        (!is_name).then_some(start..end)
    });
    found.collect()
}

/// Login and path of a URL whose authority begins at `start`.
fn url(text: &str, start: usize) -> Vec<Range<usize>> {
    let Some(rest) = text.get(start..) else { return Vec::new() };
    let end = start + rest.find(ENDS).unwrap_or(rest.len());
    let login = text.get(start..end).and_then(|url| url.rfind('@')).map_or(start, |at| start + at);
    let path = text.get(login..end).and_then(|rest| rest.find(['/', '?'])).map_or(end, |at| login + at + 1);
    vec![start..login, path..end]
}

fn passwords<'a>(text: &'a str, scheme: &'a str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices(scheme).filter_map(move |(at, _)| {
        let start = at + scheme.len();
        let rest = text.get(start..)?;
        let user = rest.get(..rest.find(ENDS).unwrap_or(rest.len()))?.rsplit_once('@')?.0;
        let password = user.find(':')? + 1;
        Some(start + password..start + user.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_all_else_keeps_its_place() {
        for (text, shown) in [
            ("servers = [\"nats://me:pw@h:4222\"]", "servers = [\"nats://*****@h:4222\"]"),
            ("url = 'https://h/x?key=T' # x", "url = 'https://h/*******' # x"),
            ("url = 'https://h/hooks/T?k=T' # x", "url = 'https://h/***********' # x"),
            ("url = \"https://a/b:c@h/x\n", "url = \"https://*****@h/*\n"),
            ("uri = 'sip:u:pw@h;lr'", "uri = 'sip:u:**@h;lr'"),
            ("uri = 'sip:10.0.2.10:5060'", "uri = 'sip:10.0.2.10:5060'"),
            ("token = \"s3\\\"cr3t\" # x", "token = \"********\" # x"),
            ("nats = { password = 's3', user = 'a' }", "nats = { password = '**', user = 'a' }"),
            ("API-Secret = s3cr3t", "API-Secret = ******"),
            ("secret = \"s3cr3t\nx = 1", "secret = \"******\nx = 1"),
            ("key = '''\nab\nc'''", "key = '''\n**\n*'''"),
            ("\"password\" = \"é\"", "\"password\" = \"**\""),
            ("token_file = \"/etc/token\"", "token_file = \"/etc/token\""),
        ] {
            assert_eq!(concealed(text), shown);
            assert_eq!(shown.len(), text.len());
        }
    }
}
