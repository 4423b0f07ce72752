//! Who is let in: the bearer token (RFC 6750), and what a browser could be tricked into.
//!
//! On loopback the Host header must name this machine, or a web page could reach the API through a
//! name that it has rebound to 127.0.0.1. Beyond it no page has the token, and metrics alone have nothing that a page could do;
//! without a header that allows it none reads them either. Without a token a command must not come from another origin,
//! nor be what a form can send.
//!
//! A body is read before the request is answered, and thrown away: no route wants one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::refusals::{Refusals, Refused};
use super::seats::Seat;
use super::{Problem, Token};

/// Longest request body in bytes. No route reads one.
const BODY_LIMIT: usize = 16 * 1024;

/// What browsers send from a form without asking the server first.
const OF_FORMS: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
/// By which browsers say where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// For every answer: nothing in it is to be run, framed, guessed at or kept.
const HARDENING: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The door of one listener.
#[derive(Clone)]
pub struct Guard {
    on_loopback: bool,
    token: Token,
    refusals: Arc<Refusals>,
}

impl Guard {
    /// `listen` is the bound address.
    pub fn new(listen: SocketAddr, token: Token, refusals: Arc<Refusals>) -> Guard {
        Guard { on_loopback: is_loopback(listen.ip()), token, refusals }
    }

    fn admit(&self, request: &Request) -> Result<Admission, Problem> {
        let headers = request.headers();
        let mut admission = Admission(self.token.0.subscribe());
        let token = admission.0.borrow_and_update();
        let forbidden = |detail| Err(Problem::new(StatusCode::FORBIDDEN, detail));
        if self.on_loopback && !names_this_machine(headers) {
            return forbidden("the Host header must be localhost, 127.0.0.1 or [::1]");
        }
        if token.is_none() && !request.method().is_safe() {
            if is_cross_origin(headers) {
                return forbidden("commands from a page of another origin are refused");
            }
            if is_of_form(headers) {
                return forbidden("commands as a form sends them are refused: leave the Content-Type out");
            }
        }
        let is_probe = matches!(request.uri().path(), "/livez" | "/readyz");
        if !is_probe && token.as_deref().is_some_and(|token| !knows(headers, token)) {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "send the admin token: Authorization: Bearer TOKEN"));
        }
        if field(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok()) > Some(BODY_LIMIT) {
            return Err(too_large());
        }
        drop(token);
        Ok(admission)
    }
}

/// What a request has been let in with: the token of that time, or none. In the extensions of the request.
#[derive(Clone)]
pub struct Admission(watch::Receiver<Option<Box<str>>>);

impl Admission {
    /// Waits until another token is asked for.
    pub async fn ended(mut self) {
        if self.0.changed().await.is_err() {
            // Whoever could set another is gone.
            std::future::pending().await
        }
    }
}

fn knows(headers: &HeaderMap, token: &str) -> bool {
    let Some((scheme, given)) = field(headers, &AUTHORIZATION).and_then(|value| value.split_once(' ')) else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer") && bool::from(given.trim().as_bytes().ct_eq(token.as_bytes()))
}

/// The middleware in front of every route, unknown ones too.
pub async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let seat = request.extensions().get::<Seat>().cloned();
    let (admitted, request) = match guard.admit(&request) {
        Ok(admission) => {
            let (read, mut request) = without_body(request).await;
            request.extensions_mut().insert(admission);
            (read, request)
        }
        Err(problem) => (Err(problem), request),
    };
    let mut response = match admitted {
        Ok(()) => {
            // Who trickles its body is not busy.
            let busy = seat.map(|seat| seat.begin());
            let response = next.run(request).await;
            // Until the last byte of the answer.
            let hold = move |error| {
                // Taken into the closure, which lives for as long as the answer.
                let _ = &busy;
                error
            };
            response.map(|body| Body::new(body.map_err(hold)))
        }
        Err(problem) => {
            if let (Some(seat), Some(why)) = (seat, refused(problem.status())) {
                guard.refusals.note(seat.source(), why);
            }
            problem.into_response()
        }
    };
    for (name, value) in HARDENING {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The request after its body, which may not be too long whether it says how long it is or not.
async fn without_body(request: Request) -> (Result<(), Problem>, Request) {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await;
    let read = match body {
        Ok(_) => Ok(()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::bad_request("the body does not come to its end")),
    };
    (read, Request::from_parts(head, Body::empty()))
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {BODY_LIMIT} bytes at most"))
}

fn refused(status: StatusCode) -> Option<Refused> {
    match status {
        StatusCode::UNAUTHORIZED => Some(Refused::Unauthorized),
        StatusCode::FORBIDDEN => Some(Refused::Forbidden),
        StatusCode::PAYLOAD_TOO_LARGE => Some(Refused::TooLarge),
        _ => None,
    }
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    // No browser leaves it out; a bare HTTP/1.0 probe does.
    let Some(value) = headers.get(HOST) else { return true };
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}

fn is_cross_origin(headers: &HeaderMap) -> bool {
    // `none`: the user's own doing.
    if headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_none() || authority != field(headers, &HOST)
}

fn is_of_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kind.is_some_and(|kind| OF_FORMS.iter().any(|form| form.eq_ignore_ascii_case(kind)))
}

fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;

    fn guard(listen: &str, token: Option<&str>) -> Guard {
        Guard::new(listen.parse().unwrap(), Token::new(token), Arc::default())
    }

    fn verdict(guard: &Guard, method: Method, path: &str, headers: &[(HeaderName, &str)]) -> StatusCode {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        match guard.admit(&request.body(Body::empty()).unwrap()) {
            Ok(_) => StatusCode::OK,
            Err(problem) => problem.into_response().status(),
        }
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_hosts() {
        let guard = guard("127.0.0.1:9060", None);
        let with = |host| verdict(&guard, Method::GET, "/v1/status", &[(HOST, host)]);
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9060", "127.0.0.1", "[::1]:9060", "[::1]"] {
            assert_eq!(with(host), StatusCode::OK, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9060", "10.0.0.1", "127.0.0.1.evil.example", ""] {
            assert_eq!(with(host), StatusCode::FORBIDDEN, "{host}");
        }
    }

    #[test]
    fn beyond_loopback_any_host_will_do() {
        let guard = guard("0.0.0.0:9060", None);
        assert_eq!(verdict(&guard, Method::GET, "/metrics", &[(HOST, "sidecar-7")]), StatusCode::OK);
    }

    #[test]
    fn a_command_from_a_page_elsewhere_is_refused() {
        let guard = guard("127.0.0.1:9060", None);
        let with = |method, origin| verdict(&guard, method, "/v1/drain", &[(HOST, "localhost:9060"), (ORIGIN, origin)]);
        assert_eq!(with(Method::POST, "http://evil.example"), StatusCode::FORBIDDEN);
        assert_eq!(with(Method::POST, "null"), StatusCode::FORBIDDEN);
        assert_eq!(with(Method::POST, "http://localhost:9060"), StatusCode::OK);
        assert_eq!(with(Method::GET, "http://evil.example"), StatusCode::OK);
        let with = |name, value| verdict(&guard, Method::POST, "/v1/drain", &[(HOST, "localhost:9060"), (name, value)]);
        for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
            assert_eq!(with(SEC_FETCH_SITE, site).as_u16(), status, "{site}");
        }
    }

    #[test]
    fn a_command_is_nothing_that_a_form_can_send() {
        let with = |guard: &Guard, headers: &[(HeaderName, &str)]| verdict(guard, Method::POST, "/v1/drain", headers);
        let open = guard("127.0.0.1:9060", None);
        for kind in ["text/plain", "Text/Plain; charset=utf-8", "multipart/form-data; boundary=x", OF_FORMS[0]] {
            assert_eq!(with(&open, &[(CONTENT_TYPE, kind)]), StatusCode::FORBIDDEN, "{kind}");
        }
        assert_eq!(with(&open, &[(CONTENT_TYPE, "application/json")]), StatusCode::OK);
        let closed = guard("127.0.0.1:9060", Some("secret"));
        let token = (AUTHORIZATION, "Bearer secret");
        assert_eq!(with(&closed, &[(CONTENT_TYPE, "text/plain"), token]), StatusCode::OK);
    }

    #[test]
    fn the_token_is_asked_for_everywhere_but_at_the_probes() {
        let guard = guard("0.0.0.0:9060", Some("secret"));
        let with = |path, value| verdict(&guard, Method::GET, path, &[(AUTHORIZATION, value)]);
        assert_eq!(with("/v1/status", "Bearer secret"), StatusCode::OK);
        assert_eq!(with("/v1/status", "bearer secret"), StatusCode::OK);
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic secret", "secret", ""] {
            assert_eq!(with("/v1/status", wrong), StatusCode::UNAUTHORIZED, "{wrong}");
            assert_eq!(with("/metrics", wrong), StatusCode::UNAUTHORIZED, "{wrong}");
            assert_eq!(with("/livez", wrong), StatusCode::OK, "{wrong}");
            assert_eq!(with("/readyz", wrong), StatusCode::OK, "{wrong}");
        }
        assert_eq!(verdict(&guard, Method::GET, "/nothing", &[]), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_large_body_is_refused_by_its_length() {
        let guard = guard("0.0.0.0:9060", None);
        let with = |length| verdict(&guard, Method::POST, "/v1/reload", &[(CONTENT_LENGTH, length)]);
        assert_eq!(with("16384"), StatusCode::OK);
        assert_eq!(with("16385"), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
