//! The report as text for people. Text from servers in it is printable: it cannot control the
//! terminal, and cannot pass for another line of the table.

use echocast::telemetry::printable;
use indicatif::{BinaryBytes, HumanCount};

use super::bars::bars;
use super::report::{Checks, Latency, Load, Rates, Report, Server};
use crate::show::latency;

pub(super) fn render(report: &Report) -> String {
    let mut lines = vec![
        printable::line(&report.load.servers.join(", ")).into_owned(),
        load(&report.load, report.seconds),
        String::new(),
    ];
    lines.extend(rate_rows(&report.rates));
    lines.extend(report.latency_us.iter().flat_map(latency_rows));
    lines.extend(check_rows(&report.checks));
    lines.extend(report.checks.ended.iter().map(ended_row));
    lines.extend(report.server.iter().flat_map(server_rows));
    lines.extend(report.own_cores.map(own_row));
    if !report.histogram.is_empty() {
        lines.push(String::new());
        lines.extend(bars(&report.histogram));
    }
    lines.push(String::new());
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.push(verdict(report).to_owned());
    lines.join("\n")
}

/// One sentence on what was asked for.
fn load(load: &Load, seconds: f64) -> String {
    let mut text = format!("{} subscribers", load.subscribers);
    if load.publishers == 0 {
        text = format!("{} idle subscribers", load.subscribers);
    } else {
        text += &format!(", {} publishers (which subscribe, too)", load.publishers);
    }
    if load.silent > 0 {
        text += &format!(", {} connections that never read", load.silent);
    }
    if load.publishers > 0 {
        text += &format!("; {}, {}", pace(load), message(load));
    }
    format!("{text}; {seconds:.1} s")
}

fn pace(load: &Load) -> String {
    match load.rate {
        Some(rate) => format!("{rate} messages/s"),
        None => format!(
            "{} messages in flight each",
            load.window.unwrap_or_default()
        ),
    }
}

fn message(load: &Load) -> String {
    let deflate = if load.deflate {
        " before they are deflated"
    } else {
        ""
    };
    format!("{} bytes{deflate}", load.size)
}

fn rate_rows(rates: &Rates) -> [String; 3] {
    let bytes = BinaryBytes(rates.bytes_per_second as u64).to_string();
    [
        row("deliveries", &per_second(rates.deliveries_per_second)),
        row("published", &per_second(rates.published_per_second)),
        row("received", &format!("{bytes:>14}/s")),
    ]
}

fn latency_rows(us: &Latency) -> [String; 4] {
    let row = |name, us| row(name, &format!("{:>14}", latency(us)));
    [
        row("latency p50", us.p50),
        row("        p99", us.p99),
        row("        p99.9", us.p999),
        row("        max", us.max),
    ]
}

fn check_rows(checks: &Checks) -> Vec<String> {
    let mut rows = vec![
        row("checked", &checked(checks)),
        row("lost", &count(checks.lost)),
        row("duplicated", &count(checks.duplicated)),
        row("out of order", &count(checks.out_of_order)),
        row("orders", &orders(checks.orders)),
    ];
    // Rare, so it is left out unless it happened.
    if checks.damaged > 0 {
        rows.push(row("damaged", &count(checks.damaged)));
    }
    rows
}

fn checked(checks: &Checks) -> String {
    format!(
        "{} deliveries of {} messages",
        count(checks.delivered),
        HumanCount(checks.published)
    )
}

fn orders(orders: usize) -> String {
    let count = count(orders as u64);
    if orders == 1 {
        count
    } else {
        format!("{count}: connections received different sequences")
    }
}

fn ended_row((reason, connections): (&String, &usize)) -> String {
    let plural = if *connections == 1 { "" } else { "s" };
    let count = count(*connections as u64);
    let reason = printable::line(reason);
    row("ended", &format!("{count} connection{plural}: {reason}"))
}

fn server_rows(server: &Server) -> [String; 2] {
    let per_delivery = server
        .cpu_us_per_delivery
        .map_or_else(String::new, |us| format!(", {us:.3} µs a delivery"));
    let per_connection = server
        .memory_bytes_per_connection
        .map_or_else(String::new, |bytes| {
            format!(", {bytes} bytes an idle connection")
        });
    let cores = format!("{:>14.2} cores{per_delivery}", server.cores);
    let memory = BinaryBytes(server.memory_bytes).to_string();
    [
        row("server CPU", &cores),
        row("server memory", &format!("{memory:>14}{per_connection}")),
    ]
}

fn own_row(cores: f64) -> String {
    row("this program", &format!("{cores:>14.2} cores"))
}

fn row(name: &str, value: &str) -> String {
    format!("  {name:<16}{value}")
}

fn count(count: u64) -> String {
    format!("{:>14}", HumanCount(count).to_string())
}

fn per_second(rate: f64) -> String {
    format!("{} /s", count(rate.round() as u64))
}

fn verdict(report: &Report) -> &'static str {
    match (report.ok, report.checks.published) {
        (true, 0) => "all connections stayed open",
        (true, _) => "every connection received every message once, in one order",
        (false, _) => "NOT every connection received every message once, in one order",
    }
}
