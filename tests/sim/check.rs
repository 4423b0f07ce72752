//! What must be true when everything is over.

use std::collections::BTreeMap;

use sipstamp::event::CallData;
use sipstamp::outcome::{CodeSource, EndCause};

use super::Sim;

impl Sim {
    pub fn check(&self) {
        assert_eq!(self.endpoint.active_calls(), 0, "{:#?}", self.endpoint.calls(Default::default(), None, 3));
        assert_eq!(self.endpoint.pending_work(), 0, "{:?}", self.endpoint);
        self.check_counters();
        self.check_stamps();
        self.check_callers();
        if !self.is_stopped {
            self.check_dialogs();
        }
    }

    /// One event for each call, one count for each event.
    fn check_counters(&self) {
        let mut samples = BTreeMap::<String, u64>::new();
        self.endpoint.samples(&mut |sample| {
            let labels = sample.labels.iter().map(|(_, value)| format!(" {value}")).collect::<String>();
            *samples.entry(format!("{}{labels}", sample.name)).or_default() += sample.value;
        });
        let sum = |start: &str| {
            samples.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum::<u64>()
        };
        assert_eq!(sum("sipstamp_accounting_imbalance"), 0);
        assert_eq!(sum("sipstamp_calls_active"), 0);
        if self.restarts > 0 {
            // Counters begin anew with each process.
            let ended = self.ended.keys().cloned().collect();
            assert_eq!(self.started, ended, "one event for each call");
            return;
        }
        assert_eq!(sum("sipstamp_calls_started_total"), self.ended.len() as u64, "one event for each call");
        let mut told = BTreeMap::<String, u64>::new();
        for call in self.ended.values() {
            let direction = call.direction.label();
            *told.entry(format!("sipstamp_call_outcomes_total {} {direction}", outcome(call))).or_default() += 1;
            *told.entry(format!("sipstamp_call_end_causes_total {} {direction}", cause(call))).or_default() += 1;
        }
        for start in ["sipstamp_call_outcomes_total", "sipstamp_call_end_causes_total"] {
            let counted = samples.iter().filter(|(name, value)| name.starts_with(start) && **value > 0);
            let told = told.iter().filter(|(name, _)| name.starts_with(start));
            assert_eq!(counted.collect::<Vec<_>>(), told.collect::<Vec<_>>());
        }
    }

    /// What the dialer was told agrees with the event; a 2xx and a drop that was told of late are provisional.
    fn check_stamps(&self) {
        for (uid, stamped, stamped_cause) in &self.stamps {
            let call = self.ended.get(uid).expect("a stamp without an event");
            let outcome = outcome(call);
            let is_drop = outcome == "VoicemailDrop" && stamped == "Normal";
            assert!(outcome == stamped || is_drop, "{stamped} was stamped, {outcome} told: {call:#?}");
            match stamped_cause {
                Some(stamped) => assert_eq!(cause(call), stamped, "{call:#?}"),
                None => assert!(outcome == "Normal" || is_drop, "{call:#?}"),
            }
        }
    }

    /// What a caller saw is what is told of its call.
    fn check_callers(&self) {
        for caller in &self.callers {
            let calls = self.ended.values().filter(|call| call.call_id == caller.uac.call_id).collect::<Vec<_>>();
            let [call] = calls[..] else { continue };
            let answered = caller.finals.iter().any(|(_, code)| *code < 300);
            let is_normal = matches!(outcome(call), "Normal" | "VoicemailDrop");
            if answered {
                assert!(is_normal, "{call:#?}");
            }
            if is_normal {
                let callees = self.callees.iter().filter(|callee| callee.uas.invite.one("Call-ID") == call.call_id);
                assert!(callees.into_iter().any(|callee| callee.code == Some(200)), "nobody answered: {call:#?}");
                assert_eq!(call.sip_code, Some(200));
                assert!(call.answered_at.is_some() && call.talk_ms.is_some());
            }
            let Some((_, last)) = caller.finals.last() else { continue };
            match call.code_source {
                Some(CodeSource::None) => assert_eq!((*last, call.sip_code), (408, None), "{call:#?}"),
                // A challenge may have been the last that the caller saw of what went on.
                _ if matches!(last, 401 | 407 | 422) => {}
                _ => assert_eq!(Some(*last), call.sip_code, "{call:#?}"),
            }
            if call.end_cause == Some(EndCause::AuthFailed) {
                assert!(matches!(call.sip_code, Some(401 | 407 | 422)));
            }
        }
    }

    /// Nobody is left talking to nobody.
    fn check_dialogs(&self) {
        for callee in &self.callees {
            for dialog in &callee.dialogs {
                assert!(
                    dialog.is_over,
                    "a callee is still up: {} {}",
                    dialog.uas.invite.one("Call-ID"),
                    dialog.uas.tag
                );
            }
        }
        for dialog in self.callers.iter().flat_map(|caller| &caller.dialogs) {
            assert!(dialog.is_over, "a caller is still up: {} {:?}", dialog.uac.call_id, dialog.uac.to_tag);
        }
    }
}

fn outcome(call: &CallData) -> &'static str {
    call.outcome.expect("an outcome").label()
}

fn cause(call: &CallData) -> &'static str {
    call.end_cause.expect("an end cause").label()
}
