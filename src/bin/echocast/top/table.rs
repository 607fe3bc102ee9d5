//! The report as a table, with as many columns and rows as there is room for. The texts of its
//! cells come from `cells`.

use std::array;
use std::borrow::Cow;

use console::{measure_text_width, style, truncate_str};

use super::cells::{self, Align, COLUMNS, Cells, printable_cell};
use super::report::{Node, Report, Row};

/// Between two columns.
const GAP: &str = "  ";

/// Of a terminal, in characters.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Size {
    /// For output that is no terminal.
    const UNLIMITED: Self = Self {
        rows: usize::MAX,
        columns: usize::MAX,
    };
}

/// The lines of a table for a terminal of this size, or for no terminal.
pub(super) fn render(report: &Report, size: Option<Size>) -> String {
    let size = size.unwrap_or(Size::UNLIMITED);
    let table = Table::new(report, size.columns);
    let mut lines = table.lines();
    let footer = table.footer();
    // The total is shown in any case, so replicas make room for it.
    hide_rows(&mut lines, size.rows.saturating_sub(footer.len()));
    lines.extend(footer);
    truncate(&lines, size.columns).join("\n")
}

fn truncate(lines: &[String], columns: usize) -> Vec<Cow<'_, str>> {
    let truncated = lines.iter().map(|line| truncate_str(line, columns, "…"));
    truncated.collect()
}

struct Table<'a> {
    report: &'a Report,
    titles: Cells,
    /// `None` for a replica that does not answer.
    rows: Vec<Option<Cells>>,
    total: Cells,
    widths: Widths,
    /// Indices of the columns for which there is room.
    shown: Vec<usize>,
}

/// Of each column, in characters.
type Widths = [usize; COLUMNS.len()];

impl<'a> Table<'a> {
    fn new(report: &'a Report, columns: usize) -> Self {
        let rows: Vec<Option<Cells>> = report.replicas.iter().map(cells_of).collect();
        let (titles, total) = (cells::titles(), cells::of_total(report));
        let all = [&titles, &total].into_iter().chain(rows.iter().flatten());
        // Over all rows, so that columns do not move when rows are hidden.
        let mut widths = widths(all);
        widths[0] = widths[0].max(longest_address(report));
        Self {
            report,
            shown: fitting(&widths, columns),
            titles,
            rows,
            total,
            widths,
        }
    }

    /// The titles, and a line for each replica.
    fn lines(&self) -> Vec<String> {
        let titles = style(self.line(&self.titles)).bold().to_string();
        let rows = self.report.replicas.iter().zip(&self.rows);
        let rows = rows.map(|(row, cells)| self.row(row, cells.as_ref()));
        [titles].into_iter().chain(rows).collect()
    }

    fn row(&self, row: &Row, cells: Option<&Cells>) -> String {
        match (&row.node, cells) {
            (Some(node), Some(cells)) => coloured(node, self.line(cells)),
            _ => self.error_line(row),
        }
    }

    /// The lines below all rows, which are shown in any case.
    fn footer(&self) -> Vec<String> {
        let total = style(self.line(&self.total)).bold().to_string();
        let losses = cells::losses(&self.report.total);
        let losses = losses.map(|line| style(line).red().to_string());
        [Some(total), losses].into_iter().flatten().collect()
    }

    fn line(&self, cells: &Cells) -> String {
        let columns = self.shown.iter();
        let cells: Vec<String> = columns.map(|column| self.cell(*column, cells)).collect();
        cells.join(GAP).trim_end().to_owned()
    }

    fn cell(&self, column: usize, cells: &Cells) -> String {
        pad(&cells[column], self.widths[column], COLUMNS[column].align)
    }

    fn error_line(&self, row: &Row) -> String {
        let error = row.error.as_deref().unwrap_or_default();
        let address = pad(&row.address, self.widths[0], Align::Left);
        let line = format!("{address}{GAP}{}", printable_cell(error));
        style(line).red().to_string()
    }
}

fn cells_of(row: &Row) -> Option<Cells> {
    Some(cells::of_node(row, row.node.as_ref()?))
}

/// Replicas that do not answer have no cells, but an address.
fn longest_address(report: &Report) -> usize {
    let lengths = report.replicas.iter().map(|row| row.address.len());
    lengths.max().unwrap_or(0)
}

/// Each column is as wide as its widest cell.
fn widths<'a>(rows: impl Iterator<Item = &'a Cells> + Clone) -> Widths {
    array::from_fn(|column| width(column, rows.clone()))
}

fn width<'a>(column: usize, rows: impl Iterator<Item = &'a Cells>) -> usize {
    let widths = rows.map(|cells| measure_text_width(&cells[column]));
    widths.max().unwrap_or(0)
}

/// The columns for which there is room.
fn fitting(widths: &Widths, room: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..widths.len()).collect();
    // One at a time, the least important first.
    while total_width(&shown, widths) > room
        && let Some(least) = least_important(&shown)
    {
        shown.retain(|&column| column != least);
    }
    shown
}

fn total_width(shown: &[usize], widths: &Widths) -> usize {
    let columns: usize = shown.iter().map(|&column| widths[column]).sum();
    columns + GAP.len() * (shown.len() - 1)
}

/// `None` if the others are never dropped.
fn least_important(shown: &[usize]) -> Option<usize> {
    let dropped = |column: &usize| COLUMNS[*column].dropped;
    shown
        .iter()
        .copied()
        .filter(|column| dropped(column) > 0)
        .max_by_key(dropped)
}

fn pad(cell: &str, width: usize, align: Align) -> String {
    let fill = " ".repeat(width.saturating_sub(measure_text_width(cell)));
    match align {
        Align::Left => format!("{cell}{fill}"),
        Align::Right => format!("{fill}{cell}"),
    }
}

fn coloured(node: &Node, line: String) -> String {
    if !node.broker_up {
        style(line).red().to_string()
    } else if node.draining {
        style(line).yellow().to_string()
    } else {
        line
    }
}

/// Replaces the last lines by their number if there are more than `room`.
fn hide_rows(lines: &mut Vec<String>, room: usize) {
    if lines.len() > room && room > 0 {
        let hidden = lines.len() + 1 - room;
        lines.truncate(room - 1);
        lines.push(format!("… and {hidden} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_drops_the_least_important_columns() {
        let widths = COLUMNS.map(|column| column.title.len());
        assert_eq!(fitting(&widths, usize::MAX).len(), 14);
        let titles = |room| {
            fitting(&widths, room)
                .into_iter()
                .map(|column| COLUMNS[column].title)
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
