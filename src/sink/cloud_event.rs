//! An event as one line: CloudEvents 1.0, structured JSON.

use serde::Serialize;

use crate::event::{CallData, Event};
use crate::time::Wall;

/// The attributes of CloudEvents 1.0 §3 with the event's data.
#[derive(Serialize, schemars::JsonSchema)]
pub struct CloudEvent<'a> {
    specversion: &'static str,
    /// Derived from the call: a second delivery has the same one.
    id: String,
    source: &'a str,
    #[serde(rename = "type")]
    kind: String,
    time: Wall,
    subject: &'a str,
    datacontenttype: &'static str,
    dataschema: String,
    data: &'a CallData,
}

/// The line of an event, without its line end.
///
/// # Errors
/// serde's; none is known for this schema.
pub fn line(event: &Event, source: &str) -> serde_json::Result<String> {
    let Event { kind, time, data } = event;
    serde_json::to_string(&CloudEvent {
        specversion: "1.0",
        id: format!("{}/{kind}", data.call_uid),
        source,
        kind: format!("sipstamp.call.{kind}.v1"),
        time: *time,
        subject: &data.call_uid,
        datacontenttype: "application/json",
        dataschema: format!("urn:sipstamp:call.{kind}:v1"),
        data,
    })
}
