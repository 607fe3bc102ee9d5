//! The report as text for people. Text from servers in it is printable: it cannot control the
//! terminal, and cannot pass for another line of the table.

use echocast::telemetry::printable;
use indicatif::{BinaryBytes, HumanCount};

use super::bars::bars;
use super::report::{Checks, Latency, Load, Rates, Report, Server};
use crate::show::latency;

pub(super) fn render(report: &Report) -> String {
    let servers = report.load.servers.join(", ");
    let mut lines = vec![
        printable::line(&servers).into_owned(),
        load(&report.load, report.seconds),
        String::new(),
    ];
    lines.extend(rows(report));
    if !report.histogram.is_empty() {
        lines.push(String::new());
        lines.extend(bars(&report.histogram));
    }
    lines.push(String::new());
    // Last, because the end of the output is what people see.
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.push(verdict(report).to_owned());
    lines.join("\n")
}

fn rows(report: &Report) -> Vec<String> {
    let mut rows = Vec::from(rate_rows(&report.rates));
    rows.extend(report.latency_us.iter().flat_map(latency_rows));
    rows.extend(check_rows(&report.checks));
    rows.extend(report.checks.ended.iter().map(ended_row));
    rows.extend(report.server.iter().flat_map(server_rows));
    rows.extend(report.own_cores.map(own_row));
    rows
}

/// One sentence on what was asked for.
fn load(load: &Load, seconds: f64) -> String {
    let clients = clients(load);
    if load.publishers == 0 {
        return format!("{clients}; {seconds:.1} s");
    }
    let (pace, message) = (pace(load), message(load));
    format!("{clients}; {pace}, {message}; {seconds:.1} s")
}

fn clients(load: &Load) -> String {
    let (subscribers, publishers) = (load.subscribers, load.publishers);
    let silent = silent(load.silent);
    if publishers == 0 {
        return format!("{subscribers} idle subscribers{silent}");
    }
    format!("{subscribers} subscribers, {publishers} publishers (which subscribe, too){silent}")
}

fn silent(silent: usize) -> String {
    if silent == 0 {
        return String::new();
    }
    format!(", {silent} connections that never read")
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
    [
        latency_row("latency p50", us.p50),
        latency_row("        p99", us.p99),
        latency_row("        p99.9", us.p999),
        latency_row("        max", us.max),
    ]
}

fn latency_row(name: &str, us: u64) -> String {
    row(name, &format!("{:>14}", latency(us)))
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
    [
        row("server CPU", &server_cpu(server)),
        row("server memory", &server_memory(server)),
    ]
}

fn server_cpu(server: &Server) -> String {
    let cores = server.cores;
    match server.cpu_us_per_delivery {
        Some(us) => format!("{cores:>14.2} cores, {us:.3} µs a delivery"),
        None => format!("{cores:>14.2} cores"),
    }
}

fn server_memory(server: &Server) -> String {
    let memory = BinaryBytes(server.memory_bytes).to_string();
    match server.memory_bytes_per_connection {
        Some(bytes) => format!("{memory:>14}, {bytes} bytes an idle connection"),
        None => format!("{memory:>14}"),
    }
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
