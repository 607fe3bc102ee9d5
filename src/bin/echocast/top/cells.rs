//! The texts of a table's cells, a row for each replica. Text from servers is made printable: it
//! cannot control the terminal, and cannot pass for another row.

use echocast::telemetry::printable;
use indicatif::{BinaryBytes, HumanCount};

use super::figures::Figures;
use super::report::{Node, Report, Row};
use crate::show::latency;

/// One for each of [`COLUMNS`].
pub(super) type Cells = [String; COLUMNS.len()];

pub(super) struct Column {
    pub(super) title: &'static str,
    /// A narrow terminal drops the columns with the highest number first, and never those with 0.
    pub(super) dropped: u8,
    pub(super) align: Align,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Align {
    Left,
    Right,
}

pub(super) const COLUMNS: [Column; 14] = [
    text("replica", 0),
    text("state", 0),
    number("ws", 0),
    number("sse", 3),
    number("in/s", 0),
    number("out/s", 0),
    number("bytes in/s", 5),
    number("bytes out/s", 4),
    number("relay p99", 2),
    number("delivery p99", 0),
    number("inbox", 1),
    text("broker", 0),
    number("lost", 0),
    text("version", 6),
];

/// Where nothing was measured.
const NONE: &str = "–";

const fn text(title: &'static str, dropped: u8) -> Column {
    Column {
        title,
        dropped,
        align: Align::Left,
    }
}

const fn number(title: &'static str, dropped: u8) -> Column {
    Column {
        title,
        dropped,
        align: Align::Right,
    }
}

pub(super) fn titles() -> Cells {
    COLUMNS.map(|column| column.title.to_owned())
}

pub(super) fn of_node(row: &Row, node: &Node) -> Cells {
    let name = row.address.clone();
    cells(
        name,
        state(node),
        &node.figures,
        broker(node),
        version(node),
    )
}

fn state(node: &Node) -> String {
    let state = if node.draining { "draining" } else { "up" };
    state.to_owned()
}

/// Whatever answers at the address says it, so it is made printable.
fn version(node: &Node) -> String {
    printable_cell(&format!("{} ({})", node.version, node.commit))
}

pub(super) fn of_total(report: &Report) -> Cells {
    let name = "total".to_owned();
    let answering = format!("{} of {}", report.answering(), report.replicas.len());
    cells(name, answering, &report.total, String::new(), String::new())
}

fn cells(name: String, state: String, figures: &Figures, broker: String, version: String) -> Cells {
    [
        name,
        state,
        connections(figures, "websocket"),
        connections(figures, "sse"),
        rate_or_none(figures.messages_in_per_second),
        rate_or_none(figures.messages_out_per_second),
        bytes_or_none(figures.bytes_in_per_second),
        bytes_or_none(figures.bytes_out_per_second),
        latency_or_none(figures.relay.p99_us()),
        latency_or_none(figures.delivery.p99_us()),
        count(figures.inbox_depth),
        broker,
        count(figures.lost.values().sum()),
        version,
    ]
}

fn broker(node: &Node) -> String {
    if !node.broker_up {
        return "away".to_owned();
    }
    match node.broker_roundtrip_us {
        Some(us) => format!("up, {}", latency(us)),
        None => "up".to_owned(),
    }
}

fn connections(figures: &Figures, transport: &str) -> String {
    let connections = figures.connections.get(transport);
    count(connections.copied().unwrap_or(0))
}

fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

fn rate_or_none(per_second: Option<f64>) -> String {
    per_second.map_or_else(|| NONE.to_owned(), rate)
}

fn bytes_or_none(per_second: Option<f64>) -> String {
    let bytes = per_second.map(|rate| BinaryBytes(rate as u64).to_string());
    bytes.unwrap_or_else(|| NONE.to_owned())
}

fn latency_or_none(us: Option<u64>) -> String {
    us.map_or_else(|| NONE.to_owned(), latency)
}

/// At most four digits.
fn rate(per_second: f64) -> String {
    match per_second.round() as u64 {
        rate @ 0..10_000 => rate.to_string(),
        rate @ 10_000..1_000_000 => format!("{:.0} k", rate as f64 / 1e3),
        rate => format!("{:.1} M", rate as f64 / 1e6),
    }
}

/// The messages lost and why, if any were.
pub(super) fn losses(total: &Figures) -> Option<String> {
    let lost = total.lost.iter().filter(|(_, messages)| **messages > 0);
    let causes: Vec<String> = lost.map(loss).collect();
    if causes.is_empty() {
        return None;
    }
    let causes = causes.join(", ");
    let now = lost_now(total.lost_per_second);
    Some(format!("lost since the nodes started: {causes}{now}"))
}

fn loss((cause, messages): (&String, &u64)) -> String {
    format!("{} {}", printable_cell(cause), HumanCount(*messages))
}

fn lost_now(per_second: Option<f64>) -> String {
    match per_second {
        Some(lost) if lost > 0.0 => format!("; {}/s now", rate(lost)),
        _ => String::new(),
    }
}

/// A tab would move the text out of its column, so it is a space here.
pub(super) fn printable_cell(text: &str) -> String {
    printable::line(&text.replace('\t', " ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
