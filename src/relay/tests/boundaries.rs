//! Streams cut anywhere: a side that has half of a frame changes nothing about what the other side gets.

use super::frames::{Direction, encode_all, print_all};
use super::{Mode, Talk, in_force};
use crate::wire::{encode, frame};

/// What a client may send, and what the server answers.
const CONVERSATIONS: &[(&str, &str)] = &[
    ("Q SELECT 1", "T a:23 | D 1 | C SELECT 1 | Z I"),
    ("P - SELECT 1 | B - - x | D P - | E - | S", "1 | 2 | T a:23 | D 1 | D 2 | C SELECT 2 | Z I"),
    ("P s SELECT 1 | C S s | S", "1 | t | T a:23 | Z I"),
    ("Q SELECT nope", "N 00000 | E 42703@8 | Z I"),
    ("Q COPY t TO STDOUT", "H | d one | d two | c | C COPY 2 | Z I"),
    ("Q ", "I | Z I"),
];

fn sent(talk: &mut Talk) -> String {
    print_all(&talk.server.output_log(), Direction::Client)
}

#[test]
fn a_client_may_be_cut_anywhere() {
    for mode in [Mode::Sealed, Mode::Plain, Mode::Bare] {
        for (frames, _) in CONVERSATIONS {
            let bytes = encode_all(frames, Direction::Client, "");
            let mut whole = in_force(mode);
            whole.bytes_of_client(&bytes);
            let expected = sent(&mut whole);
            for at in 1..bytes.len() {
                let mut talk = in_force(mode);
                talk.bytes_of_client(&bytes[..at]);
                talk.bytes_of_client(&bytes[at..]);
                assert_eq!(sent(&mut talk), expected, "{frames} cut at {at}");
            }
        }
    }
}

#[test]
fn a_server_may_be_cut_anywhere() {
    for (frames, answers) in CONVERSATIONS {
        let bytes = encode_all(answers, Direction::Server, "");
        let mut talk = in_force(Mode::Sealed);
        talk.client(frames);
        let expected = talk.raw_of_server(&bytes);
        for at in 1..bytes.len() {
            let mut talk = in_force(Mode::Sealed);
            talk.client(frames);
            let mut got = talk.raw_of_server(&bytes[..at]);
            got.extend(talk.raw_of_server(&bytes[at..]));
            assert_eq!(got, expected, "{answers} cut at {at}");
            assert!(talk.conversation.is_quiet(), "{answers} cut at {at}");
        }
    }
}

#[test]
fn a_byte_at_a_time_is_the_same_conversation() {
    for (frames, answers) in CONVERSATIONS {
        let mut whole = in_force(Mode::Sealed);
        whole.client(frames);
        let expected = whole.raw_of_server(&encode_all(answers, Direction::Server, ""));
        let mut talk = in_force(Mode::Sealed);
        for byte in encode_all(frames, Direction::Client, "") {
            talk.bytes_of_client(&[byte]);
        }
        let mut got = Vec::new();
        for byte in encode_all(answers, Direction::Server, "") {
            got.extend(talk.raw_of_server(&[byte]));
        }
        assert_eq!((sent(&mut talk), got), (sent(&mut whole), expected), "{frames}");
    }
}

#[test]
fn a_hand_over_may_be_answered_in_any_pieces() {
    for (mode, frames, answers) in [
        (Mode::Plain, "Q SELECT 1", "front"),
        (Mode::Plain, "Q SELECT 1; SELECT 2", "plain-hand-over"),
        (Mode::Sealed, "Q SELECT 1", "hand-over"),
    ] {
        let length = {
            let mut talk = Talk::new(mode);
            talk.client(frames);
            talk.answers(&format!("{answers} | C SELECT 1 | Z I")).len()
        };
        for at in 1..length {
            let mut talk = Talk::new(mode);
            talk.client(frames);
            let bytes = talk.answers(&format!("{answers} | C SELECT 1 | Z I"));
            let mut got = talk.raw_of_server(&bytes[..at]);
            got.extend(talk.raw_of_server(&bytes[at..]));
            assert_eq!(print_all(&got, Direction::Server), "C SELECT 1 | Z I", "cut at {at}");
        }
    }
}

#[test]
fn rows_of_a_copy_may_be_cut_anywhere() {
    let bytes = encode_all("d one | d | d two | c", Direction::Client, "");
    for at in 1..bytes.len() {
        let mut talk = in_force(Mode::Sealed);
        talk.client("Q COPY t FROM STDIN");
        talk.server("G");
        talk.bytes_of_client(&bytes[..at]);
        talk.bytes_of_client(&bytes[at..]);
        let rows: String = sent(&mut talk)
            .split(" | ")
            .skip(1)
            .filter_map(|frame| frame.strip_prefix("d ").map(str::to_owned))
            .collect();
        assert_eq!(rows, "onetwo", "cut at {at}");
        assert!(sent(&mut talk).ends_with(" | c"), "cut at {at}");
    }
}

#[test]
fn half_a_frame_reaches_nobody() {
    let mut talk = in_force(Mode::Sealed);
    let bytes = encode_all("Q SELECT 1", Direction::Client, "");
    assert_eq!(talk.bytes_of_client(&bytes[..bytes.len() - 1]), "");
    assert!(talk.conversation.is_quiet(), "the server knows nothing of it");
    assert_eq!(talk.conversation.wanted(), bytes.len());
}

#[test]
fn half_a_header_is_no_frame() {
    for count in 1..5 {
        let mut talk = in_force(Mode::Sealed);
        assert_eq!(talk.bytes_of_client(&b"Q\0\0\0\x0f"[..count]), "");
        assert_eq!(talk.conversation.wanted(), frame::HEADER_BYTES, "its length is not known");
        assert!(talk.conversation.is_between());
    }
}

#[test]
fn a_row_passes_as_it_comes_and_tears_the_client_meanwhile() {
    let row = encode_all("D some value", Direction::Server, "");
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q SELECT 1");
    assert!(!talk.conversation.is_mid_frame());
    assert_eq!(talk.raw_of_server(&row[..9]), row[..9]);
    assert!(talk.conversation.is_mid_frame());
    assert_eq!(talk.raw_of_server(&row[9..]), row[9..]);
    assert!(!talk.conversation.is_mid_frame());
}

#[test]
fn other_messages_of_the_server_come_whole_or_not_at_all() {
    for frame in ["E 42703", "N 00000", "C SELECT 1", "T a:23", "S TimeZone=UTC"] {
        let bytes = encode_all(frame, Direction::Server, "");
        let mut talk = in_force(Mode::Sealed);
        talk.client("Q SELECT 1");
        assert!(talk.raw_of_server(&bytes[..bytes.len() - 1]).is_empty(), "{frame}");
        assert!(!talk.conversation.is_mid_frame());
        assert_eq!(talk.raw_of_server(&bytes[bytes.len() - 1..]), bytes, "{frame}");
    }
}

#[test]
fn impossible_lengths_end_the_one_who_sent_them() {
    for length in [0, 3, u32::MAX, 1 << 31] {
        let frame = [&b"Q"[..], &u32::to_be_bytes(length)].concat();
        assert_eq!(
            in_force(Mode::Sealed).bytes_of_client(&frame),
            "ends: invalid message length",
            "{length}"
        );
        let frame = [&b"C"[..], &u32::to_be_bytes(length)].concat();
        let mut talk = in_force(Mode::Sealed);
        talk.client("Q SELECT 1");
        talk.server_input = frame;
        assert_eq!(talk.run(), "server lost: the server sent an impossible length", "{length}");
    }
}

#[test]
fn a_long_row_is_not_collected() {
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q SELECT 1");
    let header = [&b"D"[..], &u32::to_be_bytes(1 << 30)].concat();
    assert_eq!(talk.raw_of_server(&header), header);
    assert_eq!(talk.raw_of_server(&[7; 5000]), [7; 5000]);
    assert!(talk.server_input.is_empty());
}

#[test]
fn both_sides_of_the_limit_of_a_server_message() {
    const LIMIT: usize = 16 * 1024 * 1024;
    let frame = |total: usize| {
        let mut out = vec![b'N'];
        out.extend_from_slice(&u32::try_from(total - 1).unwrap().to_be_bytes());
        out.resize(total, 0);
        out
    };
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q SELECT 1");
    assert_eq!(talk.raw_of_server(&frame(LIMIT)).len(), LIMIT);
    talk.server_input = frame(LIMIT + 1);
    assert_eq!(talk.run(), "server lost: the server sent a message over the limit");
}

#[test]
fn the_limit_of_a_message_is_the_same_for_each_kind_but_rows() {
    let long = "x".repeat(10_000);
    for frames in
        [format!("Q {long}"), format!("P - {long}"), format!("B - - {long}"), format!("P {long} SELECT 1")]
    {
        assert_eq!(in_force(Mode::Bare).client(&frames), "ends: too large");
    }
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q COPY t FROM STDIN");
    talk.server("G");
    assert_eq!(talk.client(&format!("d {long}")), format!("d {long}"));
}

#[test]
fn a_message_over_the_limit_is_known_by_its_header() {
    let mut talk = in_force(Mode::Sealed);
    assert_eq!(talk.bytes_of_client(&[&b"Q"[..], &u32::to_be_bytes(10_000)].concat()), "ends: too large");
    let mut talk = in_force(Mode::Sealed);
    assert_eq!(talk.bytes_of_client(&[&b"Q"[..], &u32::to_be_bytes(9_999)].concat()), "");
    assert_eq!(talk.conversation.wanted(), 10_000);
}

#[test]
fn an_empty_row_of_a_copy_goes_on() {
    let mut frame = Vec::new();
    encode::copy_data(&mut frame, b"");
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q COPY t FROM STDIN");
    talk.server("G");
    assert_eq!(talk.bytes_of_client(&frame), "d ");
}
