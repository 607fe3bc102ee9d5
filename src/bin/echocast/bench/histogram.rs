//! Latencies in few rows: 1, 2, 5, 10, 20, 50 … microseconds, or powers of ten where that would be
//! too many.

use hdrhistogram::Histogram;
use serde::Serialize;

/// More rows are no picture any more.
const MOST_ROWS: usize = 12;

/// How many latencies were in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// Microseconds: at least so long.
    pub(super) from_us: u64,
    /// And shorter than this.
    pub(super) to_us: u64,
    pub(super) count: u64,
}

/// From the shortest to the longest latency, without leaving one out.
pub(super) fn rows(latencies: &Histogram<u64>) -> Vec<Row> {
    let fine = rows_between(latencies, &[1, 2, 5]);
    if fine.len() <= MOST_ROWS {
        fine
    } else {
        rows_between(latencies, &[1])
    }
}

fn rows_between(latencies: &Histogram<u64>, steps: &[u64]) -> Vec<Row> {
    let edges: Vec<u64> = (0..10)
        .flat_map(|power| steps.iter().map(move |step| step * 10_u64.pow(power)))
        .collect();
    let ranges = edges.windows(2).map(|edges| Row {
        from_us: edges[0],
        to_us: edges[1],
        count: 0,
    });
    let mut rows: Vec<Row> = ranges.collect();
    for value in latencies.iter_recorded() {
        let at = rows.partition_point(|row| row.to_us <= value.value_iterated_to());
        rows[at].count += value.count_at_value();
    }
    let Some(first) = rows.iter().position(|row| row.count > 0) else {
        return Vec::new();
    };
    let last = rows.iter().rposition(|row| row.count > 0).unwrap_or(first);
    rows[first..=last].to_vec()
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
    fn a_wide_range_is_told_in_powers_of_ten() {
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
