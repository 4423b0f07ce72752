//! What cannot be brought about from outside.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::ReloadSource;
use super::build::{Built, Parts, build};
use super::start::{Bind, check, start};
use crate::admin::Readiness;
use crate::admin::metrics::Histograms;
use crate::config::{self, Overrides};
use crate::control::Ask;
use crate::flow::Transport;
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

#[test]
fn the_configuration_that_was_asked_for_last_is_in_use() {
    let directory = std::env::temp_dir().join(format!("sipstamp-reload-order-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (path, later) = (directory.join("sipstamp.toml"), directory.join("later.toml"));
    let text = |server: &str| {
        format!(
            "[listen]\nudp = ['127.0.0.1:0']\ntcp = []\n[admin]\nlisten = ''\n[dialer]\nsources = ['127.0.0.2/32']\n\
             [[telephony.servers]]\nname = '{server}'\nuri = 'sip:127.0.0.3'\n"
        )
    };
    let settings = config::parse(&text("first"), "test.toml", &Overrides::default(), &|_| None).unwrap();
    let reload = ReloadSource { config: Some(path.clone()), overrides: Overrides::default() };
    let running = start(settings, Bind { reload, ..Bind::default() }).unwrap();
    let reload = || {
        let (reply, answer) = oneshot::channel();
        running.control.0.blocking_send(Ask::Reload(reply)).unwrap();
        answer
    };
    // A file that takes its time, as names do that are looked up.
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let earlier = reload();
    let mut slow = std::fs::File::options().write(true).open(&path).unwrap();
    std::fs::write(&later, text("later")).unwrap();
    std::fs::rename(&later, &path).unwrap();
    let mut meanwhile = [reload(), reload()];
    // Long enough for a file of some lines.
    let until = Instant::now() + Duration::from_millis(200);
    let answered = |answer: &mut oneshot::Receiver<_>| answer.try_recv().ok();
    let mut answers = [None, None];
    while answers.iter().any(Option::is_none) && Instant::now() < until {
        for (answer, asked) in answers.iter_mut().zip(&mut meanwhile) {
            *answer = answer.take().or_else(|| answered(asked));
        }
        std::thread::yield_now();
    }
    slow.write_all(text("earlier").as_bytes()).unwrap();
    drop(slow);
    assert_eq!(earlier.blocking_recv().unwrap(), Ok(()));
    for (answer, asked) in answers.into_iter().zip(meanwhile) {
        assert_eq!(answer.unwrap_or_else(|| asked.blocking_recv().unwrap()), Ok(()));
    }
    let (reply, status) = oneshot::channel();
    running.control.0.blocking_send(Ask::Status(reply)).unwrap();
    let servers = status.blocking_recv().unwrap().servers.into_iter().map(|server| server.name);
    assert_eq!(servers.collect::<Vec<_>>(), ["later"]);
    running.stop().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn an_address_that_overlaps_with_what_is_handed_over_is_tried_as_far_as_it_can_be() {
    let bind = |ip: &str, port: u16| std::net::UdpSocket::bind((ip, port)).unwrap();
    let port_of = |socket: &std::net::UdpSocket| socket.local_addr().unwrap().port();
    let checked = |held: &std::net::UdpSocket, ip: &str| {
        let port = port_of(held);
        let text = format!(
            "[listen]\nudp = ['{ip}:{port}']\ntcp = []\n[admin]\nlisten = ''\n[dialer]\nsources = ['127.0.0.2/32']\n\
             [[telephony.servers]]\nuri = 'sip:127.0.0.3'\n"
        );
        let settings = config::parse(&text, "test.toml", &Overrides::default(), &|_| None).unwrap();
        check(&settings, &[(Transport::Udp, held.local_addr().unwrap())]).map_err(|error| error.to_string())
    };
    let any = bind("0.0.0.0", 0);
    assert_eq!((checked(&any, "0.0.0.0"), checked(&any, "127.0.0.1")), (Ok(()), Ok(())));
    // Of a documentation range.
    let refused = checked(&any, "192.0.2.1").unwrap_err();
    assert!(refused.contains("this machine has no such address"), "{refused}");
    let one = bind("127.0.0.2", 0);
    assert_eq!(checked(&one, "0.0.0.0"), Ok(()));
    // Another process's.
    let _other = bind("127.0.0.1", port_of(&one));
    let refused = checked(&one, "0.0.0.0").unwrap_err();
    assert!(refused.contains(&format!("cannot listen on 127.0.0.1:{}: ", port_of(&one))), "{refused}");
}
