//! All workers: how they are asked, and what their answers come to together.

use std::collections::HashMap;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::mail::{Address, Mail};
use super::worker::Worker;
use crate::control::{Figures, OwnedHistogram, OwnedSample};
use crate::endpoint::Refusal;
use crate::event::CallView;
use crate::policy::Limits;

/// The way to all workers.
#[derive(Clone)]
pub(super) struct Workers(pub(super) Vec<Address>);

impl Workers {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn post(&self, worker: usize, mail: Mail) {
        if let Some(address) = self.0.get(worker) {
            // False once everything ends.
            address.post(mail);
        }
    }

    /// Has all of them do something.
    pub(super) fn tell(&self, job: impl FnOnce(&mut Worker) + Clone + Send + 'static) {
        for worker in 0..self.count() {
            self.post(worker, Mail::Job(Box::new(job.clone())));
        }
    }

    /// Ends them.
    pub(super) fn end(&self) {
        self.tell(|worker| worker.is_over = true);
    }

    /// Asks one; `None` where it has ended.
    pub(super) async fn ask_one<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let work = move |worker: &mut Worker| {
            let found = question(worker);
            // What it has changed is in the journal before anybody is told of it.
            worker.drain_outputs();
            // Whoever asked may have gone: then nobody reads the answer.
            drop(reply.send(found));
        };
        self.post(worker, Mail::Job(Box::new(work)));
        answer.await.ok()
    }

    /// Asks all of them at once; the answers are in the order of the workers.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Worker) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        join_all((0..self.count()).map(|worker| self.ask_one(worker, question.clone()))).await
    }
}

/// Adds up what workers have counted. A series that only some of them have counts as 0 for the others; a server is up
/// if it is for all.
pub(super) fn add_figures(all: Vec<Figures>) -> Figures {
    let mut all = all.into_iter();
    let Some(mut sum) = all.next() else { return Figures::default() };
    let mut samples = places(sum.samples.iter().map(|one| (one.name, &one.labels)));
    let mut histograms = places(sum.histograms.iter().map(|one| (one.name, &one.labels)));
    for figures in all {
        for sample in figures.samples {
            match samples.get(&(sample.name, sample.labels.clone())).and_then(|at| sum.samples.get_mut(*at)) {
                Some(known) => add_sample(known, &sample),
                None => {
                    samples.insert((sample.name, sample.labels.clone()), sum.samples.len());
                    sum.samples.push(sample);
                }
            }
        }
        for one in figures.histograms {
            match histograms.get(&(one.name, one.labels.clone())).and_then(|at| sum.histograms.get_mut(*at)) {
                Some(known) => add_histogram(known, &one),
                None => {
                    histograms.insert((one.name, one.labels.clone()), sum.histograms.len());
                    sum.histograms.push(one);
                }
            }
        }
    }
    sum
}

/// What the answers to a question for one call come to, and whose it is: a call_uid names one call and goes before
/// whatever else has that name.
pub(super) fn find_one(id: &str, answers: Vec<Result<CallView, Refusal>>) -> Result<(usize, CallView), Refusal> {
    let mut found = Vec::new();
    let mut count = 0;
    for (worker, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(view) if view.data.call_uid == id => return Ok((worker, view)),
            Ok(view) => {
                count += 1;
                found.push((worker, view));
            }
            Err(Refusal::Ambiguous(several)) => count += several,
            Err(Refusal::NotFound | Refusal::Conflict(_)) => {}
        }
    }
    match count {
        0 => Err(Refusal::NotFound),
        1 => found.pop().ok_or(Refusal::NotFound),
        several => Err(Refusal::Ambiguous(several)),
    }
}

/// A worker's share of the limits over all calls: they add up to the whole, and are never 0, which would be no limit or
/// no call at all.
pub(super) fn share(whole: Limits, worker: usize, workers: usize) -> Limits {
    let part = |whole: usize| (whole / workers + usize::from(worker < whole % workers)).max(1);
    let rate = |whole: u32| match whole {
        0 => 0,
        limit => u32::try_from(part(usize::try_from(limit).unwrap_or(usize::MAX))).unwrap_or(u32::MAX),
    };
    Limits {
        calls: part(whole.calls),
        calls_per_second: rate(whole.calls_per_second),
        calls_per_second_per_source: rate(whole.calls_per_second_per_source),
        transactions: part(whole.transactions),
        overload_delay: whole.overload_delay,
    }
}

type Series = (&'static str, Vec<(String, String)>);

fn places<'a>(series: impl Iterator<Item = (&'static str, &'a Vec<(String, String)>)>) -> HashMap<Series, usize> {
    series.enumerate().map(|(at, (name, labels))| ((name, labels.clone()), at)).collect()
}

fn add_sample(known: &mut OwnedSample, other: &OwnedSample) {
    known.value = match known.name {
        "sipstamp_server_up" => known.value.min(other.value),
        _ => known.value + other.value,
    };
}

fn add_histogram(known: &mut OwnedHistogram, other: &OwnedHistogram) {
    for (count, more) in known.counts.iter_mut().zip(&other.counts) {
        *count += more;
    }
    known.sum += other.sum;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::CallState;
    use crate::recent::tests::call_data;
    use crate::stats::SampleKind;

    fn sample(name: &'static str, label: &str, value: u64) -> OwnedSample {
        OwnedSample { name, kind: SampleKind::Counter, labels: vec![("label".into(), label.into())], value }
    }

    fn view(uid: &str, call_id: &str) -> Result<CallView, Refusal> {
        Ok(CallView { state: CallState::Ringing, data: call_data(uid, call_id) })
    }

    #[test]
    fn samples_are_added_by_name_and_labels() {
        let of = |samples: &[OwnedSample]| Figures { samples: samples.to_vec(), histograms: Vec::new() };
        let sum = add_figures(vec![
            of(&[sample("a", "x", 1), sample("sipstamp_server_up", "s", 1)]),
            of(&[sample("b", "x", 5), sample("a", "x", 2), sample("sipstamp_server_up", "s", 0)]),
            of(&[sample("a", "y", 4), sample("sipstamp_server_up", "s", 1), sample("b", "x", 1)]),
        ]);
        let values = sum.samples.iter().map(|one| (one.name, one.labels[0].1.as_str(), one.value)).collect::<Vec<_>>();
        assert_eq!(values, [("a", "x", 3), ("sipstamp_server_up", "s", 0), ("b", "x", 6), ("a", "y", 4)]);
    }

    #[test]
    fn histograms_are_added_bucket_by_bucket() {
        let figures = |count| {
            let mut processing = crate::admin::metrics::Processing::new();
            processing.observe(0.01, count);
            Figures { samples: Vec::new(), histograms: vec![processing.snapshot()] }
        };
        let sum = add_figures(vec![figures(2), figures(1)]);
        let [processing] = &sum.histograms[..] else { panic!("{sum:?}") };
        assert_eq!((processing.counts.iter().sum::<u64>(), processing.sum), (3, 0.03));
    }

    #[test]
    fn a_call_is_found_on_whichever_worker_it_is() {
        let none = || Err(Refusal::NotFound);
        let of = |answers| find_one("id", answers).map(|(worker, view)| (worker, view.data.call_uid));
        assert_eq!(of(vec![none(), view("A", "id"), none()]), Ok((1, "A".into())));
        assert_eq!(of(vec![none(), none()]), Err(Refusal::NotFound));
        assert_eq!(of(vec![view("A", "id"), view("B", "id")]), Err(Refusal::Ambiguous(2)));
        assert_eq!(of(vec![view("A", "id"), Err(Refusal::Ambiguous(3))]), Err(Refusal::Ambiguous(4)));
        assert_eq!(of(vec![view("A", "id"), view("id", "other")]), Ok((1, "id".into())));
    }

    #[test]
    fn shares_add_up_and_are_never_nothing() {
        let limits = |calls, calls_per_second| Limits { calls, calls_per_second, ..Limits::default() };
        let sum = |whole: Limits, workers: usize| {
            let shares = (0..workers).map(|worker| share(whole, worker, workers)).collect::<Vec<_>>();
            (shares.iter().map(|one| one.calls).sum(), shares.iter().map(|one| one.calls_per_second).sum())
        };
        assert_eq!(sum(limits(100_000, 10), 3), (100_000, 10));
        assert_eq!(sum(limits(100_000, 0), 3), (100_000, 0));
        assert_eq!(sum(limits(1, 1), 3), (3, 3));
        assert_eq!(sum(limits(7, 7), 1), (7, 7));
    }
}
