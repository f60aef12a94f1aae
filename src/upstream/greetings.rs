//! What clients are told at login. PostgreSQL alone knows which values it takes and how it spells them, so it is asked, once
//! for each set of startup parameters, again after a while and as soon as the defaults of new servers are others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Access, ClientKey, Greeting, SessionParameters, Share, TenantServer, UpstreamFault};

/// Greetings remembered; beyond that they are asked for again.
const MAX_GREETINGS: usize = 256;
/// How long one holds. Then a server that is no older is asked, because only new ones have changed defaults.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Greetings of one pool, by the fingerprint of the parameters.
#[derive(Debug, Default)]
pub(super) struct Greetings(Mutex<HashMap<u64, Known>>);

#[derive(Debug, Clone)]
struct Known {
    parameters: SessionParameters,
    greeting: Greeting,
    /// The pool's, when it was asked.
    generation: u64,
    asked: Instant,
}

/// What is known when a client logs in.
enum Found {
    /// This holds.
    Valid(Greeting),
    /// This has held for long enough; others take it until it was asked again.
    Old(Greeting),
    Nothing,
}

// === impl Greetings ===

impl Greetings {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, parameters: &SessionParameters, generation: u64) -> Found {
        let mut all = self.lock();
        let known = all.get_mut(&parameters.fingerprint());
        let Some(known) = known.filter(|known| known.parameters == *parameters) else {
            return Found::Nothing;
        };
        if known.generation != generation {
            return Found::Nothing;
        }
        let greeting = Greeting::clone(&known.greeting);
        if known.asked.elapsed() < MAX_AGE {
            return Found::Valid(greeting);
        }
        known.asked = Instant::now();
        Found::Old(greeting)
    }

    fn keep(&self, parameters: &SessionParameters, greeting: &Greeting, generation: u64) {
        let mut all = self.lock();
        if all.len() >= MAX_GREETINGS {
            all.clear();
        }
        let known = Known {
            parameters: parameters.clone(),
            greeting: Greeting::clone(greeting),
            generation,
            asked: Instant::now(),
        };
        all.insert(parameters.fingerprint(), known);
    }
}

// === impl Access ===

impl Access {
    /// What PostgreSQL reports to a client that asks for these parameters.
    pub async fn greeting(
        &self,
        client: ClientKey,
        parameters: &SessionParameters,
        share: Share,
    ) -> Result<Greeting, UpstreamFault> {
        let old = match self.shared.greetings.find(parameters, self.shared.pool.generation()) {
            Found::Valid(greeting) => return Ok(greeting),
            Found::Old(greeting) => Some(greeting),
            Found::Nothing => None,
        };
        let lease = self.checkout(client, share).await?;
        let mut server = TenantServer { lease, context: self.context.clone() };
        if let Some(old) = old
            && server.lease.server().opened.elapsed() >= MAX_AGE
            && let Err(fault) = server.replace().await
        {
            tracing::warn!(%fault, "no new server can be asked what clients are told at login");
            return Ok(old);
        }
        let outcome = server.reset_for(parameters).await;
        // Whoever has it next begins with a hand-over. If the server refused a parameter, it rolled the reset back as a
        // whole and is as it was.
        server.lease.server().state.stamp = None;
        if let Err(fault) = outcome {
            if matches!(fault, UpstreamFault::Parameters { .. }) {
                server.lease.release();
            }
            return Err(fault);
        }
        let generation = server.lease.server().generation;
        let greeting = Greeting::new(server.lease.server().state.parameters.clone());
        server.lease.release();
        self.shared.greetings.keep(parameters, &greeting, generation);
        Ok(greeting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_greeting_holds_for_a_while_and_for_its_generation() {
        let greetings = Greetings::default();
        let parameters = SessionParameters::default();
        assert!(matches!(greetings.find(&parameters, 1), Found::Nothing));
        greetings.keep(&parameters, &Greeting::default(), 1);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(matches!(greetings.find(&parameters, 1), Found::Valid(_)));
        assert!(matches!(greetings.find(&parameters, 2), Found::Nothing));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(greetings.find(&parameters, 1), Found::Old(_)), "one asks");
        assert!(matches!(greetings.find(&parameters, 1), Found::Valid(_)), "the others do not wait for it");
    }
}
