//! `GET /v1/events`: each event as it comes, as server-sent events.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::guard::Admission;
use super::{App, Problem};
use crate::recent::{Recent, Told};

/// Most feeds at the same time, so that connections stay free for everything else.
pub const FEEDS: usize = 32;
/// How long a feed may be silent before a comment shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Never = std::convert::Infallible;

/// `GET /v1/events`: `event` is the type of the CloudEvent, `id` its id, `data` the CloudEvent itself. A reader that
/// is too slow gets an event `lagged` with the number of those it has missed. The feed ends when another token is asked for.
pub async fn events(
    State(app): State<App>,
    Extension(admission): Extension<Admission>,
) -> Result<Sse<impl Stream<Item = Result<Event, Never>>>, Problem> {
    let seat = app.feeds.clone().try_acquire_owned();
    let seat = seat.map_err(|_| Problem::unavailable(format!("{FEEDS} event feeds are open: close one")))?;
    let events = follow(&app.context.recent).take_until(admission.ended()).inspect(move |_| {
        // The seat is free again when the feed is gone.
        let _ = &seat;
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")))
}

fn follow(recent: &Recent) -> impl Stream<Item = Result<Event, Never>> + use<> {
    BroadcastStream::new(recent.subscribe()).map(|told| {
        Ok(match told {
            Ok(told) => tell(&told),
            Err(BroadcastStreamRecvError::Lagged(missed)) => {
                Event::default().event("lagged").data(format!("{{\"missed\":{missed}}}"))
            }
        })
    })
}

fn tell(told: &Told) -> Event {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        id: &'a str,
    }
    let event = Event::default().event(told.kind.type_name());
    // Every line of ours has one, without a character that would be escaped.
    let event = match serde_json::from_slice::<Line<'_>>(&told.line) {
        Ok(line) => event.id(line.id),
        Err(_) => event,
    };
    event.data(String::from_utf8_lossy(&told.line))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::recent::BACKLOG;
    use crate::recent::tests::{call_data, push_ended};

    #[test]
    fn a_slow_reader_is_told_how_many_it_has_missed() {
        let recent = Recent::new(1);
        let events = follow(&recent);
        for number in 0..BACKLOG + 2 {
            push_ended(&recent, call_data(&number.to_string(), "a"));
        }
        recent.close();
        let body = Sse::new(events).into_response().into_body();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let text = runtime.block_on(axum::body::to_bytes(body, usize::MAX)).unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        let first = "event: lagged\ndata: {\"missed\":2}\n\nevent: sipstamp.call.ended.v1\nid: 2/ended\n";
        assert!(text.starts_with(first), "{text}");
        assert_eq!(text.matches("event: sipstamp.call.ended.v1\n").count(), BACKLOG);
    }
}
