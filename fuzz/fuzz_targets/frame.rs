//! Any bytes, cut anywhere, give the same frames, and never a panic; every view of a message is total on them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::wire::frame::{HEADER_BYTES, body, header};
use pgtenant::wire::{backend, frontend};

fuzz_target!(|input: (&[u8], Vec<u8>)| {
    let (stream, cuts) = input;
    let whole = frames(std::iter::once(stream));
    assert_eq!(whole, frames(pieces(stream, &cuts).into_iter()));
    let mut end = 0;
    for frame in &whole.0 {
        assert_eq!(frame, &stream[end..end + frame.len()]);
        assert_eq!(body(frame).len(), frame.len() - HEADER_BYTES);
        view(body(frame));
        end += frame.len();
    }
});

fn view(body: &[u8]) {
    let _ = (frontend::parse(body), frontend::bind(body), frontend::target(body), frontend::query(body));
    let _ = (backend::ready_for_query(body), backend::parameter_status(body), backend::command_tag(body));
    let _ = (backend::column(body, 0), backend::column(body, body.len()));
    let _ = (backend::backend_key_data(body), backend::authentication(body), backend::error_field(body, b'C'));
}

/// The frames, and whether reading stopped at a length that is none.
fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool) {
    let (mut frames, mut pending) = (Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            match header(&pending) {
                Err(_) => return (frames, true),
                Ok(Some(header)) if header.total <= pending.len() => {
                    frames.push(pending.drain(..header.total).collect());
                }
                Ok(_) => break,
            }
        }
    }
    (frames, false)
}

/// The stream cut into pieces of these lengths, one after the other and again.
fn pieces<'a>(stream: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut lengths = cuts.iter().map(|length| usize::from(*length).max(1)).cycle();
    let (mut pieces, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
