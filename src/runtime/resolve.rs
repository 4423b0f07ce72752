//! Names in a Route or Contact: the system's resolver, on threads that may block.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;

use crate::endpoint::QueryId;

/// Names that are looked up at the same time.
const AT_ONCE: usize = 16;
/// What is not answered by then has no address.
const PATIENCE: Duration = Duration::from_secs(4);

/// Looks names up.
#[derive(Debug)]
pub struct Resolver {
    seats: Arc<Semaphore>,
    answers: mpsc::UnboundedSender<(QueryId, Vec<IpAddr>)>,
}

impl Resolver {
    pub fn new(answers: mpsc::UnboundedSender<(QueryId, Vec<IpAddr>)>) -> Resolver {
        Resolver { seats: Arc::new(Semaphore::new(AT_ONCE)), answers }
    }

    /// The answer comes by the channel; empty where the name has no address.
    pub fn look_up(&self, query: QueryId, name: Box<str>) {
        let (seats, answers) = (self.seats.clone(), self.answers.clone());
        spawn_local(async move {
            let found = async {
                let _seat = seats.acquire().await.ok()?;
                tokio::task::spawn_blocking(move || addresses(&name)).await.ok()
            };
            let addresses = tokio::time::timeout(PATIENCE, found).await.ok().flatten().unwrap_or_default();
            // Nobody waits once the loop has ended.
            drop(answers.send((query, addresses)));
        });
    }
}

fn addresses(name: &str) -> Vec<IpAddr> {
    (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}
