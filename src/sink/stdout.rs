//! The same lines on standard output, best effort.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Next, Queue};

/// How long to wait before a write is tried again.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Writes what the queue brings, on a thread of its own.
///
/// # Errors
/// Where no thread can be had.
pub fn start(queue: Arc<Queue>) -> io::Result<()> {
    std::thread::Builder::new().name("events.stdout".into()).spawn(move || run(&queue))?;
    Ok(())
}

fn run(queue: &Queue) {
    loop {
        match queue.next() {
            Next::Closed => return,
            Next::Woken => {}
            Next::Lines(lines) => {
                let text = lines.iter().flat_map(|line| [&*line.text, b"\n"]).collect::<Vec<_>>().concat();
                let mut out = io::stdout().lock();
                match out.write_all(&text).and_then(|()| out.flush()) {
                    Ok(()) => queue.delivered(),
                    Err(error) => {
                        // What was written of a batch is not known: best effort is at most once.
                        tracing::warn!(%error, "events cannot be written to standard output");
                        queue.delivered();
                        if !queue.failed(BACK_OFF) {
                            return;
                        }
                    }
                }
            }
        }
    }
}
