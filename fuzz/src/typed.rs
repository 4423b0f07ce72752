//! Values of header fields and URIs: parts lie inside, and what is read can be written and read again.

use std::net::IpAddr;

use sipstamp::outcome::{Reason, is_blocked, q850, ring_timeout_or_elsewhere};
use sipstamp::sip::{
    Element, HeaderName, Limits, Message, Method, Name, NameAddr, Params, Uri, Via, host_ip, number, scheme, seconds,
    subscriber, unquoted,
};

use crate::index::via_is_inside;

pub fn run(data: &[u8]) {
    name_addr(data);
    params(data);
    uri(data);
    host(data);
    numbers(data);
    via(data);
    names(data);
    reasons(data);
    lists(data);
    assert!(unquoted(data).len() <= data.len());
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        r#""q\"uo;tag=no" <sip:x;tag=no>;x="a;b";tag=yes;y"#,
        r#"<sip:a@b> "x;y" ;tag=yes"#,
        "sip:a:pw@h.test:5060;transport=tcp;lr?Route=x",
        "Bell, Alexander <sips:a@[2001:db8::1]:5061>;tag=43",
        "<tel:+1555;phone-context=x> ; TAG \t= 9",
        "SIP/2.0/UDP 10.0.1.5:5060;branch=z9hG4bK1;rport;received=192.0.2.1",
        "SIP / 2.0 / TCP [::1] : 5060 ;maddr=h;rport=1, SIP/2.0/UDP b;branch=z9hG4bK2",
        "Q.850 ; cause=16;text=\"a;b=\\\"c\" ;; flag ;x=a=b;y=, SIP;cause=603;text=\"v=analytics\"",
        "1800;refresher=uac",
        "120 (busy);duration=60",
        "4711 INVITE",
        "[2001:db8:::192.0.2.1]",
        "<sip:10.0.0.1;lr>,<sip:h;x=\"y,z\">, \"c,d\" <sip:e>",
        "<sip:open\r\nRoute: <sip:h>",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Where a part lies in a text.
fn place(text: &[u8], part: &[u8]) -> usize {
    let place = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    assert!(place <= text.len() && part.len() <= text.len() - place);
    place
}

fn name_addr(text: &[u8]) {
    let Some(value) = NameAddr::parse(text) else { return };
    assert!(place(text, value.uri) + value.uri.len() <= place(text, value.params));
    assert!(value.params.is_empty() || value.params.starts_with(b";"));
    // One without value is found, with nothing in it.
    if let Some(tag) = value.tag().filter(|tag| !tag.is_empty()) {
        place(text, tag);
    }
    if !value.uri.iter().any(|byte| matches!(byte, b'<' | b'>' | b'"')) {
        let written = [b"<", value.uri, b">", value.params].concat();
        let again = NameAddr::parse(&written).unwrap();
        assert_eq!((again.uri, again.params), (value.uri, value.params));
    }
}

fn params(text: &[u8]) {
    let all = Params(text).iter().collect::<Vec<_>>();
    let mut at = 0;
    let mut written = Vec::new();
    for (name, value) in &all {
        assert!(!name.is_empty() && at <= place(text, name));
        at = place(text, name) + name.len();
        written.push(b';');
        written.extend_from_slice(name);
        if let Some(value) = value {
            assert!(at < place(text, value));
            at = place(text, value) + value.len();
            written.push(b'=');
            written.extend_from_slice(value);
        }
        let first = all.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).unwrap().1;
        assert_eq!(Params(text).value(&name.to_ascii_uppercase()), Some(first.unwrap_or_default()));
    }
    assert_eq!(Params(&written).iter().collect::<Vec<_>>(), all);
}

fn uri(text: &[u8]) {
    let read = Uri::parse(text);
    if let Some(subscriber) = subscriber(text) {
        assert!(!subscriber.is_empty());
        place(text, subscriber);
    }
    let Some(uri) = read else { return };
    let scheme = scheme(text).unwrap();
    assert!(scheme.eq_ignore_ascii_case(if uri.secure { b"sips" } else { b"sip" }));
    let start = scheme.len() + 1;
    assert_eq!(uri.user.clone().map_or(start, |user| user.end + 1), uri.host.start);
    assert!(uri.user.as_ref().is_none_or(|user| user.start == start));
    assert!(uri.host.start < uri.host.end && uri.host.start == uri.host_port.start);
    assert_eq!(uri.port.is_some(), uri.host_port.end > uri.host.end);
    assert_eq!(uri.host_port.end, uri.params.start);
    assert!(!uri.has_dangerous_headers() || uri.params.end < text.len());
    let mut written = scheme.to_vec();
    written.push(b':');
    if let Some(user) = &uri.user {
        written.extend_from_slice(&text[user.clone()]);
        written.push(b'@');
    }
    written.extend_from_slice(uri.host());
    if let Some(port) = uri.port {
        written.extend_from_slice(format!(":{port}").as_bytes());
    }
    written.extend_from_slice(&text[uri.params.start..]);
    let again = Uri::parse(&written).unwrap();
    assert_eq!((again.host(), again.port, again.user()), (uri.host(), uri.port, uri.user()));
    assert_eq!(again.params(), uri.params());
}

fn host(text: &[u8]) {
    let Some(address) = host_ip(text) else { return };
    assert_eq!(host_ip(address.to_string().as_bytes()), Some(address));
    let reference = format!("[{address}]");
    assert_eq!(host_ip(reference.as_bytes()).is_some(), matches!(address, IpAddr::V6(_)));
}

fn numbers(text: &[u8]) {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let parsed = std::str::from_utf8(&text[..digits]).unwrap().parse::<u128>();
    let is_number = digits > 0 && digits == text.len();
    assert_eq!(number(text).is_some(), is_number);
    if let (Some(number), Ok(parsed)) = (number(text), parsed) {
        assert_eq!(u128::from(number), parsed.min(u64::MAX.into()));
    }
    if let Some(seconds) = seconds(text) {
        assert_eq!(self::seconds_again(seconds), Some(seconds));
    }
}

fn seconds_again(value: u64) -> Option<u64> {
    seconds(format!(" {value} (comment);x").as_bytes())
}

fn via(text: &[u8]) {
    let element = Element { field: 0, range: 0..text.len(), alone: true, first: true };
    let Some(via) = Via::parse_at(text, element) else { return };
    via_is_inside(&via);
    let part = |range: &std::ops::Range<usize>| text[range.clone()].to_vec();
    let mut written = [b"SIP/2.0/", &part(&via.transport)[..], b" ", &part(&via.host)].concat();
    if let Some(port) = via.port {
        written.extend_from_slice(format!(":{port}").as_bytes());
    }
    for (name, value) in [(&b";branch="[..], &via.branch), (b";maddr=", &via.maddr)] {
        if let Some(value) = value {
            written.extend_from_slice(name);
            written.extend_from_slice(&part(value));
        }
    }
    let element = Element { field: 0, range: 0..written.len(), alone: true, first: true };
    let again = Via::parse_at(&written, element).unwrap();
    let part_of = |range: &std::ops::Range<usize>| written[range.clone()].to_vec();
    assert_eq!(part_of(&again.transport), part(&via.transport));
    assert_eq!(part_of(&again.host), part(&via.host));
    assert_eq!(again.port, via.port);
    assert_eq!(again.branch.as_ref().map(part_of), via.branch.as_ref().map(part));
    assert_eq!(again.maddr.as_ref().map(part_of), via.maddr.as_ref().map(part));
}

fn names(text: &[u8]) {
    let method = Method::from_bytes(text);
    assert!(method == Method::Other || method.label().as_bytes() == text);
    let name = Name::from_bytes(text);
    assert_eq!(Name::from_bytes(&text.to_ascii_uppercase()), name);
    assert_eq!(Name::from_bytes(&text.to_ascii_lowercase()), name);
    if let Ok(text) = std::str::from_utf8(text) {
        assert_eq!(&*HeaderName::from(text), text);
    }
}

fn reasons(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    for reason in Reason::all(text) {
        // Of a parameter without value there is nothing to find.
        for part in [reason.protocol].into_iter().chain(reason.text).filter(|part| !part.is_empty()) {
            place(text.as_bytes(), part.as_bytes());
        }
    }
    assert!(q850(&[text]).is_none_or(|cause| cause <= 127));
    ring_timeout_or_elsewhere(&[text]);
    is_blocked(603, text, &[text]);
}

/// The elements of a list are the same when they stand alone in fields, and when they share one; but what a bracket or a quote
/// leaves open at the end of a field has no end in a shared one.
fn lists(text: &[u8]) {
    let Some(message) = with_routes([text]) else { return };
    let elements = |message: &Message| {
        message.elements(Name::Route).map(|element| message.bytes(element.range).to_vec()).collect::<Vec<_>>()
    };
    let all = elements(&message);
    let alone = with_routes(all.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(elements(&alone), all);
    let ends = |element: &Vec<u8>| {
        with_routes([&[element, &b", x"[..]].concat()[..]]).is_some_and(|two| elements(&two).len() == 2)
    };
    if all.split_last().is_none_or(|(_, before)| before.iter().all(ends)) {
        let together = with_routes([&all.join(&b", "[..])[..]]).unwrap();
        assert_eq!(elements(&together), all);
    }
}

/// A message with these Route fields, where it is one.
fn with_routes<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Message> {
    let mut raw = b"OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:f>\r\nTo: <sip:t>\r\nCall-ID: c\r\n\
        CSeq: 1 OPTIONS\r\n"
        .to_vec();
    for value in values {
        raw.extend_from_slice(&[b"Route: ", value, b"\r\n"].concat());
    }
    raw.extend_from_slice(b"\r\n");
    let length = raw.len();
    let message = Message::parse(raw.into(), &Limits::NONE).ok()?;
    // A text with line ends of its own may have been more than a value.
    (message.raw().len() == length && message.fields().iter().skip(5).all(|field| field.name == Name::Route))
        .then_some(message)
        .filter(|message| message.body().is_empty())
}
