//! Prometheus' text format, as much of it as is needed to add up series.

use std::collections::BTreeMap;

/// One scrape.
pub struct Scrape {
    series: Vec<Series>,
}

struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    pub fn parse(text: &str) -> Scrape {
        Scrape { series: text.lines().filter(|line| !line.starts_with('#')).filter_map(Series::parse).collect() }
    }

    /// The sum of all series of that name that bear these labels, and how many there are.
    pub fn sum(&self, name: &str, labels: &BTreeMap<String, String>) -> (f64, usize) {
        let fits = |series: &&Series| {
            series.name == name && labels.iter().all(|(key, value)| series.labels.get(key) == Some(value))
        };
        self.series.iter().filter(fits).fold((0.0, 0), |(sum, count), series| (sum + series.value, count + 1))
    }
}

impl Series {
    fn parse(line: &str) -> Option<Series> {
        let (left, value) = line.trim().rsplit_once(' ')?;
        let (name, labels) = left.split_once('{').unwrap_or((left, ""));
        Some(Series { name: name.to_owned(), labels: parse_labels(labels), value: value.parse().ok()? })
    }
}

/// `a="b",c="d"}`: commas and escaped quotes inside a value are kept.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        labels.insert(key.trim_start_matches(',').to_owned(), value);
        rest = after.get(end..).unwrap_or_default();
    }
    labels
}
