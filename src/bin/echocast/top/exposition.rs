//! Prometheus' text format, as far as nodes write it: numbers with labels, and histograms.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use super::histogram::Histogram;

/// All numbers of one answer of `/metrics`.
#[derive(Debug)]
pub(super) struct Exposition(Vec<Series>);

#[derive(Debug)]
struct Series {
    name: String,
    labels: Vec<Label>,
    value: f64,
}

#[derive(Debug)]
struct Label {
    name: String,
    value: String,
}

impl Exposition {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let series = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Series::parse(line).with_context(|| format!("cannot read '{line}'")))
            .collect::<anyhow::Result<_>>()?;
        let exposition = Self(series);
        // Any exporter answers on /metrics, but only ours has the metrics that the table shows.
        ensure!(
            exposition.named("echocast_build_info").next().is_some(),
            "no metrics of echocast"
        );
        Ok(exposition)
    }

    fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Series> + use<'a, 'n> {
        self.0.iter().filter(move |series| series.name == name)
    }

    /// The sum of all series of this name, 0 without any.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.named(name).map(|series| series.value).sum()
    }

    /// The value of a label, of the first series of this name.
    pub(super) fn label<'a>(&'a self, name: &str, label: &str) -> Option<&'a str> {
        let mut series = self.0.iter().filter(|series| series.name == name);
        series.next()?.label(label)
    }

    /// Sums by the values of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for series in self.named(name) {
            let value = series.label(label).unwrap_or_default();
            *sums.entry(value.to_owned()).or_default() += series.value as u64;
        }
        sums
    }

    pub(super) fn histogram(&self, name: &str) -> Histogram {
        let buckets = format!("{name}_bucket");
        let buckets = self.named(&buckets).filter_map(Series::bucket);
        Histogram::new(buckets.collect(), self.sum(&format!("{name}_sum")))
    }
}

impl Series {
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(labels) => parse_labels(labels)?,
            None => (Vec::new(), rest),
        };
        // A timestamp may follow the value.
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self {
            name: name.to_owned(),
            labels,
            value,
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        let label = self.labels.iter().find(|label| label.name == name)?;
        Some(label.value.as_str())
    }

    /// The upper bound and the count of a bucket.
    fn bucket(&self) -> Option<(f64, f64)> {
        let bound = self.label("le")?.parse().ok()?;
        Some((bound, self.value))
    }
}

/// The labels up to the closing brace, and the text behind it.
fn parse_labels(mut rest: &str) -> Option<(Vec<Label>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let (value, behind) = unquote(quoted)?;
        labels.push(Label {
            name: name.to_owned(),
            value,
        });
        rest = behind;
    }
}

/// A value up to its closing quote, and the text behind it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &quoted[at + 1..])),
            // A quote behind a backslash does not end the value.
            (_, '\\') => value.push(unescape(characters.next()?.1)),
            (_, other) => value.push(other),
        }
    }
}

/// The character for which one behind a backslash stands.
fn unescape(escaped: char) -> char {
    match escaped {
        'n' => '\n',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# HELP echocast_build_info Always 1.
# TYPE echocast_build_info gauge
echocast_build_info{commit="a\"b\\c\nd",version="0.1.0"} 1
echocast_connections{transport="sse"} 2
echocast_connections{transport="websocket"} 1.5e3
took_bucket{le="0.25"} 50
took_bucket{le="0.5"} 100
took_bucket{le="+Inf"} 100
took_sum 9 1700000000000
"#;

    #[test]
    fn numbers_are_found_by_name_and_label() {
        let read = Exposition::parse(TEXT).expect("it is ours");
        assert_eq!(read.sum("echocast_connections"), 1502.0);
        assert_eq!(
            read.by("echocast_connections", "transport")["websocket"],
            1500
        );
        assert_eq!(
            read.label("echocast_build_info", "commit"),
            Some("a\"b\\c\nd")
        );
        assert_eq!(read.sum("took_sum"), 9.0);
        assert_eq!(read.sum("nothing"), 0.0);
    }

    #[test]
    fn metrics_of_other_programs_are_rejected() {
        for text in [
            "<html>",
            "up 1",
            "echocast_build_info{version=\"0.1.0} 1",
            "echocast_build_info{} one",
            "",
        ] {
            assert!(Exposition::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_histogram_is_read_from_its_buckets() {
        let exposition = Exposition::parse(TEXT).expect("it is ours");
        let took = exposition.histogram("took");
        assert_eq!(
            (took.quantile(0.75), took.mean()),
            (Some(0.375), Some(0.09))
        );
    }
}
