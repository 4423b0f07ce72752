//! `expect.toml`: what a scenario sets up and what must come out. The keys are explained in `sipp-scenarios/README.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

/// A folder of `sipp-scenarios`.
pub struct Scenario {
    pub name: String,
    pub folder: PathBuf,
    pub expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Udp,
    Tcp,
}

/// Who begins the call: the dialer or the telephony server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    #[default]
    Outbound,
    Inbound,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The behaviour, in a sentence.
    pub shows: String,
    #[serde(default = "both")]
    pub transports: Vec<Transport>,
    #[serde(default)]
    pub direction: Direction,
    /// 2: `pbx-b` stands behind `pbx-a`.
    #[serde(default = "one")]
    pub servers: u32,
    /// How many calls the uac places.
    #[serde(default = "one")]
    pub calls: u32,
    #[serde(default)]
    pub uac: AgentSetup,
    #[serde(default)]
    pub uas: AgentSetup,
    #[serde(default)]
    pub uas2: AgentSetup,
    /// Laid over the base configuration.
    #[serde(default)]
    pub config: toml::Table,
    pub api: Option<Api>,
    /// The last final response to the caller's INVITE; without it none may come.
    pub answer: Option<Answer>,
    #[serde(default)]
    pub seen: Vec<Seen>,
    /// What every call's event says, or one table per event in the order they come; without it there is no call.
    pub event: Option<Events>,
    #[serde(default)]
    pub metric: Vec<Metric>,
}

/// How one SIPp is started.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSetup {
    /// SIPp's own `uac` or `uas` scenario, for want of a file.
    #[serde(default)]
    pub builtin: bool,
    /// More arguments for SIPp.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its address, where it is not the one its part has.
    pub address: Option<std::net::Ipv4Addr>,
    /// How many calls it takes, where that is not the scenario's number.
    pub calls: Option<u32>,
}

/// One command to the admin API, as soon as the call stands as `when` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    pub when: String,
    /// `voicemail-drop` or `hangup`.
    pub post: String,
    /// The field that names the call in the path.
    #[serde(default = "call_id")]
    pub by: String,
    pub status: u16,
    /// How often it is sent; each time `status` must come.
    #[serde(default = "one")]
    pub times: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub code: u16,
    pub phrase: Option<String>,
    #[serde(flatten)]
    pub headers: Headers,
}

/// Messages that an agent must have received.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// `uac`, `uas` or `uas2`.
    pub by: String,
    /// A method, or a code and a method: `BYE`, `200 BYE`.
    pub message: String,
    /// How often, exactly; without it at least once.
    pub count: Option<usize>,
    #[serde(flatten)]
    pub headers: Headers,
}

/// What the head of a message must hold.
#[derive(Default, Deserialize)]
pub struct Headers {
    /// The value of the one Call-Outcome field, `{id}` being the call_uid; without it there may be none.
    pub stamp: Option<String>,
    /// Field name to the values it must have; parameters may follow.
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
    /// Field names that must not be there.
    #[serde(default)]
    pub absent: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Events {
    Every(toml::Table),
    InOrder(Vec<toml::Table>),
}

/// The sum of all series of that name which bear these labels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Exactly; without it at least `min`.
    pub value: Option<f64>,
    #[serde(default)]
    pub min: f64,
}

impl Scenario {
    /// Every folder that has an `expect.toml`, by name.
    pub fn all() -> Result<Vec<Scenario>, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp-scenarios");
        let entries = fs::read_dir(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let mut scenarios = Vec::new();
        for entry in entries.flatten() {
            if entry.path().join("expect.toml").is_file() {
                scenarios.push(Scenario::load(entry.path())?);
            }
        }
        scenarios.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scenarios)
    }

    /// Those for a transport that `SIPP_SCENARIO` lets through.
    pub fn chosen(transport: Transport) -> Result<Vec<Scenario>, String> {
        let wanted = match std::env::var("SIPP_SCENARIO") {
            Ok(pattern) => Regex::new(&pattern).map_err(|error| format!("SIPP_SCENARIO: {error}"))?,
            Err(_) => Regex::new("").map_err(|error| error.to_string())?,
        };
        let mut scenarios = Scenario::all()?;
        scenarios.retain(|scenario| scenario.expect.transports.contains(&transport) && wanted.is_match(&scenario.name));
        Ok(scenarios)
    }

    /// The scenario file of an agent, if there is one.
    pub fn file(&self, agent: &str) -> Option<PathBuf> {
        let path = self.folder.join(format!("{agent}.xml"));
        path.is_file().then_some(path)
    }

    /// Whether somebody takes the calls.
    pub fn has_uas(&self) -> bool {
        self.expect.uas.builtin || self.file("uas").is_some()
    }

    /// Whether `shows` says something and each XML file has a comment that does.
    pub fn is_explained(&self) -> bool {
        let commented = |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("<!--"));
        !self.expect.shows.is_empty()
            && ["uac", "uas", "uas2"].into_iter().filter_map(|agent| self.file(agent)).all(commented)
    }

    fn load(folder: PathBuf) -> Result<Scenario, String> {
        let path = folder.join("expect.toml");
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let expect = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Scenario { name, folder, expect })
    }
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        }
    }
}

impl Expect {
    /// How many calls must be counted.
    pub fn events(&self) -> usize {
        match &self.event {
            None => 0,
            Some(Events::Every(_)) => self.calls as usize,
            Some(Events::InOrder(tables)) => tables.len(),
        }
    }
}

impl Events {
    /// What the event at this place must say.
    pub fn at(&self, index: usize) -> Option<&toml::Table> {
        match self {
            Events::Every(table) => Some(table),
            Events::InOrder(tables) => tables.get(index),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        })
    }
}

fn both() -> Vec<Transport> {
    vec![Transport::Udp, Transport::Tcp]
}

fn one() -> u32 {
    1
}

fn call_id() -> String {
    "call_id".to_owned()
}
