//! Frames of scripts as bytes, and bytes as frames of scripts.

use crate::wire::{encode, frame};

/// Who sends a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Client,
    Server,
}

/// The bytes of frames.
pub(super) fn encode_all(frames: &str, direction: Direction, nonce: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for text in frames.split(" | ") {
        match direction {
            Direction::Client => client_frame(&mut out, text),
            Direction::Server => server_frame(&mut out, text, nonce),
        }
    }
    out
}

fn client_frame(out: &mut Vec<u8>, text: &str) {
    let (tag, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    let name = |name: &str| if name == "-" { String::new() } else { name.to_owned() };
    match tag {
        "Q" => encode::query(out, rest.as_bytes()),
        "P" => encode::parse(out, &name(first), second.as_bytes(), &[0, 0]),
        "B" => {
            let mut parts = second.split(' ');
            let statement = name(parts.next().unwrap());
            let values: Vec<&[u8]> = parts.map(str::as_bytes).collect();
            encode::bind_portal(out, &name(first), &statement, &values);
        }
        "D" => encode::describe(out, first.as_bytes()[0], &name(second)),
        "C" => encode::close(out, first.as_bytes()[0], name(second)),
        "E" => encode::execute(out, &name(first)),
        "f" => encode::copy_fail(out, rest),
        "d" => encode::copy_data(out, rest.as_bytes()),
        "F" => encode::frame(out, b'F', |out| out.extend_from_slice(&[0; 10])),
        _ => encode::frame(out, tag.as_bytes()[0], |out| out.extend_from_slice(rest.as_bytes())),
    }
}

/// The answers to what the proxy puts in front.
fn answers_to_the_proxy(name: &str, nonce: &str) -> Option<String> {
    let row = if name == "front-without-row" { String::new() } else { format!(" | D {nonce}") };
    let commit = if name == "front-but-commit" { "" } else { " | C COMMIT" };
    Some(match name {
        "reset" => format!("C BEGIN | N 01000 | C RESET | T a:25 | D {nonce} | C SELECT 1 | C SET | Z T"),
        // Its row is that of the entry.
        "sealed-reset" => "C BEGIN | N 01000 | C RESET | C SET | Z T".to_owned(),
        "hand-over" => format!("sealed-reset | 1 | 2 | D {nonce} | C SELECT 1 | 1 | 2 | C COMMIT"),
        "entry" => format!("C BEGIN | C SET | Z T | 1 | 2 | D {nonce} | C SELECT 1 | 1 | 2 | C COMMIT"),
        "plain-entry" => {
            "C BEGIN | C SET | C SAVEPOINT | Z T | 1 | 2 | C RELEASE | 1 | 2 | C COMMIT".to_owned()
        }
        "plain-hand-over" => "reset | 1 | 2 | C RELEASE | 1 | 2 | C COMMIT".to_owned(),
        "front" | "front-but-commit" | "front-without-row" => format!(
            "C BEGIN | C SET | C RESET | C CLOSE | C DEALLOCATE | C UNLISTEN | T a:25{row} | C SELECT 1 | C SET \
             | C DISCARD TEMP | C DISCARD SEQUENCES | C SET{commit}"
        ),
        "assert" => "3 | 1 | 2 | D a | C SELECT 1".to_owned(),
        "asserted" => "2 | D a | C SELECT 1".to_owned(),
        "apart" => "1 | 2 | C BEGIN | assert | 1 | 2 | C COMMIT".to_owned(),
        "own" => "1 | 2 | C SET | 3".to_owned(),
        _ => return None,
    })
}

fn server_frame(out: &mut Vec<u8>, text: &str, nonce: &str) {
    let (tag, rest) = text.split_once(' ').unwrap_or((text, ""));
    if let Some(all) = answers_to_the_proxy(tag, nonce) {
        return out.extend_from_slice(&encode_all(&all, Direction::Server, nonce));
    }
    match tag {
        "D" => encode::frame(out, b'D', |out| {
            out.extend_from_slice(&[0, 1]);
            out.extend_from_slice(&u32::try_from(rest.len()).unwrap().to_be_bytes());
            out.extend_from_slice(rest.as_bytes());
        }),
        "C" => encode::command_complete(out, rest),
        "T" => encode::frame(out, b'T', |out| columns(out, rest)),
        "t" => encode::frame(out, b't', |out| {
            let oids: Vec<u32> = rest.split_whitespace().map(|oid| oid.parse().unwrap()).collect();
            out.extend_from_slice(&u16::try_from(oids.len()).unwrap().to_be_bytes());
            for oid in &oids {
                out.extend_from_slice(&oid.to_be_bytes());
            }
        }),
        "E" | "N" => {
            let (code, position) = rest.split_once('@').unwrap_or((rest, ""));
            let (severity, code) = code.split_once(' ').unwrap_or(("ERROR", code));
            encode::frame(out, tag.as_bytes()[0], |out| {
                for (field, value) in [(b'V', severity), (b'C', code), (b'M', "text"), (b'P', position)] {
                    if !value.is_empty() {
                        out.push(field);
                        encode::cstr(out, value.as_bytes());
                    }
                }
                out.push(0);
            });
        }
        "S" => {
            let (name, value) = rest.split_once('=').unwrap();
            encode::parameter_status(out, name, value);
        }
        "G" | "H" => encode::frame(out, tag.as_bytes()[0], |out| out.extend_from_slice(&[0, 0, 0])),
        _ => encode::frame(out, tag.as_bytes()[0], |out| out.extend_from_slice(rest.as_bytes())),
    }
}

fn columns(out: &mut Vec<u8>, text: &str) {
    let written = text.split(',').filter(|column| !column.is_empty());
    let columns: Vec<(&str, &str)> = written.map(|column| column.split_once(':').unwrap()).collect();
    out.extend_from_slice(&u16::try_from(columns.len()).unwrap().to_be_bytes());
    for (name, oid) in columns {
        encode::cstr(out, name.as_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&oid.parse::<u32>().unwrap().to_be_bytes());
        out.extend_from_slice(&[0; 8]);
    }
}

/// The nonce of the last reset in what the server got.
pub(super) fn nonce_of(sent: &[u8]) -> String {
    let text = String::from_utf8_lossy(sent);
    let marks = ["\"nonce\" TO '", "UNLISTEN *;SELECT '"];
    let behind = marks.iter().filter_map(|mark| text.rfind(mark).map(|at| at + mark.len())).max();
    behind.map(|at| text[at..].chars().take(32).collect()).unwrap_or_default()
}

/// Frames as a script writes them.
pub(super) fn print_all(bytes: &[u8], direction: Direction) -> String {
    let (mut rest, mut printed) = (bytes, Vec::new());
    while let Some(header) = frame::header(rest).unwrap() {
        let whole = rest.get(..header.total).expect("whole frames only");
        printed.push(match direction {
            Direction::Client => print_client(header.tag, frame::body(whole)),
            Direction::Server => print_server(header.tag, frame::body(whole)),
        });
        rest = &rest[header.total..];
    }
    assert!(rest.is_empty(), "a frame is torn: {rest:?}");
    let mut all = format!(" | {}", printed.join(" | "));
    let begin = "P - BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE | B - - | E -";
    let commit = "P - COMMIT | B - - | E -";
    for (long, short) in [
        (format!("Q reset | P - enter | B - - … | E - | {commit}"), "hand-over"),
        (format!("Q set-again | P - enter | B - - … | E - | {commit}"), "entry"),
        (format!("Q set-again | P - RELEASE \"pgtenant\" | B - - | E - | {commit}"), "plain-entry"),
        (format!("Q reset | P - RELEASE \"pgtenant\" | B - - | E - | {commit}"), "plain-hand-over"),
        (
            "C S pgtenant_tenant | P pgtenant_tenant assertion | B - pgtenant_tenant … | E -".to_owned(),
            "assert",
        ),
        ("B - pgtenant_tenant … | E -".to_owned(), "asserted"),
        (format!("{begin} | assert | {commit}"), "apart"),
        (format!("{begin} | asserted | {commit}"), "asserted-apart"),
    ] {
        all = all.replace(&format!(" | {long}"), &format!(" | {short}"));
    }
    all.strip_prefix(" | ").unwrap_or_default().to_owned()
}

fn texts(body: &[u8]) -> Vec<String> {
    let text = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        if text.is_empty() { "-".to_owned() } else { text }
    };
    body.split(|byte| *byte == 0).map(text).collect()
}

fn print_client(tag: u8, body: &[u8]) -> String {
    let texts = texts(body);
    let text = |place: usize| texts.get(place).cloned().unwrap_or_default();
    let own = |text: String| {
        if let Some(reset) =
            text.strip_prefix("BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE;")
        {
            // One that stands in front of a client's text ends in it.
            let short = if reset.contains("RESET ALL") { "reset" } else { "set-again" };
            reset.split_once(";COMMIT;").map_or_else(|| short.to_owned(), |(_, text)| format!("front;{text}"))
        } else if text.contains("pgtenant.hand_over") {
            "enter".to_owned()
        } else if text.contains("decode($1,'hex')") {
            "assertion".to_owned()
        } else {
            text
        }
    };
    let tag = char::from(tag);
    match tag {
        'Q' => format!("Q {}", own(text(0))),
        'P' => format!("P {} {}", text(0), own(text(1))),
        'B' => {
            let names =
                texts[0].len() + texts[1].len() - usize::from(texts[0] == "-") - usize::from(texts[1] == "-")
                    + 2;
            let values = body.get(names + 2..names + 4).is_some_and(|count| count != [0, 0]);
            format!("B {} {}{}", text(0), text(1), if values { " …" } else { "" })
        }
        'D' | 'C' => {
            let kind = char::from(body[0]);
            let name = String::from_utf8_lossy(&body[1..body.len() - 1]).into_owned();
            format!("{tag} {kind} {}", if name.is_empty() { "-".to_owned() } else { name })
        }
        'E' => format!("E {}", text(0)),
        'f' => "f".to_owned(),
        'd' => format!("d {}", String::from_utf8_lossy(body)),
        _ => tag.to_string(),
    }
}

fn print_server(tag: u8, body: &[u8]) -> String {
    let text = |field: u8| crate::wire::backend::error_field(body, field).unwrap_or_default().to_owned();
    let tag = char::from(tag);
    match tag {
        'D' => format!("D {}", crate::wire::backend::column(body, 0).unwrap_or_default()),
        'C' => format!("C {}", texts(body)[0]),
        'Z' => format!("Z {}", String::from_utf8_lossy(body)),
        'E' | 'N' => match text(b'P') {
            position if position.is_empty() => format!("{tag} {}", text(b'C')),
            position => format!("{tag} {}@{position}", text(b'C')),
        },
        'S' => format!("S {}={}", texts(body)[0], texts(body)[1].trim_matches('-')),
        'd' => format!("d {}", String::from_utf8_lossy(body)),
        't' => {
            let oids = body[2..].chunks(4).map(|oid| u32::from_be_bytes(oid.try_into().unwrap()).to_string());
            std::iter::once("t".to_owned()).chain(oids).collect::<Vec<_>>().join(" ")
        }
        _ => tag.to_string(),
    }
}
