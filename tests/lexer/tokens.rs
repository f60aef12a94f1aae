//! Prints the tokens of texts for `tests/lexer/run`, which compares them with those of PostgreSQL's own scanner.
//! Reads texts from standard input, each behind its length (four bytes, little end first); writes a line for
//! each: `start end kind` of every token, with `;` between them.

use std::io::{self, BufRead as _, Read as _, Write as _};

use pgtenant::sql::lexer::Lexer;

fn main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::BufWriter::new(io::stdout().lock()));
    while !input.fill_buf()?.is_empty() {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let mut text = vec![0; usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?];
        input.read_exact(&mut text)?;
        let mut between = "";
        for token in Lexer::new(&text) {
            let range = token.range();
            write!(output, "{between}{} {} {:?}", range.start, range.end, token.kind)?;
            between = ";";
        }
        writeln!(output)?;
    }
    output.flush()
}
