//! Prometheus' text format, as far as nodes write it: numbers with labels, and what can be told
//! from two looks at a histogram.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

/// All numbers of one look at `/metrics`.
#[derive(Debug)]
pub(super) struct Exposition(Vec<Series>);

#[derive(Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Exposition {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series =
            lines.map(|line| Series::parse(line).with_context(|| format!("cannot read '{line}'")));
        let series = series.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(
            series
                .iter()
                .any(|series| series.name == "echocast_build_info"),
            "no metrics of echocast"
        );
        Ok(Self(series))
    }

    fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Series> + use<'a, 'n> {
        self.0.iter().filter(move |series| series.name == name)
    }

    /// The sum of all series of this name; 0 if there is none.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.named(name).map(|series| series.value).sum()
    }

    /// The value of a label of the first series of this name.
    pub(super) fn label<'a>(&'a self, name: &str, label: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|series| series.name == name)?
            .label(label)
    }

    /// Sums by the values of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for series in self.named(name) {
            *sums
                .entry(series.label(label).unwrap_or_default().to_owned())
                .or_default() += series.value as u64;
        }
        sums
    }

    pub(super) fn histogram(&self, name: &str) -> Histogram {
        let bucket = format!("{name}_bucket");
        let buckets = self
            .named(&bucket)
            .filter_map(|series| Some((series.label("le")?.parse().ok()?, series.value)));
        Histogram {
            buckets: buckets.collect(),
            sum: self.sum(&format!("{name}_sum")),
        }
    }
}

impl Series {
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
                let (value, behind) = unquote(quoted)?;
                labels.push((label.to_owned(), value));
                rest = behind;
            }
            rest = &rest[1..];
        }
        // A time may follow.
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self {
            name: name.to_owned(),
            labels,
            value,
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| label == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A value up to its closing quote, and what is behind that.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &quoted[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

/// How often what was measured was at most so large: upper bounds, the last one infinite, and
/// counts that include those of all smaller bounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    buckets: Vec<(f64, f64)>,
    sum: f64,
}

impl Histogram {
    /// What was measured since `before`.
    pub(super) fn since(mut self, before: &Self) -> Self {
        self.buckets
            .iter_mut()
            .zip(&before.buckets)
            .for_each(|(now, before)| now.1 -= before.1);
        self.sum -= before.sum;
        self
    }

    /// Takes in another one with the same bounds.
    pub(super) fn add(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            return self.clone_from(other);
        }
        self.buckets
            .iter_mut()
            .zip(&other.buckets)
            .for_each(|(sum, other)| sum.1 += other.1);
        self.sum += other.sum;
    }

    fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// What this share was at most, as Prometheus' `histogram_quantile` has it: evenly spread in
    /// its bucket; the largest finite bound if it is beyond.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count();
        let at = self
            .buckets
            .iter()
            .position(|(_, count)| *count >= rank && *count > 0.0)?;
        let (from, below) = at
            .checked_sub(1)
            .map_or((0.0, 0.0), |before| self.buckets[before]);
        let (upto, count) = self.buckets[at];
        Some(if upto.is_finite() {
            from + (upto - from) * (rank - below) / (count - below)
        } else {
            from
        })
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
    fn what_is_not_ours_is_refused() {
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
    fn quantiles_are_those_between_two_looks() {
        let before = Exposition::parse(TEXT)
            .expect("it is ours")
            .histogram("took");
        assert_eq!(before.quantile(0.75), Some(0.375));
        let now = Histogram {
            buckets: vec![(0.25, 50.0), (0.5, 110.0), (f64::INFINITY, 110.0)],
            sum: 12.75,
        };
        let since = now.clone().since(&before);
        assert_eq!(
            (since.quantile(0.5), since.mean()),
            (Some(0.375), Some(0.375))
        );
        assert_eq!(now.clone().since(&now).quantile(0.99), None);
        let mut beyond = Histogram {
            buckets: vec![(0.25, 0.0), (0.5, 0.0), (f64::INFINITY, 10.0)],
            sum: 90.0,
        };
        assert_eq!(beyond.quantile(0.99), Some(0.5));
        beyond.add(&since);
        assert_eq!(beyond.quantile(0.25), Some(0.375));
    }
}
