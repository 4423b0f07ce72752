//! One attempt: a signed POST, and what its answer means.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use super::letter::Letter;
use super::retry;
use super::sign::signature;
use crate::config::{SigningKeys, Url, Webhook};
use crate::web::{Connector, chain, connector};

/// Bytes of an answer that are read so that its connection can be used again; a longer one costs its connection.
const ANSWER: usize = 64 * 1024;
/// How long a connection is kept that nothing is sent on.
const IDLE: Duration = Duration::from_secs(60);

/// Posts events to one receiver.
#[derive(Debug)]
pub struct Poster {
    client: Client<Connector, Full<Bytes>>,
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
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(webhook.max_in_flight)
            .build(connector(&url.0, None)?);
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
