//! `/v1/calls` and `/v1/outcomes`: what is known of calls, and what an operator can do to one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::oneshot;

use super::ask::ask;
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

/// `GET /v1/calls/{id}`: the open call of that name, else the newest ended one.
pub async fn show(State(app): State<App>, CallId(id): CallId) -> Result<Json<CallView>, Problem> {
    match ask(&app.context.control, |reply| Ask::Call { id: id.clone(), reply }).await? {
        Err(Refusal::NotFound) => app.context.recent.find(&id).ok_or(Refusal::NotFound),
        answer => answer,
    }
    .map(Json)
    .map_err(Problem::from)
}

/// `POST /v1/calls/{id}/voicemail-drop`
pub async fn voicemail_drop(State(app): State<App>, CallId(id): CallId) -> Result<Json<CallView>, Problem> {
    command(&app, id, |id, reply| Ask::VoicemailDrop { id, reply }).await.map(Json)
}

/// `POST /v1/calls/{id}/hangup`
pub async fn hang_up(State(app): State<App>, CallId(id): CallId) -> Result<(StatusCode, Json<CallView>), Problem> {
    let call = command(&app, id, |id, reply| Ask::HangUp { id, reply }).await?;
    Ok((StatusCode::ACCEPTED, Json(call)))
}

/// `GET /v1/outcomes`: the calls that ended last, newest first.
pub async fn outcomes(State(app): State<App>, query: LimitQuery) -> Json<Page> {
    Json(Page { calls: app.context.recent.newest(query.limit), next: None })
}

type Reply = oneshot::Sender<Result<CallView, Refusal>>;

async fn command(app: &App, id: String, question: impl FnOnce(String, Reply) -> Ask) -> Result<CallView, Problem> {
    let answer = ask(&app.context.control, |reply| question(id.clone(), reply)).await?;
    answer.map_err(|refusal| match refusal {
        Refusal::NotFound if app.context.recent.find(&id).is_some() => Problem::conflict("the call has ended"),
        refusal => refusal.into(),
    })
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
