//! JSON Schemas of what users write and read: the configuration, and events.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use crate::config::written;
use crate::event::CallData;
use crate::time::Wall;

/// The configuration's schema, without references: one tree, as the file is one.
pub fn config() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<written::File>()
}

/// The schema of one event: CloudEvents 1.0 in structured form around the call's data.
pub fn event() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<CloudEvent>()
}

/// One thing that happened to a call.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a shape for the schema, never a value")]
struct CloudEvent {
    #[schemars(extend("const" = "1.0"))]
    specversion: String,
    /// Derived from the call: a second delivery has the same one.
    id: String,
    source: String,
    #[schemars(extend("enum" = [
        "sipstamp.call.started.v1", "sipstamp.call.ringing.v1", "sipstamp.call.answered.v1", "sipstamp.call.ended.v1"
    ]))]
    r#type: String,
    time: Wall,
    /// The `call_uid` of the data.
    subject: String,
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: String,
    #[schemars(extend("enum" = [
        "urn:sipstamp:call.started:v1", "urn:sipstamp:call.ringing:v1",
        "urn:sipstamp:call.answered:v1", "urn:sipstamp:call.ended:v1"
    ]))]
    dataschema: String,
    data: CallData,
}
