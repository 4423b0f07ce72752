//! A user agent on one UDP socket, as small as the demo can do with (RFC 3261 §8, §9, §12): it
//! retransmits nothing, since loopback loses nothing, and it has no audio.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rsip::headers::UntypedHeader;
use rsip::message::{HasHeaders, HeadersExt};
use rsip::{Header, Method, Param, Request, Response, Scheme, SipMessage, StatusCode, Uri};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages that may wait for one call; what comes beyond that is lost, as on a real network.
const INBOX: usize = 32;

/// A socket and the calls on it.
pub struct Agent {
    socket: UdpSocket,
    address: SocketAddr,
    /// By Call-ID.
    calls: Mutex<HashMap<String, mpsc::Sender<SipMessage>>>,
    /// Makes tags, branches and Call-IDs differ.
    serial: AtomicU64,
}

/// One call of an agent, from the agent's point of view. Its messages go to its peer, whatever
/// they say, as with an outbound proxy.
pub struct Call {
    agent: Arc<Agent>,
    peer: SocketAddr,
    inbox: mpsc::Receiver<SipMessage>,
    call_id: String,
    /// Our From or To with its tag.
    local: String,
    /// The other one, with its tag once it is known.
    remote: String,
    /// Where requests inside the dialog go.
    target: Uri,
    routes: Vec<String>,
    cseq: u32,
    /// The INVITE that we sent.
    invite: Option<Request>,
}

impl Agent {
    /// Opens a socket on a port that the system chooses.
    pub async fn bind(ip: IpAddr) -> io::Result<Arc<Agent>> {
        let socket = UdpSocket::bind((ip, 0)).await?;
        let address = socket.local_addr()?;
        Ok(Arc::new(Agent { socket, address, calls: Mutex::default(), serial: AtomicU64::new(1) }))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands each message to its call, and each new call to `answer`. Ends only with the socket.
    pub async fn run(self: Arc<Agent>, mut answer: impl FnMut(Call, Request)) {
        let mut buffer = vec![0; 65_535];
        loop {
            // An error is an ICMP answer to something that we sent; the next datagram may be fine.
            let Ok((length, peer)) = self.socket.recv_from(&mut buffer).await else { continue };
            let Some(Ok(message)) = buffer.get(..length).map(SipMessage::try_from) else { continue };
            let Ok(call_id) = message.call_id_header().map(|header| header.value().to_owned()) else { continue };
            let inbox = self.calls().get(&call_id).cloned();
            match (inbox, message) {
                (Some(inbox), message) => drop(inbox.try_send(message)),
                (None, SipMessage::Request(invite)) if invite.method == Method::Invite => {
                    if let Some(call) = self.take(peer, call_id, &invite) {
                        answer(call, invite);
                    }
                }
                (None, _) => {}
            }
        }
    }

    /// A call to `number` by way of `peer`; [`Call::invite`] begins it.
    pub fn call(self: &Arc<Agent>, peer: SocketAddr, from: &str, number: &str) -> Call {
        let call_id = format!("{}@{}", self.unique("demo"), self.address.ip());
        let local = format!("<{}>;tag={}", uri(Some(from), self.address), self.unique("d"));
        let target = uri(Some(number), peer);
        self.open(peer, call_id, local, format!("<{target}>"), target)
    }

    /// A call that came in.
    fn take(self: &Arc<Agent>, peer: SocketAddr, call_id: String, invite: &Request) -> Option<Call> {
        let remote = invite.from_header().ok()?.value().to_owned();
        let local = format!("{};tag={}", invite.to_header().ok()?.value(), self.unique("s"));
        let target = contact(invite).unwrap_or_else(|| uri(None, peer));
        let mut call = self.open(peer, call_id, local, remote, target);
        call.routes = record_routes(invite);
        Some(call)
    }

    fn open(self: &Arc<Agent>, peer: SocketAddr, call_id: String, local: String, remote: String, target: Uri) -> Call {
        let (sender, inbox) = mpsc::channel(INBOX);
        self.calls().insert(call_id.clone(), sender);
        let agent = self.clone();
        Call { agent, peer, inbox, call_id, local, remote, target, routes: Vec::new(), cseq: 1, invite: None }
    }

    fn unique(&self, prefix: &str) -> String {
        format!("{prefix}{}-{}", std::process::id(), self.serial.fetch_add(1, Ordering::Relaxed))
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<SipMessage>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// The next message of this call, or `None` at the deadline.
    pub async fn receive(&mut self, until: Instant) -> Option<SipMessage> {
        tokio::time::timeout_at(until, self.inbox.recv()).await.ok().flatten()
    }

    /// Sends the INVITE that begins the call.
    pub async fn invite(&mut self, headers: Vec<Header>) {
        let mut invite = self.request(Method::Invite, self.cseq, self.branch());
        invite.headers.extend(headers);
        self.invite = Some(invite.clone());
        self.send(invite.into()).await;
    }

    /// Sends a CANCEL for our INVITE (§9.1).
    pub async fn cancel(&mut self) {
        if let Some(cancel) = self.follow_up(Method::Cancel) {
            self.send(cancel.into()).await;
        }
    }

    /// Takes a final response to our INVITE: sends the ACK (§13.2.2.4, §17.1.1.3); a 2xx makes the dialog.
    pub async fn acknowledge(&mut self, response: &Response) {
        if let Ok(to) = response.to_header() {
            self.remote = to.value().to_owned();
        }
        let ack = if response.status_code.code() < 300 {
            self.target = contact(response).unwrap_or_else(|| self.target.clone());
            self.routes = record_routes(response);
            self.routes.reverse();
            Some(self.request(Method::Ack, self.cseq, self.branch()))
        } else {
            self.follow_up(Method::Ack)
        };
        if let Some(ack) = ack {
            self.send(ack.into()).await;
        }
    }

    /// Sends a BYE.
    pub async fn bye(&mut self, headers: Vec<Header>) {
        self.cseq += 1;
        let mut bye = self.request(Method::Bye, self.cseq, self.branch());
        bye.headers.extend(headers);
        self.send(bye.into()).await;
    }

    /// Answers a request (§8.2.6).
    pub async fn respond(&self, request: &Request, code: u16, phrase: &str, headers: Vec<Header>) {
        let mut copied: Vec<Header> = request.headers.iter().filter(|header| is_copied(header)).cloned().collect();
        for header in &mut copied {
            if matches!(header, Header::To(_)) && request.method == Method::Invite {
                *header = Header::To(self.local.clone().into());
            }
        }
        if code < 300 {
            copied.push(self.contact().into());
        }
        copied.extend(headers);
        copied.push(rsip::headers::ContentLength::from("0").into());
        // rsip would write the phrases that it knows without their spaces.
        let status_code = StatusCode::Other(code, phrase.to_owned());
        let response = Response { status_code, version: rsip::Version::V2, headers: copied.into(), body: Vec::new() };
        self.send(response.into()).await;
    }

    async fn send(&self, message: SipMessage) {
        // What cannot be sent is missed by whoever waits for it.
        drop(self.agent.socket.send_to(message.to_string().as_bytes(), self.peer).await);
    }

    fn request(&self, method: Method, cseq: u32, branch: String) -> Request {
        let via = rsip::typed::Via {
            version: rsip::Version::V2,
            transport: rsip::Transport::Udp,
            uri: self.agent.address.into(),
            params: vec![Param::Branch(branch.into())],
        };
        let mut headers: Vec<Header> = vec![via.into(), rsip::headers::MaxForwards::from("70").into()];
        headers.extend(self.routes.iter().map(|route| Header::Route(route.clone().into())));
        headers.extend([
            Header::From(self.local.clone().into()),
            Header::To(self.remote.clone().into()),
            Header::CallId(self.call_id.clone().into()),
            rsip::typed::CSeq { seq: cseq, method }.into(),
            self.contact().into(),
            Header::UserAgent("sipstamp-demo".into()),
            rsip::headers::ContentLength::from("0").into(),
        ]);
        Request {
            method,
            uri: self.target.clone(),
            version: rsip::Version::V2,
            headers: headers.into(),
            body: Vec::new(),
        }
    }

    /// A request that belongs to our INVITE's transaction: it has its branch and number.
    fn follow_up(&self, method: Method) -> Option<Request> {
        let invite = self.invite.as_ref()?;
        let mut request = invite.clone();
        request.method = method;
        request.headers.unique_push(rsip::typed::CSeq { seq: self.cseq, method }.into());
        if method == Method::Ack {
            request.headers.unique_push(Header::To(self.remote.clone().into()));
        }
        request.headers.retain(|header| !matches!(header, Header::Other(..)));
        Some(request)
    }

    fn branch(&self) -> String {
        self.agent.unique("z9hG4bKdemo")
    }

    fn contact(&self) -> rsip::headers::Contact {
        format!("<{}>", uri(None, self.agent.address)).into()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.agent.calls().remove(&self.call_id);
    }
}

fn uri(user: Option<&str>, address: SocketAddr) -> Uri {
    Uri {
        scheme: Some(Scheme::Sip),
        auth: user.map(|user| (user, Option::<String>::None).into()),
        host_with_port: address.into(),
        ..Uri::default()
    }
}

/// The headers of a request that its response repeats (§8.2.6.2, §12.1.1).
fn is_copied(header: &Header) -> bool {
    matches!(
        header,
        Header::Via(_) | Header::RecordRoute(_) | Header::From(_) | Header::To(_) | Header::CallId(_) | Header::CSeq(_)
    )
}

fn contact(message: &impl HasHeaders) -> Option<Uri> {
    let contact = message.headers().iter().find_map(|header| match header {
        Header::Contact(contact) => Some(contact.value()),
        _ => None,
    })?;
    let (_, rest) = contact.split_once('<')?;
    Uri::try_from(rest.split_once('>')?.0).ok()
}

fn record_routes(message: &impl HasHeaders) -> Vec<String> {
    let values = message.headers().iter().filter_map(|header| match header {
        Header::RecordRoute(route) => Some(route.value()),
        _ => None,
    });
    values.flat_map(|value| value.split(',')).map(|route| route.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// An agent with a call to a bare socket, and what it sent there.
    struct Pair {
        call: Call,
        far: UdpSocket,
        near: SocketAddr,
    }

    impl Pair {
        async fn new() -> Pair {
            let agent = Agent::bind(LOCALHOST).await.unwrap();
            let far = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
            let near = agent.address();
            let call = agent.call(far.local_addr().unwrap(), "alice", "bob");
            tokio::spawn(agent.run(|_, _| {}));
            Pair { call, far, near }
        }

        async fn sent(&self) -> Request {
            let mut buffer = [0; 2_048];
            let length =
                tokio::time::timeout(Duration::from_secs(5), self.far.recv(&mut buffer)).await.unwrap().unwrap();
            Request::try_from(&buffer[..length]).unwrap()
        }

        /// Answers the INVITE and returns what the call makes of it.
        async fn answered(&mut self, invite: &Request, status: &str, headers: &str) -> Response {
            let copied: String = invite
                .headers
                .iter()
                .filter(|header| is_copied(header))
                .map(|header| format!("{header}\r\n"))
                .collect();
            let text = format!("SIP/2.0 {status}\r\n{copied}{headers}Content-Length: 0\r\n\r\n");
            self.far.send_to(text.as_bytes(), self.near).await.unwrap();
            match self.call.receive(Instant::now() + Duration::from_secs(5)).await {
                Some(SipMessage::Response(response)) => response,
                other => panic!("{other:?}"),
            }
        }
    }

    fn branch(request: &Request) -> String {
        request.via_header().unwrap().value().split_once("branch=").unwrap().1.to_owned()
    }

    fn routes(request: &Request) -> Vec<&str> {
        let routes = request.headers.iter().filter_map(|header| match header {
            Header::Route(route) => Some(route.value()),
            _ => None,
        });
        routes.collect()
    }

    #[tokio::test]
    async fn the_ack_of_a_failure_and_a_cancel_belong_to_the_invite() {
        let mut pair = Pair::new().await;
        pair.call.invite(vec![Header::Other("Dialing-Mode".into(), "progressive".into())]).await;
        let invite = pair.sent().await;
        pair.call.cancel().await;
        let cancel = pair.sent().await;
        let busy = pair.answered(&invite, "486 Busy Here", "").await;
        pair.call.acknowledge(&busy).await;
        let ack = pair.sent().await;
        assert_eq!((cancel.method, ack.method), (Method::Cancel, Method::Ack));
        assert_eq!((branch(&cancel), branch(&ack)), (branch(&invite), branch(&invite)));
        assert_eq!((&cancel.uri, &ack.uri), (&invite.uri, &invite.uri));
        assert_eq!(ack.cseq_header().unwrap().value(), "1 ACK");
        assert!(!ack.to_string().contains("Dialing-Mode"));
    }

    #[tokio::test]
    async fn requests_in_a_dialog_follow_contact_and_record_route() {
        let mut pair = Pair::new().await;
        pair.call.invite(Vec::new()).await;
        let invite = pair.sent().await;
        let recorded = "Record-Route: <sip:near;lr>, <sip:far;lr>\r\nContact: <sip:there@127.0.0.9:5>\r\n";
        let ok = pair.answered(&invite, "200 OK", recorded).await;
        pair.call.acknowledge(&ok).await;
        let ack = pair.sent().await;
        pair.call.bye(Vec::new()).await;
        let bye = pair.sent().await;
        for request in [&ack, &bye] {
            assert_eq!(request.uri.to_string(), "sip:there@127.0.0.9:5");
            assert_eq!(routes(request), ["<sip:far;lr>", "<sip:near;lr>"]);
            assert_ne!(branch(request), branch(&invite));
        }
        assert_eq!(bye.cseq_header().unwrap().value(), "2 BYE");
    }

    #[tokio::test]
    async fn a_response_repeats_every_via_in_order_and_spells_its_phrase() {
        let agent = Agent::bind(LOCALHOST).await.unwrap();
        let far = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
        let text = "INVITE sip:bob@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP one;branch=z9hG4bK1\r\n\
            Via: SIP/2.0/UDP two;branch=z9hG4bK2\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:bob@x>\r\nCall-ID: c\r\n\
            CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        let invite = Request::try_from(text).unwrap();
        let call = agent.take(far.local_addr().unwrap(), "c".to_owned(), &invite).unwrap();
        call.respond(&invite, 486, "Busy Here", Vec::new()).await;
        let mut buffer = [0; 2_048];
        let length = tokio::time::timeout(Duration::from_secs(5), far.recv(&mut buffer)).await.unwrap().unwrap();
        let response = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(response.starts_with("SIP/2.0 486 Busy Here\r\n"), "{response}");
        assert!(response.contains("one;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP two;branch=z9hG4bK2\r\n"), "{response}");
        assert!(response.contains("To: <sip:bob@x>;tag=s"), "{response}");
    }
}
