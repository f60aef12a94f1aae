//! COPY from the client (COPY FROM STDIN). While the server reads rows, only CopyData, CopyDone and CopyFail go to it:
//! PostgreSQL ignores Sync and Flush there (`CopyGetData` in `copyfromparse.c`), and any other message fails the COPY.
//! COPY to the client needs no state: its rows pass like those of a query.

/// Whether the server reads rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CopyIn {
    /// It does not.
    #[default]
    No,
    /// It does, until CopyDone, CopyFail or an error.
    Rows,
}

/// What becomes of a client's message while the server reads rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InCopy {
    /// CopyData: its bytes go on.
    Data,
    /// CopyDone or CopyFail: goes on, and ends the rows.
    End,
    /// Sync or Flush: dropped, as the server would.
    Ignored,
    /// Terminate.
    Goodbye,
    /// Anything else: the proxy fails the COPY, and the message waits for that.
    Foreign,
}

/// Tells what a message means to a server that reads rows.
pub const fn in_copy(tag: u8) -> InCopy {
    match tag {
        b'd' => InCopy::Data,
        b'c' | b'f' => InCopy::End,
        b'S' | b'H' => InCopy::Ignored,
        b'X' => InCopy::Goodbye,
        _ => InCopy::Foreign,
    }
}

/// The reason in the proxy's own CopyFail.
pub const FOREIGN_MESSAGE: &str = "another message arrived during COPY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_messages_of_copy_reach_a_server_that_reads_rows() {
        for tag in 0..=u8::MAX {
            let expected = match tag {
                b'd' => InCopy::Data,
                b'c' | b'f' => InCopy::End,
                b'S' | b'H' => InCopy::Ignored,
                b'X' => InCopy::Goodbye,
                _ => InCopy::Foreign,
            };
            assert_eq!(in_copy(tag), expected, "{}", char::from(tag));
        }
    }
}
