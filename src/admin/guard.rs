//! Who is let in: the bearer token (RFC 6750), and what a browser could be tricked into.
//!
//! On loopback the Host header must name this machine, or a web page could reach the API through a
//! name that it has rebound to 127.0.0.1. Without a token a command must not come from another origin.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Problem;

/// Longest request body in bytes. No route reads one.
const BODY_LIMIT: u64 = 16 * 1024;

/// The door of one listener.
#[derive(Clone)]
pub struct Guard {
    on_loopback: bool,
    token: Option<Arc<str>>,
}

impl Guard {
    /// `listen` is the bound address.
    pub fn new(listen: SocketAddr, token: Option<String>) -> Guard {
        Guard { on_loopback: is_loopback(listen.ip()), token: token.map(Arc::from) }
    }

    fn admit(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let forbidden = |detail| Err(Problem::new(StatusCode::FORBIDDEN, detail));
        if self.on_loopback && !names_this_machine(headers) {
            return forbidden("the Host header must be localhost, 127.0.0.1 or [::1]");
        }
        if self.token.is_none() && !request.method().is_safe() && is_cross_origin(headers) {
            return forbidden("commands from a page of another origin are refused");
        }
        let is_probe = matches!(request.uri().path(), "/livez" | "/readyz");
        if !is_probe && !self.knows(headers) {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "send the admin token: Authorization: Bearer TOKEN"));
        }
        if field(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok()) > Some(BODY_LIMIT) {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a body may have {BODY_LIMIT} bytes at most"),
            ));
        }
        Ok(())
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let Some((scheme, given)) = field(headers, &AUTHORIZATION).and_then(|value| value.split_once(' ')) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("bearer") && bool::from(given.trim().as_bytes().ct_eq(token.as_bytes()))
    }
}

/// The middleware in front of every route, unknown ones too.
pub async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
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
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_none() || authority != field(headers, &HOST)
}

fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;

    use super::*;

    fn guard(listen: &str, token: Option<&str>) -> Guard {
        Guard::new(listen.parse().unwrap(), token.map(String::from))
    }

    fn verdict(guard: &Guard, method: Method, path: &str, headers: &[(HeaderName, &str)]) -> StatusCode {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        match guard.admit(&request.body(Body::empty()).unwrap()) {
            Ok(()) => StatusCode::OK,
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
