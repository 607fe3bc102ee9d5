//! A report as people read it: as many columns and rows as there is room for. Names, versions and
//! errors come from whoever answers at an address: nothing in them drives a terminal or passes for
//! another row, wherever the table is printed.

use std::borrow::Cow;

use console::{measure_text_width, style, truncate_str};
use echocast::telemetry::printable;
use indicatif::{BinaryBytes, HumanCount};

use super::report::{Figures, Node, Report, Row};
use crate::show::latency;

/// Titles, and which columns a narrow terminal does without: the largest number goes first.
const COLUMNS: [(&str, u8); 14] = [
    ("replica", 0),
    ("state", 0),
    ("ws", 0),
    ("sse", 3),
    ("in/s", 0),
    ("out/s", 0),
    ("bytes in/s", 5),
    ("bytes out/s", 4),
    ("relay p99", 2),
    ("delivery p99", 0),
    ("inbox", 1),
    ("broker", 0),
    ("lost", 0),
    ("version", 6),
];

/// Between two columns.
const GAP: &str = "  ";

/// Where nothing was measured.
const NONE: &str = "–";

/// Of a terminal.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The lines of a table, for a terminal of this size or for no terminal.
pub(super) fn render(report: &Report, size: Option<Size>) -> String {
    let titles = COLUMNS.map(|(title, _)| title.to_owned());
    let rows: Vec<Option<[String; 14]>> = report
        .replicas
        .iter()
        .map(|row| row.node.as_ref().map(|node| cells(row, node)))
        .collect();
    let total = total(report);
    let longest = report
        .replicas
        .iter()
        .map(|row| row.address.len())
        .max()
        .unwrap_or(0);
    let mut widths: [usize; 14] = std::array::from_fn(|column| {
        let cells = [&titles, &total].into_iter().chain(rows.iter().flatten());
        cells
            .map(|cells| measure_text_width(&cells[column]))
            .max()
            .unwrap_or(0)
    });
    widths[0] = widths[0].max(longest);
    let shown = fitting(&widths, size.map_or(usize::MAX, |size| size.columns));
    let line = |cells: &[String; 14]| {
        let cells = shown
            .iter()
            .map(|&column| pad(&cells[column], widths[column], column));
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };

    let mut lines = vec![style(line(&titles)).bold().to_string()];
    for (row, cells) in report.replicas.iter().zip(&rows) {
        lines.push(match (&row.node, cells) {
            (Some(node), Some(cells)) => coloured(node, line(cells)),
            _ => style(format!(
                "{:width$}{GAP}{}",
                row.address,
                error(row),
                width = widths[0]
            ))
            .red()
            .to_string(),
        });
    }
    let mut last = vec![style(line(&total)).bold().to_string()];
    last.extend(losses(&report.total));
    if let Some(size) = size {
        let room = size.rows.saturating_sub(last.len());
        if lines.len() > room && room > 0 {
            let hidden = lines.len() + 1 - room;
            lines.truncate(room - 1);
            lines.push(format!("… and {hidden} more"));
        }
    }
    lines.extend(last);
    let columns = size.map_or(usize::MAX, |size| size.columns);
    lines
        .iter()
        .map(|line| truncate_str(line, columns, "…"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn error(row: &Row) -> Cow<'_, str> {
    cell(row.error.as_deref().unwrap_or_default())
}

/// Text of strangers in a place of its own: a tab would leave that, too.
fn cell(text: &str) -> Cow<'_, str> {
    if text.contains('\t') {
        printable::line(&text.replace('\t', " "))
            .into_owned()
            .into()
    } else {
        printable::line(text)
    }
}

fn coloured(node: &Node, line: String) -> String {
    match node {
        Node {
            broker_up: false, ..
        } => style(line).red().to_string(),
        Node { draining: true, .. } => style(line).yellow().to_string(),
        _ => line,
    }
}

/// The columns that this width has room for.
fn fitting(widths: &[usize; 14], room: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..widths.len()).collect();
    let width = |shown: &[usize]| {
        shown
            .iter()
            .map(|&column| widths[column] + GAP.len())
            .sum::<usize>()
            - GAP.len()
    };
    while width(&shown) > room
        && let Some(least) = shown
            .iter()
            .copied()
            .filter(|&column| COLUMNS[column].1 > 0)
            .max_by_key(|&column| COLUMNS[column].1)
    {
        shown.retain(|&column| column != least);
    }
    shown
}

/// Words to the left, numbers to the right.
fn pad(cell: &str, width: usize, column: usize) -> String {
    let fill = " ".repeat(width.saturating_sub(measure_text_width(cell)));
    if matches!(
        COLUMNS[column].0,
        "replica" | "state" | "broker" | "version"
    ) {
        format!("{cell}{fill}")
    } else {
        format!("{fill}{cell}")
    }
}

fn cells(row: &Row, node: &Node) -> [String; 14] {
    let state = if node.draining { "draining" } else { "up" };
    let broker = match (node.broker_up, node.broker_roundtrip_us) {
        (false, _) => "away".to_owned(),
        (true, Some(us)) => format!("up, {}", latency(us)),
        (true, None) => "up".to_owned(),
    };
    let version = cell(&format!("{} ({})", node.version, node.commit)).into_owned();
    line(
        row.address.clone(),
        state.to_owned(),
        &node.figures,
        broker,
        version,
    )
}

fn total(report: &Report) -> [String; 14] {
    let answering = format!("{} of {}", report.answering(), report.replicas.len());
    line(
        "total".to_owned(),
        answering,
        &report.total,
        String::new(),
        String::new(),
    )
}

fn line(
    name: String,
    state: String,
    figures: &Figures,
    broker: String,
    version: String,
) -> [String; 14] {
    let count = |count: u64| HumanCount(count).to_string();
    let connections =
        |transport: &str| count(figures.connections.get(transport).copied().unwrap_or(0));
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let bytes = |rate: Option<f64>| or_none(rate.map(|rate| BinaryBytes(rate as u64).to_string()));
    [
        name,
        state,
        connections("websocket"),
        connections("sse"),
        or_none(figures.messages_in_per_second.map(rate)),
        or_none(figures.messages_out_per_second.map(rate)),
        bytes(figures.bytes_in_per_second),
        bytes(figures.bytes_out_per_second),
        or_none(figures.relay.p99_us().map(latency)),
        or_none(figures.delivery.p99_us().map(latency)),
        count(figures.inbox_depth),
        broker,
        count(figures.lost.values().sum()),
        version,
    ]
}

/// What was lost and why, if anything was.
fn losses(total: &Figures) -> Option<String> {
    let causes = total.lost.iter().filter(|(_, messages)| **messages > 0);
    let causes: Vec<_> = causes
        .map(|(cause, messages)| format!("{} {}", cell(cause), HumanCount(*messages)))
        .collect();
    let lately = total
        .lost_per_second
        .filter(|rate| *rate > 0.0)
        .map(|lost| format!("; {}/s now", rate(lost)));
    let line = || {
        format!(
            "lost since the nodes started: {}{}",
            causes.join(", "),
            lately.unwrap_or_default()
        )
    };
    (!causes.is_empty()).then(|| style(line()).red().to_string())
}

/// With at most four digits.
fn rate(rate: f64) -> String {
    match rate.round() as u64 {
        rate @ 0..10_000 => rate.to_string(),
        rate @ 10_000..1_000_000 => format!("{:.0} k", rate as f64 / 1e3),
        rate => format!("{:.1} M", rate as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_does_without_what_matters_least() {
        let widths = COLUMNS.map(|(title, _)| title.len());
        assert_eq!(fitting(&widths, usize::MAX).len(), 14);
        let titles = |room| {
            fitting(&widths, room)
                .into_iter()
                .map(|column| COLUMNS[column].0)
                .collect::<Vec<_>>()
        };
        assert!(!titles(110).contains(&"version") && titles(110).contains(&"bytes in/s"));
        assert_eq!(
            titles(0),
            [
                "replica",
                "state",
                "ws",
                "in/s",
                "out/s",
                "delivery p99",
                "broker",
                "lost"
            ]
        );
    }

    #[test]
    fn rates_are_short() {
        for (given, shown) in [
            (0.4, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12 k"),
            (1_234_567.0, "1.2 M"),
        ] {
            assert_eq!(rate(given), shown);
        }
    }

    #[test]
    fn replicas_for_which_there_is_no_room_are_counted() {
        let row = |at| Row {
            address: format!("node{at}"),
            error: Some("refused".to_owned()),
            node: None,
        };
        let report = Report::new((0..9).map(row).collect());
        let text = render(
            &report,
            Some(Size {
                rows: 5,
                columns: 80,
            }),
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(
            (lines[2].trim_end(), lines[3]),
            ("node1    refused", "… and 7 more")
        );
        assert!(lines[4].starts_with("total    0 of 9"), "{text}");
    }
}
