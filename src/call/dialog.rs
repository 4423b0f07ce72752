//! What is known of one dialog: enough to route inside it and to end it (RFC 3261 §12).

use std::net::IpAddr;

use crate::flow::{Hop, Side};
use crate::proxy::route::{self, Host, RouteSet};

/// A dialog between caller and callee, told apart by the callee's tag.
#[derive(Debug)]
pub struct Dialog {
    pub to_tag: Box<[u8]>,
    pub state: DialogState,
    pub caller: Party,
    pub callee: Party,
    /// The caller's ACK for the 2xx came.
    pub is_acked: bool,
    /// A BYE before the 2xx: who sent it, and whether it was answered 2xx.
    pub early_bye: Option<(Side, bool)>,
    /// Who sent the first BYE, once the dialog has ended by one.
    pub bye_from: Option<Side>,
    /// That BYE was challenged: the next one of that side is no repetition.
    pub is_bye_challenged: bool,
}

/// Where a dialog stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialogState {
    Early,
    Confirmed,
    Ended,
}

/// One of the two parties, as the other and we reach it.
#[derive(Debug)]
pub struct Party {
    /// Whole value of its From or To field, tag included.
    pub value: Box<[u8]>,
    /// URI of its Contact.
    pub target: Box<[u8]>,
    /// What lies between us and it.
    pub routes: RouteSet,
    /// Where its last message came from.
    pub hop: Hop,
    /// The address that a name in its Contact or route was found to have.
    pub resolved: Option<IpAddr>,
    /// Highest CSeq number that it has used.
    pub cseq: u32,
}

impl Dialog {
    /// The party on `side`, in a call whose caller is on `caller`.
    pub fn party(&self, side: Side, caller: Side) -> &Party {
        if side == caller { &self.caller } else { &self.callee }
    }

    pub fn party_mut(&mut self, side: Side, caller: Side) -> &mut Party {
        if side == caller { &mut self.caller } else { &mut self.callee }
    }
}

impl Party {
    /// Whether this party's Contact, route set or last flow names an address.
    pub fn names(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let leads_there = |uri: &[u8]| {
            route::destination(uri)
                .is_some_and(|to| matches!(to.host, Host::Address(ip) if ip.to_canonical() == address))
        };
        self.hop.remote.ip().to_canonical() == address
            || self.resolved.is_some_and(|resolved| resolved.to_canonical() == address)
            || leads_there(&self.target)
            || self.routes.iter().any(|value| leads_there(route::address(value)))
    }
}
