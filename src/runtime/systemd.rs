//! What systemd is told and what it gives: sockets, readiness, signs of life. Elsewhere all of this is nothing.

use std::os::fd::OwnedFd;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::transport::Inherited;

/// Tells that the workers are alive, as often as systemd wants to hear it.
#[derive(Debug)]
pub(super) struct Watchdog {
    interval: Option<Duration>,
    due: Option<Instant>,
}

impl Watchdog {
    pub(super) fn new() -> Watchdog {
        // Twice in the time after which silence is death.
        let mut micros = 0;
        let is_wanted = sd_notify::watchdog_enabled(false, &mut micros);
        let interval = is_wanted.then(|| Duration::from_micros(micros / 2));
        Watchdog { interval, due: None }
    }

    /// When a sign of life is due; never without systemd.
    pub(super) async fn due(&mut self) {
        let Some(interval) = self.interval else { return std::future::pending().await };
        let due = *self.due.get_or_insert_with(|| Instant::now() + interval);
        tokio::time::sleep_until(due).await;
    }

    pub(super) fn tell(&mut self, is_alive: bool) {
        self.due = None;
        if is_alive {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// The sockets of a `.socket` unit.
pub(super) fn sockets() -> Inherited {
    let mut given = ListenFd::from_env();
    let mut descriptors = Vec::new();
    for at in 0..given.len() {
        match given.take_udp_socket(at) {
            Ok(socket) => descriptors.extend(socket.map(OwnedFd::from)),
            Err(_) => descriptors.extend(given.take_tcp_listener(at).ok().flatten().map(OwnedFd::from)),
        }
    }
    Inherited::of(descriptors)
}

/// Calls are taken from here on, by this process.
pub(super) fn tell_ready() {
    notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
}

pub(super) fn tell_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd cannot be told how things stand");
    }
}
