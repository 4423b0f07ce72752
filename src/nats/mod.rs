//! NATS, as far as the sink, the admin API and the command line have it in common: which servers, how to log in, what the
//! subjects are called, what the stream is like.
//!
//! Every part has a connection of its own, on its own thread's runtime: a sink that waits for acknowledgements delays no
//! question about a call.

pub mod stream;
pub mod subject;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

use subject::Template;

use crate::config::concealed;

/// `[events.nats]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nats {
    pub servers: Servers,
    /// The stream's name.
    pub stream: String,
    /// Where an event goes.
    pub subject: Template,
    /// What the subjects begin with by which sidecars ask each other about calls; `None`: they do not.
    pub control: Option<String>,
}

/// Where the servers are, and how to log in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// `nats://HOST:PORT`, or `tls://` where TLS is a must.
    pub urls: Vec<String>,
    pub login: Login,
    /// Certificates that are trusted in the place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// What a server is told: it uses what it is configured for.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// The text of a credentials file: a JWT and the seed of its key.
    pub credentials: Option<String>,
}

/// A connection that is made again for as long as it takes.
#[derive(Clone, Debug)]
pub struct Connection {
    pub client: Client,
    /// How often it was lost.
    pub losses: watch::Receiver<u64>,
}

/// Messages of one subscription that may wait; a question beyond them is lost, and its sender's patience ends.
const WAITING: usize = 1_024;

impl Servers {
    /// Returns at once, and goes on connecting for as long as the runtime lives. `name` is what the server shows of it.
    ///
    /// # Errors
    /// Where a URL or the credentials are none.
    pub async fn connect(&self, name: &'static str) -> io::Result<Connection> {
        let (lost, losses) = watch::channel(0);
        let tell = Arc::new(Teller { name, is_told: AtomicBool::new(false), lost });
        let options = self.options(name)?.retry_on_initial_connect().event_callback(move |event| {
            tell.on_event(&event);
            std::future::ready(())
        });
        let client = options.connect(self.addresses()?).await.map_err(io::Error::other)?;
        Ok(Connection { client, losses })
    }

    /// Connects once.
    ///
    /// # Errors
    /// Why that failed.
    pub async fn connect_once(&self, name: &'static str) -> io::Result<Client> {
        self.options(name)?.connect(self.addresses()?).await.map_err(io::Error::other)
    }

    fn options(&self, name: &str) -> io::Result<ConnectOptions> {
        let Login { user, password, token, credentials } = self.login.clone();
        // A connection that hears what it says itself would ask itself.
        let mut options = ConnectOptions::new().name(name).no_echo().subscription_capacity(WAITING);
        if user.is_some() || password.is_some() {
            options = options.user_and_password(user.unwrap_or_default(), password.unwrap_or_default());
        }
        if let Some(token) = token {
            options = options.token(token);
        }
        if let Some(credentials) = credentials {
            options = options.credentials(&credentials)?;
        }
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        Ok(options)
    }

    fn addresses(&self) -> io::Result<Vec<ServerAddr>> {
        self.urls.iter().map(|url| url.parse()).collect()
    }
}

/// Logs what becomes of a connection.
struct Teller {
    name: &'static str,
    /// That there is none was logged.
    is_told: AtomicBool,
    lost: watch::Sender<u64>,
}

impl Teller {
    fn on_event(&self, event: &Event) {
        let connection = self.name;
        match event {
            Event::Connected => {
                self.is_told.store(false, Ordering::Relaxed);
                tracing::info!(connection, "connected to NATS");
            }
            Event::Disconnected => {
                self.lost.send_modify(|losses| *losses += 1);
                self.is_told.store(true, Ordering::Relaxed);
                tracing::warn!(connection, "the connection to NATS is lost; it is tried again");
            }
            Event::ServerError(error) => tracing::warn!(connection, %error, "NATS has refused something"),
            Event::SlowConsumer(_) => tracing::warn!(connection, "messages from NATS were lost: too many at once"),
            // One for each attempt.
            Event::ClientError(error) if !self.is_told.swap(true, Ordering::Relaxed) => {
                tracing::warn!(connection, %error, "NATS cannot be reached; it is tried again");
            }
            event => tracing::debug!(connection, %event, "NATS"),
        }
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is given on a command line may have a login in it.
        let urls = self.urls.iter().map(|url| concealed(url)).collect::<Vec<_>>();
        f.debug_struct("Servers")
            .field("urls", &urls)
            .field("login", &self.login)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &hidden(&self.password))
            .field("token", &hidden(&self.token))
            .field("credentials", &hidden(&self.credentials))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = || Some("hunter2".to_owned());
        let login = Login { user: Some("sidecar".into()), password: secret(), token: secret(), credentials: secret() };
        let urls = vec!["nats://me:hunter2@h:4222".to_owned()];
        let shown = format!("{:?}", Servers { urls, login, ca_file: None });
        assert!(shown.contains("h:4222") && shown.contains("sidecar") && !shown.contains("hunter2"), "{shown}");
    }
}
