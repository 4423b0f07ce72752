//! A receiver of events over HTTP, as used.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use secrecy::{ExposeSecret, SecretSlice};

/// One of `[[events.webhooks]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub name: Arc<str>,
    pub url: Url,
    pub keys: SigningKeys,
    pub timeout: Duration,
    /// Requests that are under way at once.
    pub max_in_flight: usize,
    pub dead_letter: Option<DeadLetter>,
}

/// Where events go that could not be delivered, and after how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub file: PathBuf,
    pub after: Duration,
}

/// An address of which only scheme and host are shown: in many a path or query lies a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(pub Uri);

/// What bodies are signed with: one key, or several while they are exchanged. Never shown.
#[derive(Clone)]
pub struct SigningKeys(Arc<[SecretSlice<u8>]>);

impl Webhook {
    /// The sink's name in metrics, and in the journal.
    pub fn sink(&self) -> String {
        format!("webhook:{}", self.name)
    }
}

impl SigningKeys {
    pub fn new(keys: Vec<Vec<u8>>) -> SigningKeys {
        SigningKeys(keys.into_iter().map(SecretSlice::from).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(ExposeSecret::expose_secret)
    }
}

impl PartialEq for SigningKeys {
    fn eq(&self, other: &SigningKeys) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} secret]", self.0.len())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (self.0.scheme_str().unwrap_or_default(), self.0.host().unwrap_or_default());
        write!(f, "{scheme}://{host}/…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let webhook = Webhook {
            name: "crm".into(),
            url: Url("https://crm.example:8443/hooks/T0K3N?key=T0K3N".parse().unwrap()),
            keys: SigningKeys::new(vec![b"S3CR3T".to_vec()]),
            timeout: Duration::from_secs(15),
            max_in_flight: 8,
            dead_letter: None,
        };
        let shown = format!("{webhook:?} {webhook:#?}");
        assert!(shown.contains("https://crm.example/…"), "{shown}");
        for secret in ["T0K3N", "S3CR3T", "83, 51"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
