//! Messages of our own for each point of RFC 4475 and RFC 5118.

/// A message, and what becomes of it as a datagram and in a stream.
pub struct Torture {
    /// Of RFC 4475, or of RFC 5118 where it begins with a 4 and a dot.
    pub section: &'static str,
    pub what: &'static str,
    pub bytes: Vec<u8>,
    pub udp: &'static str,
    pub tcp: &'static str,
}

const PASSES: &str = "forwarded";
const TWO: &str = "forwarded forwarded";

/// A message of lines; those of a table and the usual ones that the table does not have.
fn message(start: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let method = start.split(' ').next().unwrap_or_default();
    let usual = [
        "Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK-own".to_owned(),
        "From: Ann <sip:+15550101@example.net>;tag=ann1".to_owned(),
        "To: <sip:+15550102@example.com>".to_owned(),
        format!("Call-ID: {:x}@192.0.2.20", start.len() * 7 + lines.len()),
        format!("CSeq: 21 {method}"),
        "Max-Forwards: 20".to_owned(),
        format!("Content-Length: {}", body.len()),
    ];
    let name = |line: &str| line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
    let full = |name: String| match &*name {
        "v" => "via".to_owned(),
        "f" => "from".to_owned(),
        "t" => "to".to_owned(),
        "i" => "call-id".to_owned(),
        "l" => "content-length".to_owned(),
        _ => name,
    };
    let given = lines.iter().map(|line| full(name(line).trim_start_matches("no ").to_owned())).collect::<Vec<_>>();
    let mut text = format!("{start}\r\n").into_bytes();
    for line in lines.iter().filter(|line| !line.starts_with("no ")) {
        text.extend([line.as_bytes(), b"\r\n"].concat());
    }
    for line in usual.iter().filter(|line| !given.contains(&name(line))) {
        text.extend([line.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    text.extend(body);
    text
}

const SDP: &[u8] =
    b"v=0\r\no=- 7 7 IN IP4 192.0.2.20\r\ns=-\r\nc=IN IP4 192.0.2.20\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// One row for each point.
pub fn torture() -> Vec<Torture> {
    [valid(), broken(), layers(), ipv6()].into_iter().flatten().collect()
}

fn row(section: &'static str, what: &'static str, bytes: Vec<u8>, udp: &'static str, tcp: &'static str) -> Torture {
    Torture { section, what, bytes, udp, tcp }
}

/// Section 3.1.1: valid messages.
fn valid() -> Vec<Torture> {
    let odd_method = "dot.plus+bang!star*~'`_%";
    let passes = |section, what, bytes| row(section, what, bytes, PASSES, PASSES);
    let mut long_list = vec!["Subject: ".to_owned() + &"all the way down, ".repeat(90)];
    long_list
        .extend((0..30).map(|hop| format!("Via: SIP/2.0/UDP hop{hop}.example.org;branch=z9hG4bK{}", "h".repeat(200))));
    long_list.push(format!("To: \"{}\" <sip:{}@example.com>", "n".repeat(300), "u".repeat(400)));
    let long_list = long_list.iter().map(String::as_str).collect::<Vec<_>>();
    let first = message("MESSAGE sip:+15550102@example.com SIP/2.0", &[], b"one");
    let second = message(
        "MESSAGE sip:+15550103@example.com SIP/2.0",
        &["Via: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bK-second"],
        b"two",
    );
    vec![
        passes(
            "3.1.1.1",
            "white space, folds, letter case and compact names wherever they may be",
            message(
                "INVITE sip:+15550102@example.com;odd SIP/2.0",
                &[
                    "tO\t:\r\n\t\"Bea \\\\ \\\"B\\\"\"   <sip:+15550102@example.com>\r\n ;\r\n x\r\n =\r\n y",
                    "f   :sip:+15550101@example.net\t;\ttag = t1",
                    "MAX-forwards:\r\n 0020",
                    "cSEQ: 0021\r\n\tINVITE",
                    "Via :SIP\t/ 2.0/UDP\r\n 192.0.2.20 ; branch = z9hG4bK-fold, SIP / 2.0 / TCP   lower.example.org",
                    "l  :  004",
                    "s:",
                    "Unheard-Of: ,,;;\"\",  ;",
                    "Route: <sip:elsewhere.example.org;lr;x=y>",
                ],
                b"body",
            ),
        ),
        passes(
            "3.1.1.2",
            "every token character in a method and names; escaped NUL and DEL; UTF-8",
            message(
                &format!("{odd_method} sip:a&b=c+d$e,f;g?h/i(j)k!l~m'n-o_p.q:r;s@example.com SIP/2.0"),
                &[
                    "To: \"quoted \\\0 and \\\u{7f} and \\\u{7}\" <sip:+15550102@example.com>",
                    "From: odd~`token '+_ name*%!.- <sip:+15550101@example.net>;p~'+*_!.-%=\"Καλημέρα\";tag=~t1'+`*%!-._",
                    "Call-ID: ()<>:\\/[]?{}\"-.!%*_+`'~@x",
                    "x-!.%*+_`'~: 您好",
                ],
                b"",
            ),
        ),
        passes(
            "3.1.1.3",
            "escapes in URIs",
            message(
                "INVITE sip:sip%3A%2B15550102%40example.org@example.com SIP/2.0",
                &["To: <sip:%41nn@example.com>", "Contact: <sip:c%61ll@192.0.2.20;%6c%72;a%3Db=%25>"],
                SDP,
            ),
        ),
        passes(
            "3.1.1.4",
            "an escaped NUL in URIs",
            message(
                "REGISTER sip:example.com SIP/2.0",
                &["To: <sip:%00%00@example.com>", "Contact: <sip:%00@192.0.2.20>"],
                b"",
            ),
        ),
        passes(
            "3.1.1.5",
            "escapes where there are none: in a method, a name, a display name",
            message(
                "INV%49TE sip:example.com SIP/2.0",
                &["From: \"%41%nn\" <sip:a@example.net>;tag=1", "Contac%74: <sip:a@192.0.2.20>"],
                b"",
            ),
        ),
        passes(
            "3.1.1.6",
            "no white space between display name and bracket",
            message("OPTIONS sip:bea@example.com SIP/2.0", &["From: Ann<sip:+15550101@example.net>;tag=t1"], b""),
        ),
        passes("3.1.1.7", "long values", message("INVITE sip:bea@example.com SIP/2.0", &long_list, SDP)),
        row("3.1.1.8", "a second message in the datagram", [first, second].concat(), PASSES, TWO),
        passes(
            "3.1.1.9",
            "semicolons in the user part",
            message("OPTIONS sip:bea;x=y%40example.net;lr@example.com SIP/2.0", &[], b""),
        ),
        passes(
            "3.1.1.10",
            "transports of all kinds",
            message(
                "OPTIONS sip:bea@example.com SIP/2.0",
                &[
                    "Via: SIP/2.0/UDP t1.example.org;branch=z9hG4bK-t1",
                    "Via: SIP/2.0/SCTP t2.example.org;branch=z9hG4bK-t2, SIP/2.0/TLS t3.example.org;branch=z9hG4bK-t3",
                    "Via: SIP/2.0/PIGEON t4.example.org;branch=z9hG4bK-t4",
                ],
                b"",
            ),
        ),
        passes(
            "3.1.1.11",
            "a body of parts with bytes of all values",
            message(
                "MESSAGE sip:bea@example.com SIP/2.0",
                &["Content-Type: multipart/mixed;boundary=edge"],
                &[
                    b"--edge\r\n\r\n\r\n\r\nSIP/2.0 200 OK\r\n\r\n".to_vec(),
                    (0..=255).collect(),
                    b"\r\n--edge--".to_vec(),
                ]
                .concat(),
            ),
        ),
        row(
            "3.1.1.12",
            "a response with an odd reason phrase that nobody asked for",
            message("SIP/2.0 200 = 2**3 * 5**2 но, \"\\\"", &["CSeq: 21 INVITE"], b""),
            "dropped",
            "dropped",
        ),
        row(
            "3.1.1.13",
            "one with an empty phrase",
            message("SIP/2.0 100 ", &["CSeq: 21 INVITE"], b""),
            "dropped",
            "dropped",
        ),
    ]
}

/// Section 3.1.2: invalid messages.
fn broken() -> Vec<Torture> {
    let refused = |section, what, bytes| row(section, what, bytes, "400", "400");
    let with = |line: &str| message("INVITE sip:bea@example.com SIP/2.0", &[line], SDP);
    let passes = |section, what, bytes| row(section, what, bytes, PASSES, PASSES);
    let dropped = |section, what, bytes| row(section, what, bytes, "dropped", "dropped");
    vec![
        refused("3.1.2.1", "separators with nothing between them", with("Via: SIP/2.0/UDP 192.0.2.20;;,;,,")),
        row("3.1.2.2", "a length beyond the datagram", with("Content-Length: 8888"), "400", "waits"),
        row("3.1.2.3", "a length below zero", with("Content-Length: -888"), "400", "400 closed"),
        refused("3.1.2.4", "a CSeq number of more than 31 bits", with("CSeq: 36893488147419103232 INVITE")),
        refused("3.1.2.4", "Max-Forwards beyond 255", with("Max-Forwards: 999")),
        dropped(
            "3.1.2.5",
            "large numbers in a response",
            message("SIP/2.0 503 Busy", &["CSeq: 9999999999 INVITE", "Retry-After: 99999999999999"], b""),
        ),
        refused("3.1.2.6", "an open quote", with("To: \"Bea <sip:bea@example.com>")),
        refused(
            "3.1.2.7",
            "brackets around the Request-URI",
            message("INVITE <sip:bea@example.com> SIP/2.0", &[], SDP),
        ),
        refused(
            "3.1.2.8",
            "white space in the Request-URI",
            message("INVITE sip:bea@example.com; lr SIP/2.0", &["CSeq: 21 INVITE"], SDP),
        ),
        refused("3.1.2.9", "two spaces in the start line", message("INVITE  sip:bea@example.com  SIP/2.0", &[], SDP)),
        refused(
            "3.1.2.10",
            "white space at the end of the start line",
            message("OPTIONS sip:bea@example.com SIP/2.0  ", &[], b""),
        ),
        refused(
            "3.1.2.11",
            "header fields in the Request-URI that would take it elsewhere",
            message("INVITE sip:bea@example.com?Route=%3Csip:example.net%3E SIP/2.0", &[], SDP),
        ),
        passes(
            "3.1.2.12",
            "a Date in another zone, which is not ours to read",
            with("Date: Thu, 26 Nov 2026 20:00:00 CET"),
        ),
        passes(
            "3.1.2.13",
            "a Contact of a REGISTER that is not enclosed",
            message("REGISTER sip:example.com SIP/2.0", &["Contact: sip:ann@example.net?x=y"], b""),
        ),
        passes("3.1.2.14", "white space inside of the brackets", with("To: \"Bea, B.\" < sip:bea@example.com >")),
        passes("3.1.2.15", "a comma in a display name without quotes", with("To: Bea, B. <sip:bea@example.com>")),
        row("3.1.2.16", "another version", message("OPTIONS sip:bea@example.com SIP/9.1", &[], b""), "505", "505"),
        refused(
            "3.1.2.17",
            "two known methods that differ",
            message("OPTIONS sip:bea@example.com SIP/2.0", &["CSeq: 21 INVITE"], b""),
        ),
        refused(
            "3.1.2.18",
            "two unknown methods that differ",
            message("ONEMETHOD sip:bea@example.com SIP/2.0", &["CSeq: 21 OTHERMETHOD"], b""),
        ),
        dropped("3.1.2.19", "a code beyond 699", message("SIP/2.0 4294967301 Better", &["CSeq: 21 INVITE"], b"")),
    ]
}

/// Sections 3.2 to 3.4: transactions, what applications see, and RFC 2543.
fn layers() -> Vec<Torture> {
    let passes = |section, what, bytes| row(section, what, bytes, PASSES, PASSES);
    let options = |line: &str| message("OPTIONS sip:bea@example.com SIP/2.0", &[line], b"");
    vec![
        passes("3.2.1", "a branch that is the cookie alone", options("Via: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bK")),
        row(
            "3.3.1",
            "no Call-ID, From or To",
            message("INVITE sip:bea@example.com SIP/2.0", &["no Call-ID", "no From", "no To"], SDP),
            "400",
            "400",
        ),
        row(
            "3.3.2",
            "an unknown scheme",
            message("OPTIONS whatisit:completely-opaque SIP/2.0", &[], b""),
            "416",
            "416",
        ),
        row(
            "3.3.3",
            "a known scheme that is not for telephony",
            message("OPTIONS http://192.0.2.20/x SIP/2.0", &[], b""),
            "416",
            "416",
        ),
        passes(
            "3.3.4",
            "unknown schemes in To, From and Contact",
            message(
                "REGISTER sip:example.com SIP/2.0",
                &["To: whatisit:opaque", "From: <http://example.net/x>;tag=1", "Contact: <name:x>"],
                b"",
            ),
        ),
        row(
            "3.3.5",
            "extensions that a proxy must know",
            message("OPTIONS sip:bea@example.com SIP/2.0", &["Proxy-Require: one, two", "Require: three"], b""),
            "420",
            "420",
        ),
        passes(
            "3.3.6",
            "a body of an unknown kind",
            message("INVITE sip:bea@example.com SIP/2.0", &["Content-Type: application/x-unknown"], b"<x/>"),
        ),
        passes(
            "3.3.7",
            "an unknown way of authorization",
            message("REGISTER sip:example.com SIP/2.0", &["Authorization: Runes x=\"y\", z"], b""),
        ),
        row(
            "3.3.8",
            "several of what there is one of",
            message(
                "INVITE sip:bea@example.com SIP/2.0",
                &["CSeq: 21 INVITE", "CSeq: 5 BYE", "i: a", "Call-ID: b", "Max-Forwards: 9", "Max-Forwards: 8"],
                SDP,
            ),
            "400",
            "400",
        ),
        row(
            "3.3.9",
            "two lengths",
            message(
                "OPTIONS sip:bea@example.com SIP/2.0",
                &["Via: SIP/2.0/TCP 192.0.2.20;branch=z9hG4bK-own", "l: 8", "Content-Length: 0"],
                b"eight by",
            ),
            "400",
            "400 closed",
        ),
        row(
            "3.3.10",
            "a response whose Via is a broadcast address",
            message("SIP/2.0 200 OK", &["Via: SIP/2.0/UDP 255.255.255.255", "CSeq: 21 INVITE"], b""),
            "dropped",
            "dropped",
        ),
        row(
            "3.3.11",
            "no hop left",
            message("MESSAGE sip:bea@example.com SIP/2.0", &["Max-Forwards: 0"], b""),
            "483",
            "483",
        ),
        row("3.3.11", "no hop left for an OPTIONS", options("Max-Forwards: 0"), "200", "200"),
        passes(
            "3.3.12",
            "a parameter of the Contact that is not the URI's",
            message("REGISTER sip:example.com SIP/2.0", &["Contact: sip:+15550101@192.0.2.20;x"], b""),
        ),
        passes(
            "3.3.13",
            "a parameter of the Contact's URI",
            message("REGISTER sip:example.com SIP/2.0", &["Contact: <sip:+15550101@192.0.2.20;x>"], b""),
        ),
        passes(
            "3.3.14",
            "escaped header fields in a Contact",
            message(
                "REGISTER sip:example.com SIP/2.0",
                &["Contact: <sip:ann@192.0.2.20?Route=%3Csip:192.0.2.21%3E>"],
                b"",
            ),
        ),
        passes(
            "3.3.15",
            "an Accept that does not go with the body",
            message("INVITE sip:bea@example.com SIP/2.0", &["Accept: text/x-unknown"], SDP),
        ),
        row(
            "3.4.1",
            "a request of RFC 2543: no branch, tag, Max-Forwards or Content-Length",
            message(
                "INVITE sip:bea@example.com SIP/2.0",
                &["Via: SIP/2.0/UDP 192.0.2.20", "From: <sip:ann@example.net>", "no Max-Forwards", "no Content-Length"],
                SDP,
            ),
            PASSES,
            "400 closed",
        ),
    ]
}

/// RFC 5118.
fn ipv6() -> Vec<Torture> {
    let passes = |section, what, bytes| row(section, what, bytes, PASSES, PASSES);
    let options = |start: &str, line: &str| message(start, &[line], b"");
    let sdp6 = b"v=0\r\no=- 7 7 IN IP6 2001:db8:5::20\r\ns=-\r\nc=IN IP6 2001:db8:5::20\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
    const USUAL: &str = "OPTIONS sip:bea@example.com SIP/2.0";
    vec![
        passes(
            "4.1",
            "an IPv6 reference",
            options("OPTIONS sip:[2001:db8:5::20] SIP/2.0", "Via: SIP/2.0/UDP [2001:db8:5::21]:5062;branch=z9hG4bK6"),
        ),
        row(
            "4.2",
            "an IPv6 address without brackets",
            options("OPTIONS sip:2001:db8:5::20 SIP/2.0", "X: 1"),
            "400",
            "400",
        ),
        passes(
            "4.3",
            "what looks like a port inside of the brackets",
            options("REGISTER sip:[2001:db8:5::20:5080] SIP/2.0", "X: 1"),
        ),
        passes("4.4", "a port behind the brackets", options("REGISTER sip:[2001:db8:5::20]:5080 SIP/2.0", "X: 1")),
        passes(
            "4.5",
            "received with brackets",
            options(USUAL, "Via: SIP/2.0/UDP [2001:db8:5::21];received=[2001:db8:5::22];branch=z9hG4bK6"),
        ),
        passes(
            "4.5",
            "received without brackets",
            options(USUAL, "Via: SIP/2.0/UDP [2001:db8:5::21];received=2001:db8:5::22;branch=z9hG4bK6"),
        ),
        passes(
            "4.6",
            "IPv6 in a body",
            message("INVITE sip:bea@[2001:db8:5::20] SIP/2.0", &["Contact: <sip:ann@[2001:db8:5::21]>"], sdp6),
        ),
        passes(
            "4.7",
            "both in header fields",
            options(
                USUAL,
                "Via: SIP/2.0/UDP [2001:db8:5::21];branch=z9hG4bK6, SIP/2.0/TCP 192.0.2.20;received=2001:db8:5::23;branch=z9hG4bK7",
            ),
        ),
        passes(
            "4.8",
            "both in a body",
            message(
                "INVITE sip:bea@example.com SIP/2.0",
                &[],
                &[SDP, b"m=video 0 RTP/AVP 31\r\nc=IN IP6 2001:db8:5::20\r\n"].concat(),
            ),
        ),
        passes(
            "4.9",
            "an IPv4 address mapped into IPv6",
            options(
                "OPTIONS sip:bea@[::ffff:192.0.2.20] SIP/2.0",
                "Via: SIP/2.0/UDP [::ffff:192.0.2.20];branch=z9hG4bK6",
            ),
        ),
        passes(
            "4.10",
            "three colons before an embedded address",
            options("OPTIONS sip:bea@[2001:db8:5:::192.0.2.20] SIP/2.0", "X: 1"),
        ),
        passes("4.10", "two colons there", options("OPTIONS sip:bea@[2001:db8:5::192.0.2.20] SIP/2.0", "X: 1")),
    ]
}
