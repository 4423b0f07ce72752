//! The thread that serves: its runtime, its listeners, its end.

use std::io;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::guard::Guard;
use super::listener::{self, Limits, told_to_stop};
use super::{Addresses, App, Context, Sockets, Token};

/// Longest wait for answers under way when the thread is told to stop.
const FAREWELL: Duration = Duration::from_secs(1);
/// A scrape, of which there is one at a time, and names of NATS servers that are looked up.
const BLOCKING_THREADS: usize = 2;

/// The running API. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct AdminHandle {
    addresses: Addresses,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// Serves on a thread of its own, called `admin`, until it is stopped.
///
/// # Errors
/// The system gives no thread or no runtime, or does not take the listeners.
pub fn serve(sockets: Sockets, token: Token, context: Context) -> io::Result<AdminHandle> {
    let address = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
    let addresses = Addresses { admin: address(&sockets.admin)?, metrics: address(&sockets.metrics)? };
    let server = Server { sockets, token, app: App::new(context, addresses) };
    let (stop, stopped) = watch::channel(false);
    let (started, has_started) = mpsc::sync_channel(1);
    // The runtime is made and dropped over there, since one must not be dropped inside another.
    let run = move || match server.start(&stopped) {
        Ok(running) => {
            let _ = started.send(Ok(()));
            running.run(stopped);
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    };
    let thread = std::thread::Builder::new().name("admin".into()).spawn(run)?;
    has_started.recv().map_err(io::Error::other)??;
    Ok(AdminHandle { addresses, stop, thread })
}

impl AdminHandle {
    /// Where it listens; a configured port 0 is the one that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Ends the event feeds after what was pushed, waits a second at most for answers under way, and closes.
    pub fn stop(self) {
        // Both errors say that the thread has ended already.
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

struct Server {
    sockets: Sockets,
    token: Token,
    app: App,
}

struct Running {
    runtime: Runtime,
    serving: JoinSet<io::Result<()>>,
    context: Context,
}

impl Server {
    fn start(self, stopped: &watch::Receiver<bool>) -> io::Result<Running> {
        let Server { sockets, token, app } = self;
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let context = app.context.clone();
        let refusals = app.refusals.clone();
        if let Some(fleet) = app.fleet.clone() {
            // It ends with the runtime.
            runtime.spawn(fleet.serve(app.clone()));
        }
        let mut services = Vec::new();
        if let Some(listener) = sockets.admin {
            let address = listener.local_addr()?;
            tracing::info!(%address, "the admin API listens");
            services.push((listener, app.clone().admin(Guard::new(address, token, refusals.clone()))));
        }
        if let Some(listener) = sockets.metrics {
            let address = listener.local_addr()?;
            tracing::info!(%address, "metrics are served");
            services.push((listener, app.metrics(Guard::new(address, Token::default(), refusals.clone()))));
        }
        let mut serving = JoinSet::new();
        for (listener, routes) in services {
            let serve = listener::serve(listener, Limits::default(), routes, refusals.clone(), stopped.clone());
            serving.spawn_on(serve, runtime.handle());
        }
        Ok(Running { runtime, serving, context })
    }
}

impl Running {
    fn run(self, stopped: watch::Receiver<bool>) {
        let Running { runtime, serving, context } = self;
        runtime.block_on(async {
            told_to_stop(stopped).await;
            context.recent.close();
            // Connections that are still open after this are cut when the runtime goes.
            let _ = timeout(FAREWELL, serving.join_all()).await;
        });
    }
}
