//! A sidecar with every channel that there is, in front of two servers and a dialer that takes calls.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::metrics::Scrape;
use crate::peers;
use crate::ports::{DIALER, PBX_A, PBX_B, Ports, SIDECAR, wait_for};
use crate::receiver::{Receiver, SECRET};
use crate::server::NatsServer;
use crate::traces::{ADMIN_TOKEN, MASK_KEY, NATS_PASSWORD, Traces, URL_SECRET};
use crate::wire::PATIENCE;

pub struct Site {
    folder: PathBuf,
    child: Mutex<Child>,
    ports: Ports,
    nats: NatsServer,
    receiver: Receiver,
    feed: Arc<Mutex<String>>,
    follower: Option<JoinHandle<()>>,
    /// Keeps the address of a receiver that nobody is.
    _nobody: TcpListener,
}

impl Site {
    /// `keys` are of `[events]`, `log` of `[log]`; `FOLDER` is the place of the test's files.
    pub fn start(name: &str, keys: &str, log: &str) -> Site {
        let ports = Ports::claim().unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("privacy-{name}"));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [
            ("admin.token", ADMIN_TOKEN),
            ("mask.key", MASK_KEY),
            ("nats.password", NATS_PASSWORD),
            ("webhook.key", SECRET),
        ] {
            fs::write(folder.join(file), text).unwrap();
            fs::set_permissions(folder.join(file), Permissions::from_mode(0o600)).unwrap();
        }
        peers::serve(PBX_A, ports.sip, true);
        peers::serve(PBX_B, ports.sip, false);
        peers::serve(DIALER, ports.sip, false);
        let nats = NatsServer::start(&folder);
        let receiver = Receiver::start();
        // A reset is what those get who connect.
        let nobody = TcpListener::bind((SIDECAR, 0)).unwrap();
        nobody.set_nonblocking(true).unwrap();
        let text = configuration(ports, keys, log, &nats.url(), &receiver.url(), nobody.local_addr().unwrap());
        fs::write(folder.join("sipstamp.toml"), text.replace("FOLDER", &folder.display().to_string())).unwrap();
        let output = |name: &str| File::create(folder.join(name)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sipstamp"))
            .args(["run", "--config"])
            .arg(folder.join("sipstamp.toml"))
            .env_remove("RUST_LOG")
            .env("URL_SECRET", URL_SECRET)
            .stdin(Stdio::null())
            .stdout(output("stdout.txt"))
            .stderr(output("log.txt"))
            .spawn()
            .unwrap();
        let feed = Arc::<Mutex<String>>::default();
        let (to, admin) = (feed.clone(), SocketAddr::from((SIDECAR, ports.admin)));
        wait_for("the sidecar", PATIENCE, || Ok(status_of(admin, "/readyz").filter(|status| *status == 200)))
            .unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(folder.join("log.txt")).unwrap()));
        let follower = Some(std::thread::spawn(move || follow(admin, &to)));
        let site = Site { folder, child: Mutex::new(child), ports, nats, receiver, feed, follower, _nobody: nobody };
        wait_for("the feed", PATIENCE, || Ok(site.feed.lock().unwrap().contains("200 OK").then_some(()))).unwrap();
        site
    }

    pub fn sip(&self) -> SocketAddr {
        SocketAddr::from((SIDECAR, self.ports.sip))
    }

    /// Status and body.
    pub fn request(&self, method: &str, path: &str) -> (u16, String) {
        let admin = SocketAddr::from((SIDECAR, self.ports.admin));
        let mut answer = String::new();
        ask(admin, method, path).and_then(|mut stream| stream.read_to_string(&mut answer)).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The sum of all its series.
    pub fn metric(&self, name: &str) -> u64 {
        Scrape::parse(&self.request("GET", "/metrics").1).sum(name, &BTreeMap::new()).0 as u64
    }

    pub fn wait_for_metric(&self, name: &str, at_least: u64) {
        self.wait_for(name, |value| value >= at_least);
    }

    pub fn wait_for_metric_value(&self, name: &str, wanted: u64) {
        self.wait_for(name, |value| value == wanted);
    }

    fn wait_for(&self, name: &str, is_right: impl Fn(u64) -> bool) {
        wait_for(name, PATIENCE, || Ok(is_right(self.metric(name)).then_some(())))
            .unwrap_or_else(|error| panic!("{error}: {}: {}", self.metric(name), self.read("log.txt")));
    }

    /// By SIGHUP.
    pub fn reload_with(&self, more: &str) {
        let path = self.folder.join("sipstamp.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{more}\n{text}")).unwrap();
        self.signal("-HUP");
        let is_reloaded = || Ok(self.read("log.txt").contains("configuration reloaded").then_some(()));
        wait_for("the reload", PATIENCE, is_reloaded)
            .unwrap_or_else(|error| panic!("{error}: {}", self.read("log.txt")));
    }

    /// With secrets where none belong: what the API says to it.
    pub fn reload_broken(&self) -> String {
        let path = self.folder.join("sipstamp.toml");
        let text = fs::read_to_string(&path).unwrap();
        let broken = text.replace("nats://", &format!("nats://sidecar:{NATS_PASSWORD}@"));
        let password = format!("[events.nats]\npassword = '{NATS_PASSWORD}'\n");
        fs::write(&path, broken.replace("[events.nats]\n", &password)).unwrap();
        let (status, mistakes) = self.request("POST", "/v1/reload");
        let is_told = mistakes.contains("has a login") && mistakes.contains("unknown key `events.nats.password`");
        assert!(status == 422 && is_told, "{status} {mistakes}");
        fs::write(&path, text).unwrap();
        mistakes
    }

    pub fn drain(&self) {
        assert_eq!(self.request("POST", "/v1/drain").0, 202);
    }

    /// Ends it once all is delivered, and returns what it has written, beside what was seen of it.
    pub fn end(mut self, mut seen: Traces) -> Traces {
        self.wait_for_metric_value("sipstamp_calls_active", 0);
        self.wait_for_metric_value("sipstamp_events_pending", 0);
        self.wait_for_metric("sipstamp_events_dead_lettered_total", 1);
        seen.add("metrics", &self.request("GET", "/metrics").1);
        for stored in self.nats.stored("CALLS") {
            seen.add("NATS", &format!("{} {} {}", stored.subject, stored.id, stored.event));
        }
        self.signal("-TERM");
        let ended = wait_for("the sidecar to end", PATIENCE, || Ok(self.child.lock().unwrap().try_wait().unwrap()));
        assert!(ended.unwrap().success(), "{}", self.read("log.txt"));
        for (channel, file) in [
            ("the log", "log.txt"),
            ("standard output", "stdout.txt"),
            ("the events' file", "events.jsonl"),
            ("dead letters", "dead.jsonl"),
        ] {
            seen.add(channel, &self.read(file));
        }
        let log = self.read("log.txt");
        let complaints = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked"));
        assert_eq!(complaints.collect::<Vec<_>>(), [""; 0]);
        for got in self.receiver.wait("nothing", |_| true) {
            let event: Value = serde_json::from_str(&got.line).unwrap();
            seen.add("webhook", &event.to_string());
        }
        self.follower.take().expect("it follows").join().unwrap();
        seen.add("GET /v1/events", &self.feed.lock().unwrap());
        seen.folder.clone_from(&self.folder);
        seen
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }
}

fn configuration(ports: Ports, keys: &str, log: &str, nats: &str, receiver: &str, nobody: SocketAddr) -> String {
    let Ports { sip, admin, .. } = ports;
    format!(
        "[listen]\nudp = ['{SIDECAR}:{sip}']\ntcp = ['{SIDECAR}:{sip}']\n\
         [dialer]\nsources = ['{DIALER}/32']\ntarget = 'sip:{DIALER}:{sip}'\n\
         [[telephony.servers]]\nname = 'a'\nuri = 'sip:{PBX_A}:{sip}'\nsources = ['{PBX_A}/32']\n\
         [[telephony.servers]]\nname = 'b'\nuri = 'sip:{PBX_B}:{sip}'\npriority = 2\n\
         [timeouts]\nprogress = '1s'\nauth_retry_window = '1s'\nt1 = '50ms'\nt2 = '200ms'\n\
         [voicemail_drop]\ngrace = '1s'\n\
         [capture]\nlabels = {{ campaign = 'Campaign-ID', asserted = 'P-Asserted-Identity', scenario = 'Scenario' }}\n\
         metric_values = {{ campaign = ['spring'] }}\n\
         [admin]\nlisten = '{SIDECAR}:{admin}'\ntoken_file = 'FOLDER/admin.token'\n[log]\n{log}\n\
         [events]\nlifecycle = true\nstdout = true\nfile = 'FOLDER/events.jsonl'\n{keys}\n\
         [[events.webhooks]]\nname = 'a'\nurl = '{receiver}'\nsecret_file = 'FOLDER/webhook.key'\n\
         [[events.webhooks]]\nname = 'dead'\nurl = 'http://{nobody}/${{URL_SECRET}}?key=${{URL_SECRET}}'\n\
         secret_file = 'FOLDER/webhook.key'\ntimeout = '1s'\n\
         dead_letter = {{ file = 'FOLDER/dead.jsonl', after = '1s' }}\n\
         [events.nats]\nservers = ['{nats}']\nuser = 'sidecar'\npassword_file = 'FOLDER/nats.password'\n"
    )
}

fn ask(admin: SocketAddr, method: &str, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("Host: {admin}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 0\r\n");
    write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n")?;
    Ok(stream)
}

fn status_of(admin: SocketAddr, path: &str) -> Option<u16> {
    let mut answer = String::new();
    ask(admin, "GET", path).ok()?.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Reads the feed of events until it ends.
fn follow(admin: SocketAddr, to: &Mutex<String>) {
    let mut stream = ask(admin, "GET", "/v1/events").unwrap();
    let mut buffer = [0; 4_096];
    while let Ok(size @ 1..) = stream.read(&mut buffer) {
        to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..size]));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(child.kill());
        drop(child.wait());
    }
}
