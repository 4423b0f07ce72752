//! Why the two readers differ: each reason says who is right, and holds for nothing else.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::bytes::Regex;

use super::readings::Difference::{self, Item, Ours, Theirs};
use crate::wire::Parts;

/// One way in which the readers differ.
pub struct Reason {
    pub name: &'static str,
    /// Whether it explains a difference about a message.
    pub holds: fn(&[u8], &Difference) -> bool,
}

const fn reason(name: &'static str, holds: fn(&[u8], &Difference) -> bool) -> Reason {
    Reason { name, holds }
}

/// What rsip takes though RFC 3261 does not have it, and what it does not take though the RFC has it.
pub const REASONS: &[Reason] = &[
    // -- only rsip takes it --
    reason("rsip takes a head that does not end, as one field and a body (§7)", |bytes, difference| {
        matches!(difference, Theirs(_)) && !has_end(bytes)
    }),
    reason("rsip carries an LF in a value: a line ends with CRLF (§7)", |bytes, difference| {
        is(difference, "LF without CR in the head") && finds("(^|[^\r])\n", head(bytes))
    }),
    reason("rsip carries a CR in a value: it is a part of CRLF or nothing (§25.1)", |bytes, difference| {
        is(difference, "CR without LF in the head") && finds("\r([^\n]|$)", head(bytes))
    }),
    reason("rsip carries a NUL: it stands in quoted pairs alone (§25.1, RFC 4475 §3.1.1.2)", |bytes, difference| {
        is(difference, "NUL in the head") && head(bytes).contains(&0)
    }),
    reason("rsip asks for no header: six are mandatory (§8.1.1)", |bytes, difference| {
        MANDATORY.iter().any(|(detail, full, compact)| is(difference, detail) && count(bytes, full, compact) == 0)
    }),
    reason("rsip takes the first of several: there is one of each (§7.3.1, RFC 4475 §3.3.8)", |bytes, difference| {
        SINGLE.iter().any(|(detail, full, compact)| is(difference, detail) && count(bytes, full, compact) > 1)
    }),
    reason("rsip does not read Content-Length: it is a number (§20.14)", |bytes, difference| {
        is(difference, "Content-Length is not a number")
            && !finds(r"^[ \t\r\n]*[0-9]+[ \t\r\n]*$", &value(bytes, "content-length", "l"))
    }),
    reason("rsip does not miss the rest of a body (§18.3)", |bytes, difference| {
        is(difference, "the body is shorter than Content-Length") && length(bytes).is_none_or(|said| said > rest(bytes))
    }),
    reason("rsip does not compare the methods of start line and CSeq (§8.1.1.5)", |bytes, difference| {
        is(difference, "CSeq has another method than the request")
            && word(&value(bytes, "cseq", ""), 1) != word(&Parts::of(bytes).start, 0)
    }),
    reason(
        "rsip reads CSeq on demand: a number below 2^31, white space, a method (§8.1.1.5, §25.1)",
        |bytes, difference| is(difference, "CSeq cannot be read") && !is_cseq(&value(bytes, "cseq", "cseq")),
    ),
    reason("rsip reads From and To on demand: quotes and brackets close (§20.10)", |bytes, difference| {
        (is(difference, "From: quotes or brackets do not close") && !closes(&value(bytes, "from", "f")))
            || (is(difference, "To: quotes or brackets do not close") && !closes(&value(bytes, "to", "t")))
    }),
    reason("rsip reads Via on demand: protocol, sent-by, parameters (§25.1)", |bytes, difference| {
        let is_readable = |via: &[u8]| finds(VIA, via) && has_port_in_range(via);
        is(difference, "the topmost Via cannot be read") && !is_readable(&value(bytes, "via", "v"))
    }),
    reason("rsip passes over an empty parameter in Via (§25.1)", |bytes, difference| {
        is(difference, "the topmost Via has an empty parameter")
            && finds(r";[ \t\r\n]*(;|=|,|$)", &value(bytes, "via", "v"))
    }),
    reason("rsip takes an empty Call-ID (§25.1)", |bytes, difference| {
        is(difference, "Call-ID is empty") && value(bytes, "call-id", "i").trim_ascii().is_empty()
    }),
    reason("rsip takes any version that begins with 1 or 2 (§7.1, §21.5.6)", |bytes, difference| {
        is(difference, "another version than SIP/2.0") && !finds("(^| )SIP/2\\.0( |$)", &Parts::of(bytes).start)
    }),
    reason("rsip takes any three digits as a code: 100 to 699 (§7.2, §21)", |bytes, difference| {
        is(difference, "status code outside 100 to 699") && !finds("^SIP/2.0 [1-6]", &Parts::of(bytes).start)
    }),
    reason("rsip takes a Request-URI without a scheme (§19.1.1, RFC 3986 §3.1)", |bytes, difference| {
        is(difference, "Request-URI has no scheme") && !finds("^[A-Za-z][-A-Za-z0-9+.]*:", &uri(bytes))
    }),
    reason("rsip takes a control character, bracket or quote in a Request-URI (RFC 3986 §2)", |bytes, difference| {
        is(difference, "Request-URI holds a byte that no URI has") && finds(r#"[\x00-\x1f\x7f<>"]"#, &uri(bytes))
    }),
    reason("rsip takes any bytes for the host of a Request-URI (§25.1)", |bytes, difference| {
        is(difference, "Request-URI has no readable host") && !has_host(&uri(bytes))
    }),
    reason("rsip takes header fields behind the host of a URI for a part of it (§19.1.1)", |bytes, difference| {
        match difference {
            Ours => finds(r"[^@]:[0-9]+\?|\?[^@]*:", &uri(bytes)),
            Item("Request-URI host", ours, theirs) => theirs.contains(&format!("{ours}?")),
            Item("Request-URI port", ours, _) => ours == "None" && finds(r"^[^@]*(@[^@]*)?\?[^@]*:[0-9]+", &uri(bytes)),
            _ => false,
        }
    }),
    reason("rsip takes any header fields in a Request-URI (§19.1.5, RFC 4475 §3.1.2.11)", |bytes, difference| {
        is(difference, "Request-URI has header fields that route") && uri(bytes).contains(&b'?')
    }),
    reason("rsip takes a request line with white space in it (§7.1)", |bytes, difference| {
        is(difference, "request line is not: method, space, URI, space, version")
            && !finds(r"^[^ \t\r\n]+ [^ \t\r\n]+ SIP/[^ \t\r\n]+$", &Parts::of(bytes).start)
    }),
    reason("rsip takes three bytes behind the version and one for a code (§7.2)", |bytes, difference| {
        is(difference, "status line is not: version, space, three digits, space, phrase")
            && !finds("^SIP/2.0 [0-9]{3}( |$)", &Parts::of(bytes).start)
    }),
    reason("rsip takes the first of several parameters: none is there twice (§7.3.1)", |bytes, difference| {
        (is(difference, "From: tag is repeated") && repeats("tag", &value(bytes, "from", "f")))
            || (is(difference, "To: tag is repeated") && repeats("tag", &value(bytes, "to", "t")))
            || (is(difference, "the topmost Via has two branches") && repeats("branch", &value(bytes, "via", "v")))
    }),
    // -- both take it --
    reason("rsip does not read Content-Length: the body ends there (§18.3)", |bytes, difference| {
        let cut = || Parts::of(bytes).body.escape_ascii().to_string();
        matches!(difference, Item("body", ours, theirs) if theirs.starts_with(ours) && *ours == cut())
    }),
    reason("rsip reads a parameter to the first byte that no token has; devices send others", |_, difference| {
        let Item("From tag" | "To tag" | "branch", ours, theirs) = difference else { return false };
        let (Some(ours), Some(theirs)) = (some(ours), some(theirs)) else { return false };
        ours.strip_prefix(theirs)
            .is_some_and(|rest| !rest.is_empty() && !finds("^[-A-Za-z0-9.!%*_+`'~]", rest.as_bytes()))
    }),
    reason("rsip reads no parameters behind a byte that no token has", |bytes, difference| {
        let (text, theirs) = match difference {
            Item("From tag", _, theirs) => (value(bytes, "from", "f"), theirs),
            Item("To tag", _, theirs) => (value(bytes, "to", "t"), theirs),
            Item("branch", _, theirs) => (value(bytes, "via", "v"), theirs),
            _ => return false,
        };
        theirs == "None" && !finds(PLAIN_PARAMS, &text)
    }),
    reason(
        "rsip takes an empty tag or branch for one (§25.1: a token is not empty)",
        |_, difference| matches!(difference, Item("From tag" | "To tag" | "branch", ours, theirs) if ours == "None" && some(theirs) == Some("")),
    ),
    reason("rsip takes a method in any letter case (§7.1 and §8.1.1.5 do not)", |_, difference| {
        let Item("method" | "CSeq method", ours, theirs) = difference else { return false };
        ours != theirs && ours.eq_ignore_ascii_case(theirs)
    }),
    reason(
        "rsip ends the user of a URI at a full stop, and takes it for the host then (§25.1)",
        |bytes, difference| {
            let has_stop = || userinfo(bytes).contains('.');
            match difference {
                Ours => has_stop(),
                Item("Request-URI host", ours, theirs) => {
                    has_stop() && *theirs == format!("{}@{ours}", userinfo(bytes))
                }
                Item("Request-URI user", _, theirs) => theirs == "None" && has_stop(),
                _ => false,
            }
        },
    ),
    reason("rsip reads a Via field as one value: commas part a list (§7.3.1)", |bytes, difference| {
        matches!(difference, Item("branch", ..)) && value(bytes, "via", "v").contains(&b',')
    }),
    reason("rsip knows no compact names (§7.3.3)", |bytes, difference| {
        matches!(difference, Item("branch", ..)) && finds("^[vV][ \t]*:", Parts::of(bytes).first("via", "v"))
    }),
    reason("rsip takes no white space behind an equals sign (§25.1, EQUAL)", |bytes, difference| {
        matches!(difference, Item("branch", _, theirs) if some(theirs) == Some(""))
            && finds("(?i:branch)=[ \t]", &value(bytes, "via", "v"))
    }),
    reason(
        "rsip takes an empty user for one (§25.1)",
        |_, difference| matches!(difference, Item("Request-URI user", ours, theirs) if ours == "None" && some(theirs) == Some("")),
    ),
    reason("rsip counts the parameters of a user to the user (RFC 3261 §19.1.6)", |_, difference| {
        let Item("Request-URI user", ours, theirs) = difference else { return false };
        let (ours, Some(theirs)) = (some(ours).unwrap_or_default(), some(theirs)) else { return false };
        theirs.strip_prefix(ours).is_some_and(|rest| rest.starts_with(';'))
    }),
    // -- only we take it --
    reason("rsip knows five transports (§25.1 has any token)", |bytes, difference| {
        matches!(difference, Ours)
            && finds("(?i:;transport=)", &uri(bytes))
            && !finds("(?i:;transport=(udp|tcp|tls|sctp|tls-sctp|ws|wss)(;|$))", &uri(bytes))
    }),
    reason(
        "rsip reads the host and port of other schemes too, which are not ours to read (§16.3)",
        |bytes, difference| {
            matches!(difference, Ours)
                && finds("^[^:]+://", &uri(bytes))
                && !finds("^[^:]+://[-A-Za-z0-9.]+(:[0-9]+)?$", &uri(bytes))
        },
    ),
    reason("rsip takes no IPv6 reference in a Request-URI (§25.1, RFC 5118 §4.1)", |bytes, difference| {
        matches!(difference, Ours) && finds(r"^(?i:sips?):([^@]*@)?\[", &uri(bytes))
    }),
    reason("rsip knows the schemes sip and sips, and others with slashes (§7.1 has any)", |bytes, difference| {
        matches!(difference, Ours) && !uri(bytes).is_empty() && !finds("^((?i:sips?):|[^:]+://)", &uri(bytes))
    }),
    reason("rsip takes tokens alone in the parameters of a Request-URI (§25.1 has more)", |bytes, difference| {
        let behind_host = |uri: Vec<u8>| uri.rsplit(|byte| *byte == b'@').next().unwrap_or_default().to_vec();
        matches!(difference, Ours) && !finds(TOKEN_PARAMS, &behind_host(uri(bytes)))
    }),
    reason("rsip takes no line ends before the start line (§7.5 has them ignored)", |bytes, difference| {
        matches!(difference, Ours) && bytes.starts_with(b"\r\n")
    }),
    reason("rsip takes no folds (§7.3.1 has them)", |bytes, difference| {
        matches!(difference, Ours) && finds("\r\n[ \t]", head(bytes))
    }),
    reason("rsip takes no white space before a colon (§7.3.1 and HCOLON have it)", |bytes, difference| {
        matches!(difference, Ours) && finds("\n[^ :\r\n]+[ \t]+:", head(bytes))
    }),
    reason("rsip takes UTF-8 alone: a proxy carries what it does not read (§16.3)", |bytes, difference| {
        matches!(difference, Ours) && std::str::from_utf8(head(bytes)).is_err()
    }),
    reason("rsip knows fourteen methods (§7.1 has any token)", |bytes, difference| {
        let is_known = |name: &str| METHODS.iter().any(|method| name.eq_ignore_ascii_case(method));
        matches!(difference, Ours) && !uri(bytes).is_empty() && !is_known(&Parts::of(bytes).method())
    }),
    reason(
        "rsip takes no status line without the space before its phrase; some peers leave it out",
        |bytes, difference| matches!(difference, Ours) && finds("^SIP/2.0 [0-9]{3}$", &Parts::of(bytes).start),
    ),
    reason("rsip takes the version in capitals alone (§7.1: letter case is free)", |bytes, difference| {
        matches!(difference, Ours) && !finds("(^| )SIP/2.0( |$)", &Parts::of(bytes).start)
    }),
];

/// What rsip knows.
const METHODS: [&str; 14] = [
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "INVITE",
    "MESSAGE",
    "NOTIFY",
    "OPTIONS",
    "PRACK",
    "PUBLISH",
    "REFER",
    "REGISTER",
    "SUBSCRIBE",
    "UPDATE",
];
const MANDATORY: [(&str, &str, &str); 5] = [
    ("no Via", "via", "v"),
    ("no From", "from", "f"),
    ("no To", "to", "t"),
    ("no Call-ID", "call-id", "i"),
    ("no CSeq", "cseq", "cseq"),
];
const SINGLE: [(&str, &str, &str); 6] = [
    ("From is repeated", "from", "f"),
    ("To is repeated", "to", "t"),
    ("Call-ID is repeated", "call-id", "i"),
    ("CSeq is repeated", "cseq", "cseq"),
    ("Max-Forwards is repeated", "max-forwards", ""),
    ("Content-Length is repeated", "content-length", "l"),
];
/// A Via whose parameters have no open quote, without commas.
const VIA: &str = concat!(
    r#"^[ \t\r\n]*[-A-Za-z0-9.!%*_+`'~]+[ \t\r\n]*/[ \t\r\n]*[-A-Za-z0-9.!%*_+`'~]+[ \t\r\n]*/[ \t\r\n]*[-A-Za-z0-9.!%*_+`'~]+"#,
    r#"[ \t\r\n]+(\[[^\], \t\r\n]*\]|[^\[ \t\r\n:;,/][^ \t\r\n:;,/]*)([ \t\r\n]*:[ \t\r\n]*[0-9]{1,5})?[ \t\r\n]*(;("([^"\\]|\\.)*"|[^"])*)?$"#
);

/// A host and parameters that are tokens.
const TOKEN_PARAMS: &str = "^[^;]*(;[-A-Za-z0-9.!%*_+`'~]*(=[-A-Za-z0-9.!%*_+`'~]*)?)*$";
/// A From, To or Via whose parameters are tokens.
const PLAIN_PARAMS: &str = concat!(
    r#"^[ \t]*(("[^"]*"|[^<;"]*)<[^<>]*>|SIP/2\.0/[A-Z]+ [-A-Za-z0-9.]+(:[0-9]+)?|sips?:[^ ;<>"]+)"#,
    r"(;[-A-Za-z0-9.!%*_+`'~]+(=[-A-Za-z0-9.!%*_+`'~]*)?)*[ \t\r\n]*$"
);

fn is(difference: &Difference, expected: &str) -> bool {
    matches!(difference, Theirs(detail) if *detail == expected)
}

/// Up to the empty line, with the CRLF before it.
fn head(bytes: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n");
    end.map_or(bytes, |end| &bytes[..end + 2])
}

fn has_end(bytes: &[u8]) -> bool {
    head(bytes).len() < bytes.len()
}

fn count(bytes: &[u8], full: &str, compact: &str) -> usize {
    if has_end(bytes) { Parts::of(bytes).places(full, compact).len() } else { 0 }
}

/// The value of the first field of a name; empty where there is none.
fn value(bytes: &[u8], full: &str, compact: &str) -> Vec<u8> {
    if count(bytes, full, compact) == 0 {
        return Vec::new();
    }
    let parts = Parts::of(bytes);
    let field = parts.first(full, compact);
    field[field.iter().position(|byte| *byte == b':').unwrap() + 1..].to_vec()
}

fn length(bytes: &[u8]) -> Option<usize> {
    String::from_utf8(value(bytes, "content-length", "l")).ok()?.trim().parse().ok()
}

/// The Request-URI; empty where there is none.
fn uri(bytes: &[u8]) -> Vec<u8> {
    if !has_end(bytes) || !Parts::of(bytes).is_request() {
        return Vec::new();
    }
    Parts::of(bytes).start.split(|byte| *byte == b' ').nth(1).unwrap_or_default().to_vec()
}

/// What stands before the `@` of the Request-URI, without its scheme.
fn userinfo(bytes: &[u8]) -> String {
    let uri = String::from_utf8_lossy(&uri(bytes)).into_owned();
    let behind = uri.split_once(':').and_then(|(_, rest)| rest.split_once('@'));
    behind.map(|(user, _)| user.to_owned()).unwrap_or_default()
}

/// Whether a URI has a host as far as the grammar goes: a name, an address, an IPv6 reference; and a port that can be one.
fn has_host(uri: &[u8]) -> bool {
    finds(r"^(?i:sips?):([^@]*@)?(\[[0-9A-Za-z:.%]+\]|[-A-Za-z0-9._\x80-\xff]+)(:[0-9]+)?([;?]|$)", uri)
        && has_port_in_range(uri)
}

/// Whether the first number behind a colon, if there is any, is a port.
fn has_port_in_range(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).into_owned();
    let text = text.split(';').next().unwrap_or_default();
    let ports = text
        .rsplit(':')
        .next()
        .filter(|port| text.contains(':') && !port.is_empty() && port.trim().bytes().all(|byte| byte.is_ascii_digit()));
    ports.is_none_or(|port| port.trim().parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether a value has a parameter twice.
fn repeats(name: &str, value: &[u8]) -> bool {
    finds(&format!(r"(?i:;[ \t\r\n]*{name}[ \t\r\n]*(=[^;]*)?(;.*)?;[ \t\r\n]*{name}[ \t\r\n]*([=;]|$))"), value)
}

/// The text in a printed `Some("…")`.
fn some(printed: &str) -> Option<&str> {
    printed.strip_prefix("Some(\"")?.strip_suffix("\")")
}

/// Bytes behind the head.
fn rest(bytes: &[u8]) -> usize {
    bytes.len() - head(bytes).len() - 2
}

fn word(text: &[u8], at: usize) -> String {
    String::from_utf8_lossy(text).split_ascii_whitespace().nth(at).unwrap_or_default().to_owned()
}

fn is_cseq(value: &[u8]) -> bool {
    let is_below_limit = word(value, 0).parse::<u64>().is_ok_and(|number| number < 1 << 31);
    is_below_limit && finds(r"^[ \t\r\n]*[0-9]+[ \t\r\n]+[-A-Za-z0-9.!%*_+`'~]+[ \t\r\n]*$", value)
}

/// Whether quotes close, and brackets that are outside of them.
fn closes(value: &[u8]) -> bool {
    const QUOTED: &str = r#""([^"\\]|\\.)*""#;
    finds(&format!(r#"^([^"<;]|{QUOTED})*(<[^>]*>([^"]|{QUOTED})*|;([^"]|{QUOTED})*)?$"#), value)
}

fn finds(pattern: &str, text: &[u8]) -> bool {
    thread_local! {
        static MADE: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    MADE.with_borrow_mut(|made| {
        let make = || Regex::new(&format!("(?s-u){pattern}")).unwrap();
        made.entry(pattern.to_owned()).or_insert_with(make).is_match(text)
    })
}
