//! Sidecars that answer for each other, over plain NATS request and reply.
//!
//! Each listens to `sipstamp.control.*` (`events.nats.control_subject`):
//!
//! | subject | who answers |
//! |---|---|
//! | `….call` | each that has the call, open or ended lately, or several of that name; the others are silent |
//! | `….voicemail-drop`, `….hangup` | the one that has the call, which is named by its call_uid |
//!
//! A question is `{"id":"…"}`, an answer `{"status":200,"call":{…}}` or `{"status":409,"detail":"…"}`. A question that came
//! over NATS is answered from here alone and never passed on. Nobody knows how many there are: what nobody has takes the
//! whole time that is waited for answers, unless the server says that nobody listens.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subscriber};
use axum::http::StatusCode as HttpStatus;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::calls::{self, Command};
use super::{App, Problem};
use crate::event::CallView;
use crate::nats::Nats;

/// How long sidecars may take to say that they have a call. Only a call_uid is answered before: another name may be that of
/// several calls.
const GATHERING: Duration = Duration::from_millis(500);
/// How long the one that has the call may take to do something with it: its workers have two seconds.
const DOING: Duration = Duration::from_secs(3);
/// Questions that are answered at the same time.
const AT_ONCE: usize = 16;
/// The longest name of a call that is asked for.
const LONGEST_ID: usize = 4 * 1024;

/// The name of the connection, as the server shows it.
const NAME: &str = "sipstamp control";

/// The way to the other sidecars.
#[derive(Clone, Debug)]
pub struct Fleet {
    nats: Arc<Nats>,
    /// What the subjects begin with.
    prefix: Arc<str>,
    client: Arc<OnceLock<Client>>,
}

/// A call that another sidecar has. Its fields are passed on as they are: that one may be of another version.
#[derive(Clone, Debug)]
pub struct Found {
    pub uid: String,
    pub is_open: bool,
    ended_at: Option<String>,
    pub call: Value,
}

/// What the answers of all come to.
#[derive(Debug)]
pub enum Findings {
    Nothing,
    One(Found),
    /// This many open calls have the name.
    Several(usize),
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    id: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer<T> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<T>,
    /// Open calls of that name, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    several: Option<usize>,
}

impl Fleet {
    /// `None` where the configuration wants none.
    pub fn new(nats: Option<Nats>) -> Option<Fleet> {
        let nats = nats?;
        let prefix = nats.control.as_deref()?.into();
        Some(Fleet { nats: Arc::new(nats), prefix, client: Arc::default() })
    }

    /// Answers what others ask, for as long as the runtime lives.
    pub async fn serve(self, app: App) {
        let subscribed = async {
            let connection = self.nats.servers.connect(NAME).await?;
            let questions = connection.client.subscribe(format!("{}.*", self.prefix)).await;
            let questions = questions.map_err(std::io::Error::other)?;
            // It is set once.
            drop(self.client.set(connection.client));
            Ok::<_, std::io::Error>(questions)
        };
        match subscribed.await {
            Ok(questions) => {
                questions.for_each_concurrent(AT_ONCE, |question| self.answer(&app, question)).await;
            }
            // The configuration was checked: this does not occur.
            Err(error) => tracing::error!(%error, "other sidecars cannot be asked"),
        }
    }

    /// Asks all others who has a call.
    ///
    /// # Errors
    /// 503 where they cannot be asked.
    pub async fn find(&self, id: &str) -> Result<Findings, Problem> {
        let until = Instant::now() + GATHERING;
        let mut answers = self.ask("call", id).await?;
        let mut open = Vec::new();
        let mut ended: Option<Found> = None;
        let mut several = 0;
        while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            let Some(answer) = read::<Value>(&answer) else { continue };
            several += answer.several.unwrap_or_default();
            let Some(found) = answer.call.and_then(Found::read) else { continue };
            if found.uid == id {
                return Ok(Findings::One(found));
            }
            if found.is_open {
                open.push(found);
            } else if ended.as_ref().is_none_or(|other| other.ended_at < found.ended_at) {
                ended = Some(found);
            }
        }
        let count = open.len() + several;
        Ok(match (open.pop(), ended) {
            (Some(found), _) if count == 1 => Findings::One(found),
            (None, Some(ended)) if count == 0 => Findings::One(ended),
            (None, None) if count == 0 => Findings::Nothing,
            _ => Findings::Several(count),
        })
    }

    /// Has the sidecar that has a call do something with it.
    ///
    /// # Errors
    /// What that one answers, and 503 where it does not.
    pub async fn command(&self, command: Command, uid: &str) -> Result<Value, Problem> {
        let until = Instant::now() + DOING;
        let mut answers = self.ask(command.label(), uid).await?;
        while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            match read::<Value>(&answer) {
                Some(Answer { status: 200, call: Some(call), .. }) => return Ok(call),
                Some(Answer { status, detail, .. }) => {
                    let status = HttpStatus::from_u16(status).unwrap_or(HttpStatus::SERVICE_UNAVAILABLE);
                    return Err(Problem::new(status, detail.unwrap_or_default()));
                }
                None => {}
            }
        }
        Err(Problem::unavailable("the sidecar that has the call did not answer in time: ask for the call"))
    }

    async fn ask(&self, what: &str, id: &str) -> Result<Subscriber, Problem> {
        let cannot = || Problem::unavailable("it is no call of this sidecar, and without NATS no other can be asked");
        let client = self.client.get().filter(|client| client.connection_state() == State::Connected);
        let client = client.ok_or_else(cannot)?;
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await.map_err(|_| cannot())?;
        let question = serde_json::to_vec(&Question { id: id.to_owned() }).map_err(|_| cannot())?;
        let subject = format!("{}.{what}", self.prefix);
        client.publish_with_reply(subject, inbox, question.into()).await.map_err(|_| cannot())?;
        Ok(answers)
    }

    async fn answer(&self, app: &App, question: Message) {
        let what = question.subject.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix('.'));
        let asked = serde_json::from_slice::<Question>(&question.payload).ok();
        let (Some(what), Some(reply), Some(Question { id }), Some(client)) =
            (what, question.reply, asked.filter(|asked| asked.id.len() <= LONGEST_ID), self.client.get())
        else {
            return;
        };
        let answer = match (what, Command::from_label(what)) {
            ("call", _) => answer_of(calls::find_here(app, &id).await),
            // Who does not have the call has refused nothing.
            (_, Some(command)) => match calls::find_here(app, &id).await {
                Ok(_) => answer_of(calls::command_here(app, command, &id).await),
                unknown => answer_of(unknown),
            },
            // A later version's.
            _ => return,
        };
        if answer.status == HttpStatus::NOT_FOUND.as_u16() {
            return;
        }
        if let Ok(answer) = serde_json::to_vec(&answer) {
            // Whoever asked waits for a time only.
            drop(client.publish(reply, answer.into()).await);
        }
    }
}

impl Found {
    fn read(call: Value) -> Option<Found> {
        let text = |key| call.get(key).and_then(Value::as_str).map(str::to_owned);
        let (uid, state, ended_at) = (text("call_uid")?, text("state")?, text("ended_at"));
        Some(Found { uid, is_open: state != "ended", ended_at, call })
    }
}

fn answer_of(known: Result<CallView, calls::Unknown>) -> Answer<CallView> {
    let none = Answer { status: 200, detail: None, call: None, several: None };
    match known {
        Ok(call) => Answer { call: Some(call), ..none },
        Err(calls::Unknown { problem, several }) => {
            Answer { status: problem.status().as_u16(), detail: Some(problem.detail().to_owned()), several, ..none }
        }
    }
}

fn read<'a, T: Deserialize<'a>>(message: &'a Message) -> Option<Answer<T>> {
    serde_json::from_slice(&message.payload).ok()
}
