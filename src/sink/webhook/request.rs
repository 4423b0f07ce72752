//! One attempt: a signed POST, and what its answer means.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};

use super::letter::Letter;
use super::retry;
use super::sign::signature;
use crate::config::{SigningKeys, Url, Webhook};

/// Bytes of an answer that are read so that its connection can be used again; a longer one costs its connection.
const ANSWER: usize = 64 * 1024;
/// How long a connection is kept that nothing is sent on.
const IDLE: Duration = Duration::from_secs(60);

/// Posts events to one receiver.
#[derive(Debug)]
pub struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Url,
    keys: SigningKeys,
    timeout: Duration,
}

/// What has become of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Delivered,
    /// 410: the receiver wants no events any more.
    Gone,
    Failed(Failure),
}

/// Why an attempt has failed. Neither the URL nor a secret is in the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// It says nothing about the event: the receiver could not be reached, or takes nothing now.
    pub is_receivers: bool,
    pub retry_after: Option<Duration>,
}

impl Poster {
    /// # Errors
    /// Where there are no authorities to verify the receiver's certificate with.
    pub fn new(webhook: &Webhook) -> io::Result<Poster> {
        let url = webhook.url.clone();
        let is_https = url.0.scheme_str() == Some("https");
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls(is_https)?);
        // HTTP/2 would put all requests on one connection, and one lost packet would hold up all of them.
        let connector = if is_https { https.https_only() } else { https.https_or_http() }.enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(webhook.max_in_flight)
            .build(connector.wrap_connector(http));
        Ok(Poster { client, url, keys: webhook.keys.clone(), timeout: webhook.timeout })
    }

    /// Posts an event once.
    pub async fn post(&self, letter: &Letter) -> Answer {
        let until = Instant::now() + self.timeout;
        let request = match self.request(letter, SystemTime::now()) {
            Ok(request) => request,
            Err(error) => return Answer::failed(chain(&error), false),
        };
        let response = match timeout_at(until, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Answer::failed(chain(&error), error.is_connect()),
            Err(_) => return Answer::failed(format!("no answer within {:?}", self.timeout), false),
        };
        let (head, mut body) = response.into_parts();
        // The status has decided; the rest is read for the connection's sake.
        let mut left = ANSWER;
        while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => break,
            }
        }
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        answer(head.status, retry_after.and_then(|value| retry::retry_after(value, SystemTime::now())))
    }

    fn request(&self, letter: &Letter, now: SystemTime) -> http::Result<Request<Full<Bytes>>> {
        let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut signature = HeaderValue::try_from(signature(&self.keys, &letter.id, timestamp, &letter.body))?;
        signature.set_sensitive(true);
        Request::builder()
            .method(Method::POST)
            .uri(self.url.0.clone())
            .header(CONTENT_TYPE, "application/cloudevents+json")
            .header(USER_AGENT, concat!("sipstamp/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &*letter.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(Full::new(Bytes::from_owner(letter.body.clone())))
    }
}

impl Answer {
    fn failed(reason: String, is_receivers: bool) -> Answer {
        Answer::Failed(Failure { reason, is_receivers, retry_after: None })
    }
}

/// What a status means. A redirect is a failure: a signed event goes where it was told to go, or nowhere.
fn answer(status: StatusCode, retry_after: Option<Duration>) -> Answer {
    match status.as_u16() {
        200..=299 => Answer::Delivered,
        410 => Answer::Gone,
        code => Answer::Failed(Failure {
            reason: format!("status {code}"),
            is_receivers: matches!(code, 429 | 502..=504),
            retry_after,
        }),
    }
}

/// The system's authorities: a receiver inside the house has a certificate of the house, which no list that is compiled in
/// could know. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
fn tls(needs_authorities: bool) -> io::Result<ClientConfig> {
    let mut authorities = RootCertStore::empty();
    if needs_authorities {
        let found = rustls_native_certs::load_native_certs();
        authorities.add_parsable_certificates(found.certs);
        if authorities.is_empty() {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(io::Error::other(format!(
                "no certificate authority is found{why}; install `ca-certificates`, or name a file with SSL_CERT_FILE"
            )));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?;
    Ok(config.with_root_certificates(authorities).with_no_client_auth())
}

/// An error and what is behind it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A string takes everything.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides() {
        let of = |code| answer(StatusCode::from_u16(code).unwrap(), None);
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(of(code), Answer::Delivered);
        }
        assert_eq!(of(410), Answer::Gone);
        for (code, is_receivers) in
            [(301, false), (307, false), (400, false), (404, false), (429, true), (500, false), (503, true)]
        {
            let Answer::Failed(failure) = of(code) else { panic!("{code}") };
            assert_eq!((failure.reason, failure.is_receivers), (format!("status {code}"), is_receivers));
        }
    }
}
