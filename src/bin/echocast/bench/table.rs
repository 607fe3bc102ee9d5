//! A report as people read it, wherever it is printed: nothing in it drives a terminal or passes
//! for another line.

use std::fmt::Write;

use echocast::telemetry::printable;
use indicatif::{BinaryBytes, HumanCount};

use super::histogram::Row;
use super::report::Report;
use crate::show::latency;

/// Characters of the longest bar.
const BAR: usize = 40;

pub(super) fn render(report: &Report) -> String {
    let mut lines = vec![
        printable::line(&report.servers.join(", ")).into_owned(),
        load(report),
        String::new(),
    ];
    let mut row = |name: &str, value: String| lines.push(format!("  {name:<16}{value}"));
    let count = |count: u64| format!("{:>14}", HumanCount(count).to_string());
    let per_second = |rate: f64| format!("{} /s", count(rate.round() as u64));

    row("deliveries", per_second(report.deliveries_per_second));
    row("published", per_second(report.published_per_second));
    row(
        "received",
        format!(
            "{:>14}/s",
            BinaryBytes(report.bytes_per_second as u64).to_string()
        ),
    );
    if let Some(us) = &report.latency_us {
        for (name, us) in [
            ("latency p50", us.p50),
            ("        p99", us.p99),
            ("        p99.9", us.p999),
            ("        max", us.max),
        ] {
            row(name, format!("{:>14}", latency(us)));
        }
    }
    row(
        "checked",
        format!(
            "{} deliveries of {} messages",
            count(report.delivered),
            HumanCount(report.published)
        ),
    );
    row("lost", count(report.lost));
    row("duplicated", count(report.duplicated));
    row("out of order", count(report.out_of_order));
    row(
        "orders",
        format!(
            "{}{}",
            count(report.orders as u64),
            if report.orders == 1 {
                ""
            } else {
                ": not all heard the same"
            }
        ),
    );
    if report.damaged > 0 {
        row("damaged", count(report.damaged));
    }
    for (reason, connections) in &report.ended {
        row(
            "ended",
            format!(
                "{} {}: {reason}",
                count(*connections as u64),
                if *connections == 1 {
                    "connection"
                } else {
                    "connections"
                },
                reason = printable::line(reason)
            ),
        );
    }
    if let Some(server) = &report.server {
        let each = server
            .cpu_us_per_delivery
            .map(|us| format!(", {us:.3} µs a delivery"))
            .unwrap_or_default();
        row("server CPU", format!("{:>14.2} cores{each}", server.cores));
        let memory = BinaryBytes(server.memory_bytes).to_string();
        let each = server
            .memory_bytes_per_connection
            .map(|bytes| format!(", {bytes} bytes an idle connection"));
        row(
            "server memory",
            format!("{memory:>14}{}", each.unwrap_or_default()),
        );
    }
    if let Some(cores) = report.own_cores {
        row("this program", format!("{cores:>14.2} cores"));
    }
    if !report.histogram.is_empty() {
        lines.push(String::new());
        lines.extend(bars(&report.histogram));
    }
    lines.push(String::new());
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.push(verdict(report).to_owned());
    lines.join("\n")
}

fn load(report: &Report) -> String {
    let Report {
        subscribers,
        publishers,
        size,
        seconds,
        ..
    } = report;
    let silent = if report.silent > 0 {
        format!(", {} that never read", report.silent)
    } else {
        String::new()
    };
    if *publishers == 0 {
        return format!("{subscribers} idle subscribers{silent}; {seconds:.1} s");
    }
    let pace = match (report.window, report.rate) {
        (_, Some(rate)) => format!("{rate} messages/s"),
        (window, None) => format!("{} messages in flight each", window.unwrap_or_default()),
    };
    let deflate = if report.deflate {
        " before they are deflated"
    } else {
        ""
    };
    format!(
        "{subscribers} subscribers, {publishers} publishers (who listen, too){silent}; {pace}, {size} bytes{deflate}; \
         {seconds:.1} s"
    )
}

fn verdict(report: &Report) -> &'static str {
    match (report.ok, report.published) {
        (true, 0) => "all connections stayed",
        (true, _) => "everybody heard everything once, in one order",
        (false, _) => "NOT everybody heard everything once, in one order",
    }
}

fn bars(rows: &[Row]) -> impl Iterator<Item = String> {
    let all: u64 = rows.iter().map(|row| row.count).sum();
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0).max(1);
    rows.iter().map(move |row| {
        let share = row.count as f64 * 100.0 / all.max(1) as f64;
        let range = format!("{} – {}", edge(row.from_us), edge(row.to_us));
        let line = format!("  {range:>17} {:<BAR$} {share:6.2} %", bar(row.count, most));
        if row.count == 0 {
            format!("  {range:>17}")
        } else {
            line
        }
    })
}

/// Edges are round numbers.
fn edge(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// In eighths of a character; what is there at all is seen.
fn bar(count: u64, most: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (count as f64 / most as f64 * (BAR * 8) as f64)
        .round()
        .max(1.0) as usize;
    let mut bar = String::new();
    write!(bar, "{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
        .expect("a string takes everything");
    bar
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
