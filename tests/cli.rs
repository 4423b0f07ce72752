//! The command as users meet it: exit codes, and what goes where.

#![cfg(test)]

use std::fs;

use assert_cmd::Command;
use assert_cmd::assert::Assert;

const SITE: &str = "[dialer]\nsources = ['10.0.1.0/24']\n[[telephony.servers]]\nuri = 'sip:10.0.2.10'\n";

fn sipstamp(arguments: &[&str]) -> Assert {
    Command::cargo_bin("sipstamp").unwrap().args(arguments).assert()
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// A configuration file of this test's own.
fn file(name: &str, text: &str) -> String {
    let path = format!("{}/cli-{name}.toml", env!("CARGO_TARGET_TMPDIR"));
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn help_and_version_succeed() {
    let version = sipstamp(&["--version"]).success();
    assert_eq!(stdout(&version), format!("sipstamp {}\n", env!("CARGO_PKG_VERSION")));
    let help = stdout(&sipstamp(&["--help"]).success());
    for command in ["run", "check", "demo", "tail", "report", "explain", "schema"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    let run = stdout(&sipstamp(&["run", "--help"]).success());
    for flag in ["--config <FILE>", "--listen <ADDR>", "--dialer <CIDR>", "--server <ADDR>", "--drain-timeout"] {
        assert!(run.contains(flag), "{flag}: {run}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_64() {
    for arguments in [
        &[][..],
        &["fly"],
        &["check"],
        &["run", "--fly"],
        &["run", "--listen", "5060"],
        &["run", "--dialer", "10.0.0.300"],
        &["run", "--drain-timeout", "30"],
        &["explain", "99"],
        &["explain", "700"],
        &["explain", "busy"],
        &["schema", "call"],
    ] {
        let refused = sipstamp(arguments).code(64);
        assert!(!stderr(&refused).is_empty() && stdout(&refused).is_empty(), "{arguments:?}");
    }
}

#[test]
fn commands_of_later_versions_are_refused() {
    let refused = sipstamp(&["report", "events.jsonl", "--html", "out.html"]).code(64);
    assert!(stderr(&refused).contains("not in this version"));
}

#[test]
fn a_tail_without_its_server_fails() {
    // Nobody listens on port 1.
    let failed = sipstamp(&["tail", "--nats", "nats://127.0.0.1:1"]).code(1);
    assert!(stderr(&failed).starts_with("error: cannot connect to the NATS server: "), "{}", stderr(&failed));
    sipstamp(&["tail", "--nats", "nats://127.0.0.1:1", "--url", "http://127.0.0.1"]).code(64);
    sipstamp(&["tail", "--url", "http://127.0.0.1", "--ca", "ca.pem"]).code(64);
    let failed = sipstamp(&["tail", "--url", "127.0.0.1:1"]).code(1);
    let told = stderr(&failed);
    assert!(told.starts_with("error: http://127.0.0.1:1/v1/events: ") && told.contains("admin.listen"), "{told}");
    let failed = sipstamp(&["tail", "--token-file", "/nonexistent/token"]).code(1);
    assert!(stderr(&failed).starts_with("error: --token-file /nonexistent/token: "), "{}", stderr(&failed));
    sipstamp(&["tail", "--nats", "nats://127.0.0.1:1", "--token-file", "token"]).code(64);
}

#[test]
fn check_shows_every_mistake_with_its_place() {
    let path = file("mistakes", "[listen]\nudp = ['x']\n[timeouts]\nno_answer = '10m'\nprogres = '5s'\n");
    let refused = sipstamp(&["check", "--config", &path]).code(64);
    let shown = stderr(&refused);
    for place in ["2:8", "4:13", "5:1"] {
        assert!(shown.contains(&format!("--> {path}:{place}\n")), "{place}: {shown}");
    }
    assert!(shown.contains("^^^"), "{shown}");
    assert!(shown.ends_with(&format!("{path}: 5 mistakes\n")), "{shown}");
    assert_eq!(stdout(&refused), "");
}

#[test]
fn check_says_ok_and_shows_warnings() {
    let path = file("sound", SITE);
    let sound = sipstamp(&["check", "--config", &path]).success();
    assert_eq!((stdout(&sound), stderr(&sound)), (format!("{path}: ok\n"), String::new()));
    let path = file("doubtful", &format!("{SITE}[timeouts]\nno_answer = '5s'\n"));
    let doubtful = sipstamp(&["check", "--config", &path]).success();
    assert_eq!(stdout(&doubtful), format!("{path}: ok\n"));
    assert!(stderr(&doubtful).starts_with("warning: `timeouts.no_answer` is 5s\n"), "{}", stderr(&doubtful));
}

#[test]
fn check_reads_the_environment() {
    let path = file("environment", &SITE.replace("10.0.2.10", "${PBX_OF_THIS_TEST}"));
    assert!(stderr(&sipstamp(&["check", "--config", &path]).code(64)).contains(&format!("{path}:4:12\n")));
    let mut command = Command::cargo_bin("sipstamp").unwrap();
    command.args(["check", "--config", &path]).env("PBX_OF_THIS_TEST", "10.0.2.10").assert().success();
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let missing = sipstamp(&["check", "--config", "/nonexistent.toml"]).code(64);
    assert!(stderr(&missing).contains("/nonexistent.toml cannot be read: No such file"), "{}", stderr(&missing));
    assert!(stderr(&missing).ends_with("/nonexistent.toml: 1 mistake\n"), "{}", stderr(&missing));
    let path = format!("{}/cli-latin1.toml", env!("CARGO_TARGET_TMPDIR"));
    fs::write(&path, b"[dialer]\n# caf\xe9\n").unwrap();
    let latin1 = stderr(&sipstamp(&["check", "--config", &path]).code(64));
    assert!(latin1.contains("is not UTF-8") && latin1.contains(&format!("{path}:2:6\n")), "{latin1}");
}

#[test]
fn run_refuses_a_bad_configuration_before_anything_is_bound() {
    let path = file("run", &format!("{SITE}[log]\nformat = 'xml'\n"));
    let refused = sipstamp(&["run", "--config", &path]).code(64);
    assert!(stderr(&refused).contains("`log.format` must be \"text\" or \"json\""), "{}", stderr(&refused));
    let refused = sipstamp(&["run", "--dialer", "10.0.0.0/8", "--server", "nowhere.invalid"]).code(64);
    assert!(stderr(&refused).contains("`--server` names a host that does not resolve"), "{}", stderr(&refused));
}

#[test]
fn explain_tells_the_outcome_of_a_code() {
    let explain = |arguments: &[&str]| stdout(&sipstamp(&[&["explain"], arguments].concat()).success());
    assert!(explain(&["486"]).contains("NumberBusy"));
    assert!(explain(&["180"]).contains("provisional, decides nothing"));
    assert!(explain(&["407"]).contains("stays open for 32s"));
    let rule = "[[outcome.rules]]\nname = 'quirk'\nwhen = { code = 503 }\noutcome = 'NumberUnobtainable'\n";
    let path = file("explain", &format!("{SITE}{rule}"));
    assert!(explain(&["503", "--config", &path]).contains("\"quirk\" -> NumberUnobtainable"));
    assert!(!explain(&["500", "--config", &path]).contains("quirk"));
    sipstamp(&["explain", "503", "--config", "/nonexistent.toml"]).code(64);
}

#[test]
fn schemas_are_json() {
    let schema =
        |what| -> serde_json::Value { serde_json::from_str(&stdout(&sipstamp(&["schema", what]).success())).unwrap() };
    let config = schema("config");
    assert_eq!(config["properties"]["timeouts"]["properties"]["no_answer"]["default"], "30s");
    assert_eq!(config["additionalProperties"], false);
    let event = schema("event");
    assert_eq!(event["properties"]["specversion"]["const"], "1.0");
    let required = event["required"].as_array().unwrap();
    assert!(["id", "source", "type", "time", "subject", "data"].iter().all(|key| required.contains(&(*key).into())));
}

#[test]
fn a_password_on_the_command_line_or_in_a_file_is_not_repeated() {
    for url in ["nats://me:S3CR3T@127.0.0.1:1", "tls://me:S3CR3T@127.0.0.1:1", "nats://me:S3CR3T@:x", "S3CR3T@h:1:1"] {
        let refused = sipstamp(&["tail", "--nats", url]).failure();
        assert!(!stderr(&refused).contains("S3CR3T"), "{}", stderr(&refused));
    }
    let refused = sipstamp(&["tail", "--url", "http://me:S3CR3T@127.0.0.1:1"]).code(64);
    assert!(!stderr(&refused).contains("S3CR3T"), "{}", stderr(&refused));
    let path =
        file("secrets", &format!("{SITE}[admin]\ntoken = 'S3CR3T'\n[events.nats]\nservers = ['nats://a:S3CR3T@h']\n"));
    for arguments in [["check", "--config", &path], ["run", "--config", &path]] {
        let refused = sipstamp(&arguments).code(64);
        assert!(stderr(&refused).contains("2 mistakes"), "{}", stderr(&refused));
        assert!(!stderr(&refused).contains("S3CR3T"), "{}", stderr(&refused));
    }
}
