//! Calls of every kind, each with numbers of its own in everything that a dialer writes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use serde_json::Value;

use crate::ports::{DIALER, PBX_A};
use crate::site::Site;
use crate::traces::{SIP_SECRET, Traces};
use crate::wire::{Message, Wire};

const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// One end that calls.
struct Caller {
    wire: Wire,
    local: SocketAddr,
}

/// A call that it has placed.
struct Call {
    from: String,
    to: String,
    /// The callee's number as the INVITE has it in To and Request-URI.
    written: String,
    id: String,
    headers: String,
    cseq: u32,
    tagged: Option<Message>,
}

impl Call {
    fn new(number: usize, scenario: &str) -> Call {
        let (from, to) = (format!("+498761230{number:02}"), format!("+498761231{number:02}"));
        let written = match number % 4 {
            0 => to.clone(),
            1 => to.replace('+', "%2B"),
            2 => format!("{};phone-context=x.{}", to.replace("+49876", "+49-876-"), &to[1..]),
            _ => format!("{to}:{SIP_SECRET}"),
        };
        let asserted = format!("+498761233{number:02}");
        let headers = format!(
            "Scenario: {scenario}\r\nCorrelation-ID: lead/{to}\r\nCampaign-ID: spring {}\r\n\
             P-Asserted-Identity: \"Bob\" <sip:{asserted}@example.net;user=phone>, <tel:{asserted}>\r\n\
             Proxy-Authorization: Digest username=\"d\", response=\"{SIP_SECRET}\"\r\n",
            to.replace('+', "00"),
        );
        Call { id: format!("{to}~{number}@dialer"), from, to, written, headers, cseq: 1, tagged: None }
    }

    fn with(mut self, header: &str) -> Call {
        self.headers += &format!("{header}\r\n");
        self
    }
}

impl Caller {
    fn new(ip: Ipv4Addr, to: SocketAddr) -> Caller {
        let wire = Wire::udp(UdpSocket::bind((ip, 0)).unwrap(), to);
        let local = wire.local();
        Caller { wire, local }
    }

    fn send(&mut self, call: &Call, method: &str, uri: &str, routes: &str, more: &str) {
        let to_tag = call.tagged.as_ref().and_then(|answer| answer.value("To").split_once(";tag="));
        let to_tag = to_tag.map(|(_, tag)| format!(";tag={tag}")).unwrap_or_default();
        let Call { from, written, id, cseq, .. } = call;
        // CANCEL and the ACK of a failure belong to the INVITE.
        let is_of_invite = method == "CANCEL" || method == "ACK" && to_tag.is_empty();
        let branch = if is_of_invite { "INVITE" } else { method };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{id}{branch}{cseq}\r\n{routes}Max-Forwards: 70\r\n\
             From: \"{from}\" <sip:{from}@example.net>;tag=from-{from}\r\nTo: <sip:{written}@example.net>{to_tag}\r\n\
             Call-ID: {id}\r\nCSeq: {cseq} {method}\r\nContact: <sip:{from}@{}>\r\n{more}Content-Length: 0\r\n\r\n",
            self.local, self.local,
        );
        self.wire.send(&text);
    }

    fn uri(call: &Call) -> String {
        format!("sip:{}@example.net", call.written)
    }

    fn invite(&mut self, call: &Call) {
        self.send(call, "INVITE", &Caller::uri(call), "", &call.headers);
    }

    /// The next response to the method of this call for which there is something to wait.
    fn response(&mut self, call: &Call, method: &str, is_it: impl Fn(u16) -> bool) -> Message {
        loop {
            let message = self.wire.receive().expect("datagrams have no end");
            let code = message.code().unwrap_or_default();
            if message.call_id() == call.id && message.method() == method && is_it(code) {
                return message;
            }
        }
    }

    fn refused(&mut self, call: &Call) -> u16 {
        self.invite(call);
        self.take_refusal(call)
    }

    fn take_refusal(&mut self, call: &Call) -> u16 {
        let answer = self.response(call, "INVITE", |code| code >= 300);
        self.send(call, "ACK", &Caller::uri(call), "", "");
        answer.code().unwrap_or_default()
    }

    fn answered(&mut self, mut call: Call) -> Call {
        self.invite(&call);
        call.tagged = Some(self.response(&call, "INVITE", |code| code == 200));
        self.in_dialog(&call, "ACK", "");
        call
    }

    fn in_dialog(&mut self, call: &Call, method: &str, more: &str) {
        let answer = call.tagged.as_ref().expect("it was answered");
        let routes = answer.values("Record-Route").collect::<Vec<_>>();
        let routes = routes.iter().rev().map(|route| format!("Route: {route}\r\n")).collect::<String>();
        self.send(call, method, answer.value("Contact").trim_matches(['<', '>']), &routes, more);
    }

    fn request(&mut self, call: &mut Call, method: &str, more: &str) -> u16 {
        call.cseq += 1;
        self.in_dialog(call, method, more);
        self.response(call, method, |code| code >= 200).code().unwrap_or_default()
    }
}

/// Makes them all; returns what the API has answered meanwhile.
pub fn make_all(site: &Site) -> Traces {
    let mut seen = Traces::default();
    let mut dialer = Caller::new(DIALER, site.sip());
    for (number, (scenario, code)) in
        [("busy", 486), ("moved", 302), ("gone", 480), ("refuses", 488), ("declines", 603)].into_iter().enumerate()
    {
        assert_eq!(dialer.refused(&Call::new(number, scenario)), code, "{scenario}");
    }
    assert_eq!(dialer.refused(&Call::new(10, "rings").with("No-Answer-Timeout: 1")), 408);
    assert_eq!(dialer.refused(&Call::new(11, "auth")), 407);
    assert_eq!(dialer.refused(&Call::new(12, "silent")), 408);
    cancel(&mut dialer);
    for (number, scenario) in [(14, "answers"), (15, "fails over")] {
        let mut call = dialer.answered(Call::new(number, scenario));
        assert_eq!(dialer.request(&mut call, "BYE", ""), 200);
    }
    drop_voicemail(&mut dialer, site);
    refer_and_message(&mut dialer);
    inbound(site);
    strangers_and_noise(site, &mut dialer);
    unresolvable(&mut dialer, site);
    held(&mut dialer, site, &mut seen);
    ask_for_the_ended(site, &mut seen);
    site.drain();
    assert_eq!(dialer.refused(&Call::new(40, "answers")), 503);
    seen
}

fn cancel(dialer: &mut Caller) {
    let call = Call::new(13, "rings");
    dialer.invite(&call);
    dialer.response(&call, "INVITE", |code| code == 180);
    let reason = format!("Reason: SIP;cause=487;text=\"{} hung up\"\r\n", call.from);
    dialer.send(&call, "CANCEL", &Caller::uri(&call), "", &reason);
    assert_eq!(dialer.take_refusal(&call), 487);
}

fn drop_voicemail(dialer: &mut Caller, site: &Site) {
    let mut call = dialer.answered(Call::new(16, "answers").with("Dialing-Mode: progressive"));
    assert_eq!(dialer.request(&mut call, "BYE", "Voicemail-Drop: true\r\n"), 200);
    let mut call = dialer.answered(Call::new(17, "answers").with("Dialing-Mode: progressive"));
    assert_eq!(site.request("POST", &format!("/v1/calls/lead%2F{}/voicemail-drop", call.to)).0, 200);
    assert_eq!(dialer.request(&mut call, "BYE", ""), 200);
}

fn refer_and_message(dialer: &mut Caller) {
    let mut call = dialer.answered(Call::new(18, "answers").with("Dialing-Mode: by +49876123918"));
    assert_eq!(dialer.request(&mut call, "REFER", "Refer-To: <sip:+49876123418@example.net>\r\n"), 202);
    assert_eq!(dialer.request(&mut call, "BYE", ""), 200);
    for (number, method) in [(19, "MESSAGE"), (20, "OPTIONS")] {
        let call = Call::new(number, "");
        dialer.send(&call, method, &Caller::uri(&call), "", "");
        dialer.response(&call, method, |code| code >= 200);
    }
}

fn inbound(site: &Site) {
    let mut trunk = Caller::new(PBX_A, site.sip());
    let mut call = trunk.answered(Call::new(21, "answers"));
    assert_eq!(trunk.request(&mut call, "BYE", ""), 200);
}

/// Nobody answers strangers; what cannot be read is answered to those who are known.
fn strangers_and_noise(site: &Site, dialer: &mut Caller) {
    let mut stranger = Caller::new(STRANGER, site.sip());
    let call = Call::new(22, "answers");
    stranger.invite(&call);
    stranger.send(&call, "CANCEL", &Caller::uri(&call), "", "");
    let before = site.metric("sipstamp_sip_rejected_total");
    for noise in [
        format!("INVITE sip:{0}@ SIP/2.0\r\nFrom: {0}\r\n\r\n", call.to),
        format!("{}\r\n\r\n", call.to),
        format!("SIP/2.0 999999 {}\r\nCall-ID: {}\r\n\r\n", call.to, call.id),
        format!(
            "INVITE sip:{0}@x SIP/2.0\r\nVia: SIP/2.0/UDP x;branch={0}\r\nCSeq: {0} {0}\r\nTo: <{0}\r\n\r\n",
            call.to
        ),
    ] {
        stranger.wire.send(&noise);
        dialer.wire.send(&noise);
    }
    site.wait_for_metric("sipstamp_sip_rejected_total", before + 6);
}

fn unresolvable(dialer: &mut Caller, site: &Site) {
    let call = dialer.answered(Call::new(23, "nowhere"));
    // The BYE finds no way to the callee.
    assert_eq!(site.request("POST", &format!("/v1/calls/{}/hangup", call.id.replace('@', "%40"))).0, 202);
}

/// While a call is open: what the API shows of it, two reloads, a call beyond the limit; then the API hangs up.
fn held(dialer: &mut Caller, site: &Site, seen: &mut Traces) {
    site.wait_for_metric_value("sipstamp_calls_active", 0);
    let call = dialer.answered(Call::new(24, "answers"));
    let id = call.id.replace('@', "%40").replace('+', "%2B");
    let correlation = format!("lead%2F{}", call.to);
    let (status, list) = site.request("GET", "/v1/calls");
    assert!(status == 200 && list.contains("\"state\":\"answered\""), "{list}");
    seen.add("GET /v1/calls", &list);
    for name in [&id, &correlation] {
        let (status, shown) = site.request("GET", &format!("/v1/calls/{name}"));
        assert_eq!(status, 200, "{shown}");
        seen.add("GET /v1/calls/{id}", &shown);
    }
    site.reload_with("[limits]\ncalls = 1");
    assert_eq!(dialer.refused(&Call::new(25, "answers")), 503);
    seen.add("problems", &site.reload_broken());
    let (status, shown) = site.request("POST", &format!("/v1/calls/{id}/hangup"));
    assert_eq!(status, 202, "{shown}");
    seen.add("GET /v1/calls/{id}", &shown);
}

fn ask_for_the_ended(site: &Site, seen: &mut Traces) {
    site.wait_for_metric_value("sipstamp_calls_active", 0);
    let call = Call::new(24, "answers");
    for name in [call.id.replace('@', "%40"), format!("lead%2F{}", call.to)] {
        let (status, shown) = site.request("GET", &format!("/v1/calls/{name}"));
        let shown_as: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((status, &shown_as["end_cause"]), (200, &"answered_hung_up".into()), "{shown}");
        seen.add("GET /v1/calls/{id}", &shown);
    }
    seen.add("GET /v1/outcomes", &site.request("GET", "/v1/outcomes?limit=1000").1);
    seen.add("GET /v1/calls", &site.request("GET", "/v1/calls?state=ended").1);
    for path in [
        format!("/v1/calls/{}/no-such-thing", call.to),
        format!("/v1/calls/{}99", call.to),
        format!("/{}", call.to),
        format!("/v1/calls?limit={}&x=1", call.to),
        format!("/v1/calls?state={}", call.to),
    ] {
        let (status, problem) = site.request("GET", &path);
        assert!((400..500).contains(&status), "{path}: {status}");
        seen.add("problems", &problem);
    }
    seen.add("problems", &site.request("POST", &format!("/v1/calls/{}/hangup", call.id.replace('@', "%40"))).1);
    for page in ["/", "/openapi.json", "/livez", "/readyz"] {
        seen.add("pages", &site.request("GET", page).1);
    }
    seen.add("metrics", &site.request("GET", "/metrics").1);
    seen.add("status", &site.request("GET", "/v1/status").1);
}
