//! Voicemail drop: the dialer says that its agent left a recorded message.

use super::{Call, Phase};
use crate::arena::Handle;
use crate::endpoint::Endpoint;
use crate::flow::Direction;
use crate::sip::{Message, Method, Name, NameAddr};
use crate::stats::DropResult;
use crate::transaction::client::Note;

impl Endpoint {
    /// A notice of a drop, by whatever way it came; counted, and refused with its reason where it cannot be one.
    pub(crate) fn drop_voicemail(&mut self, handle: Handle) -> Result<(), DropResult> {
        let Some(call) = self.calls.get_mut(handle) else {
            self.stats.on_voicemail_drop(DropResult::UnknownCall);
            return Err(DropResult::UnknownCall);
        };
        let result = judge(call);
        if result == DropResult::Accepted {
            call.is_voicemail_drop = true;
        }
        self.stats.on_voicemail_drop(result);
        match result {
            DropResult::Accepted | DropResult::Repeated => Ok(()),
            refused => Err(refused),
        }
    }

    /// Reads the dialer's notice off a request inside the dialog.
    pub(super) fn hear_voicemail_drop(&mut self, handle: Handle, message: &Message, note: &mut Note) {
        let Some(call) = self.calls.get(handle) else { return };
        let policy = call.policy.clone();
        if !policy.dialer.trust_headers {
            return;
        }
        let notice = &policy.voicemail_drop;
        if matches!(message.method(), Method::Bye | Method::Info) {
            let says_so = |field| message.value(field).eq_ignore_ascii_case(notice.value.as_bytes());
            if message.named(&notice.header).any(says_so) {
                // Refusals are counted; the request goes on either way.
                let _ = self.drop_voicemail(handle);
            }
        }
        let Some(pattern) = &notice.target_pattern else { return };
        let target = match message.method() {
            Method::Refer => message.first(Name::ReferTo).map(|field| uri(message.value(field))),
            Method::Invite => Some(message.uri()),
            _ => None,
        };
        note.is_voicemail_drop = target.is_some_and(|target| pattern.is_match(&String::from_utf8_lossy(target)));
    }
}

/// The URI in a Refer-To, whatever it is.
fn uri(value: &[u8]) -> &[u8] {
    NameAddr::parse(value).map_or(value, |parsed| parsed.uri)
}

fn judge(call: &Call) -> DropResult {
    match &call.phase {
        _ if call.direction == Direction::Inbound => DropResult::Inbound,
        Phase::Setup(_) | Phase::Challenged(_) => DropResult::NotAnswered,
        _ if !call.is_progressive => DropResult::NotProgressive,
        Phase::Ending(ending) if !ending.is_in_grace && !call.is_voicemail_drop => DropResult::Ended,
        _ if call.is_voicemail_drop => DropResult::Repeated,
        _ => DropResult::Accepted,
    }
}
