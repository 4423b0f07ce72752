//! Logs to standard error, and what is shown of numbers in logs and events.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt as format, reload};

use crate::config::{LogFormat, Logging, MaskNumbers};
use crate::event::CallData;

/// How many characters of a number stay readable.
const READABLE: usize = 2;

/// A number or user in a log line, masked as events are.
#[derive(Clone, Copy, Debug)]
pub struct Masked<'a>(pub &'a MaskNumbers, pub &'a str);

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Begins to log. Where the process has a subscriber already (tests), that one stays.
pub fn init(logging: &Logging) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(logging));
    let registry = tracing_subscriber::registry().with(filter);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let begun = match logging.format {
        LogFormat::Text => {
            registry.with(format::layer().with_ansi(is_terminal).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => registry.with(format::layer().json().with_writer(std::io::stderr)).try_init(),
    };
    if begun.is_err() {
        tracing::debug!("another subscriber is there");
    }
    LogLevel(handle)
}

/// Masks the numbers of a call where they leave the process.
pub fn mask(how: &MaskNumbers, call: &mut CallData) {
    for number in [&mut call.from, &mut call.to, &mut call.request_user].into_iter().flatten() {
        if let Cow::Owned(masked) = masked(how, number) {
            *number = masked;
        }
    }
}

impl LogLevel {
    /// Takes on the level of a new configuration.
    pub fn change(&self, logging: &Logging) {
        if let Err(error) = self.0.reload(filter(logging)) {
            tracing::warn!(%error, "log.level stays as it is");
        }
    }
}

/// The configuration has checked the directive; should it fail all the same, the default is no surprise.
fn filter(logging: &Logging) -> EnvFilter {
    EnvFilter::try_new(&logging.level).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn masked<'a>(how: &MaskNumbers, number: &'a str) -> Cow<'a, str> {
    match how {
        MaskNumbers::None => Cow::Borrowed(number),
        MaskNumbers::Partial => {
            let (plus, digits) = match number.strip_prefix('+') {
                Some(digits) => ("+", digits),
                None => ("", number),
            };
            let hidden = digits.chars().count().saturating_sub(READABLE);
            let readable: String = digits.chars().skip(hidden).collect();
            Cow::Owned(format!("{plus}{}{readable}", "*".repeat(hidden)))
        }
        MaskNumbers::Hash(key) => match Hmac::<Sha256>::new_from_slice(key) {
            Ok(mut hmac) => {
                hmac.update(number.as_bytes());
                let digest = hmac.finalize().into_bytes();
                Cow::Owned(digest.iter().map(|byte| format!("{byte:02x}")).collect())
            }
            // HMAC takes a key of any length; if it ever does not, nothing may be shown.
            Err(_) => Cow::Owned("*".repeat(number.chars().count())),
        },
    }
}

impl fmt::Display for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.0, self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_masking_keeps_the_plus_and_the_last_two() {
        let shown = |number| Masked(&MaskNumbers::Partial, number).to_string();
        assert_eq!(shown("+15550100"), "+******00");
        assert_eq!(shown("alice"), "***ce");
        assert_eq!(shown("+12"), "+12");
        assert_eq!(shown("é€ü"), "*€ü");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn hashes_are_those_of_hmac_sha256() {
        // RFC 4231, test case 2.
        let how = MaskNumbers::Hash(b"Jefe".as_slice().into());
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(Masked(&how, "what do ya want for nothing?").to_string(), expected);
    }

    #[test]
    fn of_a_call_the_numbers_are_masked_and_nothing_else() {
        let mut masked = call();
        mask(&MaskNumbers::Partial, &mut masked);
        let mut expected = call();
        expected.from = Some("+******00".to_owned());
        expected.to = Some("+******99".to_owned());
        expected.request_user = Some("******99".to_owned());
        assert_eq!(format!("{masked:?}"), format!("{expected:?}"));

        let mut open = call();
        mask(&MaskNumbers::None, &mut open);
        assert_eq!(format!("{open:?}"), format!("{:?}", call()));
    }

    fn call() -> CallData {
        CallData {
            call_uid: "01JD".to_owned(),
            call_id: "15550100@host".to_owned(),
            parent_call_uid: None,
            direction: crate::flow::Direction::Outbound,
            dialing_mode: None,
            outcome: None,
            sip_code: None,
            code_source: None,
            reason_phrase: None,
            end_cause: None,
            blocked: false,
            q850: None,
            progress_q850: None,
            reason: Vec::new(),
            rule: None,
            disposition: None,
            next: None,
            from: Some("+15550100".to_owned()),
            to: Some("+15550199".to_owned()),
            request_user: Some("15550199".to_owned()),
            from_tag: None,
            to_tag: None,
            correlation: Some("15550100".to_owned()),
            labels: std::collections::BTreeMap::new(),
            server: None,
            transport: crate::flow::Transport::Udp,
            attempts: Vec::new(),
            had_ringing: false,
            had_early_media: false,
            started_at: crate::time::Wall(0),
            ringing_at: None,
            answered_at: None,
            ended_at: None,
            post_dial_delay_ms: None,
            ring_ms: None,
            answer_delay_ms: None,
            talk_ms: None,
            ended_by: None,
            anomalies: Vec::new(),
        }
    }
}
