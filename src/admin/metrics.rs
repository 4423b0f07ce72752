//! `GET /metrics`: the Prometheus text format 0.0.4, made of samples, histograms and the process itself.
//!
//! Each [`Exposition`] has recorders of its own, none is global, so that several can live in one process.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

pub use super::histograms::{Histograms, Processing};
use super::{VERSION, families, histograms, process, revision};
use crate::control::{Figures, OwnedHistogram, OwnedSample};
use crate::stats::SampleKind;

const METADATA: Metadata<'static> = Metadata::new("sipstamp", Level::INFO, Some("sipstamp"));

/// What `/metrics` shows.
pub struct Exposition {
    sampled: Mutex<Sampled>,
}

/// Counters and gauges: a handle for each sample, in the order of the samples.
struct Sampled {
    recorder: PrometheusRecorder,
    series: Vec<Series>,
    histograms: Vec<OwnedHistogram>,
}

struct Series {
    name: &'static str,
    labels: Vec<(String, String)>,
    handle: Handle,
}

enum Handle {
    Counter(Counter),
    Gauge(Gauge),
}

impl Exposition {
    /// Without a single series but those of the process.
    pub fn new() -> Exposition {
        Exposition { sampled: Mutex::new(Sampled::new()) }
    }

    /// Sets everything to what the figures say. A series that is in no sample is no longer shown: a server
    /// that a reload has removed would otherwise stay up, or down, for ever.
    pub fn apply(&self, figures: Figures) {
        let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        sampled.apply(&figures.samples);
        sampled.histograms = figures.histograms;
    }

    /// The whole page. Takes milliseconds: not for a thread that has anything else to do.
    pub fn render(&self) -> String {
        let mut page = {
            let sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
            let mut page = sampled.recorder.handle().render();
            histograms::render(&mut page, &sampled.histograms);
            page
        };
        process::render(&mut page);
        let (version, revision) = (VERSION, revision());
        // Writing to a string does not fail.
        let _ = write!(
            page,
            "# HELP sipstamp_build_info What is running.\n# TYPE sipstamp_build_info gauge\n\
             sipstamp_build_info{{version=\"{version}\",revision=\"{revision}\"}} 1\n"
        );
        page
    }
}

impl Default for Exposition {
    fn default() -> Exposition {
        Exposition::new()
    }
}

impl Sampled {
    fn new() -> Sampled {
        let recorder = PrometheusBuilder::new().build_recorder();
        families::describe_sampled(&recorder);
        Sampled { recorder, series: Vec::new(), histograms: Vec::new() }
    }

    fn apply(&mut self, samples: &[OwnedSample]) {
        // Samples come in the same order each time, so that a handle is found without a lookup. Only a reload
        // changes them, and then everything is made anew, since a recorder can't forget a series.
        let is_same = self.series.len() == samples.len()
            && self.series.iter().zip(samples).all(|(series, sample)| series.is_of(sample));
        if !is_same {
            *self = Sampled::new();
            self.series = samples.iter().map(|sample| Series::new(&self.recorder, sample)).collect();
        }
        for (series, sample) in self.series.iter().zip(samples) {
            match &series.handle {
                Handle::Counter(counter) => counter.absolute(sample.value),
                Handle::Gauge(gauge) => gauge.set(sample.value as f64),
            }
        }
    }
}

impl Series {
    fn new(recorder: &PrometheusRecorder, sample: &OwnedSample) -> Series {
        let labels: Vec<Label> =
            sample.labels.iter().map(|(name, value)| Label::new(name.clone(), value.clone())).collect();
        let key = Key::from_parts(sample.name, labels);
        let handle = match sample.kind {
            SampleKind::Counter => Handle::Counter(recorder.register_counter(&key, &METADATA)),
            SampleKind::Gauge => Handle::Gauge(recorder.register_gauge(&key, &METADATA)),
        };
        Series { name: sample.name, labels: sample.labels.clone(), handle }
    }

    fn is_of(&self, sample: &OwnedSample) -> bool {
        let is_same_kind = match self.handle {
            Handle::Counter(_) => sample.kind == SampleKind::Counter,
            Handle::Gauge(_) => sample.kind == SampleKind::Gauge,
        };
        is_same_kind && self.name == sample.name && self.labels == sample.labels
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::call::Uid;
    use crate::event::Summary;
    use crate::flow::Direction;
    use crate::outcome::{EndCause, Outcome};
    use crate::policy::ServerId;

    /// A call that nobody answered.
    const UNANSWERED: Summary = Summary {
        call: Uid(1),
        direction: Direction::Outbound,
        server: Some(ServerId(1)),
        outcome: Some(Outcome::NoAnswer),
        end_cause: Some(EndCause::NoAnswerTimer),
        sip_code: None,
        post_dial_delay_ms: Some(812),
        ring_ms: Some(29_190),
        answer_delay_ms: None,
        talk_ms: None,
    };

    fn sample(name: &'static str, kind: SampleKind, label: (&str, &str), value: u64) -> OwnedSample {
        OwnedSample { name, kind, labels: vec![(label.0.into(), label.1.into())], value }
    }

    fn apply(exposition: &Exposition, samples: &[OwnedSample]) {
        exposition.apply(Figures { samples: samples.to_vec(), histograms: Vec::new() });
    }

    /// A page with these histograms and no sample.
    fn observed(histograms: &Histograms) -> Exposition {
        let exposition = Exposition::new();
        exposition.apply(Figures { samples: Vec::new(), histograms: histograms.snapshot() });
        exposition
    }

    fn has(exposition: &Exposition, line: &str) -> bool {
        exposition.render().lines().any(|found| found == line)
    }

    #[test]
    fn a_counter_at_zero_is_shown() {
        let exposition = Exposition::new();
        apply(&exposition, &[sample("sipstamp_races_total", SampleKind::Counter, ("kind", "late_2xx"), 0)]);
        assert!(has(&exposition, "sipstamp_races_total{kind=\"late_2xx\"} 0"));
        assert!(has(&exposition, "# TYPE sipstamp_races_total counter"));
    }

    #[test]
    fn samples_set_what_they_name_and_nothing_else_stays() {
        let exposition = Exposition::new();
        let up = |server, value| sample("sipstamp_server_up", SampleKind::Gauge, ("server", server), value);
        apply(&exposition, &[up("a", 1), up("b", 1)]);
        apply(&exposition, &[up("a", 0), up("b", 1)]);
        assert!(has(&exposition, "sipstamp_server_up{server=\"a\"} 0"));
        assert!(has(&exposition, "sipstamp_server_up{server=\"b\"} 1"));
        apply(&exposition, &[up("b", 1)]);
        assert!(has(&exposition, "sipstamp_server_up{server=\"b\"} 1"));
        assert!(!exposition.render().contains("server=\"a\""));
    }

    #[test]
    fn two_expositions_do_not_mix() {
        let (one, other) = (Exposition::new(), Exposition::new());
        apply(&one, &[sample("sipstamp_calls_active", SampleKind::Gauge, ("state", "setup"), 7)]);
        assert!(one.render().contains("sipstamp_calls_active"));
        assert!(!other.render().contains("sipstamp_calls_active"));
    }

    #[test]
    fn an_ended_call_is_in_the_histograms_of_its_server_and_outcome() {
        let histograms = Histograms::new();
        histograms.add_server(ServerId(1), "pbx-a");
        let answered = Summary { talk_ms: Some(1_999), answer_delay_ms: Some(5_000), ..UNANSWERED };
        histograms.call_ended(&answered);
        histograms.call_ended(&answered);
        histograms.call_ended(&Summary { server: None, ..answered });
        let exposition = observed(&histograms);
        let labels = "server=\"pbx-a\",direction=\"outbound\"";
        for line in [
            format!("sipstamp_talk_seconds_bucket{{{labels},le=\"1\"}} 0"),
            format!("sipstamp_talk_seconds_bucket{{{labels},le=\"2\"}} 2"),
            format!("sipstamp_talk_seconds_bucket{{{labels},le=\"6\"}} 2"),
            format!("sipstamp_talk_seconds_bucket{{{labels},le=\"14400\"}} 2"),
            format!("sipstamp_answer_delay_seconds_sum{{{labels}}} 10"),
            format!("sipstamp_post_dial_delay_seconds_count{{{labels}}} 2"),
            "sipstamp_ring_seconds_bucket{outcome=\"NoAnswer\",direction=\"outbound\",le=\"15\"} 0".into(),
            "sipstamp_ring_seconds_bucket{outcome=\"NoAnswer\",direction=\"outbound\",le=\"30\"} 3".into(),
        ] {
            assert!(has(&exposition, &line), "{line} is not in\n{}", exposition.render());
        }
    }

    #[test]
    fn histograms_with_closed_labels_exist_from_the_start() {
        let page = observed(&Histograms::new()).render();
        assert_eq!(page.matches("sipstamp_ring_seconds_count{").count(), 16, "{page}");
    }

    #[test]
    fn how_long_messages_take_is_in_its_bucket() {
        let exposition = Exposition::new();
        let mut processing = Processing::new();
        let apply = |processing: &Processing| {
            exposition.apply(Figures { samples: Vec::new(), histograms: vec![processing.snapshot()] });
        };
        apply(&processing);
        assert!(has(&exposition, "sipstamp_processing_seconds_count 0"));
        processing.observe(0.000_2, 3);
        apply(&processing);
        assert!(has(&exposition, "sipstamp_processing_seconds_count 3"));
        assert!(has(&exposition, "sipstamp_processing_seconds_bucket{le=\"0.0001\"} 0"));
        assert!(has(&exposition, "sipstamp_processing_seconds_bucket{le=\"0.00025\"} 3"));
    }

    #[test]
    fn promtool_has_nothing_to_complain_about() {
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = promtool else {
            eprintln!("SKIPPED: promtool is not installed");
            return;
        };
        let exposition = Exposition::new();
        let histograms = Histograms::new();
        histograms.add_server(ServerId(1), "pbx-a");
        histograms.call_ended(&UNANSWERED);
        let all: Vec<OwnedSample> = families::SAMPLED
            .iter()
            .map(|(name, ..)| {
                let kind = if name.ends_with("_total") { SampleKind::Counter } else { SampleKind::Gauge };
                sample(name, kind, ("server", "a \"quoted\\ name\n"), 1)
            })
            .collect();
        let observed = [histograms.snapshot(), vec![Processing::new().snapshot()]].concat();
        exposition.apply(Figures { samples: all, histograms: observed });
        let page = exposition.render();
        for name in families::SAMPLED.iter().map(|(name, ..)| name).chain(families::OBSERVED.iter().map(|of| &of.0)) {
            assert_eq!(page.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
        }
        std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), page.as_bytes()).unwrap();
        let verdict = promtool.wait_with_output().unwrap();
        let complaints = [verdict.stdout, verdict.stderr].concat();
        assert!(verdict.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
    }
}
