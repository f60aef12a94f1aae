//! Compares what a client received from PostgreSQL and through the proxy. All differences that are expected stand in
//! [`EXPECTED`], each with its reason; everything else is a fault.

use crate::support::link::{Answer, Fault, Frame};

use super::pair::{Servers, Stop};
use super::step::{REFUSED, TENANTS};

/// An expected difference.
struct Difference {
    what: &'static str,
    why: &'static str,
    rule: Rule,
}

enum Rule {
    /// Makes both sides equal where they differ as expected.
    Equalize(fn(&mut Exchange)),
    /// Whether the rest cannot be compared.
    Ends(fn(&Exchange) -> bool),
}

/// Both answers.
struct Exchange {
    direct: Vec<Frame>,
    proxied: Vec<Frame>,
}

/// Every difference that is no fault, in the order in which it is looked for.
const EXPECTED: &[Difference] = &[
    // In front of what takes completions away.
    Difference {
        what: "RESET in front of SET TRANSACTION in one text",
        why: "what the client asked for at startup is put back behind the RESET, and that takes a snapshot where the value \
              is a list of names",
        rule: Rule::Ends(|both| {
            is_reset_before_isolation(&both.proxied) && !both.direct.iter().any(is_late_isolation)
        }),
    },
    Difference {
        what: "place in PostgreSQL's source",
        why: "an error of the proxy's own has none",
        rule: Rule::Equalize(|both| both.each(without_source)),
    },
    Difference {
        what: "a statement that the proxy refuses",
        why: "the direct side is sent a text with a syntax error in its place",
        rule: Rule::Equalize(refusals),
    },
    Difference {
        what: "name of a prepared statement in an error",
        why: "statements have other names on the proxy's servers",
        rule: Rule::Equalize(|both| both.each(without_statement_name)),
    },
    Difference {
        what: "the completion of a RESET whose transaction fails at the end of the text",
        why: "what the client asked for at startup is put back behind the RESET, so that the RESET is not the last \
              statement, whose completion PostgreSQL keeps until the transaction has committed",
        rule: Rule::Equalize(resets_in_vain),
    },
    Difference {
        what: "what a statement returned before it failed",
        why: "the proxy sends a simple query as Parse to Sync after its context: columns are described before the error, \
              and a deferred constraint is checked at Sync",
        rule: Rule::Equalize(results_in_vain),
    },
    Difference {
        what: "order of ParameterStatus",
        why: "PostgreSQL reports several parameters in no particular order",
        rule: Rule::Equalize(|both| both.lists(reports_in_order)),
    },
    Difference {
        what: "place of a notice",
        why: "notices are asynchronous; those of a segment are compared, not where they stand in it",
        rule: Rule::Equalize(|both| both.lists(notices_first)),
    },
    Difference {
        what: "OID of a table",
        why: "each side has a database of its own",
        rule: Rule::Equalize(|both| both.each(without_table)),
    },
    Difference {
        what: "words of a syntax error",
        why: "a text that the proxy cannot read is refused in its own words",
        rule: Rule::Equalize(|both| both.each(without_words_of_syntax)),
    },
    Difference {
        what: "another frame within COPY from the client",
        why: "PostgreSQL ends the connection, the proxy ends the COPY and keeps the client",
        rule: Rule::Ends(|both| both.direct.iter().any(is_wrong_frame_in_copy)),
    },
    Difference {
        what: "the unnamed portal of a Query or Bind that failed in a block",
        why: "PostgreSQL keeps it until the block ends; the proxy says that there is none",
        rule: Rule::Ends(|both| lacks_failed_portal(&both.direct, &both.proxied)),
    },
    Difference {
        what: "a Query behind a pipeline on PostgreSQL 18",
        why: "PostgreSQL 18 leaves the pipeline's implicit transaction block open behind it, the proxy ends it",
        rule: Rule::Ends(|both| {
            let of = |frames: &[Frame], status: &[u8]| {
                frames.iter().filter(|one| one.tag == b'Z' && one.body[..] == *status).count()
            };
            is_postgresql_18() && of(&both.direct, b"T") > of(&both.proxied, b"T")
        }),
    },
    Difference {
        what: "BEGIN with characteristics behind a DEALLOCATE in one pipeline",
        why: "DEALLOCATE takes a snapshot, what stands in for it at a statement of the protocol does not, so that the BEGIN \
              works",
        rule: Rule::Ends(|both| {
            let deallocates = |frame: &Frame| frame.tag == b'C' && frame.body.starts_with(b"DEALLOCATE");
            both.direct.iter().any(deallocates)
                && both.direct.iter().any(is_late_isolation)
                && !both.proxied.iter().any(is_late_isolation)
        }),
    },
    Difference {
        what: "a wrong Bind of a statement whose tables have changed",
        why: "both fail: PostgreSQL reads the values first, the proxy prepares the statement again first",
        rule: Rule::Ends(|both| {
            let has = |frames: &[Frame], is_wanted: fn(&str) -> bool| {
                frames.iter().any(|one| one.tag == b'E' && is_wanted(&one.fault().code))
            };
            let is_changed = |code: &str| matches!(code, "0A000" | "42804" | "42883");
            let is_wrong = |code: &str| matches!(code, "08P01" | "22021" | "22P02" | "22P03");
            has(&both.proxied, is_changed) && !has(&both.direct, is_changed) && has(&both.direct, is_wrong)
        }),
    },
    Difference {
        what: "a statement that the guard refuses",
        why: "the guard is stricter than PostgreSQL",
        rule: Rule::Ends(|both| both.proxied.iter().any(is_guards)),
    },
];

/// Compares the answers of one turn.
pub(super) fn compare(direct: Vec<Frame>, proxied: Vec<Frame>) -> Result<(), Stop> {
    let mut both = Exchange { direct, proxied };
    for difference in EXPECTED {
        match difference.rule {
            Rule::Equalize(equalize) => equalize(&mut both),
            Rule::Ends(ends) if ends(&both) => return Err(Stop::Inconclusive(difference.what)),
            Rule::Ends(_) => {}
        }
    }
    let same = |(ours, theirs): (&Frame, &Frame)| ours.tag == theirs.tag && ours.body == theirs.body;
    if both.direct.len() == both.proxied.len() && both.proxied.iter().zip(&both.direct).all(same) {
        return Ok(());
    }
    let place = both.proxied.iter().zip(&both.direct).take_while(|pair| same(*pair)).count();
    let (ours, theirs) = (both.proxied.get(place), both.direct.get(place));
    Err(Stop::found(
        format!("{} for {}", kind(ours), kind(theirs)),
        format!(
            "the answers differ in frame {place}\n  proxied {}\n  direct  {}\n  proxied {}\n  direct  {}",
            Answer(both.proxied.clone()),
            Answer(both.direct.clone()),
            explained(ours),
            explained(theirs),
        ),
    ))
}

/// The same where something was done to a server: a segment may be answered with the loss of the server instead, and with
/// nothing else.
pub(super) fn compare_or_lost(direct: Vec<Frame>, proxied: &[Frame]) -> Result<(), Stop> {
    let segments = |frames: &[Frame]| -> Vec<Vec<Frame>> {
        frames.chunk_by(|one, _| one.tag != b'Z').map(<[Frame]>::to_vec).collect()
    };
    let (theirs, mut ours) = (segments(&direct), segments(proxied));
    for (one, other) in ours.iter_mut().zip(theirs) {
        if is_loss(one) && other.last().is_some_and(|last| last.body[..] == *b"I") {
            *one = other;
        }
    }
    compare(direct, ours.concat())
}

/// Whether a client that had sent more behind the request whose server was lost was disconnected, as it should be. On a
/// busy machine the direct side is taken for silent too early, and then the end of the turn is sent ahead.
pub(super) fn is_cut_off(direct: &[Frame], proxied: &[Frame]) -> bool {
    let ready = |frames: &[Frame]| frames.iter().filter(|frame| frame.tag == b'Z').count();
    let is_fatal = |fault: Fault| fault.severity == "FATAL" && tells_of_loss(&fault);
    let last = proxied.last().filter(|frame| frame.tag == b'E').map(Frame::fault);
    last.is_some_and(is_fatal) && ready(direct) > ready(proxied) + 1
}

/// Whether a segment was answered with the loss of its server between two transactions.
fn is_loss(segment: &[Frame]) -> bool {
    match segment {
        [error, ready] if error.tag == b'E' && ready.body[..] == *b"I" => tells_of_loss(&error.fault()),
        _ => false,
    }
}

/// A maintenance user is told that the server did not take its parameters.
fn tells_of_loss(fault: &Fault) -> bool {
    fault.code == "08006" || (fault.code == "22023" && fault.message == "tampered")
}

/// Why an answer of the direct side makes the proxied one incomparable, whatever that is.
pub(super) fn excuse(direct: &[Frame]) -> Option<&'static str> {
    direct.iter().any(is_wrong_frame_in_copy).then_some("another frame within COPY from the client")
}

/// Whether the proxy knows no unnamed portal where PostgreSQL has that of a Query or Bind that failed: it says 25P02, or
/// answers a Describe of it, or an Execute of one that was never defined.
pub(super) fn lacks_failed_portal(direct: &[Frame], proxied: &[Frame]) -> bool {
    let count = |frames: &[Frame], code: &str| {
        frames.iter().filter(|frame| frame.tag == b'E' && frame.fault().code == code).count()
    };
    let is_there = count(direct, "25P02") > 0 || direct.iter().any(|frame| matches!(frame.tag, b'n' | b'I'));
    count(proxied, "34000") > count(direct, "34000") && is_there
}

/// Why each expected difference is none, for the reader of a report.
pub(super) fn expected() -> String {
    EXPECTED.iter().fold(String::new(), |all, one| all + "  " + one.what + ": " + one.why + "\n")
}

/// What is wrong with an answer whatever the direct side says.
pub(super) fn objection(client: usize, frame: &Frame, servers: Servers) -> Option<Stop> {
    let other = TENANTS[1 - client];
    let holds_other = frame.body.windows(other.len()).any(|part| part == other.as_bytes());
    if matches!(frame.tag, b'D' | b'd' | b'E' | b'N' | b'C') && holds_other {
        return Some(Stop::found("another tenant", format!("{} reads of {other}: {frame}", TENANTS[client])));
    }
    let is_lost = frame.tag == b'E' && matches!(&*frame.fault().code, "08006" | "08007" | "XX000" | "53300");
    if is_lost && servers == Servers::Last {
        let report = format!("{} lost its server: {:?}", TENANTS[client], frame.fault());
        return Some(Stop::found("server lost", report));
    }
    None
}

impl Exchange {
    fn each(&mut self, change: fn(&mut Frame)) {
        self.direct.iter_mut().chain(&mut self.proxied).for_each(change);
    }

    fn lists(&mut self, change: fn(&mut [Frame])) {
        change(&mut self.direct);
        change(&mut self.proxied);
    }
}

/// What kind of frame it is, for telling faults apart.
fn kind(frame: Option<&Frame>) -> String {
    match frame {
        None => "nothing".to_owned(),
        Some(frame) if matches!(frame.tag, b'E' | b'N' | b'Z' | b'C') => frame.to_string(),
        Some(frame) => char::from(frame.tag).to_string(),
    }
}

fn explained(frame: Option<&Frame>) -> String {
    match frame {
        None => "nothing".to_owned(),
        Some(frame) => format!("{frame} {:?}", String::from_utf8_lossy(&frame.body)),
    }
}

fn fields(frame: &Frame) -> Vec<Vec<u8>> {
    frame.body.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn without_source(frame: &mut Frame) {
    if matches!(frame.tag, b'E' | b'N') {
        let mut kept = fields(frame);
        kept.retain(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
        frame.body = kept.join(&0).into();
    }
}

/// A RowDescription without the OIDs of tables: name, OID, column number, type, size, modifier, format of each column.
fn without_table(frame: &mut Frame) {
    if frame.tag != b'T' {
        return;
    }
    let mut body = frame.body.to_vec();
    let mut place = 2;
    while let Some(end) = body.get(place..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) {
        let table = place + end + 1;
        body[table..table + 4].fill(0);
        place = table + 18;
    }
    frame.body = body.into();
}

fn without_words_of_syntax(frame: &mut Frame) {
    if frame.tag == b'E' && frame.fault().code == "42601" {
        frame.body = b"VERROR\0C42601\0\0"[..].into();
    }
}

fn without_statement_name(frame: &mut Frame) {
    if !matches!(frame.tag, b'E' | b'N') {
        return;
    }
    let text = String::from_utf8_lossy(&frame.body).into_owned();
    if let Some((before, rest)) = text.split_once("prepared statement \"")
        && let Some((_, after)) = rest.split_once('"')
    {
        frame.body = [before, after].concat().into();
    }
}

fn refusals(both: &mut Exchange) {
    let stand_in = "refused";
    for frame in &mut both.direct {
        let is_stand_in = frame.tag == b'E'
            && frame
                .fault()
                .message
                .ends_with(&format!("\"{}\"", REFUSED.split(' ').next().unwrap_or_default()));
        if is_stand_in {
            frame.body = stand_in.into();
        }
    }
    let mut due = both.direct.iter().filter(|frame| frame.body[..] == *stand_in.as_bytes()).count();
    for frame in both.proxied.iter_mut().filter(|frame| is_guards(frame)) {
        if due == 0 {
            return;
        }
        due -= 1;
        frame.body = stand_in.into();
    }
}

fn is_guards(frame: &Frame) -> bool {
    if frame.tag != b'E' || frame.body.starts_with(b"refused") {
        return false;
    }
    let fault = frame.fault();
    fault.code == "42501" && fault.detail.is_some_and(|detail| detail.starts_with("rule \""))
}

fn is_postgresql_18() -> bool {
    std::env::var("PGTENANT_WIRE_FUZZ_POSTGRES").is_ok_and(|binaries| binaries.contains("pg18"))
}

/// SET TRANSACTION, or BEGIN with characteristics, behind a snapshot.
fn is_late_isolation(frame: &Frame) -> bool {
    frame.tag == b'E' && frame.fault().message.ends_with("must be called before any query")
}

/// Whether SET TRANSACTION came behind a snapshot in a transaction in which a RESET was completed.
fn is_reset_before_isolation(frames: &[Frame]) -> bool {
    let is_end = |frame: &Frame| frame.tag == b'Z' && frame.body[..] == *b"I";
    let late = frames.iter().enumerate().filter(|(_, frame)| is_late_isolation(frame));
    late.into_iter()
        .any(|(place, _)| frames[..place].iter().rev().take_while(|frame| !is_end(frame)).any(is_reset))
}

fn is_wrong_frame_in_copy(frame: &Frame) -> bool {
    frame.tag == b'E' && frame.fault().message.contains("during COPY from stdin")
}

/// Takes the results of one statement away that stand in front of an error.
fn results_in_vain(both: &mut Exchange) {
    for frames in [&mut both.direct, &mut both.proxied] {
        let mut kept: Vec<Frame> = Vec::new();
        for frame in frames.drain(..) {
            if frame.tag == b'E' {
                kept.pop_if(|last| last.tag == b'C');
                while kept.pop_if(|last| last.tag == b'D').is_some() {}
                kept.pop_if(|last| last.tag == b'T');
            }
            kept.push(frame);
        }
        *frames = kept;
    }
}

/// Takes the completion of a RESET away that stands in front of an error on the proxied side only.
fn resets_in_vain(both: &mut Exchange) {
    let direct = resets_before_errors(&both.direct);
    let proxied = resets_before_errors(&both.proxied);
    for (reset, in_direct) in proxied.into_iter().zip(direct).rev() {
        if let (Some(place), None) = (reset, in_direct) {
            both.proxied.remove(place);
        }
    }
}

/// For each error, the place of the completed RESET in front of it.
fn resets_before_errors(frames: &[Frame]) -> Vec<Option<usize>> {
    let errors = frames.iter().enumerate().filter(|(_, frame)| frame.tag == b'E');
    errors.map(|(place, _)| place.checked_sub(1).filter(|before| is_reset(&frames[*before]))).collect()
}

fn is_reset(frame: &Frame) -> bool {
    frame.tag == b'C' && frame.body[..] == *b"RESET\0"
}

fn notices_first(frames: &mut [Frame]) {
    for segment in frames.chunk_by_mut(|one, _| one.tag != b'Z') {
        segment.sort_by_key(|frame| frame.tag != b'N');
    }
}

/// Sorts what is reported in one go.
fn reports_in_order(frames: &mut [Frame]) {
    for run in frames.chunk_by_mut(|one, next| one.tag == b'S' && next.tag == b'S') {
        run.sort_by(|one, next| one.body.cmp(&next.body));
    }
}
