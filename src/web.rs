//! How others are reached over HTTP: receivers of webhooks, the admin API of a sidecar.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore};

/// Questions whether a silent peer is still there, as many without an answer end its connection.
const PROBES: u32 = 3;

pub type Connector = HttpsConnector<HttpConnector>;

/// Opens connections to where a URL points, over HTTP/1.1: HTTP/2 would put all requests on one connection, and one lost
/// packet would hold up all of them. A peer that is silent for as long as `silence` says is asked by TCP whether it is still
/// there, and again after as long.
///
/// # Errors
/// Where it is `https` and there are no authorities to verify a certificate with.
pub fn connector(url: &Uri, silence: Option<Duration>) -> io::Result<Connector> {
    let is_https = url.scheme_str() == Some("https");
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(silence);
    http.set_keepalive_interval(silence);
    http.set_keepalive_retries(Some(PROBES));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls(is_https)?);
    let connector = if is_https { https.https_only() } else { https.https_or_http() }.enable_http1();
    Ok(connector.wrap_connector(http))
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
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A string takes everything.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
