//! Makes a sequence that shows a fault shorter, as long as it shows one.

use std::time::Duration;

use tokio::time::Instant;

use super::step::{Event, Sequence, Then};
use super::world::{Outcome, World};

/// How long is looked for a shorter one.
const LIMIT: Duration = Duration::from_secs(90);

/// A hang was seen already: less time shows it again.
const PATIENCE: Duration = Duration::from_millis(600);
/// How often a sequence is run that has to show its fault again; it may depend on the moment.
const ATTEMPTS: usize = 5;

/// Takes events, messages, cuts and pauses away. Returns the shortest sequence with its fault, for a reader.
pub(super) async fn shrink(world: &mut World, sequence: Sequence, kind: &str) -> String {
    let patience = std::mem::replace(&mut world.patience, PATIENCE);
    let shortest = shortest(world, sequence, kind).await;
    world.patience = patience;
    shortest
}

async fn shortest(world: &mut World, sequence: Sequence, kind: &str) -> String {
    world.renew().await;
    let mut again = None;
    for _ in 0..ATTEMPTS {
        again = again.or(fault(world, &sequence, kind).await);
    }
    let Some(mut fault) = again else {
        return format!(
            "not found again from a fresh server, so it has to do with earlier sequences\n{sequence}"
        );
    };
    let mut shortest = sequence;
    let until = Instant::now() + LIMIT;
    let mut is_shorter = true;
    while std::mem::take(&mut is_shorter) {
        let mut number = 0;
        while let Some(candidate) = candidate(&shortest, number) {
            if Instant::now() >= until {
                return format!("{shortest}{fault}\n(perhaps not the shortest)\n{}", world.trace());
            }
            match self::fault(world, &candidate, kind).await {
                Some(found) => {
                    (shortest, fault) = (candidate, found);
                    is_shorter = true;
                }
                None => number += 1,
            }
        }
    }
    drop(self::fault(world, &shortest, kind).await);
    format!("{shortest}{fault}\nwhat the server received:\n{}", world.trace())
}

/// The report of a fault of that kind, if the sequence shows one.
async fn fault(world: &mut World, sequence: &Sequence, kind: &str) -> Option<String> {
    match world.run(sequence).await {
        Outcome::Found(found) => {
            // Nobody knows what it left.
            world.renew().await;
            (found.kind == kind).then_some(found.report)
        }
        Outcome::Same | Outcome::Inconclusive(_) => None,
    }
}

/// The candidate of that number; none: there are no more.
fn candidate(sequence: &Sequence, mut number: usize) -> Option<Sequence> {
    let mut shorter = sequence.clone();
    if number < shorter.events.len() {
        shorter.events.remove(number);
        return Some(shorter);
    }
    number -= shorter.events.len();
    for startup in &mut shorter.startup {
        if number < startup.len() {
            startup.remove(number);
            return Some(shorter);
        }
        number -= startup.len();
    }
    let mut turns: Vec<_> = shorter
        .events
        .iter_mut()
        .filter_map(|event| match event {
            Event::Turn(turn) => Some(turn),
            Event::Definition(_) | Event::Tampering(_) => None,
        })
        .collect();
    for turn in &mut turns {
        if number < turn.steps.len() {
            turn.steps.remove(number);
            return Some(shorter);
        }
        number -= turn.steps.len();
    }
    let plainer = turns.into_iter().flat_map(|turn| &mut turn.steps);
    let step = plainer.filter(|step| step.cut.is_some() || step.then == Then::Pause).nth(number)?;
    if step.cut.take().is_none() {
        step.then = Then::More;
    }
    Some(shorter)
}
