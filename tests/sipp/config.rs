//! The sidecar's configuration: a base that every scenario shares, its own `[config]` laid over it.

use std::net::Ipv4Addr;
use std::path::Path;

use super::expect::{Direction, Scenario, Transport};
use super::ports::{DIALER, PBX_A, PBX_B, Ports, SIDECAR};

/// The TOML that the sidecar is started with.
pub fn configuration(scenario: &Scenario, ports: Ports, transport: Transport, folder: &Path) -> Result<String, String> {
    let mut base = base(ports, folder).parse::<toml::Table>().map_err(|error| error.to_string())?;
    let mut peers = String::new();
    let uri = |host: Ipv4Addr| format!("\"sip:{host}:{};transport={transport}\"", ports.sip);
    if scenario.expect.direction == Direction::Inbound && scenario.has_uas() {
        peers.push_str(&format!("dialer.target = {}\n", uri(DIALER)));
    }
    for (name, host, priority) in [("pbx-a", PBX_A, 1), ("pbx-b", PBX_B, 2)] {
        if priority <= scenario.expect.servers {
            peers.push_str(&format!(
                "[[telephony.servers]]\nname = \"{name}\"\nuri = {}\npriority = {priority}\n",
                uri(host)
            ));
        }
    }
    let peers = peers.parse::<toml::Table>().map_err(|error| error.to_string())?;
    overlay(&mut base, &peers);
    overlay(&mut base, &scenario.expect.config);
    Ok(base.to_string())
}

/// Short timers, so that a whole run takes minutes.
fn base(ports: Ports, folder: &Path) -> String {
    let Ports { sip, admin, .. } = ports;
    format!(
        r#"
        [listen]
        udp = ["{SIDECAR}:{sip}"]
        tcp = ["{SIDECAR}:{sip}"]
        [dialer]
        sources = ["{DIALER}/32"]
        [timeouts]
        no_answer = "10s"
        progress = "1s"
        cancel_grace = "300ms"
        t1 = "200ms"
        [voicemail_drop]
        grace = "200ms"
        [events]
        file = '{}'
        [admin]
        listen = "{SIDECAR}:{admin}"
        # Built for tests, and on a busy machine, it has little capacity.
        [limits]
        overload_delay = "0ms"
        [log]
        level = "debug"
        "#,
        folder.join("events.jsonl").display()
    )
}

/// Tables are merged, everything else is replaced.
fn overlay(base: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => overlay(inner, more),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}
