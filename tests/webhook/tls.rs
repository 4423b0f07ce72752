//! Over TLS: the receiver's certificate is verified, always.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::receiver::{Receiver, Stream};
use super::site::{Site, table_named};

/// Who has signed the certificate for `localhost`, and the server that has it.
struct House {
    authority: String,
    server: Arc<ServerConfig>,
}

fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let server =
            server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key.into()).unwrap();
        House { authority: authority.pem(), server: Arc::new(server) }
    })
}

fn secure(stream: TcpStream) -> Box<dyn Stream> {
    Box::new(StreamOwned::new(ServerConnection::new(house().server.clone()).unwrap(), stream))
}

/// A receiver, and a sidecar that trusts the house. `host`: as which it is addressed.
fn start(name: &str, host: &str, authority: &str) -> (Receiver, Site) {
    let receiver = Receiver::serve(TcpListener::bind("127.0.0.1:0").unwrap(), secure);
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("webhook-{name}.pem"));
    std::fs::write(&file, authority).unwrap();
    let url = format!("https://{host}:{}/hooks/calls?key=T0K3N", receiver.address.port());
    let environment = vec![("SSL_CERT_FILE", file.display().to_string())];
    let site = Site::start_with(name, "", &table_named("a", &url, ""), environment);
    (receiver, site)
}

#[test]
fn events_go_to_a_receiver_whose_certificate_is_sound() {
    let (receiver, mut site) = start("tls", "localhost", &house().authority);
    let calls = site.make_calls(10);
    receiver.wait_for_events(calls);
    site.wait_for_metric("sipstamp_events_delivered_total", calls as u64);
    assert_eq!(site.metric("sipstamp_events_failed_total"), 0);
    site.end(&[]);
}

#[test]
fn nothing_goes_to_a_receiver_whose_certificate_is_for_another_or_by_a_stranger() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap().pem();
    for (name, host, authority) in
        [("tls-other-host", "127.0.0.1", house().authority.as_str()), ("tls-stranger", "localhost", stranger.as_str())]
    {
        let (receiver, mut site) = start(name, host, authority);
        let calls = site.make_calls(1);
        site.wait_for_file(calls);
        site.wait_for_a_failure();
        assert_eq!((receiver.count(), site.metric("sipstamp_events_pending")), (0, 1));
        assert!(site.log().contains("invalid peer certificate"), "{}", site.log());
        site.end(&[]);
    }
}
