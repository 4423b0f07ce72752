//! Outcomes of one sidecar: `GET /v1/events` of its admin API.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sse_stream::SseStream;
use tokio::time::timeout;

use super::{PAUSE, Rows};
use crate::cli::complain;
use crate::text::printable;
use crate::web::{Connector, chain, connector};

/// Longest wait for an answer to begin, or, where it says what is wrong, to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// A sidecar that has said nothing for so long is asked by TCP whether it is still there.
const SILENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer that says what is wrong.
const MOST_OF_DETAIL: usize = 16 * 1024;

/// The API that a URL names, `http` unless it says otherwise.
///
/// # Errors
/// Where it is no such URL ([`io::ErrorKind::InvalidInput`]). It is not repeated: there may be a password in it.
pub fn api_of(url: &str) -> io::Result<Uri> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("--url {what}"));
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = url.parse().map_err(|_| wrong("is no URL; one is http://127.0.0.1:9060"))?;
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("must begin with http:// or https://, such as http://127.0.0.1:9060"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("must have no user name or password in it; a token belongs into a file: --token-file FILE"));
    }
    // A port that is no number would else stand for that of the scheme.
    if authority.port().is_none() && authority.host().len() != authority.as_str().len() {
        return Err(wrong("has no port number behind its colon; one is http://127.0.0.1:9060"));
    }
    if uri.query().is_some() {
        return Err(wrong("must end before its `?`, such as http://127.0.0.1:9060"));
    }
    Ok(uri)
}

/// Why no events come.
#[derive(Debug)]
enum Refusal {
    /// They may later.
    Passing(String),
    /// Not unless the user does something.
    Lasting(String),
}

/// Shows what comes, and opens the feed again where it ends.
///
/// # Errors
/// Where it cannot be had at first, or not without another token; where standard output is closed.
pub async fn follow(api: Uri, token_file: Option<&Path>) -> io::Result<()> {
    let feed = Feed {
        client: Client::builder(TokioExecutor::new()).build(connector(&api, Some(SILENCE))?),
        events: format!("{}/v1/events", api.to_string().trim_end_matches('/')),
        token_file,
    };
    let mut rows = Rows::new();
    // Why no events come, as far as the user knows.
    let mut told = None;
    loop {
        match feed.open().await {
            Ok(body) => {
                if told.take().is_some() {
                    complain("the feed is back");
                }
                rows.begin()?;
                let why = show(body, &mut rows).await?;
                complain(&format!("{why}; it is tried again, and what ends meanwhile is not shown"));
                told = Some(why);
            }
            Err(Refusal::Passing(why)) if rows.is_begun => {
                if told.as_ref() != Some(&why) {
                    complain(&format!("{}; it is tried again", printable(&why)));
                    told = Some(why);
                }
            }
            Err(Refusal::Passing(why) | Refusal::Lasting(why)) => return Err(io::Error::other(why)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows events until no more come, and tells why.
async fn show(body: Incoming, rows: &mut Rows) -> io::Result<String> {
    let mut events = SseStream::new(body);
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => return Ok(format!("the feed is lost: {}", printable(&chain(&error)))),
        };
        let data = event.data.unwrap_or_default();
        match event.event.as_deref() {
            Some("lagged") => {
                let missed = serde_json::from_str::<Lagged>(&data).map(|lagged| lagged.missed.to_string());
                let missed = missed.as_deref().unwrap_or("some");
                complain(&format!("{missed} events are not shown: they came faster than they were read"));
            }
            _ => rows.show(data.as_bytes())?,
        }
    }
    Ok("the sidecar has ended the feed".to_owned())
}

/// Data of an event `lagged`.
#[derive(serde::Deserialize)]
struct Lagged {
    missed: u64,
}

struct Feed<'a> {
    client: Client<Connector, Empty<Bytes>>,
    /// Its URL.
    events: String,
    token_file: Option<&'a Path>,
}

impl Feed<'_> {
    async fn open(&self) -> Result<Incoming, Refusal> {
        let request = self.request().map_err(Refusal::Lasting)?;
        let response = match timeout(PATIENCE, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.missing(&chain(&error))),
            Err(_) => return Err(self.missing(&format!("no answer within {PATIENCE:?}"))),
        };
        let is_feed = response.status() == StatusCode::OK && is_of(response.headers(), "text/event-stream");
        if is_feed { Ok(response.into_body()) } else { Err(self.refusal(response).await) }
    }

    /// The token is read each time: it may have been exchanged.
    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::get(&self.events);
        if let Some(path) = self.token_file {
            let wrong = |what: &dyn std::fmt::Display| format!("--token-file {}: {what}", path.display());
            let token = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
            let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_| wrong(&"there are characters in it that no token has"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Empty::new()).map_err(|error| error.to_string())
    }

    fn missing(&self, why: &str) -> Refusal {
        let Feed { events, .. } = self;
        Refusal::Passing(format!("{events}: {why}; is a sidecar running, and is this its admin.listen?"))
    }

    async fn refusal(&self, response: Response<Incoming>) -> Refusal {
        let status = response.status();
        let detail = if is_of(response.headers(), "application/problem+json") { detail(response).await } else { None };
        let detail = detail.unwrap_or_else(|| format!("this is no admin API of a sidecar (status {status})"));
        let help = match (status, self.token_file) {
            (StatusCode::UNAUTHORIZED, None) => "; its file is named with --token-file FILE",
            (StatusCode::UNAUTHORIZED, Some(_)) => "; the one in the file of --token-file is another",
            _ => "",
        };
        let why = format!("{}: {detail}{help}", self.events);
        if status.is_server_error() { Refusal::Passing(why) } else { Refusal::Lasting(why) }
    }
}

fn is_of(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(kind.as_bytes()))
}

/// What the problem details of RFC 9457 say.
async fn detail(response: Response<Incoming>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    let body = timeout(PATIENCE, Limited::new(response.into_body(), MOST_OF_DETAIL).collect()).await.ok()?.ok()?;
    serde_json::from_slice::<Problem>(&body.to_bytes()).ok().map(|problem| problem.detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_an_api() {
        for (text, url) in [
            ("http://127.0.0.1:9060", "http://127.0.0.1:9060/"),
            ("localhost:9060", "http://localhost:9060/"),
            ("[::1]:9060", "http://[::1]:9060/"),
            ("https://calls.example/sipstamp/", "https://calls.example/sipstamp/"),
        ] {
            assert_eq!(api_of(text).unwrap().to_string(), url);
        }
        for text in [
            "",
            "http://",
            "ftp://h",
            "h:99999",
            "http://h:",
            "http://a:S3CR3T@h",
            "a:S3CR3T@h",
            "h:port",
            "http://h/?x",
            "a b",
        ] {
            let error = api_of(text).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
            assert!(!error.to_string().contains("S3CR3T"), "{error}");
        }
    }
}
