//! What the demo says: numbered steps, small tables, plain lines, all on standard output.

use std::io::{self, Write as _};

use tokio_postgres::SimpleQueryMessage;

use super::error::{DemoError, during};

/// Speaks on standard output and counts the steps.
#[derive(Debug, Default)]
pub(super) struct Narrator {
    steps: usize,
}

impl Narrator {
    /// Announces the next step.
    pub(super) fn step(&mut self, title: &str) -> Result<(), DemoError> {
        self.steps += 1;
        let number = self.steps;
        self.line(&format!("\n{number}. {title}"))
    }

    /// Says that what was announced, or a part of it, holds.
    pub(super) fn held(&self, what: &str) -> Result<(), DemoError> {
        self.line(&format!("   ok  {what}"))
    }

    /// Prints the rows of an answer below one another.
    pub(super) fn table(&self, answer: &[SimpleQueryMessage]) -> Result<(), DemoError> {
        for line in layout(&cells(answer)) {
            self.line(&format!("       {line}"))?;
        }
        Ok(())
    }

    /// Prints one line as it is.
    #[expect(clippy::unused_self, reason = "speaking belongs to the narrator, whether or not it counts")]
    pub(super) fn line(&self, text: &str) -> Result<(), DemoError> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(during("writing to standard output"))
    }
}

/// Header and rows as text.
fn cells(answer: &[SimpleQueryMessage]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for message in answer {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                rows.push(columns.iter().map(|column| column.name().to_owned()).collect());
            }
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|column| row.get(column).unwrap_or("").to_owned()).collect());
            }
            _ => {}
        }
    }
    rows
}

/// Pads every column to its widest cell and draws a line under the header.
fn layout(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        })
        .collect();
    if !lines.is_empty() {
        let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
        lines.insert(1, rule.join("  "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["id".to_owned(), "name".to_owned()], vec!["1000".to_owned(), "x".to_owned()]];
        assert_eq!(layout(&rows), ["id    name", "----  ----", "1000  x"]);
        assert!(layout(&[]).is_empty());
    }
}
