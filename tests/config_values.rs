//! What values the configuration takes, and what it says of those that it does not take.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sipstamp::config::{ListenKey, Mistakes, Overrides, Settings, parse, restart_needed};
use sipstamp::flow::{Direction, Transport};
use sipstamp::mask::{MaskKey, MaskNumbers};
use sipstamp::outcome::{EndCause, Outcome};
use sipstamp::policy::Strangers;

const DIALER: &str = "[dialer]\nsources = ['10.0.1.0/24']\n";
const SERVERS: &str = "[[telephony.servers]]\nuri = 'sip:10.0.2.10'\n";

fn load_with(text: &str, flags: &Overrides) -> Result<Settings, Mistakes> {
    parse(text, "f.toml", flags, &|name| (name == "HOST").then(|| "10.0.2.77".to_owned()))
}

fn load(text: &str) -> Settings {
    load_with(text, &Overrides::default()).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
}

/// Sections put together with a sound dialer and server where they have none.
fn site(sections: &str) -> String {
    let dialer = if sections.contains("[dialer]") { "" } else { DIALER };
    let servers = if sections.contains("[[telephony.servers]]") { "" } else { SERVERS };
    format!("{sections}\n{dialer}{servers}")
}

/// The sections have one mistake, at the arrow, in these words.
fn assert_mistake(sections: &str, words: &str) {
    let text = site(sections);
    let at = text.find('→').unwrap_or_else(|| panic!("no arrow in {sections}"));
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].chars().rev().take_while(|&c| c != '\n').count() + 1;
    let text = text.replace('→', "");
    let mistakes = load_with(&text, &Overrides::default()).expect_err(&text);
    let shown = mistakes.to_string();
    assert!(shown.contains(&format!("--> f.toml:{line}:{column}\n")), "not at {line}:{column}:\n{shown}");
    assert!(shown.contains(words), "no {words:?} in:\n{shown}");
    assert_eq!(mistakes.count(), 1, "{shown}");
}

/// The sections are sound, with one warning in these words.
fn assert_warning(sections: &str, words: &str) {
    let warnings = load(&site(sections)).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:#?}");
    assert!(warnings[0].starts_with("f.toml:"), "{warnings:#?}");
}

#[test]
fn a_journal_has_a_directory_and_an_interval() {
    let events = load(&site("[events]\njournal = '/tmp'")).events;
    assert_eq!((events.journal, events.sync), (Some("/tmp".into()), Some(Duration::from_secs(1))));
    assert_eq!(load(&site("[events]\nsync = 'never'")).events.sync, None);
    assert_eq!(load(&site("[events]\nsync = '20ms'")).events.sync, Some(Duration::from_millis(20)));
    assert_mistake("[events]\nsync = →'1ms'", "between 10ms and 1h");
    assert_mistake("[events]\nsync = →'soon'", "is no duration");
    assert_mistake("[events]\njournal = →''", "is no directory");
    assert_mistake("[events]\njournal = →'/dev/null'", "is no directory");
}

#[test]
fn later_versions_have_these() {
    for sections in [
        "mode = →'b2bua'",
        "[listen]\ntls = →['0.0.0.0:5061']",
        "[listen]\n→tls_certificate = 'a'",
        "[listen]\n→tls_key = 'a'",
        "[[telephony.servers]]\nuri = '→sips:10.0.2.10'",
        "[[telephony.servers]]\nuri = 'sip:10.0.2.10;→transport=tls'",
    ] {
        assert_mistake(sections, "not in this version");
    }
}

#[test]
fn webhooks_are_checked() {
    let secret = |name: &str, text: &str| {
        let path = format!("{}/config-values-{name}.key", env!("CARGO_TARGET_TMPDIR"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let key = secret("sound", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let webhook = |keys: &str| {
        let with = |key: &str, line: String| if keys.contains(&format!("{key} = ")) { String::new() } else { line };
        let name = with("name", "name = 'crm'\n".to_owned());
        let url = with("url", "url = 'https://crm.example/hooks?a=b'\n".to_owned());
        let secret = with("secret_file", format!("secret_file = '{key}'\n"));
        format!("[[events.webhooks]]\n{name}{url}{secret}{keys}\n")
    };

    let hooks = load(&site(&webhook("timeout = '20s'\nmax_in_flight = 2"))).events.webhooks;
    assert_eq!((&*hooks[0].name, hooks[0].sink()), ("crm", "webhook:crm".to_owned()));
    assert_eq!((hooks[0].timeout, hooks[0].max_in_flight), (Duration::from_secs(20), 2));
    assert_eq!(
        (hooks[0].url.0.to_string(), hooks[0].dead_letter.is_some()),
        ("https://crm.example/hooks?a=b".to_owned(), false)
    );
    assert_eq!(hooks[0].keys.iter().map(<[u8]>::len).collect::<Vec<_>>(), [24]);
    let hooks = load(&site(&webhook(""))).events.webhooks;
    assert_eq!((hooks[0].timeout, hooks[0].max_in_flight), (Duration::from_secs(15), 8));
    let dead = format!("{}/config-values.dead.jsonl", env!("CARGO_TARGET_TMPDIR"));
    // In the journal's directory before that is made.
    let journal = format!("{}/config-values.none-yet", env!("CARGO_TARGET_TMPDIR"));
    let inside = format!("dead_letter = {{ file = '{journal}/crm.dead' }}");
    let text = site(&format!("[events]\njournal = '{journal}'\nfile = '{journal}/events'\n{}", webhook(&inside)));
    assert!(load(&text).events.webhooks[0].dead_letter.is_some());
    let hooks = load(&site(&webhook(&format!("dead_letter = {{ file = '{dead}' }}")))).events.webhooks;
    assert_eq!(hooks[0].dead_letter.as_ref().unwrap().after, Duration::from_secs(24 * 3600));
    // An old one and a new one, raw.
    let rotated = secret("rotated", "one secret of twenty-six b\n\n another of twenty-eight by\n");
    let hooks = load(&site(&webhook(&format!("secret_file = '{rotated}'")))).events.webhooks;
    let keys: Vec<_> = hooks[0].keys.iter().collect();
    assert_eq!(keys, [b"one secret of twenty-six b".as_slice(), b"another of twenty-eight by"]);

    assert_mistake(
        "→[[events.webhooks]]\nname = 'crm'\nurl = 'https://a.b'",
        "`events.webhooks[0]` needs the key `secret_file`",
    );
    for name in ["''", "'a b'", "'a\"b'", "'é'"] {
        assert_mistake(&webhook(&format!("name = →{name}")), "letters, digits");
    }
    assert_mistake(&format!("{}{}", webhook(""), webhook("name = →'crm'")), "is taken: another webhook is `crm`");
    assert_mistake(&webhook("url = →'crm.example'"), "must be a URL with `https://`");
    assert_mistake(&webhook("url = →'ftp://crm.example'"), "must be a URL with `https://`");
    assert_mistake(&webhook("url = →'https://crm example'"), "is no URL");
    assert_mistake(&webhook("url = →'https://a:b@crm.example'"), "no user name or password");
    assert_mistake(&webhook("url = →'http://crm.example'"), "plain http beyond loopback");
    assert_mistake(&webhook("url = →'http://127.0.0.1.crm.example'"), "plain http beyond loopback");
    for host in ["127.0.0.1:80", "localhost", "[::1]:80", "127.8.8.8"] {
        assert_warning(&webhook(&format!("url = 'http://{host}/'")), "is plain http");
    }
    assert_mistake(&webhook("secret_file = →'/nowhere/at/all'"), "cannot be read");
    assert_mistake(&webhook(&format!("secret_file = →'{}'", secret("empty", " \n"))), "is empty");
    assert_mistake(&webhook("timeout = →'0s'"), "between 1s and 5m");
    assert_mistake(&webhook("max_in_flight = →0"), "between 1 and 256");
    assert_mistake(&webhook("dead_letter = { after = →'1h' }"), "dead_letter` needs the key `file`");
    assert_mistake(&webhook(&format!("dead_letter = {{ file = '{dead}', after = →'721h' }}")), "between 1s and 720h");
    assert_mistake(&webhook("dead_letter = { file = →'/nowhere/at/all' }"), "cannot be opened for writing");
    let same = format!("[events]\nfile = '{dead}'\n{}", webhook(&format!("dead_letter = {{ file = →'{dead}' }}")));
    assert_mistake(&same, "is `events.file` too");
    assert_warning(&webhook(&format!("secret_file = '{}'", secret("short", "short"))), "less than 24 bytes");
    // What is wrong with a secret is said without it.
    for (name, text) in [("no-base64", "whsec_S3CR3T!"), ("asymmetric", "whsk_S3CR3T")] {
        let text = site(&webhook(&format!("secret_file = '{}'", secret(name, text))));
        let shown = load_with(&text, &Overrides::default()).unwrap_err().to_string();
        assert!(shown.contains("names a file with a") && !shown.contains("S3CR3T"), "{shown}");
    }
}

#[test]
fn nats_has_servers_a_stream_and_a_subject() {
    let nats =
        |keys: &str| load(&site(&format!("[events.nats]\nservers = ['nats://127.0.0.1:4222']\n{keys}"))).events.nats;
    let defaults = nats("").unwrap();
    assert_eq!((defaults.stream.as_str(), defaults.subject.to_string().as_str()), ("CALLS", "calls.{outcome}"));
    assert_eq!(defaults.control.as_deref(), Some("sipstamp.control"));
    assert_eq!(nats("control_subject = ''").unwrap().control, None);
    assert!(load(&site("")).events.nats.is_none());
    for url in ["nats://nats", "tls://[2001:db8::1]:4222", "tls://nats.example:4222"] {
        let nats = load(&site(&format!("[events.nats]\nservers = ['{url}']"))).events.nats.unwrap();
        assert_eq!(nats.servers.urls, [url]);
    }
}

#[test]
fn mistakes_about_nats_are_placed() {
    assert_mistake("→[events.nats]\nstream = 'CALLS'", "`events.nats` needs the key `servers`");
    assert_mistake("[events.nats]\nservers = →[]", "is empty");
    assert_mistake("[events.nats]\nservers = [→'127.0.0.1:4222']", "is no URL of a NATS server");
    assert_mistake("[events.nats]\nservers = [→'ws://127.0.0.1']", "is no URL of a NATS server");
    assert_mistake("[events.nats]\nservers = ['nats://→user:word@nats']", "would be shown in logs");
    assert_mistake("[events.nats]\nservers = ['nats://nats:→99999']", "`events.nats.servers[0]` has a port");
    let with =
        |keys: &str, words: &str| assert_mistake(&format!("[events.nats]\nservers = ['nats://n']\n{keys}"), words);
    with("stream = →'CALLS.X'", "is no name of a stream");
    with("subject = 'calls.→{outcom}'", "unknown placeholder `{outcom}`");
    with("subject = 'calls.→*'", "no subject may have");
    with("control_subject = →'a.{outcome}'", "takes no placeholders");
    with("subject = →'sipstamp.{event}.{outcome}'", "takes what the sidecars ask each other");
    with("control_subject = →'calls'", "takes what the sidecars ask each other");
    with("password_file = →'/dev/null'\nuser = 'a'", "names a file that is empty");
    with("token_file = →'/nonexistent'", "cannot be read");
    let path = format!("{}/values-nats", env!("CARGO_TARGET_TMPDIR"));
    fs::write(&path, "hunter2").unwrap();
    with(&format!("password_file = →'{path}'"), "is the password of nobody");
    with(&format!("credentials_file = →'{path}'"), "holds no credentials");
    with(&format!("ca_file = →'{path}'"), "without a certificate");
    let settings = load(&site(&format!("[events.nats]\nservers = ['nats://n']\ntoken_file = '{path}'")));
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn listening_addresses_are_checked() {
    assert_mistake("[listen]\nudp = [→'0.0.0.0']", "`listen.udp[0]` is no address with a port");
    assert_mistake("[listen]\nudp = ['0.0.0.0:5060', →'0.0.0.0:5060']", "stands there twice");
    assert_mistake("[listen]\nudp = ['0.0.0.0:5060', →'127.0.0.1:5060']", "overlaps with another one");
    assert_mistake("[listen]\nudp = ['[::1]:5060', →'[::]:5060']", "overlaps with another one");
    let listen = ["0.0.0.0:5060", "127.0.0.1:5060"].map(|address| address.parse().unwrap()).into();
    let refused = load_with(&site(""), &Overrides { listen, ..Overrides::default() }).unwrap_err().to_string();
    assert!(refused.contains("`--listen 127.0.0.1:5060` overlaps with `--listen 0.0.0.0:5060`"), "{refused}");
    for fine in ["['0.0.0.0:5060', '[::1]:5060']", "['0.0.0.0:5060', '127.0.0.1:5061']", "['0.0.0.0:0', '127.0.0.1:0']"]
    {
        assert_eq!(load(&site(&format!("[listen]\nudp = {fine}\ntcp = []"))).listen.len(), 2, "{fine}");
    }
    assert_mistake("[listen]\nudp = →[]\ntcp = []\n", "both empty");
    assert_mistake("[listen]\nudp = [→'localhost:5060']", "names are not looked up");
    assert_mistake("[listen]\nadvertise = '10.0.0.1→:5060'", "only a host belongs");
    assert_mistake("[listen]\nadvertise = →'0.0.0.0'", "nobody can reach");
    assert_mistake("[listen]\nadvertise = { dialer = '→a b' }", "`listen.advertise.dialer`");
}

#[test]
fn one_transport_gives_its_addresses_to_the_other() {
    let listen = |sections: &str| {
        let listen = load(&site(sections)).listen;
        listen.iter().map(|one| format!("{} {} {}", one.transport, one.address, one.key())).collect::<Vec<_>>()
    };
    assert_eq!(listen(""), ["udp 0.0.0.0:5060 listen.udp", "tcp 0.0.0.0:5060 listen.tcp"]);
    let mirrored = ["udp 127.0.0.1:0 listen.udp[0]", "tcp 127.0.0.1:0 listen.tcp"];
    assert_eq!(listen("[listen]\nudp = ['127.0.0.1:0']"), mirrored);
    assert_eq!(listen("[listen]\nudp = ['127.0.0.1:0']\ntcp = []\ntls = []"), mirrored[..1]);
}

#[test]
fn the_host_that_peers_see_is_one_for_both_sides_or_one_for_each() {
    let advertise = |sections: &str| load(&site(sections)).template.advertise.map(|host| host.map(String::from));
    let some = |host: &str| Some(host.to_owned());
    assert_eq!(advertise(""), [None, None]);
    assert_eq!(advertise("[listen]\nadvertise = '2001:db8::1'"), [some("[2001:db8::1]"), some("[2001:db8::1]")]);
    assert_eq!(advertise("[listen]\nadvertise = { telephony = 'sip.example' }"), [None, some("sip.example")]);
}

#[test]
fn the_dialer_is_required_and_checked() {
    assert_mistake("→[dialer]\ntrust_headers = false", "`dialer.sources` names nobody");
    assert_mistake("[dialer]\nsources = →[]", "`dialer.sources` names nobody");
    assert_mistake("[dialer]\nsources = [→'dialer.example']", "neither an address nor a network");
    assert_mistake("[dialer]\nsources = ['10.0.1.1']\ntarget = '→10.0.1.5:5060'", "write `sip:10.0.1.5:5060`");
    assert_mistake("[dialer]\nsources = ['10.0.1.1']\ntarget = →'sip:nowhere.invalid'", "`dialer.target` names a host");
    let dialer = load(&site("[dialer]\nsources = ['10.0.1.1']\ntarget = 'sip:10.0.1.5:5070;transport=tcp'")).template;
    assert_eq!(dialer.dialer.sources, ["10.0.1.1/32".parse().unwrap()]);
    let target = dialer.dialer.target.unwrap();
    assert_eq!((&*target.host_port, target.explicit_transport), ("10.0.1.5:5070", true));
    assert_eq!((target.hop.transport, target.hop.remote.to_string()), (Transport::Tcp, "10.0.1.5:5070".to_owned()));
    assert_eq!(target.hop.local.to_string(), "0.0.0.0:0");
    let mistakes = load_with("", &Overrides::default()).unwrap_err();
    assert_eq!(mistakes.count(), 2, "{mistakes}");
}

#[test]
fn servers_are_required_and_checked() {
    let server = |keys: &str| format!("[[telephony.servers]]\n{keys}\n");
    let two = |keys: &str| format!("[[telephony.servers]]\nuri = 'sip:10.0.2.10'\nname = 'a'\n{}", server(keys));
    assert_mistake("[telephony]\nservers = →[]\n# [[telephony.servers]]", "names no server");
    assert_mistake("→[[telephony.servers]]\nname = 'a'\n", "`telephony.servers[0]` needs the key `uri`");
    assert_mistake(&server("uri = 'sip:10.0.2.10'\nname = →''"), "printable name");
    assert_mistake(&server("uri = 'sip:10.0.2.10'\nname = →'dialer'"), "reserved");
    assert_mistake(&two("uri = 'sip:10.0.2.11'\nname = →'a'"), "is taken");
    assert_mistake(&two("uri = →'sip:10.0.2.10:5060;transport=udp'"), "the same server as `a`");
    assert_mistake(&server("uri = 'sip:10.0.2.10'\nweight = →0"), "between 1 and");
    assert_mistake(&server("uri = 'sip:10.0.2.10'\nsources = ['10.0.2.0/24', →'x']"), "servers[0].sources[1]");
    assert_mistake(&server("uri = 'sip:→bob@10.0.2.10'"), "user part");
    assert_mistake(&server("uri = 'sip:10.0.2.10:→0'"), "port");
    assert_mistake(&server("uri = 'sip:10.0.2.10;→transport=sctp'"), "unknown transport");
    assert_mistake(&server("uri = →'sip:[2001:db8::1]'"), "needs UDP over IPv6, and nothing listens there");
    assert_mistake(
        &format!("[listen]\ntcp = []\n{}", server("uri = →'sip:10.0.2.1;transport=tcp'")),
        "needs TCP over IPv4",
    );
    assert_mistake(&server("uri = →'sip:127.0.0.1:5060'"), "own address");

    let servers =
        load(&format!("{DIALER}{}", two("uri = 'sip:10.0.2.10;transport=tcp'\npriority = 2"))).template.servers;
    let shown: Vec<_> = servers.iter().map(|server| (&*server.name, server.priority, server.weight)).collect();
    assert_eq!(shown, [("a", 1, 1), ("10.0.2.10:5060", 2, 1)]);
    assert_eq!(&*servers[0].target.host_port, "10.0.2.10");
    assert!(!servers[0].target.explicit_transport && servers[1].target.explicit_transport);
}

#[test]
fn host_names_resolve_to_a_family_that_we_listen_on() {
    let text = site("[listen]\nudp = ['127.0.0.1:0']\n[[telephony.servers]]\nuri = 'sip:localhost:5099'\n");
    let servers = load(&text).template.servers;
    assert_eq!(servers[0].target.hop.remote.to_string(), "127.0.0.1:5099");
    assert_eq!((&*servers[0].target.host_port, &*servers[0].name), ("localhost:5099", "localhost:5099"));
}

#[test]
fn timeouts_have_ranges() {
    for (key, low, high) in [
        ("no_answer", "999ms", "181s"),
        ("progress", "0s", "61s"),
        ("auth_retry_window", "0s", "121s"),
        ("max_duration", "59s", "25h"),
        ("dialer_ring_timeout", "0s", "4m"),
        ("t1", "49ms", "3s"),
        ("t4", "0s", "25h"),
    ] {
        for value in [low, high] {
            assert_mistake(&format!("[timeouts]\n{key} = →'{value}'"), &format!("`timeouts.{key}` must be between"));
        }
    }
    assert_mistake("[timeouts]\ncancel_grace = →'33s'", "must be between 0s and 32s");
    assert_mistake("[voicemail_drop]\ngrace = →'61s'", "must be between 0s and 1m");
    assert_mistake("[timeouts]\nt1 = '2s'\nt2 = →'1s'", "`timeouts.t2` (1s) must not be below `t1`");
    assert_mistake("[timeouts]\ntimer_c = →'20s'", "must not be below `no_answer`");
    assert_mistake("[timeouts]\nno_answer = →30", "such as `\"30s\"`");
    assert_mistake("[timeouts]\nno_answer = →'30'", "without a unit");
    assert_mistake("[timeouts]\nno_answer = →30s", "a string must be quoted");
    let timeouts = load(&site("[timeouts]\nno_answer = '3m'\ncancel_grace = '0s'\nt1 = '50ms'\nno_answer_header = ''"));
    let timeouts = timeouts.template.timeouts;
    assert_eq!((timeouts.no_answer, timeouts.cancel_grace), (Duration::from_secs(180), Duration::ZERO));
    assert_eq!((timeouts.t1, timeouts.no_answer_header), (Duration::from_millis(50), None));
}

#[test]
fn doubtful_settings_make_warnings() {
    assert_eq!(load(&site("[timeouts]\nno_answer = '15s'")).warnings, [""; 0]);
    assert_warning("[timeouts]\nno_answer = '14s'", "at least 15s");
    assert_warning("[timeouts]\ndialer_ring_timeout = '30s'", "not below `no_answer`");
    assert_warning(
        &format!("[timeouts]\nprogress = '30s'\n{SERVERS}[[telephony.servers]]\nuri = 'sip:b.b'\n")
            .replace("b.b", "10.0.2.9"),
        "another one",
    );
    assert_warning("[dialer]\nsources = ['10.0.1.7/24']", "it means 10.0.1.0/24");
    assert_warning("[dialer]\nsources = ['10.0.2.0/24']", "is the server's");
    assert_warning("[dialer]\nsources = ['10.0.2.10']", "the rest is the dialer's");
    assert_warning(&format!("{SERVERS}sources = ['10.0.1.0/24']\n"), "a tie, which is the dialer's");
    assert_warning(
        "[[outcome.rules]]\nname = 'a'\nwhen = { server = 'pbx-z' }\noutcome = 'CallFailed'",
        "no server has that name",
    );
}

#[test]
fn stamp_headers_are_tokens_of_our_own() {
    for name in ["Via", "from", "CSeq", "Content-Length", "v", "Reason"] {
        assert_mistake(&format!("[stamp]\nheader = →'{name}'"), "SIP itself uses");
        assert_mistake(&format!("[timeouts]\nno_answer_header = →'{name}'"), "SIP itself uses");
        assert_mistake(&format!("[voicemail_drop]\nheader = →'{name}'"), "SIP itself uses");
    }
    assert_mistake("[stamp]\nheader = 'Call→ Outcome'", "` ` cannot be in one");
    assert_mistake("[stamp]\nheader = 'Call→:'", "`:` cannot be in one");
    assert_mistake("[stamp]\nheader = →''", "must be a header name");
    assert_mistake("[stamp]\nheader = →[]", "names no header");
    assert_mistake("[stamp]\nheader = ['A-1', →'a-1']", "stands there twice");
    assert_mistake("[stamp]\nno_answer_code = →399", "between 400 and 699");
    assert_mistake("[stamp]\nno_response_code = →700", "between 400 and 699");
    assert_mistake("[stamp]\nto = →'telephony'", "\"dialer\" or \"both\"");
    assert_mistake("[capture]\ncorrelation = →'call-outcome'", "the header of the stamp");
    let stamp =
        load(&site("[stamp]\nheader = ['Call-Outcome', 'X-Outcome']\nto = 'both'\nno_response_code = 503")).template;
    assert_eq!(stamp.stamp.headers.iter().map(|header| &**header).collect::<Vec<_>>(), ["Call-Outcome", "X-Outcome"]);
    assert_eq!((stamp.stamp.to_both, stamp.stamp.no_response_code), (true, 503));
}

#[test]
fn the_voicemail_pattern_is_a_regular_expression() {
    assert_mistake("[voicemail_drop]\ntarget_pattern = '^sip:→(vm'", "unclosed group");
    assert_mistake("[voicemail_drop]\nvalue = →' '", "not empty");
    let drop = load(&site("[voicemail_drop]\ntarget_pattern = '^sip:vmdrop@'\nalways = true")).template.voicemail_drop;
    assert!(drop.always && drop.target_pattern.unwrap().is_match("sip:vmdrop@pbx"));
}

#[test]
fn labels_can_be_labels() {
    for name in ["outcome", "direction", "server", "le", "job", "instance", "__x"] {
        assert_mistake(&format!("[capture]\nlabels = {{ →{name} = 'X-A' }}"), "another use");
    }
    assert_mistake("[capture]\nlabels = { →'a-b' = 'X-A' }", "no label name");
    assert_mistake("[capture]\nlabels = { →1a = 'X-A' }", "no label name");
    assert_mistake("[capture]\nlabels = { a = →'proxy-Authorization' }", "holds credentials");
    assert_mistake("[capture]\ncorrelation = →'Authorization'", "holds credentials");
    assert_mistake("[capture]\nlabels = { a = 'X→ A' }", "`capture.labels.a` is no header name");
    assert_mistake("[capture]\nmetric_values = { →a = ['x'] }", "`a`, which is no label");
    assert_mistake("[capture]\nlabels = { a = 'X-A' }\nmetric_values = { a = ['x', →'other'] }", "not listed");
    assert_mistake("[capture]\nlabels = { a = 'X-A' }\nmetric_values = { a = ['x', →'x'] }", "twice");
    assert_mistake("[capture]\nlabels = { a = 'X-A' }\nmetric_values = { a = →[] }", "lists no value");
    let values = |count: usize| (0..count).map(|n| format!("'v{n}'")).collect::<Vec<_>>().join(",");
    let two = |values: &str, arrow: &str| {
        format!(
            "[capture]\nlabels = {{ a = 'A1', b = 'B1' }}\nmetric_values = {{ {arrow}a = [{values}], b = [{values}] }}"
        )
    };
    assert_mistake(&two(&values(31), "→"), "1024 combinations, at most 1000");
    let labels = load(&site(&two(&values(30), ""))).template.capture.labels;
    assert_eq!(
        labels.iter().map(|one| (&*one.label, &*one.header, one.values.len())).collect::<Vec<_>>(),
        [("a", "A1", 30), ("b", "B1", 30)]
    );
}

#[test]
fn rules_are_checked() {
    let rule = |when: &str| format!("[[outcome.rules]]\nname = 'a'\noutcome = 'NoAnswer'\nwhen = {when}");
    for code in ["'50'", "'5xy'", "299", "700", "'200-500'", "'xxx'", "'7xx'"] {
        assert_mistake(&rule(&format!("{{ code = →{code} }}")), "when.code`");
    }
    assert_mistake(&rule("{ code = →'504-500' }"), "empty range");
    assert_mistake(&rule("→{ }"), "tests nothing");
    assert_mistake(&rule("{ q850 = →128 }"), "between 0 and 127");
    assert_mistake(&rule("{ progress_q850 = →-1 }"), "between 0 and 127");
    assert_mistake(&rule("{ direction = →'out' }"), "\"outbound\" or \"inbound\"");
    assert_mistake(&rule("{ reason_contains = →'' }"), "any reason phrase");
    assert_mistake(&rule("{ after = '10s', before = →'10s' }"), "never matches");
    assert_mistake("[[outcome.rules]]\nname = →''\noutcome = 'NoAnswer'\nwhen = { code = 500 }", "printable");
    assert_mistake(
        "[[outcome.rules]]\nname = 'a'\noutcome = →'Busy'\nwhen = { code = 500 }",
        "did you mean `\"NumberBusy\"`?",
    );
    assert_mistake("→[[outcome.rules]]\nname = 'a'\nwhen = { code = 500 }", "needs the key `outcome`");
    assert_mistake(
        &format!("{}\n{}", rule("{ code = 500 }"), rule("{ code = 501 }").replace("= 'a'", "= →'a'")),
        "another rule",
    );
    let rule = rule(
        "{ code = '5xx', direction = 'inbound', q850 = 0, reason_contains = 'Not', ringing = false, before = '5s' }",
    );
    let rules = load(&site(&rule)).template.rules;
    let when = &rules[0].when;
    assert_eq!((when.code, when.direction, when.q850), (Some((500, 599)), Some(Direction::Inbound), Some(0)));
    assert_eq!((when.reason_contains.as_deref(), when.ringing), (Some("not"), Some(false)));
    assert_eq!((when.before, rules[0].outcome), (Some(Duration::from_secs(5)), Outcome::NoAnswer));
}

#[test]
fn dispositions_are_checked() {
    let row = |keys: &str| format!("[[dispositions]]\noutcome = 'NoAnswer'\n{keys}\n");
    assert_mistake(&format!("→{}", row("")), "says nothing");
    assert_mistake(&row("disposition = →''"), "must not be empty");
    assert_mistake(&row("next = →\"a\\u0007\""), "control characters");
    assert_mistake(&row("next = 'stay'\nend_cause = →'no_answr_timer'"), "did you mean `\"no_answer_timer\"`?");
    assert_mistake(
        &format!("{}→{}", row("next = 'a'"), row("next = 'b'")),
        "maps NoAnswer without an end_cause a second time",
    );
    let with = row("next = 'a'\nend_cause = 'no_response'");
    assert_mistake(&format!("{with}→{with}"), "maps NoAnswer with no_response a second time");
    let rows = load(&site(&format!("{with}{}", row("disposition = 'NA'")))).template.dispositions;
    assert_eq!((rows[0].end_cause, rows[0].next.as_deref()), (Some(EndCause::NoResponse), Some("a")));
    assert_eq!((rows[1].end_cause, rows[1].disposition.as_deref()), (None, Some("NA")));
}

#[test]
fn files_are_opened_and_secrets_read() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let [key, token, empty, spaced, short] =
        ["key", "token", "empty", "spaced", "short"].map(|name| format!("{directory}/values.{name}"));
    fs::write(&key, "  sixteen bytes it is\n").unwrap();
    fs::write(&token, "s3cret-s3cret-s3cret\n").unwrap();
    fs::write(&empty, " \n").unwrap();
    fs::write(&spaced, "two words\n").unwrap();
    fs::write(&short, "fifteen-letters\n").unwrap();
    assert_mistake("[events]\nfile = →'/nonexistent/events.jsonl'", "`events.file` cannot be opened");
    assert_mistake(&format!("[events]\nfile = →'{directory}'"), "`events.file` cannot be opened");
    assert_mistake("[events]\nmask_numbers = →'hash'", "needs `mask_key_file`");
    assert_mistake("[events]\nmask_numbers = 'hash'\nmask_key_file = →'/nonexistent'", "cannot be read");
    assert_mistake(&format!("[events]\nmask_numbers = 'hash'\nmask_key_file = →'{empty}'"), "is empty");
    assert_mistake(
        &format!("[events]\nmask_numbers = 'hash'\nmask_key_file = →'{short}'"),
        "less than 16 bytes: such a key can be guessed",
    );
    assert_mistake(&format!("[admin]\ntoken_file = →'{short}'"), "less than 16 characters: it can be guessed");
    assert_mistake("[events]\nmemory_limit = →'64MB'", "`MB` is no unit");
    assert_mistake("[events]\nmemory_limit = →'1KiB'", "between 64KiB and 64GiB");
    assert_mistake("[events]\nsource = →'a b'", "without spaces");
    assert_mistake("[admin]\nlisten = →'0.0.0.0:9060'", "there is no token");
    assert_mistake(
        "[admin]\nlisten = '0.0.0.0:9060'\ntoken_file = →'/nonexistent'",
        "`admin.token_file` cannot be read",
    );
    assert_mistake(&format!("[admin]\nlisten = '0.0.0.0:9060'\ntoken_file = →'{spaced}'"), "no HTTP header");
    assert_mistake("[admin]\nlisten = '127.0.0.1:9'\n[metrics]\nlisten = →'127.0.0.1:9'", "so is `admin.listen`");
    assert_mistake(
        "[admin]\nlisten = →'0.0.0.0:5060'\ntoken_file = 'T'".replace('T', &token).as_str(),
        "so is `listen.tcp`",
    );
    for (other, listen) in [("127.0.0.1:9", "0.0.0.0:9"), ("127.0.0.1:9", "[::]:9"), ("[::1]:9", "[::]:9")] {
        assert_mistake(
            &format!("[admin]\nlisten = '{other}'\n[metrics]\nlisten = →'{listen}'"),
            "overlaps with `admin.listen`",
        );
    }
    assert_mistake("[metrics]\nlisten = →'127.0.0.1:5060'", "overlaps with `listen.tcp`");
    load(&site("[admin]\nlisten = '127.0.0.1:9'\n[metrics]\nlisten = '127.0.0.2:9'"));
    load(&site("[listen]\nudp = ['127.0.0.1:5060']\n[metrics]\nlisten = '[::1]:5060'"));

    let settings = load(&site(&format!(
        "[events]\nfile = '{directory}/values.jsonl'\nmask_numbers = 'hash'\nmask_key_file = '{key}'\n\
         memory_limit = '1GiB'\n[admin]\nlisten = '0.0.0.0:9060'\ntoken_file = '{token}'\n[security]\nstrangers = '403'"
    )));
    assert_eq!(settings.template.mask, MaskNumbers::Hash(MaskKey::new(b"sixteen bytes it is".as_slice())));
    let shown = format!("{settings:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("sixteen"), "{shown}");
    assert_eq!(settings.admin.unwrap().token.as_deref(), Some("s3cret-s3cret-s3cret"));
    assert_eq!((settings.events.memory_limit, settings.template.strangers), (1 << 30, Strangers::Forbid));
    assert!(settings.template.source.starts_with("sipstamp/"));
    let secret = |mode| {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        site(&format!("[admin]\ntoken_file = '{token}'"))
    };
    assert_warning(&secret(0o644), "everybody on this machine may read");
    assert_eq!(load(&secret(0o640)).warnings, [""; 0]);
    let defaults = load(&site(""));
    assert_eq!(defaults.admin.unwrap().listen.to_string(), "127.0.0.1:9060");
    assert!(load(&site("[admin]\nlisten = ''")).admin.is_none());
}

#[test]
fn limits_and_logs_are_checked() {
    assert_mistake("[limits]\ncalls = →0", "between 1 and");
    assert_mistake("[limits]\nmessage_bytes = →1023", "between 1024 and 65535");
    assert_mistake("[limits]\nmessage_bytes = →65536", "between 1024 and 65535");
    assert_mistake("[limits]\ntcp_connections = →0", "between 1 and");
    assert_mistake("[limits]\ncalls_per_second = →-1", "between 0 and");
    assert_mistake("[limits]\ncalls = →99999999999999999999", "between 1 and");
    assert_mistake("[security]\nstrangers = →403", "write `\"403\"`");
    assert_mistake("[log]\nlevel = '→inof'", "did you mean `info`?");
    assert_mistake("[log]\nlevel = 'info,→verbose'", "no level");
    assert_mistake("[log]\nlevel = →'sipstamp=loud'", "`log.level` is no filter");
    assert_mistake("[log]\nlevel = →''", "no level");
    assert_mistake("[log]\nformat = →'xml'", "\"text\" or \"json\"");
    assert_eq!(load(&site("[log]\nlevel = 'warn,sipstamp=debug'")).logging.level, "warn,sipstamp=debug");
    assert_eq!(load(&site("[limits]\ncalls = 1\ncalls_per_second = 5")).template.limits.calls_per_second, 5);
}

#[test]
fn strings_take_values_from_the_environment() {
    let text = site("[[telephony.servers]]\nuri = 'sip:${HOST}:${PORT:-5070}'\nname = '$${HOST} $5'\n");
    let servers = load(&text).template.servers;
    assert_eq!(servers[0].target.hop.remote.to_string(), "10.0.2.77:5070");
    assert_eq!(&*servers[0].name, "${HOST} $5");
    assert_mistake("[log]\nlevel = 'a→${b'", "without its `}`");
    assert_mistake("[log]\nlevel = '→${}'", "names no environment variable");
}

#[test]
fn flags_override_the_file() {
    let flags = Overrides {
        listen: vec!["127.0.0.1:5070".parse().unwrap()],
        dialer: vec!["10.9.0.0/16".parse().unwrap()],
        servers: vec!["10.8.0.1:5080".to_owned(), "sip:10.8.0.2;transport=tcp".to_owned()],
    };
    for text in ["", &site("[listen]\nudp = ['10.0.0.1:1']")] {
        let settings = load_with(text, &flags).unwrap();
        let listen: Vec<_> =
            settings.listen.iter().map(|one| (one.transport, one.address.to_string(), one.key)).collect();
        let address = || "127.0.0.1:5070".to_owned();
        assert_eq!(
            listen,
            [(Transport::Udp, address(), ListenKey::Flag), (Transport::Tcp, address(), ListenKey::Flag)]
        );
        assert_eq!(settings.template.dialer.sources, flags.dialer);
        let names: Vec<_> = settings.template.servers.iter().map(|server| &*server.name).collect();
        assert_eq!(names, ["10.8.0.1:5080", "10.8.0.2:5060"]);
    }
    let wrong = Overrides { servers: vec!["nowhere.invalid".to_owned()], ..flags };
    let mistakes = load_with("", &wrong).unwrap_err().to_string();
    assert!(mistakes.contains("`--server` names a host that does not resolve"), "{mistakes}");
}

#[test]
fn all_mistakes_come_in_one_run() {
    let text = "colour = 1\n[listen]\nudp = ['x']\n[dialer]\nsource = ['10.0.1.1']\n[[telephony.servers]]\n\
                uri = 'sip:10.0.2.10'\nweight = '1'\n[[telephony.servers]]\n[timeouts]\nno_answer = 5m\nprogress = '9m'\n\
                t1 = '${T1}'\n[log]\nlevel = 'info' 'b'\n";
    let mistakes = load_with(text, &Overrides::default()).unwrap_err();
    let shown = mistakes.to_string();
    let lines: Vec<&str> = shown.lines().filter_map(|line| line.trim_start().strip_prefix("--> f.toml:")).collect();
    assert_eq!(lines, ["1:1", "3:8", "5:1", "8:10", "9:1", "11:13", "12:12", "13:7", "15:16"], "{shown}");
    assert!(shown.ends_with("f.toml: 9 mistakes"), "{shown}");
}

#[test]
fn no_text_upsets_the_reader() {
    let text = include_str!("../config/site.toml");
    let indices: Vec<usize> = text.char_indices().map(|(index, _)| index).step_by(5).collect();
    let mut refused = 0;
    for (at, with) in indices.into_iter().zip(["", "\"", "]", "\n", "[", "é", "=", "\r", "${", "}"].into_iter().cycle())
    {
        let mutated = format!("{}{with}{}", &text[..at], &text[at + 1..]);
        if let Err(mistakes) = load_with(&mutated, &Overrides::default()) {
            refused += 1;
            assert!(mistakes.count() > 0 && mistakes.to_string().contains("f.toml"), "{mistakes}");
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_reload_cannot_change_what_is_bound() {
    let changed = |sections: &str| restart_needed(&load(&site("")), &load(&site(sections)));
    assert_eq!(changed("[timeouts]\nno_answer = '20s'\n[log]\nlevel = 'debug'"), [""; 0]);
    assert_eq!(changed("[listen]\nudp = ['0.0.0.0:5060']"), [""; 0]);
    assert_eq!(changed("[listen]\nudp = ['0.0.0.0:5061']\ntcp = ['0.0.0.0:5060']"), ["listen.udp needs a restart"]);
    assert_eq!(changed("[admin]\nlisten = ''"), ["admin.listen needs a restart"]);
    assert_eq!(changed("[metrics]\nlisten = '127.0.0.1:1'"), ["metrics.listen needs a restart"]);
    let events = ["events.source", "events.memory_limit", "events.stdout"].map(|key| format!("{key} needs a restart"));
    assert_eq!(changed("[events]\nsource = 'x'\nstdout = true\nmemory_limit = '1MiB'"), events);
    let key = format!("{}/config-values-reload.key", env!("CARGO_TARGET_TMPDIR"));
    let webhook = format!("[[events.webhooks]]\nname = 'a'\nurl = 'https://a.b'\nsecret_file = '{key}'");
    fs::write(&key, "a first secret of many bytes").unwrap();
    assert_eq!(changed(&webhook), ["events.webhooks needs a restart"]);
    let old = load(&site(&webhook));
    assert_eq!(restart_needed(&old, &load(&site(&webhook))), [""; 0]);
    fs::write(&key, "another secret of many bytes").unwrap();
    assert_eq!(restart_needed(&old, &load(&site(&webhook))), ["events.webhooks needs a restart"]);
    assert_eq!(changed("[events.nats]\nservers = ['nats://n']"), ["events.nats needs a restart"]);
    let capture = ["capture.labels needs a restart", "capture.metric_values needs a restart"];
    assert_eq!(changed("[capture]\nlabels = { a = 'X-A' }\nmetric_values = { a = ['b'] }"), capture);
}

#[test]
fn a_mistake_is_shown_without_the_secrets_around_it() {
    for text in [
        "[events.nats]\nservers = ['nats://me:S3CR3T@h:4222']",
        "[events.nats]\nservers = 'nats://me:S3CR3T@h:4222'",
        "[events.nats]\nservers = ['nats://h']\npassword = 'S3CR3T'",
        "[admin]\ntoken = \"S3CR3T\"",
        "[admin]\ntoken = S3CR3T",
        "[admin]\ntoken = \"S3CR3T\nlisten = ''",
        "[[events.webhooks]]\nname = 'a'\nurl = 'http://crm.example/hooks/S3CR3T'\nsecret_file = '/nowhere'",
        "[[events.webhooks]]\nname = 'a'\nurl = 'https://me:S3CR3T@crm.example/'\nsecret_file = '/nowhere'",
        "[[events.webhooks]]\nname = 'a'\nurl = '${SECRET_URL}'\nsecret_file = '/nowhere'",
        "[events.nats]\nservers = ['${SECRET_URL}']",
        "[events.nats]\nservers = '${SECRET_URL}'",
        "[[telephony.servers]]\nuri = 'sip:me:S3CR3T@h'",
    ] {
        let env = |name: &str| (name == "SECRET_URL").then(|| "nats://me:S3CR3T@h/S3CR3T".to_owned());
        let mistakes = parse(&site(text), "f.toml", &Overrides::default(), &env).unwrap_err();
        let shown = format!("{mistakes} {}", mistakes.styled());
        assert!(!shown.contains("S3CR3T"), "{shown}");
    }
}
