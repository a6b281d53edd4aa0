//! Results on standard output: a table for people or one JSON document.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{Cause, Error, Result};

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Tables and lines for people.
    Text,
    /// One JSON document.
    Json,
}

/// How text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No colours, nothing cut: for pipes, logs, and `NO_COLOR`.
    Plain,
    /// Bold headings, cells wrapped to the terminal's width.
    Terminal,
}

/// A result that people can read.
pub trait Render {
    /// Writes it on `page`.
    fn render(&self, page: &mut Page);
}

/// Text for people in the making.
#[derive(Debug)]
pub struct Page {
    text: String,
    look: Look,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(look: Look) -> Self {
        Self {
            text: String::new(),
            look,
        }
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// A line above what belongs together, after an empty one.
    pub fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        match self.look {
            Look::Plain => self.line(text),
            Look::Terminal => self.line(format!("\u{1b}[1m{text}\u{1b}[0m")),
        }
    }

    /// Lines of a name and a value each, the values under each other.
    pub fn pairs(&mut self, pairs: &[(&str, String)]) {
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in pairs {
            self.line(format!("{name:width$}  {value}"));
        }
    }

    /// Lines that each begin with a dash; nothing under an empty list, not even the heading.
    pub fn list(&mut self, heading: &str, items: impl IntoIterator<Item = String>) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() {
            self.heading(heading);
            for item in items {
                self.line(format!("- {item}"));
            }
        }
    }

    /// A table.
    pub fn table(&mut self, columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let arrangement = match self.look {
            Look::Plain => ContentArrangement::Disabled,
            Look::Terminal => ContentArrangement::Dynamic,
        };
        table.set_content_arrangement(arrangement);
        table.set_header(columns.iter().map(|column| {
            let cell = Cell::new(column.name).set_alignment(column.alignment());
            match self.look {
                Look::Plain => cell,
                Look::Terminal => cell.add_attribute(Attribute::Bold),
            }
        }));
        for row in rows {
            let cells = row.into_iter().zip(columns);
            table.add_row(cells.map(|(text, c)| Cell::new(text).set_alignment(c.alignment())));
        }
        match self.look {
            Look::Plain => table.force_no_tty(),
            Look::Terminal => table.enforce_styling(),
        };
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line);
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    side: Side,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl Column {
    /// A column of words.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        let side = Side::Left;
        Self { name, side }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn number(name: &'static str) -> Self {
        let side = Side::Right;
        Self { name, side }
    }

    const fn alignment(self) -> CellAlignment {
        match self.side {
            Side::Left => CellAlignment::Left,
            Side::Right => CellAlignment::Right,
        }
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    look: Look,
}

impl Output {
    /// Standard output; colours only on a terminal and without `NO_COLOR`.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let look = if io::stdout().is_terminal() && !plain {
            Look::Terminal
        } else {
            Look::Plain
        };
        Self { format, look }
    }

    /// Writes a result as the command line asked. What was done is done, so a result that cannot be written
    /// goes to standard error: the id of a snapshot, and what has to follow a restore, are told nowhere else.
    ///
    /// # Errors
    ///
    /// [`Cause::NoSpace`] or [`Cause::Failed`] when it cannot be written; a closed pipe is no error.
    pub fn show<D: Serialize + Render>(&self, document: &D) -> Result<()> {
        match self.format {
            Format::Json => self.json(document),
            Format::Text => {
                let mut page = Page::new(self.look);
                document.render(&mut page);
                write_or_tell(page.text())
            }
        }
    }

    /// Writes `document` as JSON: indented on a terminal, on one line elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Output::show`].
    pub fn json<D: Serialize>(&self, document: &D) -> Result<()> {
        let text = match self.look {
            Look::Terminal => serde_json::to_string_pretty(document),
            Look::Plain => serde_json::to_string(document),
        };
        let mut text = text.map_err(|error| {
            Error::new(Cause::Failed, "cannot write the result as JSON").with_source(error)
        })?;
        text.push('\n');
        write_or_tell(&text)
    }

    /// Begins a result that is written row by row: a JSON array, or a line each.
    #[must_use]
    pub fn rows(&self) -> Rows {
        Rows {
            format: self.format,
            pending: String::new(),
            written: 0,
            state: RowsState::Open,
        }
    }

    /// Writes text that is the same in every format, such as a completion script.
    ///
    /// # Errors
    ///
    /// As [`Output::show`].
    pub fn raw(&self, text: &[u8]) -> Result<()> {
        write(text)
    }
}

/// A row of a result that may have millions of them.
pub trait Row: Serialize {
    /// The row as a line for people.
    fn line(&self) -> String;
}

/// A result that is written row by row, in bounded memory.
///
/// An array that was not [finished](Rows::finish) is no JSON: nobody takes a part for the whole.
#[derive(Debug)]
pub struct Rows {
    format: Format,
    pending: String,
    written: u64,
    state: RowsState,
}

/// Whether anyone reads the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsState {
    /// As far as is known.
    Open,
    /// Nobody does any more: further rows are dropped.
    Closed,
}

/// Rows are written to standard output in pieces of this many bytes: a pipe's size.
const ROWS_PIECE: usize = 64 << 10;

impl Rows {
    /// Writes a row. `Closed` means that further work is in vain.
    ///
    /// # Errors
    ///
    /// As [`Output::show`].
    pub fn push(&mut self, row: &impl Row) -> Result<RowsState> {
        match self.format {
            Format::Text => {
                self.pending.push_str(row.line().trim_end());
                self.pending.push('\n');
            }
            Format::Json => {
                let json = serde_json::to_string(row).map_err(|error| {
                    Error::new(Cause::Failed, "cannot write the result as JSON").with_source(error)
                })?;
                self.pending.push(if self.written == 0 { '[' } else { ',' });
                self.pending.push_str(&json);
            }
        }
        self.written += 1;
        if self.pending.len() >= ROWS_PIECE {
            self.flush()?;
        }
        Ok(self.state)
    }

    /// Ends the result.
    ///
    /// # Errors
    ///
    /// As [`Output::show`].
    pub fn finish(mut self) -> Result<()> {
        match (self.format, self.written) {
            (Format::Text, _) => {}
            (Format::Json, 0) => self.pending.push_str("[]\n"),
            (Format::Json, _) => self.pending.push_str("]\n"),
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        if self.state == RowsState::Open {
            self.state = write_piece(self.pending.as_bytes())?;
        }
        self.pending.clear();
        Ok(())
    }
}

/// Writes a whole result; one that cannot be written goes to standard error, before the error itself.
fn write_or_tell(text: &str) -> Result<()> {
    write(text.as_bytes()).map_err(|error| {
        // Where that is full, too, there is nowhere left.
        let _nowhere_to_say = io::stderr().write_all(text.as_bytes());
        error.with_hint("what was asked for is done; its result stands above")
    })
}

fn write(bytes: &[u8]) -> Result<()> {
    write_piece(bytes).map(|_| ())
}

fn write_piece(bytes: &[u8]) -> Result<RowsState> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(RowsState::Closed),
        Err(error) => Err(Error::from(error).context("cannot write to standard output")),
        Ok(()) => Ok(RowsState::Open),
    }
}

/// The text of `document` as it looks in a pipe.
#[must_use]
pub fn plain(document: &impl Render) -> String {
    let mut page = Page::new(Look::Plain);
    document.render(&mut page);
    page.text
}

/// `n` things, in words: `1 object`, `2 objects`.
#[must_use]
pub fn count(n: u64, thing: &str) -> String {
    let mut text = format!("{n} {thing}");
    if n != 1 {
        let _infallible = write!(text, "s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    impl Render for Sample {
        fn render(&self, page: &mut Page) {
            page.pairs(&[("name", "main".into()), ("objects", count(1, "object"))]);
            page.heading("collections");
            page.table(
                &[Column::text("name"), Column::number("rows")],
                [
                    vec!["books".into(), "1200".into()],
                    vec!["a".into(), "7".into()],
                ],
            );
            page.list("nothing", []);
            page.list("notes", ["one".into()]);
        }
    }

    #[test]
    fn plain_text_has_no_escapes_and_no_trailing_blanks() {
        let text = plain(&Sample);
        assert!(!text.contains('\u{1b}') && text.lines().all(|l| l.trim_end() == l));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_terminal_gets_bold_headings() {
        let mut page = Page::new(Look::Terminal);
        Sample.render(&mut page);
        assert!(page.text().contains("\u{1b}[1mcollections"));
    }
}
