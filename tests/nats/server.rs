//! A nats-server of a test's own: on a free port, with a store that outlives it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::wire::PATIENCE;
use crate::ports::{Ports, SIDECAR, wait_for};

pub struct NatsServer {
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
    /// Beside what every server of a test is told.
    configuration: String,
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct Stored {
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub id: String,
    pub event: Value,
}

impl NatsServer {
    pub fn start(folder: &Path) -> NatsServer {
        NatsServer::start_with(folder, "")
    }

    pub fn start_with(folder: &Path, configuration: &str) -> NatsServer {
        let port = Ports::claim().unwrap().admin;
        let folder = folder.join("nats");
        fs::create_dir_all(&folder).unwrap();
        let mut server = NatsServer { child: None, folder, port, configuration: configuration.to_owned() };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        format!("nats://{SIDECAR}:{}", self.port)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it on what it had stored.
    pub fn restart(&mut self) {
        let path = self.folder.join("nats.conf");
        let store = self.folder.display();
        let text =
            format!("listen: '{SIDECAR}:{}'\njetstream {{ store_dir: '{store}' }}\n{}", self.port, self.configuration);
        fs::write(&path, text).unwrap();
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log.txt")).unwrap();
        let mut command = Command::new("nats-server");
        // Debian has servers where not every user looks for commands.
        let path_of_servers = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.arg("-c").arg(path).env("PATH", path_of_servers).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().unwrap_or_else(|error| {
            panic!("nats-server does not start ({error}); install it with: apt-get install nats-server")
        });
        self.child = Some(child);
        let is_there = || Ok(TcpStream::connect((SIDECAR, self.port)).ok());
        drop(wait_for("nats-server", PATIENCE, is_there).unwrap_or_else(|error| panic!("{error}: {}", self.log())));
    }

    /// All that a stream holds, in its order.
    pub fn stored(&self, stream: &str) -> Vec<Stored> {
        self.ask(async |jetstream| {
            let Ok(mut stream) = jetstream.get_stream(stream).await else { return Vec::new() };
            let count = stream.info().await.unwrap().state.messages as usize;
            let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
            // The server names a stream a moment before it has it.
            let Ok(consumer) = stream.create_consumer(config).await else { return Vec::new() };
            let messages = consumer.messages().await.unwrap().take(count);
            let stored = messages.map(|message| {
                let message = message.unwrap().message;
                let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
                Stored {
                    subject: message.subject.to_string(),
                    id: id.map(ToString::to_string).unwrap_or_default(),
                    event: serde_json::from_slice(&message.payload).unwrap(),
                }
            });
            stored.collect().await
        })
    }

    /// Waits until a stream holds so many messages; no event may be there twice, and none of a call before an earlier one.
    pub fn events(&self, stream: &str, count: usize) -> Vec<Stored> {
        let come = || {
            let stored = self.stored(stream);
            Ok((stored.len() >= count).then_some(stored))
        };
        let stored = wait_for(&format!("{count} events in {stream}"), PATIENCE, come)
            .unwrap_or_else(|error| panic!("{error}; {} came", self.stored(stream).len()));
        let mut kinds = BTreeMap::<_, Vec<_>>::new();
        for one in &stored {
            let (call, kind) = one.id.split_once('/').unwrap();
            assert_eq!(one.event["id"], *one.id);
            kinds.entry(call.to_owned()).or_default().push(kind.to_owned());
        }
        for (call, kinds) in kinds {
            let order = ["started", "ringing", "answered", "ended"];
            let places = kinds.iter().map(|kind| order.iter().position(|known| known == kind).unwrap());
            assert!(places.is_sorted_by(|one, other| one < other), "{call}: {kinds:?}");
        }
        assert_eq!(stored.len(), count);
        stored
    }

    /// What a stream is like.
    pub fn config(&self, stream: &str) -> stream::Config {
        self.ask(async |jetstream| jetstream.get_stream(stream).await.unwrap().cached_info().config.clone())
    }

    pub fn make_stream(&self, name: &str, subject: &str) {
        let config = stream::Config { name: name.into(), subjects: vec![subject.into()], ..stream::Config::default() };
        self.ask(async move |jetstream| drop(jetstream.create_stream(config).await.unwrap()));
    }

    pub fn add_subject(&self, name: &str, subject: &str) {
        let mut config = self.config(name);
        config.subjects.push(subject.into());
        self.ask(async move |jetstream| drop(jetstream.update_stream(config).await.unwrap()));
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(jetstream::Context) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client =
                async_nats::connect(self.url()).await.unwrap_or_else(|error| panic!("{error}: {}", self.log()));
            question(jetstream::new(client)).await
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log.txt")).unwrap_or_default()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
