//! Events arrive, once each, whatever is killed meanwhile.

use std::os::unix::fs::PermissionsExt;

use async_nats::jetstream::stream::DiscardPolicy;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::callee::{Answer, Callee};
use super::server::NatsServer;
use super::sidecar::{Sidecar, folder};
use crate::ports::{PBX_A, SIDECAR};

fn servers(server: &NatsServer) -> String {
    format!("servers = ['{}']", server.url())
}

#[test]
fn every_event_is_stored_once_under_its_subject() {
    let folder = folder("once");
    let server = NatsServer::start(&folder);
    let callee = Callee::udp(PBX_A, Answer::Ok);
    let sidecar = Sidecar::start(&folder, "a", &callee, "lifecycle = true", &servers(&server));
    sidecar.caller("once").make_calls(200, 20, 0);
    let stored = server.events("CALLS", 800);
    for one in &stored {
        let kind = one.id.split_once('/').unwrap().1;
        let token = one.event["data"]["outcome"].as_str().unwrap_or(kind);
        assert_eq!(one.subject, format!("calls.{token}"));
        assert_eq!(one.event["type"], format!("sipstamp.call.{kind}.v1"));
    }
    assert_eq!(stored.iter().filter(|one| one.subject == "calls.Normal").count(), 200);
    let config = server.config("CALLS");
    assert_eq!(config.subjects, ["calls.*"]);
    assert_eq!((config.discard, config.duplicate_window.as_secs()), (DiscardPolicy::New, 120));
    sidecar.await_metric("sipstamp_events_pending", |pending| pending == 0);
    assert_eq!(sidecar.metric("sipstamp_events_delivered_total", ("sink", "nats")), 800);
}

#[test]
fn nothing_is_lost_while_the_server_is_killed_again_and_again() {
    let folder = folder("server-killed");
    let mut server = NatsServer::start(&folder);
    let callee = Callee::udp(PBX_A, Answer::Ok);
    let sidecar = Sidecar::start(&folder, "a", &callee, "lifecycle = true", &servers(&server));
    let mut caller = sidecar.caller("under-load");
    let calls = std::thread::spawn(move || caller.make_calls(3_000, 10, 0));
    for round in 1..=3 {
        sidecar.await_metric("sipstamp_events_delivered_total", |delivered| delivered > 500 * round);
        server.kill();
        sidecar.await_metric("sipstamp_events_pending", |pending| pending > 500);
        server.restart();
    }
    calls.join().unwrap();
    server.events("CALLS", 12_000);
    sidecar.await_metric("sipstamp_events_pending", |pending| pending == 0);
    assert!(sidecar.metric("sipstamp_events_failed_total", ("sink", "nats")) > 0);
}

#[test]
fn what_a_killed_sidecar_has_not_delivered_is_delivered_after_its_restart() {
    let folder = folder("sidecar-killed");
    let mut server = NatsServer::start(&folder);
    let callee = Callee::udp(PBX_A, Answer::Ok);
    let mut sidecar = Sidecar::start(&folder, "a", &callee, "", &servers(&server));
    sidecar.caller("before").make_calls(50, 10, 0);
    server.events("CALLS", 50);
    server.kill();
    sidecar.caller("meanwhile").make_calls(300, 10, 0);
    sidecar.kill();
    // It starts and takes calls without its server.
    sidecar.restart();
    sidecar.caller("after").make_calls(50, 10, 0);
    server.restart();
    server.events("CALLS", 400);
    // What is stored is not known to the sidecar until it has been told: it may send that again, and does it no harm.
    sidecar.kill();
    sidecar.restart();
    sidecar.caller("at-last").make_calls(1, 1, 0);
    server.events("CALLS", 401);
    sidecar.await_metric("sipstamp_events_pending", |pending| pending == 0);
}

#[test]
fn a_stream_that_does_not_take_the_subject_is_left_as_it_is_and_events_wait() {
    let folder = folder("foreign-stream");
    let server = NatsServer::start(&folder);
    server.make_stream("CALLS", "other.>");
    let callee = Callee::udp(PBX_A, Answer::Ok);
    let nats = format!("{}\nsubject = 'calls.{{direction}}.{{outcome}}'", servers(&server));
    let sidecar = Sidecar::start(&folder, "a", &callee, "", &nats);
    sidecar.caller("foreign").make_calls(5, 1, 0);
    sidecar.await_log("the stream takes [other.>], which does not cover calls.*.*");
    assert_eq!(server.config("CALLS").subjects, ["other.>"]);
    server.add_subject("CALLS", "calls.>");
    let stored = server.events("CALLS", 5);
    assert!(stored.iter().all(|one| one.subject == "calls.outbound.Normal"), "{stored:?}");
}

#[test]
fn a_server_with_a_certificate_that_nobody_vouches_for_gets_nothing() {
    let folder = folder("tls");
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![SIDECAR.to_string()]).unwrap().signed_by(&key, &authority).unwrap();
    let files = [("ca.pem", authority.pem()), ("server.pem", certificate.pem()), ("server.key", key.serialize_pem())];
    let [ca, certificate, key] = files.map(|(name, text)| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    });
    std::fs::write(folder.join("other.pem"), self::authority().pem()).unwrap();
    let server = NatsServer::start_with(&folder, &format!("tls {{ cert_file: '{certificate}', key_file: '{key}' }}"));
    let callee = Callee::udp(PBX_A, Answer::Ok);
    let start = |name: &str, ca: &str| {
        let url = server.url().replace("nats://", "tls://");
        let sidecar = Sidecar::start(&folder, name, &callee, "", &format!("servers = ['{url}']\nca_file = '{ca}'"));
        sidecar.caller(name).make_calls(1, 1, 0);
        sidecar
    };
    let stranger = start("stranger", &ca.replace("ca.pem", "other.pem"));
    stranger.await_log("NATS cannot be reached");
    let known = start("known", &ca);
    known.await_metric("sipstamp_events_delivered_total", |delivered| delivered == 1);
    assert_eq!(stranger.metric("sipstamp_events_delivered_total", ("sink", "nats")), 0);
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn a_login_is_used_and_its_secret_is_in_no_log() {
    let folder = folder("login");
    let users = "authorization { users: [{ user: 'sidecar', password: 'hunter2' }] }\nno_auth_user: 'sidecar'";
    let server = NatsServer::start_with(&folder, users);
    let callee = Callee::udp(PBX_A, Answer::Ok);
    let start = |password: &str| {
        let path = folder.join(password);
        std::fs::write(&path, format!("{password}\n")).unwrap();
        // A warning would name the configuration, and that the password.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let nats = format!("{}\nuser = 'sidecar'\npassword_file = '{}'", servers(&server), path.display());
        let sidecar = Sidecar::start(&folder, &format!("with-{password}"), &callee, "", &nats);
        sidecar.caller(password).make_calls(1, 1, 0);
        sidecar
    };
    let wrong = start("hunter3");
    wrong.await_log("NATS cannot be reached");
    assert!(server.stored("CALLS").is_empty());
    let right = start("hunter2");
    server.events("CALLS", 1);
    for sidecar in [&wrong, &right] {
        assert!(!sidecar.log().contains("hunter"), "{}", sidecar.log());
    }
}
