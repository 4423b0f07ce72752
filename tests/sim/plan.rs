//! What the two ends of a call are going to do, and what the weather is like.

use super::rng::Rng;

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing is lost.
    Calm,
    /// Loss, duplication, delay, reordering.
    Storm,
    /// A mild network; hang-ups, voicemail drops, reloads, limits, drains, exits, dead servers.
    Operators,
    /// A mild network; the process is killed now and then, and another one goes on with its journal.
    Restarts,
}

/// What happens to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Of a hundred.
    pub loss: u64,
    pub duplication: u64,
    /// Milliseconds.
    pub delay: (u64, u64),
}

/// What the caller does. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct CallerPlan {
    pub is_inbound: bool,
    pub is_progressive: bool,
    pub is_large: bool,
    /// Keeps no route set, as SIPp's built-in scenarios.
    pub keeps_no_route: bool,
    pub no_answer_header: Option<u64>,
    /// Gives up so long after its INVITE, with these Reason fields.
    pub cancels: Option<(u64, Option<&'static str>)>,
    /// Gives up with a BYE where there is an early dialog.
    pub cancels_by_bye: bool,
    pub retries_challenges: bool,
    pub retries_with_same_cseq: bool,
    pub acknowledges: bool,
    /// Hangs up so long after the answer.
    pub hangs_up: Option<u64>,
    pub tells_drop_on_bye: bool,
    /// A request inside the dialog so long after the answer.
    pub asks: Option<(u64, &'static str)>,
    pub pracks: bool,
    pub follows_redirects: bool,
}

/// What one callee does with an INVITE.
#[derive(Clone, Debug)]
pub struct CalleePlan {
    /// Responses: when, code, which fork.
    pub replies: Vec<(u64, u16, usize)>,
    pub on_cancel: OnCancel,
    /// Hangs up so long after the answer.
    pub hangs_up: Option<u64>,
    pub on_bye: u16,
    pub session_expires: Option<u64>,
    pub contact_is_a_name: bool,
    pub asks: Option<(u64, &'static str)>,
    pub retry_after: bool,
    pub reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCancel {
    /// 200 and 487.
    Terminate,
    /// 200, and the call goes on as planned.
    Acknowledge,
    /// Nothing at all.
    Ignore,
    /// 200 to the CANCEL and 200 to the INVITE.
    Answer,
}

impl Network {
    pub fn new(weather: Weather, rng: &mut Rng) -> Network {
        match weather {
            Weather::Calm => Network { loss: 0, duplication: 0, delay: (1, rng.within(1, 40)) },
            Weather::Operators | Weather::Restarts => {
                Network { loss: rng.within(0, 5), duplication: rng.within(0, 5), delay: (1, 60) }
            }
            Weather::Storm => {
                let slowest = rng.pick(&[20, 80, 300, 900]);
                Network { loss: rng.within(0, 25), duplication: rng.within(0, 15), delay: (1, slowest) }
            }
        }
    }
}

impl CallerPlan {
    pub fn new(rng: &mut Rng) -> CallerPlan {
        let reasons = [
            None,
            None,
            Some("Q.850;cause=19"),
            Some("SIP;cause=200;text=\"Call completed elsewhere\""),
            Some("SIP;cause=487"),
        ];
        let cancels =
            rng.chance(25).then(|| (rng.pick(&[0, 1, 50, 400, 1_200, 5_000, 29_900, 30_100]), rng.pick(&reasons)));
        CallerPlan {
            is_inbound: rng.chance(30),
            is_progressive: rng.chance(30),
            is_large: rng.chance(5),
            keeps_no_route: rng.chance(15),
            no_answer_header: rng.chance(10).then(|| rng.within(1, 40)),
            cancels,
            cancels_by_bye: rng.chance(15),
            retries_challenges: rng.chance(80),
            retries_with_same_cseq: rng.chance(15),
            acknowledges: rng.chance(95),
            hangs_up: rng.chance(60).then(|| rng.pick(&[0, 1, 30, 700, 4_000, 31_999, 90_000])),
            tells_drop_on_bye: rng.chance(20),
            asks: rng
                .chance(25)
                .then(|| (rng.within(0, 3_000), rng.pick(&["INVITE", "UPDATE", "INFO", "REFER", "OPTIONS"]))),
            pracks: rng.chance(15),
            follows_redirects: rng.chance(30),
        }
    }
}

impl CalleePlan {
    /// `attempt` counts the INVITEs of one call that came to anybody.
    pub fn new(rng: &mut Rng, attempt: usize) -> CalleePlan {
        CalleePlan {
            replies: replies(rng, attempt),
            on_cancel: rng.pick(&[
                OnCancel::Terminate,
                OnCancel::Terminate,
                OnCancel::Terminate,
                OnCancel::Acknowledge,
                OnCancel::Ignore,
                OnCancel::Answer,
            ]),
            hangs_up: rng.chance(40).then(|| rng.pick(&[0, 1, 30, 700, 4_000, 31_999, 90_000])),
            on_bye: rng.pick(&[200, 200, 200, 200, 200, 200, 481, 407, 0]),
            session_expires: rng.chance(10).then(|| rng.within(90, 120)),
            contact_is_a_name: rng.chance(5),
            asks: rng.chance(15).then(|| (rng.within(0, 3_000), rng.pick(&["INVITE", "UPDATE", "INFO", "NOTIFY"]))),
            retry_after: rng.chance(20),
            reason: rng.pick(&[None, None, Some("Q.850;cause=17"), Some("SIP;cause=503, Q.850;cause=34")]),
        }
    }
}

fn replies(rng: &mut Rng, attempt: usize) -> Vec<(u64, u16, usize)> {
    let mut replies = Vec::new();
    let mut at = rng.within(0, 300);
    if rng.chance(70) {
        replies.push((at, 100, 0));
    }
    for code in [183, 180, 199] {
        if rng.chance(if code == 180 { 65 } else { 15 }) {
            at += rng.within(0, 1_500);
            replies.push((at, code, 0));
        }
    }
    at += rng.pick(&[0, 10, 500, 3_000, 7_900, 12_000, 29_700, 30_050, 30_900, 32_500]);
    match rng.within(0, 99) {
        0..45 => {
            replies.push((at, 200, 0));
            if rng.chance(10) {
                replies.push((at + rng.within(0, 4_000), 200, 1));
            }
        }
        45..60 if attempt < 4 => replies.push((at, rng.pick(&[401, 407, 422]), 0)),
        60..70 => replies.push((at, rng.pick(&[500, 502, 503, 504]), 0)),
        70..75 => replies.push((at, rng.pick(&[300, 301, 302, 380]), 0)),
        75..80 => {}
        80..84 => replies.clear(),
        _ => {
            let codes = [486, 486, 480, 404, 488, 403, 408, 481, 484, 487, 600, 603, 604, 607, 608];
            replies.push((at, rng.pick(&codes), 0));
        }
    }
    replies
}
