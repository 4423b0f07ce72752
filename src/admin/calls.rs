//! `/v1/calls` and `/v1/outcomes`: what is known of calls, and what an operator can do to one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::ask::ask;
use super::fleet::{Findings, Fleet};
use super::query::{CallId, CallsQuery, LimitQuery};
use super::{App, Problem};
use crate::control::Ask;
use crate::endpoint::Refusal;
use crate::event::{CallState, CallView};

/// A list of calls.
#[derive(Debug, Serialize)]
pub struct Page {
    calls: Vec<CallView>,
    /// What to give as `after` for the next page; null on the last one.
    next: Option<String>,
}

/// A call of this sidecar, or of another.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Shown {
    Here(Box<CallView>),
    There(Value),
}

/// Why there is no one call to show, or nothing was done.
#[derive(Debug)]
pub struct Unknown {
    pub problem: Problem,
    /// Open calls of that name, where that is why.
    pub several: Option<usize>,
}

/// What can be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    VoicemailDrop,
    HangUp,
}

/// `GET /v1/calls`: open calls, or with `state=ended` those that ended last.
pub async fn list(State(app): State<App>, query: CallsQuery) -> Result<Json<Page>, Problem> {
    let CallsQuery { filter, limit, after } = query;
    // One more than asked for tells whether there is a next page.
    let calls = if filter.state == Some(CallState::Ended) {
        app.context.recent.page(filter.direction, after.as_deref(), limit + 1)
    } else {
        ask(&app.context.control, |reply| Ask::Calls { filter, after, limit: limit + 1, reply }).await?
    };
    Ok(Json(Page::cut(calls, limit)))
}

/// `GET /v1/calls/{id}`: the open call of that name, else the newest ended one; of another sidecar where this one has none.
pub async fn show(State(app): State<App>, CallId(id): CallId) -> Result<Json<Shown>, Problem> {
    let here = find_here(&app, &id).await;
    let is_settled = match &here {
        Ok(call) => call.state != CallState::Ended || call.data.call_uid == id,
        Err(unknown) => unknown.problem.status() != StatusCode::NOT_FOUND,
    };
    let Some(fleet) = app.fleet.as_ref().filter(|_| !is_settled) else {
        return Ok(Json(Shown::here(here?)));
    };
    match (fleet.find(&id).await, here) {
        (Ok(Findings::Several(count)), _) => Err(Refusal::Ambiguous(count).into()),
        (Ok(Findings::One(found)), Err(_)) => Ok(Json(Shown::There(found.call))),
        (Ok(Findings::One(found)), Ok(_)) if found.is_open => Ok(Json(Shown::There(found.call))),
        (_, Ok(call)) => Ok(Json(Shown::here(call))),
        (Ok(Findings::Nothing), Err(unknown)) => Err(unknown.problem),
        (Err(problem), Err(_)) => Err(problem),
    }
}

/// `POST /v1/calls/{id}/voicemail-drop`
pub async fn voicemail_drop(State(app): State<App>, CallId(id): CallId) -> Result<Json<Shown>, Problem> {
    command(&app, Command::VoicemailDrop, &id).await.map(Json)
}

/// `POST /v1/calls/{id}/hangup`
pub async fn hang_up(State(app): State<App>, CallId(id): CallId) -> Result<(StatusCode, Json<Shown>), Problem> {
    let call = command(&app, Command::HangUp, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(call)))
}

/// `GET /v1/outcomes`: the calls that ended last, newest first.
pub async fn outcomes(State(app): State<App>, query: LimitQuery) -> Json<Page> {
    Json(Page { calls: app.context.recent.newest(query.limit), next: None })
}

/// The open call of that name at this sidecar, else the newest ended one.
pub(super) async fn find_here(app: &App, id: &str) -> Result<CallView, Unknown> {
    match ask(&app.context.control, |reply| Ask::Call { id: id.to_owned(), reply }).await? {
        Err(Refusal::NotFound) => app.context.recent.find(id).ok_or(Refusal::NotFound),
        answer => answer,
    }
    .map_err(Unknown::from)
}

/// Does something with an open call of this sidecar.
pub(super) async fn command_here(app: &App, command: Command, id: &str) -> Result<CallView, Unknown> {
    let question = |reply| match command {
        Command::VoicemailDrop => Ask::VoicemailDrop { id: id.to_owned(), reply },
        Command::HangUp => Ask::HangUp { id: id.to_owned(), reply },
    };
    ask(&app.context.control, question).await?.map_err(|refusal| match refusal {
        Refusal::NotFound if app.context.recent.find(id).is_some() => has_ended().into(),
        refusal => refusal.into(),
    })
}

async fn command(app: &App, command: Command, id: &str) -> Result<Shown, Problem> {
    if let Some(fleet) = &app.fleet
        && let Some(uid) = elsewhere(app, fleet, id).await?
    {
        return fleet.command(command, &uid).await.map(Shown::There);
    }
    Ok(Shown::here(command_here(app, command, id).await?))
}

/// The call_uid of an open call of that name that is another sidecar's; `None` where it is a matter of this one.
async fn elsewhere(app: &App, fleet: &Fleet, id: &str) -> Result<Option<String>, Problem> {
    let is_open = ask(&app.context.control, |reply| Ask::Call { id: id.to_owned(), reply }).await?;
    let ended = || app.context.recent.find(id);
    if !matches!(is_open, Err(Refusal::NotFound)) || ended().is_some_and(|call| call.data.call_uid == id) {
        return Ok(None);
    }
    match fleet.find(id).await {
        Ok(Findings::One(found)) if found.is_open => Ok(Some(found.uid)),
        Ok(Findings::One(_)) => Err(has_ended()),
        Ok(Findings::Several(count)) => Err(Refusal::Ambiguous(count).into()),
        Err(problem) if ended().is_none() => Err(problem),
        Ok(Findings::Nothing) | Err(_) => Ok(None),
    }
}

fn has_ended() -> Problem {
    Problem::conflict("the call has ended")
}

impl Shown {
    fn here(call: CallView) -> Shown {
        Shown::Here(Box::new(call))
    }
}

impl Command {
    /// As routes and subjects have it.
    pub const fn label(self) -> &'static str {
        match self {
            Command::VoicemailDrop => "voicemail-drop",
            Command::HangUp => "hangup",
        }
    }

    pub fn from_label(label: &str) -> Option<Command> {
        [Command::VoicemailDrop, Command::HangUp].into_iter().find(|command| command.label() == label)
    }
}

impl Page {
    fn cut(mut calls: Vec<CallView>, limit: usize) -> Page {
        let has_more = calls.len() > limit;
        calls.truncate(limit);
        let last = calls.last().filter(|_| has_more);
        Page { next: last.map(|call| call.data.call_uid.clone()), calls }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::NotFound => Problem::not_found("no call has this call_uid, Call-ID or correlation"),
            Refusal::Ambiguous(count) => {
                Problem::conflict(format!("{count} open calls have this name: use the call_uid of one"))
            }
            Refusal::Conflict(reason) => Problem::conflict(reason),
        }
    }
}

impl From<Problem> for Unknown {
    fn from(problem: Problem) -> Unknown {
        Unknown { problem, several: None }
    }
}

impl From<Refusal> for Unknown {
    fn from(refusal: Refusal) -> Unknown {
        let several = match refusal {
            Refusal::Ambiguous(count) => Some(count),
            Refusal::NotFound | Refusal::Conflict(_) => None,
        };
        Unknown { problem: refusal.into(), several }
    }
}

impl From<Unknown> for Problem {
    fn from(unknown: Unknown) -> Problem {
        unknown.problem
    }
}
