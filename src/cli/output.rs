//! What goes to stdout: text, tables, colour, widths. Messages for people go to stderr instead.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::exit::CliError;

/// Columns of a terminal that does not tell.
pub(super) const COLUMNS_DEFAULT: usize = 80;

/// Where the output goes, and what it may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// `None`: no terminal, nothing is cut.
    pub columns: Option<usize>,
    pub colour: bool,
}

impl Look {
    /// That of stdout.
    #[must_use]
    pub(super) fn stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self::plain();
        }
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let columns = crate::sys::terminal::columns(&stdout).map_or(COLUMNS_DEFAULT, usize::from);
        Self { columns: Some(columns), colour: !forbidden && !dumb }
    }

    /// A file or a pipe.
    #[must_use]
    pub(super) fn plain() -> Self {
        Self { columns: None, colour: false }
    }

    /// `text` in the colour of the state that `word` names.
    #[must_use]
    pub(super) fn paint(&self, word: &str, text: &str) -> String {
        let sgr = match word {
            "ready" | "done" | "ok" | "up" | "start" | "live" => "32",
            "starting" | "stopping" | "waiting" | "adopting" | "backoff" | "degraded" | "draining" | "ejected"
            | "warn" | "restart" | "throttled" | "proving" | "probation" | "observed" => "33",
            "failed" | "stuck" | "frozen" | "held" | "incomplete" | "failing" | "out" | "fenced" | "fail" | "error"
            | "stop" => "31",
            "stopped" | "unknown" | "absent" | "debug" | "unchanged" | "released" => "2",
            _ => "",
        };
        if self.colour && !sgr.is_empty() { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints a whole text.
///
/// # Errors
/// stdout cannot be written; a closed pipe is success in the end.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
}

/// A line for the person at the terminal.
pub(super) fn message(text: &str) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows under a head, columns as wide as their content. The last column is cut to the terminal's width; the cell at `painted` is coloured by
/// its own word.
#[must_use]
pub(super) fn table(head: &[&str], rows: &[Vec<String>], painted: &[usize], look: &Look) -> String {
    let last = head.len().saturating_sub(1);
    let widths: Vec<usize> = (0..last)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
            cells.chain([head[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let fixed: usize = widths.iter().sum();
    // Blanks are the first to go when it gets narrow.
    let gap = if look.columns.is_some_and(|columns| columns < fixed + 2 * last + 20) { 1 } else { 2 };
    let room = look.columns.map(|columns| columns.saturating_sub(fixed + gap * last));
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    for (index, row) in std::iter::once(&head).chain(rows).enumerate() {
        let mut line = String::new();
        for (column, width_max) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let padding = " ".repeat(width_max.saturating_sub(width(cell)) + gap);
            let cell = if index > 0 && painted.contains(&column) { look.paint(cell, cell) } else { cell.to_owned() };
            line.push_str(&cell);
            line.push_str(&padding);
        }
        line.push_str(&cut(row.get(last).map_or("", String::as_str), room));
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Characters; names and reasons are seldom anything but ASCII, and wide letters only move a column.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// At most `room` characters, with `~` for what is missing; control characters become blanks.
#[must_use]
pub(super) fn cut(text: &str, room: Option<usize>) -> String {
    let clean = clean(text);
    match room {
        Some(0) => String::new(),
        Some(room) if width(&clean) > room => clean.chars().take(room - 1).chain(['~']).collect(),
        Some(_) | None => clean,
    }
}

/// Without control characters: what a service says must not move the cursor of whoever asks about it.
#[must_use]
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// One unit: `5s`, `3m`, `2h`, `9d`.
#[must_use]
pub(super) fn age(ms: u64) -> String {
    match ms / 1_000 {
        0 => format!("{ms}ms"),
        seconds @ 1..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `human` of milliseconds: two units.
#[must_use]
pub(super) fn human_ms(ms: u64) -> String {
    crate::engine::types::human(Duration::from_millis(ms))
}

/// `900us`, `1.2ms`, `2.5s`.
#[must_use]
pub(super) fn short_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// `512`, `4.0K`, `5.2M`, `1.5G`.
#[must_use]
pub(super) fn size(bytes: u64) -> String {
    let mut tenths = u128::from(bytes) * 10;
    for unit in ["", "K", "M", "G", "T"] {
        if tenths < 10_240 || unit == "T" {
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if unit.is_empty() { whole.to_string() } else { format!("{whole}.{tenth}{unit}") };
        }
        tenths /= 1_024;
    }
    String::new()
}

/// The same in a sentence: `512 bytes`, `4.0K`.
#[must_use]
pub(super) fn size_in_words(bytes: u64) -> String {
    if bytes < 1_024 { counted(bytes, "byte") } else { size(bytes) }
}

/// `1 file`, `2 files`.
#[must_use]
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let sizes = [0, 1_023, 1_024, 5_242_880, 1_610_612_736, u64::MAX].map(size);
        assert_eq!(sizes, ["0", "1023", "1.0K", "5.0M", "1.5G", "16777215.9T"]);
        assert_eq!([0, 1, 1_023, 1_024].map(size_in_words), ["0 bytes", "1 byte", "1023 bytes", "1.0K"]);
        assert_eq!([900, 1_250, 2_500_000].map(short_us), ["900us", "1.2ms", "2.5s"]);
        assert_eq!([900, 59_999, 60_000, 7_200_000, 864_000_000].map(age), ["900ms", "59s", "1m", "2h", "10d"]);
    }

    #[test]
    fn a_table_fits_the_terminal_and_is_whole_in_a_pipe() {
        let rows = vec![vec!["api".to_owned(), "ready".to_owned(), "because \x1b[2J of everything".to_owned()]];
        let narrow = Look { columns: Some(30), colour: false };
        assert_eq!(
            table(&["NAME", "STATE", "WHY"], &rows, &[1], &narrow),
            "NAME STATE WHY\napi  ready because  [2J of ev~\n"
        );
        let painted = Look { columns: Some(60), colour: true };
        assert!(table(&["NAME", "STATE", "WHY"], &rows, &[1], &painted).contains("\x1b[32mready\x1b[0m  because"));
        assert!(table(&["NAME", "STATE", "WHY"], &rows, &[1], &Look::plain()).ends_with("of everything\n"));
    }
}
