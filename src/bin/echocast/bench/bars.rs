//! The histogram of latencies as bars.

use super::histogram::Row;

/// Characters of the longest bar.
const BAR: usize = 40;
/// Parts of a character, from none to seven eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A line for each row, with its share of all latencies.
pub(super) fn bars(rows: &[Row]) -> impl Iterator<Item = String> {
    let all: u64 = rows.iter().map(|row| row.count).sum();
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0);
    rows.iter().map(move |row| line(row, all, most))
}

fn line(row: &Row, all: u64, most: u64) -> String {
    let range = range(row);
    if row.count == 0 {
        return format!("  {range:>17}");
    }
    // The longest bar is of the most frequent range, and the percentage of all latencies.
    let bar = bar(ratio(row.count, most));
    let percent = ratio(row.count, all) * 100.0;
    format!("  {range:>17} {bar:<BAR$} {percent:6.2} %")
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn range(row: &Row) -> String {
    format!("{} – {}", edge(row.from_us), edge(row.to_us))
}

/// Edges are round numbers, so they need no decimals.
fn edge(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// In eighths of a character, and at least one, so that every row that is not empty is visible.
fn bar(share: f64) -> String {
    let eighths = (share * (BAR * 8) as f64).round().max(1.0) as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_full_and_the_shortest_is_seen() {
        let row = |from_us, to_us, count| Row {
            from_us,
            to_us,
            count,
        };
        let lines: Vec<String> = bars(&[
            row(500, 1_000, 1),
            row(1_000, 2_000, 0),
            row(2_000, 5_000, 999),
        ])
        .collect();
        assert_eq!(
            lines[0],
            format!("      500 µs – 1 ms ▏{}   0.10 %", " ".repeat(39))
        );
        assert_eq!(lines[1], "        1 ms – 2 ms");
        assert_eq!(
            lines[2],
            format!("        2 ms – 5 ms {}  99.90 %", "█".repeat(40))
        );
    }
}
