//! What we write of ourselves on every message, written once: sent-by, Via and Record-Route (RFC 3261 §16.6).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::route::put_sent_by;
use crate::flow::{Side, Transport};
use crate::policy::Policy;
use crate::text::Put;

/// The texts for each address at which a side's peers know us.
#[derive(Debug, Default)]
pub struct OwnTexts(Vec<Rc<OwnText>>);

/// What a side's peers see of us at one address.
#[derive(Debug)]
pub struct OwnText {
    /// It says what is advertised. Held, so that no other policy gets its place in memory.
    policy: Arc<Policy>,
    side: Side,
    transport: Transport,
    local: SocketAddr,
    /// `Via: SIP/2.0/UDP host:port;branch=`
    pub via: Box<[u8]>,
    /// A whole Record-Route line.
    pub record_route: Box<[u8]>,
}

/// More than this are made anew when they are needed: addresses times sides, and policies that open calls still have.
const MOST: usize = 32;
const RECORD_ROUTE: &[u8] = b"Record-Route: ";

impl OwnTexts {
    /// The text for an address.
    pub fn at(&mut self, policy: &Arc<Policy>, side: Side, transport: Transport, local: SocketAddr) -> Rc<OwnText> {
        let is_it = |text: &&Rc<OwnText>| {
            text.side == side && text.transport == transport && text.local == local && Arc::ptr_eq(&text.policy, policy)
        };
        if let Some(text) = self.0.iter().find(is_it) {
            return text.clone();
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let text = Rc::new(OwnText::new(policy, side, transport, local));
        self.0.push(text.clone());
        text
    }

    /// Whether a Route or Record-Route value is one that we wrote, letter by letter.
    pub fn is_ours(&self, value: &[u8]) -> bool {
        self.0.iter().any(|text| text.route() == value)
    }
}

impl OwnText {
    fn new(policy: &Arc<Policy>, side: Side, transport: Transport, local: SocketAddr) -> OwnText {
        let mut via = Vec::new();
        via.put(b"Via: SIP/2.0/");
        via.put(transport.via_name().as_bytes());
        via.put(b" ");
        put_sent_by(&mut via, policy, side, local);
        via.put(b";branch=");
        let mut record_route = RECORD_ROUTE.to_vec();
        record_route.put(b"<sip:");
        put_sent_by(&mut record_route, policy, side, local);
        if transport == Transport::Tcp {
            record_route.put(b";transport=tcp");
        }
        record_route.put(b";lr>\r\n");
        let (via, record_route) = (via.into(), record_route.into());
        OwnText { policy: policy.clone(), side, transport, local, via, record_route }
    }

    /// The value of the Record-Route line.
    fn route(&self) -> &[u8] {
        self.record_route.get(RECORD_ROUTE.len()..self.record_route.len() - 2).unwrap_or_default()
    }
}
