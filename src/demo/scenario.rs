//! What the two simulated parties do in each call. The number called says it, so that neither
//! needs to be told of the other's part.

use std::time::Duration;

use rsip::headers::UntypedHeader;
use rsip::message::{HasHeaders, HeadersExt};
use rsip::{Header, Method, Request, SipMessage};
use tokio::time::Instant;

use super::agent::Call;
use crate::outcome::Outcome;

/// Ringing before somebody answers.
const RING: Duration = Duration::from_millis(600);
/// Talking before somebody hangs up.
const TALK: Duration = Duration::from_millis(1_200);
/// Ringing before a caller without patience gives up.
const PATIENCE: Duration = Duration::from_millis(900);
/// Longest wait for any message; nothing in the demo takes so long.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The header that the sidecar stamps.
const STAMP: &str = "Call-Outcome";

/// A kind of call.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The number to call.
    pub number: &'static str,
    /// What has to come of it.
    pub outcome: Outcome,
    caller: Caller,
    callee: Callee,
}

/// What the dialer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Hangs up after talking.
    HangsUp,
    /// Waits for the other side to hang up, or for whatever comes.
    Waits,
    /// Says on its BYE that a message was left.
    DropsVoicemail,
    /// Gives up while it rings.
    GivesUp,
}

/// What the telephony server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callee {
    Answers,
    AnswersAndHangsUp,
    /// Rings until it is cancelled.
    Rings,
    Refuses(u16, &'static str),
    /// Does not even say 100.
    Silent,
}

/// One call of each outcome.
pub const FIRST: [Scenario; Outcome::COUNT] = [
    NORMAL,
    refused("+15550186", Outcome::NumberBusy, 486, "Busy Here"),
    NO_ANSWER,
    refused("+15550180", Outcome::NumberUnobtainable, 480, "Temporarily Unavailable"),
    refused("+15550130", Outcome::NumberChanged, 302, "Moved Temporarily"),
    refused("+15550188", Outcome::CallRejected, 488, "Not Acceptable Here"),
    refused("+15550104", Outcome::CallFailed, 404, "Not Found"),
    VOICEMAIL_DROP,
];

/// What goes on afterwards, over and over: about what a day in a contact centre looks like.
pub const MIX: [Scenario; 16] = [
    NORMAL,
    NO_ANSWER,
    HUNG_UP_BY_CALLEE,
    refused("+15550186", Outcome::NumberBusy, 486, "Busy Here"),
    VOICEMAIL_DROP,
    NORMAL,
    refused("+15550180", Outcome::NumberUnobtainable, 480, "Temporarily Unavailable"),
    GIVEN_UP,
    NORMAL,
    NO_ANSWER,
    refused("+15550130", Outcome::NumberChanged, 302, "Moved Temporarily"),
    VOICEMAIL_DROP,
    NO_RESPONSE,
    refused("+15550107", Outcome::CallFailed, 607, "Unwanted"),
    HUNG_UP_BY_CALLEE,
    refused("+15550188", Outcome::CallRejected, 488, "Not Acceptable Here"),
];

const NORMAL: Scenario =
    Scenario { number: "+15550100", outcome: Outcome::Normal, caller: Caller::HangsUp, callee: Callee::Answers };
const HUNG_UP_BY_CALLEE: Scenario = Scenario {
    number: "+15550101",
    outcome: Outcome::Normal,
    caller: Caller::Waits,
    callee: Callee::AnswersAndHangsUp,
};
const VOICEMAIL_DROP: Scenario = Scenario {
    number: "+15550199",
    outcome: Outcome::VoicemailDrop,
    caller: Caller::DropsVoicemail,
    callee: Callee::Answers,
};
const NO_ANSWER: Scenario =
    Scenario { number: "+15550118", outcome: Outcome::NoAnswer, caller: Caller::Waits, callee: Callee::Rings };
const NO_RESPONSE: Scenario =
    Scenario { number: "+15550119", outcome: Outcome::NoAnswer, caller: Caller::Waits, callee: Callee::Silent };
const GIVEN_UP: Scenario =
    Scenario { number: "+15550187", outcome: Outcome::CallFailed, caller: Caller::GivesUp, callee: Callee::Rings };

const fn refused(number: &'static str, outcome: Outcome, code: u16, phrase: &'static str) -> Scenario {
    Scenario { number, outcome, caller: Caller::Waits, callee: Callee::Refuses(code, phrase) }
}

impl Scenario {
    /// The scenario of a number.
    fn of_number(number: &str) -> Option<Scenario> {
        FIRST.iter().chain(&MIX).find(|scenario| scenario.number == number).copied()
    }

    /// The dialer's part, from the INVITE to the end. The outcome in the last stamp that it read.
    pub async fn place(self, mut call: Call) -> Option<String> {
        let progressive = Header::Other("Dialing-Mode".into(), "progressive".into());
        call.invite(if self.caller == Caller::DropsVoicemail { vec![progressive] } else { Vec::new() }).await;
        let answered = self.wait_for_answer(&mut call).await?;
        if !answered.is_success {
            return answered.stamp;
        }
        let hang_up = Instant::now() + if self.caller == Caller::Waits { GIVE_UP } else { TALK };
        if let Some(SipMessage::Request(request)) = call.receive(hang_up).await {
            call.respond(&request, 200, "OK", Vec::new()).await;
            return stamp(&request);
        }
        let drop = Header::Other("Voicemail-Drop".into(), "true".into());
        call.bye(if self.caller == Caller::DropsVoicemail { vec![drop] } else { Vec::new() }).await;
        call.receive(Instant::now() + GIVE_UP).await.and_then(|response| stamp(&response))
    }

    /// The final response to the INVITE; `None` where none came.
    async fn wait_for_answer(self, call: &mut Call) -> Option<Answer> {
        let mut until = Instant::now() + if self.caller == Caller::GivesUp { PATIENCE } else { GIVE_UP };
        let mut gave_up = self.caller != Caller::GivesUp;
        loop {
            match call.receive(until).await {
                Some(SipMessage::Response(response)) => {
                    let code = response.status_code.code();
                    let is_to_invite = response.cseq_header().is_ok_and(|cseq| cseq.value().ends_with("INVITE"));
                    if code >= 200 && is_to_invite {
                        call.acknowledge(&response).await;
                        return Some(Answer { is_success: code < 300, stamp: stamp(&response) });
                    }
                }
                Some(SipMessage::Request(_)) => {}
                None if gave_up => return None,
                None => {
                    call.cancel().await;
                    gave_up = true;
                    until = Instant::now() + GIVE_UP;
                }
            }
        }
    }
}

/// A final response as the dialer sees it.
struct Answer {
    is_success: bool,
    stamp: Option<String>,
}

/// The telephony server's part in a call that came in.
pub async fn answer(mut call: Call, invite: Request) {
    let callee = match invite.uri.user().and_then(Scenario::of_number) {
        Some(scenario) => scenario.callee,
        None => Callee::Refuses(404, "Not Found"),
    };
    match callee {
        Callee::Silent => while call.receive(Instant::now() + GIVE_UP).await.is_some() {},
        Callee::Refuses(code, phrase) => {
            let elsewhere = Header::Contact("<sip:+15550131@127.0.0.3>".into());
            let headers = if (300..400).contains(&code) { vec![elsewhere] } else { Vec::new() };
            call.respond(&invite, code, phrase, headers).await;
            wait_for(&mut call, Method::Ack, Instant::now() + GIVE_UP).await;
        }
        Callee::Rings => {
            call.respond(&invite, 180, "Ringing", Vec::new()).await;
            if let Some(cancel) = wait_for(&mut call, Method::Cancel, Instant::now() + GIVE_UP).await {
                end_cancelled(&mut call, &invite, &cancel).await;
            }
        }
        Callee::Answers | Callee::AnswersAndHangsUp => {
            call.respond(&invite, 180, "Ringing", Vec::new()).await;
            if let Some(cancel) = wait_for(&mut call, Method::Cancel, Instant::now() + RING).await {
                return end_cancelled(&mut call, &invite, &cancel).await;
            }
            call.respond(&invite, 200, "OK", Vec::new()).await;
            wait_for(&mut call, Method::Ack, Instant::now() + GIVE_UP).await;
            talk(&mut call, callee == Callee::AnswersAndHangsUp).await;
        }
    }
}

/// From the ACK to the end.
async fn talk(call: &mut Call, hangs_up: bool) {
    let until = Instant::now() + if hangs_up { TALK } else { GIVE_UP };
    match wait_for(call, Method::Bye, until).await {
        Some(bye) => call.respond(&bye, 200, "OK", Vec::new()).await,
        None => {
            call.bye(Vec::new()).await;
            call.receive(Instant::now() + GIVE_UP).await;
        }
    }
}

/// §9.2: 200 for the CANCEL, 487 for the INVITE.
async fn end_cancelled(call: &mut Call, invite: &Request, cancel: &Request) {
    call.respond(cancel, 200, "OK", Vec::new()).await;
    call.respond(invite, 487, "Request Terminated", Vec::new()).await;
    wait_for(call, Method::Ack, Instant::now() + GIVE_UP).await;
}

/// The next request of a method; others are passed over.
async fn wait_for(call: &mut Call, method: Method, until: Instant) -> Option<Request> {
    loop {
        match call.receive(until).await? {
            SipMessage::Request(request) if request.method == method => return Some(request),
            _ => {}
        }
    }
}

/// The outcome that the sidecar wrote on a message.
fn stamp(message: &impl HasHeaders) -> Option<String> {
    message.headers().iter().find_map(|header| match header {
        Header::Other(name, value) if name.eq_ignore_ascii_case(STAMP) => {
            value.split(';').next().map(|outcome| outcome.trim().to_owned())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_calls_have_each_outcome_once() {
        for outcome in Outcome::ALL {
            assert_eq!(FIRST.iter().filter(|scenario| scenario.outcome == *outcome).count(), 1, "{outcome}");
        }
    }

    #[test]
    fn a_number_names_one_part_of_the_callee_only() {
        for scenario in FIRST.iter().chain(&MIX) {
            let found = Scenario::of_number(scenario.number).unwrap();
            assert_eq!((found.callee, found.outcome), (scenario.callee, scenario.outcome), "{}", scenario.number);
        }
        assert!(Scenario::of_number("+15550142").is_none());
    }

    #[test]
    fn every_refusal_has_the_outcome_of_its_code() {
        for scenario in FIRST.iter().chain(&MIX) {
            if let Callee::Refuses(code, _) = scenario.callee {
                assert_eq!(crate::outcome::of_code(code), scenario.outcome, "{code}");
            }
        }
    }

    #[test]
    fn a_stamp_is_read_without_its_parameters() {
        let text = "SIP/2.0 486 Busy Here\r\ncall-outcome: NumberBusy;cause=peer_final;id=1\r\n\r\n";
        assert_eq!(stamp(&SipMessage::try_from(text).unwrap()).as_deref(), Some("NumberBusy"));
    }
}
