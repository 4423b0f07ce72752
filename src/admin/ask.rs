//! Questions to the workers, with an end to the waiting.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Problem;
use crate::control::{Ask, Control};

/// Longest wait for the workers, which answer between two batches of packets.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a reload, which reads files and may resolve names.
const RELOAD_PATIENCE: Duration = Duration::from_secs(10);

/// Asks the workers; 503 where one does not answer.
pub async fn ask<T>(control: &Control, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Problem> {
    ask_within(PATIENCE, control, question).await
}

/// Has the configuration read again.
pub async fn reload(control: &Control) -> Result<Result<(), String>, Problem> {
    ask_within(RELOAD_PATIENCE, control, Ask::Reload).await
}

async fn ask_within<T>(
    patience: Duration,
    control: &Control,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, Problem> {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        control.0.send(question(reply)).await.ok()?;
        answer.await.ok()
    };
    match timeout(patience, exchange).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Problem::unavailable("the process is about to end")),
        Err(_) => Err(Problem::unavailable(format!("the workers did not answer within {} s", patience.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use tokio::sync::mpsc;

    use super::*;

    fn status<T>(patience: Duration, control: &Control, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> u16 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match runtime.block_on(ask_within(patience, control, question)) {
            Ok(_) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[test]
    fn a_loop_that_does_not_answer_is_not_waited_for() {
        let (sender, mut asks) = mpsc::channel(1);
        let control = Control(sender);
        assert_eq!(status(Duration::from_millis(1), &control, Ask::Drain), 503);
        // The first question still fills the queue: the second is not even taken.
        assert_eq!(status(Duration::from_millis(1), &control, Ask::Drain), 503);
        assert!(asks.try_recv().is_ok());
        assert!(asks.try_recv().is_err());
    }

    #[test]
    fn a_loop_that_has_ended_is_not_waited_for() {
        let (sender, asks) = mpsc::channel(1);
        drop(asks);
        assert_eq!(status(Duration::from_secs(3_600), &Control(sender), Ask::Drain), 503);
    }
}
