//! Answers that nobody waits for any more: a 2xx after our own final response, or after another
//! server's 2xx, is acknowledged and ended here (RFC 3261 §13.2.2.4, RFC 5407 §3).

use super::answered::MOST_DIALOGS;
use super::contact;
use crate::arena::Handle;
use crate::endpoint::{Endpoint, Transmit};
use crate::flow::{Hop, Side};
use crate::outcome::Anomaly;
use crate::proxy::make;
use crate::proxy::route::{self, Host, Routes};
use crate::sip::{Message, Method, Name};
use crate::stats::{Race, Way};
use crate::transaction::client;

impl Endpoint {
    /// A response to an INVITE that was let go.
    pub(super) fn on_abandoned_response(&mut self, tx: Handle, call: Handle, message: &Message) {
        match message.code() {
            ..200 => {}
            200..300 => {
                if !self.clear_2xx(tx, message) {
                    return;
                }
                self.count_race(Race::Late2xx);
                self.note_anomaly(call, Anomaly::Late2xx);
            }
            _ => self.count_race(Race::LateFinal),
        }
    }

    /// A 2xx to an INVITE that has failed: a fork went on behind the server that told the failure. No transaction takes it
    /// any more (RFC 3261 §17.1.1.2).
    pub(crate) fn on_contradiction(&mut self, tx: Handle, message: &Message) {
        let tag = self.keys.name(message.to_tag().unwrap_or_default());
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        let is_leg = matches!(client.user, client::User::Leg { .. });
        let known = client.rare.as_ref().map_or(&[][..], |rare| &rare.answered);
        if !is_leg || known.len() >= MOST_DIALOGS || known.iter().any(|(known, ..)| *known == tag) {
            return self.on_repeated_response(tx);
        }
        let hop = *client.path;
        client.rare().answered.push((tag, hop, Box::default()));
        self.count_race(Race::AnswerAfterFailure);
    }

    /// ACK and BYE for a 2xx that nobody wants; the ACK alone when the 2xx comes again. True the first time.
    pub(super) fn clear_2xx(&mut self, tx: Handle, answer: &Message) -> bool {
        let tag = self.keys.name(answer.to_tag().unwrap_or_default());
        let Some(client) = self.client_txs.get(tx) else { return false };
        let (side, hop) = (client.side, *client.path);
        let answered = client.rare.as_ref().map_or(&[][..], |rare| &rare.answered);
        let known = answered.iter().find(|(known, ..)| *known == tag).cloned();
        if let Some((_, hop, ack)) = known {
            self.on_repeated_response(tx);
            self.send_ack(side, hop, &ack);
            return false;
        }
        if answered.len() >= MOST_DIALOGS {
            // No forking proxy has so many: each would be remembered, and gets two requests.
            self.on_repeated_response(tx);
            return false;
        }
        let Some(invite) = self.sent_request(tx) else { return false };
        let policy = self.policy.clone();
        let local = hop.local;
        let is_ours = |value: &[u8]| self.is_our_route(value, local);
        let recorded = route::recorded(&invite);
        let own = recorded.iter().take_while(|value| is_ours(value)).count();
        let upstream = recorded.get(own..).unwrap_or_default();
        let mut routes = crate::text::Line::<64>::new();
        for value in route::beyond_us(route::recorded(answer), upstream, is_ours) {
            Routes::put(&mut routes, value);
        }
        let routes = Routes(&routes);
        let target = contact(answer).unwrap_or(invite.uri());
        let hop = self.hop_of_party(routes.first(), target, hop);
        let (Some(from), Some(to)) = (invite.first(Name::From), answer.first(Name::To)) else { return false };
        let number = invite.cseq().number;
        let party = |cseq| make::Party {
            target,
            routes,
            from: invite.value(from),
            to: answer.value(to),
            call_id: invite.call_id(),
            cseq,
        };
        let own = self.keys.dialog(invite.call_id(), answer.to_tag().unwrap_or_default(), b"late");
        let text = self.own.at(&policy, side, hop.transport, hop.local);
        let (ack_branch, branch) = (self.keys.ack_branch(own, 0), self.keys.branch(own, 0, 0));
        let ack = make::in_dialog(Method::Ack, party(number), (&text.via, ack_branch), "", self.out.piece());
        let bytes =
            make::in_dialog(Method::Bye, party(number.saturating_add(1)), (&text.via, branch), "", self.out.piece());
        if let Some(client) = self.client_txs.get_mut(tx) {
            client.rare().answered.push((tag, hop, (&*ack).into()));
        }
        self.send_ack(side, hop, &ack);
        self.start_bye(branch, hop, side, bytes, client::User::Nobody);
        true
    }

    /// Where a request of ours to one party of a dialog goes: its first route, else its target; where that names no
    /// address, the way that its last message came.
    pub(crate) fn hop_of_party(&self, first_route: Option<&[u8]>, target: &[u8], last: Hop) -> Hop {
        let uri = first_route.map_or(target, route::address);
        let Some(to) = route::destination(uri) else { return last };
        let Host::Address(address) = to.host else { return last };
        let transport = to.transport.unwrap_or(last.transport);
        let remote = std::net::SocketAddr::new(address, to.port);
        if transport == last.transport && address.is_ipv4() == last.local.is_ipv4() {
            return Hop { remote, ..last };
        }
        match self.policy.listener(transport, address) {
            Some(listener) => {
                let local = std::net::SocketAddr::new(listener.address.ip(), listener.bound.port());
                Hop { transport, local, remote, connection: None }
            }
            None => last,
        }
    }

    fn send_ack(&mut self, side: Side, hop: Hop, ack: &[u8]) {
        self.stats.on_request(Method::Ack, side, Way::Sent);
        let bytes = self.out.copy(ack);
        self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
    }
}
