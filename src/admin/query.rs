//! What a request asks for: the query of a list, the id in a path. No answer repeats a value, which may be a number.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;

use super::Problem;
use crate::endpoint::Filter;
use crate::event::CallState;
use crate::flow::Direction;

/// How many calls a list has unless the query says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// Most calls in one answer.
const MAX_LIMIT: usize = 1_000;

/// The parameters of a list.
const CALLS: &[&str] = &["state", "direction", "limit", "after"];

/// `?state=&direction=&limit=&after=`
#[derive(Debug)]
pub struct CallsQuery {
    pub filter: Filter,
    /// 1..=1000.
    pub limit: usize,
    /// A call_uid: the last one that was seen.
    pub after: Option<String>,
}

/// `?limit=`
#[derive(Debug)]
pub struct LimitQuery {
    /// 1..=1000.
    pub limit: usize,
}

/// `{id}`, decoded: a call_uid, a Call-ID or a correlation.
#[derive(Debug)]
pub struct CallId(pub String);

impl CallsQuery {
    fn parse(pairs: &[(String, String)], known: &[&str]) -> Result<CallsQuery, Problem> {
        let mut query = CallsQuery { filter: Filter::default(), limit: DEFAULT_LIMIT, after: None };
        for (index, (name, value)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(Problem::bad_request(format!("there is no parameter {name:?} here, only {}", list(known))));
            }
            if pairs.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(Problem::bad_request(format!("{name} is given twice")));
            }
            query.set(name, value)?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let not_one_of = |labels| Problem::bad_request(format!("{name} is not one of {labels}"));
        match name {
            "state" => {
                let state = CallState::from_label(value).ok_or_else(|| not_one_of(list(CallState::ALL)))?;
                self.filter.state = Some(state);
            }
            "direction" => {
                let direction = Direction::from_label(value).ok_or_else(|| not_one_of(list(Direction::ALL)))?;
                self.filter.direction = Some(direction);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                self.limit = limit.ok_or_else(|| {
                    Problem::bad_request(format!("limit is not a whole number from 1 to {MAX_LIMIT}"))
                })?;
            }
            _ if value.is_empty() => {
                return Err(Problem::bad_request("after is empty: give the next of the page before, or leave it out"));
            }
            _ => self.after = Some(value.to_owned()),
        }
        Ok(())
    }
}

fn list(labels: &[impl ToString]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn pairs(parts: &Parts) -> Result<Vec<(String, String)>, Problem> {
    let pairs = Query::try_from_uri(&parts.uri).map_err(|error| Problem::bad_request(error.body_text()))?;
    Ok(pairs.0)
}

impl<S: Sync> FromRequestParts<S> for CallsQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<CallsQuery, Problem> {
        CallsQuery::parse(&pairs(parts)?, CALLS)
    }
}

impl<S: Sync> FromRequestParts<S> for LimitQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<LimitQuery, Problem> {
        let query = CallsQuery::parse(&pairs(parts)?, &["limit"])?;
        Ok(LimitQuery { limit: query.limit })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CallId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<CallId, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(CallId(id)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<CallsQuery, Problem> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        CallsQuery::parse(&pairs, CALLS)
    }

    #[test]
    fn everything_can_be_left_out() {
        let query = parse(&[]).unwrap();
        assert_eq!((query.filter.state, query.filter.direction), (None, None));
        assert_eq!((query.limit, query.after), (100, None));
    }

    #[test]
    fn every_parameter_is_taken() {
        let query =
            parse(&[("state", "ringing"), ("direction", "inbound"), ("limit", "1000"), ("after", "A")]).unwrap();
        assert_eq!(query.filter.state, Some(CallState::Ringing));
        assert_eq!(query.filter.direction, Some(Direction::Inbound));
        assert_eq!((query.limit, query.after.as_deref()), (1_000, Some("A")));
    }

    #[test]
    fn what_makes_no_sense_is_a_bad_request() {
        for (name, value) in [
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "-1"),
            ("limit", ""),
            ("limit", "99999999999999999999"),
            ("state", "Ringing"),
            ("state", ""),
            ("direction", "up"),
            ("after", ""),
            ("stat", "ringing"),
        ] {
            let status = parse(&[(name, value)]).unwrap_err().into_response().status();
            assert_eq!(status.as_u16(), 400, "{name}={value}");
        }
        assert!(parse(&[("limit", "1"), ("limit", "2")]).is_err());
    }
}
