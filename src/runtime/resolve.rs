//! Names in a Route or Contact: the system's resolver, on threads that may block.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Names that are looked up at the same time.
const AT_ONCE: usize = 16;
/// What is not answered by then has no address.
const PATIENCE: Duration = Duration::from_secs(4);

/// Looks names up; clones share their seats.
#[derive(Clone, Debug)]
pub struct Resolver {
    seats: Arc<Semaphore>,
}

impl Resolver {
    pub fn new() -> Resolver {
        Resolver { seats: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Empty where the name has no address.
    pub async fn look_up(self, name: Box<str>) -> Vec<IpAddr> {
        let found = async {
            let _seat = self.seats.acquire().await.ok()?;
            tokio::task::spawn_blocking(move || addresses(&name)).await.ok()
        };
        tokio::time::timeout(PATIENCE, found).await.ok().flatten().unwrap_or_default()
    }
}

fn addresses(name: &str) -> Vec<IpAddr> {
    (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}
