//! Questions and commands: what an operator asks of open calls.

use std::sync::Arc;

use super::{Endpoint, Filter, Refusal};
use crate::arena::Handle;
use crate::call::{Call, Phase, Reasons};
use crate::event::CallView;
use crate::outcome::EndCause;
use crate::stats::{DropResult, Gauges, Sample};
use crate::time::Now;
use crate::transaction::server::{ServerTx, State};

impl Endpoint {
    /// Ends a call: CANCEL before the answer, BYE to both sides after it.
    pub fn hang_up(&mut self, now: Now, id: &str) -> Result<CallView, Refusal> {
        self.advance(now);
        let handle = self.find(id)?;
        let view = self.calls.get(handle).and_then(|call| self.view(call)).ok_or(Refusal::NotFound)?;
        self.hang_up_call(handle)?;
        // What has ended by this is shown as it was.
        Ok(self.calls.get(handle).and_then(|call| self.view(call)).unwrap_or(view))
    }

    /// Marks a call as a voicemail drop. Idempotent. Of a call that is not open, whoever asks counts it, as
    /// [`Endpoint::refuse_voicemail_drop`] has it: it may be another worker's.
    pub fn voicemail_drop(&mut self, now: Now, id: &str) -> Result<CallView, Refusal> {
        self.advance(now);
        let handle = self.find(id)?;
        self.drop_voicemail(handle).map_err(|refused| match refused {
            DropResult::UnknownCall => Refusal::NotFound,
            refused => Refusal::Conflict(refused.explanation()),
        })?;
        self.calls.get(handle).and_then(|call| self.view(call)).ok_or(Refusal::NotFound)
    }

    /// A voicemail drop was asked for a call that nobody has open. `has_ended`: there was one.
    pub fn refuse_voicemail_drop(&mut self, has_ended: bool) {
        self.stats.on_voicemail_drop(if has_ended { DropResult::Ended } else { DropResult::UnknownCall });
    }

    /// An open call by call_uid, else by Call-ID or correlation.
    pub fn call(&self, id: &str) -> Result<CallView, Refusal> {
        let handle = self.find(id)?;
        self.calls.get(handle).and_then(|call| self.view(call)).ok_or(Refusal::NotFound)
    }

    /// Open calls in the order of their call_uid, from behind `after` on.
    pub fn calls(&self, filter: Filter, after: Option<&str>, limit: usize) -> Vec<CallView> {
        let passes = |call: &&Call| {
            filter.state.is_none_or(|state| call.state == state)
                && filter.direction.is_none_or(|direction| call.direction == direction)
        };
        let mut found = self.calls.iter().map(|(_, call)| call).filter(passes).collect::<Vec<_>>();
        found.sort_by_key(|call| call.uid);
        let is_behind = |call: &&&Call| after.is_none_or(|after| &*call.uid.text() > after);
        found.iter().filter(is_behind).take(limit).filter_map(|call| self.view(call)).collect()
    }

    /// How many calls are open.
    pub fn active_calls(&self) -> usize {
        self.calls.len()
    }

    /// Transactions, timers and whatever else is kept beside the open calls: zero when all is quiet.
    pub fn pending_work(&self) -> usize {
        self.server_txs.len() + self.client_txs.len() + self.wheel.len() + self.pending.len() + self.loose.len()
    }

    /// Whether a final response to an INVITE waits for its ACK, and may have to be sent again.
    pub fn awaits_ack(&self) -> bool {
        // One that is not repeated by itself has been sent, and that is all.
        let is_repeated = |server: &ServerTx| server.state == State::Completed && server.retransmit.is_some();
        self.server_txs.iter().any(|(_, server)| server.is_invite && is_repeated(server))
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether each configured server is up as far as calls have shown, by name.
    pub fn servers_up(&self) -> Vec<(Arc<str>, bool)> {
        let up = |server: &crate::policy::Server| (server.name.clone(), !self.health_of(server.id).is_down());
        self.policy.servers.iter().map(up).collect()
    }

    /// All figures, for a scrape. Every series that can exist by configuration exists from the start.
    pub fn samples(&self, visit: &mut dyn FnMut(Sample<'_>)) {
        let mut gauges = Gauges::new(self.calls.len());
        for (_, call) in self.calls.iter() {
            gauges.count(call.state, call.direction, call.server);
        }
        self.stats.visit(&self.policy, &gauges, &|server| !self.health_of(server).is_down(), visit);
    }

    fn hang_up_call(&mut self, handle: Handle) -> Result<(), Refusal> {
        let Some(call) = self.calls.get(handle) else { return Err(Refusal::NotFound) };
        match &call.phase {
            Phase::Setup(_) => self.stop(handle, EndCause::HungUp, Reasons::default(), ""),
            Phase::Challenged(_) => self.emit(handle, EndCause::HungUp, self.now.mono),
            Phase::Answered => self.terminate(handle, None, EndCause::AnsweredHungUp),
            Phase::Ending(_) => return Err(Refusal::Conflict("the call has ended")),
        }
        Ok(())
    }

    fn find(&self, id: &str) -> Result<Handle, Refusal> {
        // A call_uid is 26 characters long and nothing else looks like one to us.
        if id.len() == 26 {
            let by_uid = self.calls.iter().find(|(_, call)| &*call.uid.text() == id).map(|(handle, _)| handle);
            if let Some(handle) = by_uid {
                return Ok(handle);
            }
        }
        let named = |handle: &Handle| {
            let is_it = |name: Option<&[u8]>| name == Some(id.as_bytes());
            let identity = self.calls.get(*handle).map(|call| &call.identity);
            identity.is_some_and(|identity| is_it(Some(identity.call_id())) || is_it(identity.correlation()))
        };
        let mut found = self.calls.by_name(self.keys.name(id.as_bytes()));
        found.dedup();
        found.retain(|handle| named(handle));
        match found.as_slice() {
            [] => Err(Refusal::NotFound),
            [one] => Ok(*one),
            several => Err(Refusal::Ambiguous(several.len())),
        }
    }
}
