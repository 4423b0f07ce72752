//! `[[events.webhooks]]` as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::Key;

/// A receiver of events over HTTP, signed as Standard Webhooks has it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline, extend("required" = ["name", "url", "secret_file"]))]
pub struct Webhook {
    /// Label in metrics, as `webhook:NAME`; by it the journal knows how far the receiver has come.
    #[schemars(example = &"crm")]
    pub name: Key<String>,
    /// Where events are posted; https, plain http only to loopback.
    #[schemars(example = "https://crm.example/hooks/calls")]
    pub url: Key<String>,
    /// File with the secret: `whsec_` and base64, or any text; of several lines each one signs.
    #[schemars(example = "/etc/sipstamp/webhook.key")]
    pub secret_file: Key<String>,
    /// Longest time for an answer. 1s to 5m. Default: 15s.
    #[schemars(example = "15s")]
    pub timeout: Key<String>,
    /// Requests that are under way at once. Default: 8.
    #[schemars(range(min = 1, max = 256), example = 8)]
    pub max_in_flight: Key<u64>,
    /// Where events go that could not be delivered. Default: none, they wait as long as it takes.
    pub dead_letter: DeadLetter,
}

/// Where events go that could not be delivered.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct DeadLetter {
    /// File that one JSON object a line is appended to: the reason, and the event as it is.
    #[schemars(example = "/var/lib/sipstamp/crm.dead.jsonl")]
    pub file: Key<String>,
    /// How old an event gets before it goes there. 1s to 720h. Default: 24h.
    #[schemars(example = "24h")]
    pub after: Key<String>,
}
