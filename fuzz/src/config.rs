//! Configurations: any text is taken or refused, with places that are in it; what is taken can be used.

use std::net::SocketAddr;

use sipstamp::config::{Locate, Overrides, ServerNames, Settings, Written, duration, network, parse};
use sipstamp::flow::Transport;
use sipstamp::policy::Listener;
use sipstamp::sip::host_ip;

use crate::policy::SIDECAR;

const NAME: &str = "fuzz.toml";
/// What lies behind a path is not the matter here.
const PATHS: [&str; 4] = ["/dev", "/proc", "/sys", ".."];

struct OnlyHere;

impl Locate for OnlyHere {
    fn local_towards(&mut self, _: Transport, _: SocketAddr) -> Option<SocketAddr> {
        SIDECAR.parse().ok()
    }
}

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if PATHS.iter().any(|path| text.contains(path)) || asks_for_names(text) {
        return;
    }
    quantities(text);
    let environment = |name: &str| match name {
        "EMPTY" => Some(String::new()),
        "HOST" => Some("10.0.0.1".to_owned()),
        "ODD" => Some("a\"b\n${HOST}".to_owned()),
        _ => None,
    };
    match parse(text, NAME, &Overrides::default(), &environment) {
        Ok(settings) => {
            let again = parse(&format!("{text}\n# read again\n"), NAME, &Overrides::default(), &environment);
            let again = again.unwrap_or_else(|mistakes| panic!("taken at first only: {mistakes}"));
            assert_eq!(format!("{:?}", again.template), format!("{:?}", settings.template));
            settings.warnings.iter().for_each(|warning| is_placed(text, warning));
            is_used(&settings);
        }
        Err(mistakes) => {
            let shown = mistakes.to_string();
            assert!(mistakes.count() > 0 && shown.contains("mistake"));
            shown
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("--> "))
                .for_each(|place| is_placed(text, place));
            assert!(!mistakes.styled().is_empty());
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let examples =
        ["minimal", "full", "site"].map(|name| format!("{}/../config/{name}.toml", env!("CARGO_MANIFEST_DIR")));
    let read = examples.iter().map(|path| std::fs::read(path).unwrap());
    let minimal = "dialer.sources = [\"10.0.1.0/24\"]\n[[telephony.servers]]\nuri = \"sip:10.0.2.10\"\n";
    let others = [
        "[timeouts]\nno_answer = \"30s\"\nprogress = \"250ms\"\ncancel_grace = \"0s\"\n[stamp]\nheader = [\"X-A\", \"P-B\"]\n",
        "[[outcome.rules]]\nname = \"a\"\nwhen = { code = \"500-504\", after = \"2s\" }\noutcome = \"NumberBusy\"\n",
        "[[dispositions]]\noutcome = \"NoAnswer\"\nend_cause = \"no_response\"\nnext = \"next_call\"\n",
        "[capture]\nlabels = { campaign = \"C\" }\nmetric_values = { campaign = [\"a\"] }\n[limits]\ncalls = 1\n",
        "[voicemail_drop]\ntarget_pattern = \"^sip:[a-z]+@\"\n[listen]\nadvertise = \"${HOST}\"\nudp = [\"[::]:0\"]\n",
        "[events]\nmemory_limit = \"64KiB\"\nmask_numbers = \"partial\"\n[[events.webhooks]]\nname = \"a\"\nurl = \"https://h.test/\"\n",
        "[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"info,sipstamp=debug\"\n[nonsense]\nkey = 1\n",
    ];
    let quantities = ["250ms", "99999999999999h", "18446744073709551615ms", "10.0.0.0/8", "::1"]
        .map(|text| text.as_bytes().to_vec());
    let whole = others.iter().map(|other| format!("{minimal}{other}").into_bytes());
    let broken = [minimal.replace("10.0", "${ODD}"), minimal.replace('[', "{"), minimal.replace("sip:", "sips:é")];
    read.chain(quantities).chain(whole).chain(broken.into_iter().map(String::into_bytes)).collect()
}

/// Whether a server may be named by a name, which would be asked for.
fn asks_for_names(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.match_indices("ip:").any(|(at, scheme)| {
        let rest = &text[at + scheme.len()..];
        let is_of_host = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        let host = match rest.starts_with('[') {
            true => rest.split_inclusive(']').next().unwrap_or(rest),
            false => rest.split(|letter| !is_of_host(letter)).next().unwrap_or(rest),
        };
        host_ip(host.as_bytes()).is_none()
    })
}

/// `FILE:LINE:COLUMN` names a place in the text, or its end.
fn is_placed(text: &str, place: &str) {
    let Some(place) = place.strip_prefix(NAME).and_then(|rest| rest.strip_prefix(':')) else { return };
    let mut numbers = place.split(':').map_while(|number| number.trim().parse::<usize>().ok());
    let (Some(line), Some(column)) = (numbers.next(), numbers.next()) else { panic!("no place: {place}") };
    let lines = text.split('\n').collect::<Vec<_>>();
    assert!((1..=lines.len()).contains(&line), "line {line} of {}", lines.len());
    // The line end has a place too.
    let columns = lines[line - 1].chars().count() + 2;
    assert!((1..=columns).contains(&column), "column {column} of {columns} in line {line}");
}

fn is_used(settings: &Settings) {
    let listener =
        |transport| Listener { transport, bound: SIDECAR.parse().unwrap(), address: SIDECAR.parse().unwrap() };
    let policy = settings.policy(vec![listener(Transport::Udp)], &mut OnlyHere, &mut ServerNames::default());
    assert!(!policy.servers.is_empty() && !policy.dialer.sources.is_empty());
    assert!(!policy.stamp.headers.is_empty());
    assert!(policy.servers.iter().all(|server| server.weight > 0));
    for server in &policy.servers {
        assert!(policy.server_named(&server.name).is_some());
        assert!(policy.source(server.target.hop.remote).is_some());
    }
}

fn quantities(text: &str) {
    if let Ok(read) = duration(text) {
        assert_eq!(duration(&Written(read).to_string()), Ok(read));
    }
    if let Some((read, _)) = network(text) {
        assert_eq!(network(&read.to_string()), Some((read, false)));
    }
}
