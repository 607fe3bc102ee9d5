//! Latencies in a few rows: 1, 2, 5, 10, 20, 50 … microseconds, or powers of ten where that would
//! be too many rows.

use hdrhistogram::Histogram;
use serde::Serialize;

/// More rows than this are hard to read.
const MAX_ROWS: usize = 12;
/// The rows reach up to ten to this power, in microseconds, which is far longer than any run.
const POWERS: u32 = 10;

/// How many latencies were in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// The shortest latency of the range, in microseconds.
    pub(super) from_us: u64,
    /// The first latency beyond the range, in microseconds.
    pub(super) to_us: u64,
    pub(super) count: u64,
}

/// From the shortest to the longest latency, with empty rows between them.
pub(super) fn rows(latencies: &Histogram<u64>) -> Vec<Row> {
    let fine = rows_between(latencies, &[1, 2, 5]);
    if fine.len() <= MAX_ROWS {
        fine
    } else {
        rows_between(latencies, &[1])
    }
}

fn rows_between(latencies: &Histogram<u64>, steps: &[u64]) -> Vec<Row> {
    let mut rows = empty_rows(&edges(steps));
    for value in latencies.iter_recorded() {
        row_of(value.value_iterated_to(), &mut rows).count += value.count_at_value();
    }
    trimmed(&rows).to_vec()
}

/// The first row that ends beyond the value.
fn row_of(us: u64, rows: &mut [Row]) -> &mut Row {
    let index = rows.partition_point(|row| row.to_us <= us);
    &mut rows[index]
}

/// These steps in every power of ten.
fn edges(steps: &[u64]) -> Vec<u64> {
    (0..POWERS).flat_map(|power| times(steps, power)).collect()
}

fn times(steps: &[u64], power: u32) -> impl Iterator<Item = u64> {
    steps.iter().map(move |step| step * 10_u64.pow(power))
}

fn empty_rows(edges: &[u64]) -> Vec<Row> {
    edges.windows(2).map(empty_row).collect()
}

fn empty_row(edges: &[u64]) -> Row {
    Row {
        from_us: edges[0],
        to_us: edges[1],
        count: 0,
    }
}

/// Without the empty rows at both ends.
fn trimmed(rows: &[Row]) -> &[Row] {
    let first = rows.iter().position(Row::is_used);
    let last = rows.iter().rposition(Row::is_used);
    match first.zip(last) {
        Some((first, last)) => &rows[first..=last],
        None => &[],
    }
}

impl Row {
    fn is_used(&self) -> bool {
        self.count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(latencies: &[u64]) -> Vec<(u64, u64, u64)> {
        let mut histogram = Histogram::new_with_bounds(1, 120_000_000, 3).expect("good bounds");
        latencies
            .iter()
            .for_each(|latency| histogram.saturating_record(*latency));
        rows(&histogram)
            .into_iter()
            .map(|row| (row.from_us, row.to_us, row.count))
            .collect()
    }

    #[test]
    fn rows_reach_from_the_shortest_to_the_longest_and_count_each_once() {
        assert_eq!(
            rows_of(&[10, 19, 20, 99, 99]),
            [(10, 20, 2), (20, 50, 1), (50, 100, 2)]
        );
        assert_eq!(rows_of(&[1, 7]), [(1, 2, 1), (2, 5, 0), (5, 10, 1)]);
        assert_eq!(rows_of(&[]), []);
    }

    #[test]
    fn a_wide_range_has_a_row_for_each_power_of_ten() {
        let rows = rows_of(&[1, 15, 60_000_000]);
        assert_eq!(
            (rows.len(), rows[0], rows[7]),
            (8, (1, 10, 1), (10_000_000, 100_000_000, 1))
        );
    }

    #[test]
    fn nothing_is_too_short_or_too_long_for_a_row() {
        assert_eq!(
            rows_of(&[0, u64::MAX]).iter().map(|row| row.2).sum::<u64>(),
            2
        );
    }
}
