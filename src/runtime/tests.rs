//! What cannot be brought about from outside.

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::build::{Built, Parts, build};
use super::start::Bind;
use crate::admin::Readiness;
use crate::admin::metrics::Histograms;
use crate::config::{self, Overrides};
use crate::recent::Recent;
use crate::sink::Sinks;

#[test]
fn a_worker_that_panics_ends_the_process_as_failed() {
    let text = "workers = 3\n[listen]\nudp = ['127.0.0.1:0']\ntcp = []\n[dialer]\nsources = ['127.0.0.2/32']\n\
        [[telephony.servers]]\nuri = 'sip:127.0.0.3'\n";
    let settings = config::parse(text, "test.toml", &Overrides::default(), &|_| None).unwrap();
    let (readiness, recent) = (Readiness::new(), Recent::new(1));
    let histograms = Histograms::new();
    let sinks = Sinks::open(&settings.events, None, recent.clone(), &readiness, histograms.clone()).unwrap();
    let bound = crate::transport::bind(&settings.listen, 1, &mut Default::default()).unwrap();
    let parts = Parts {
        settings,
        bind: Bind::default(),
        bound,
        sinks,
        histograms,
        readiness,
        recent,
        token: Default::default(),
        journal: None,
        inherited: Default::default(),
        listening: Vec::new(),
        sockets_stay: false,
    };
    let (_asks, inbox) = mpsc::channel(1);
    let (_stop, stopped) = oneshot::channel();
    let Built { mut supervisor, workers, inlets } = build(parts, inbox, stopped).unwrap();
    supervisor.spawn(workers).unwrap();
    let all = supervisor.workers.clone();
    all.post(1, super::mail::Mail::Job(Box::new(|_| panic!("as the test wants it"))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = LocalSet::new().block_on(&runtime, supervisor.run(inlets));
    assert_eq!(ended.unwrap_err().to_string(), "worker 1: it has panicked");
}
