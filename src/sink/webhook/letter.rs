//! An event on its way to a receiver.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// An event, with what has to be known of it to deliver it.
#[derive(Clone, Debug)]
pub struct Letter {
    pub id: Arc<str>,
    /// Events of one call are delivered one after the other.
    pub call: Arc<str>,
    /// How old it was when it was taken.
    pub age: Duration,
    /// The event's line.
    pub body: Arc<[u8]>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    time: &'a str,
}

impl Letter {
    /// Of a line; `None` where it is none that the core wrote.
    pub fn new(body: Arc<[u8]>, now: SystemTime) -> Option<Letter> {
        let head: Head<'_> = serde_json::from_slice(&body).ok()?;
        let time: jiff::Timestamp = head.time.parse().ok()?;
        let age = now.duration_since(time.into()).unwrap_or_default();
        Some(Letter { id: head.id.into(), call: head.subject.into(), age, body: body.clone() })
    }
}
