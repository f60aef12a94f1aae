//! Who stands behind a server process: the client that had it last. Notifications name the process of their sender, and
//! clients know each other by the process ids that they were given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dashmap::DashMap;

/// The servers of one pool by their process ids.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Senders(DashMap<u32, Arc<Holder>>);

/// Who has a server.
#[derive(Debug, Default)]
struct Holder {
    client: AtomicU32,
    is_used: AtomicBool,
}

/// One server's entry, taken out on drop.
#[derive(Debug)]
pub struct Sender {
    senders: Arc<Senders>,
    server: u32,
    holder: Arc<Holder>,
}

impl Senders {
    /// A server that nobody has had yet.
    pub(in crate::upstream) fn enter(self: &Arc<Self>, server: u32) -> Sender {
        let holder = Arc::<Holder>::default();
        self.0.insert(server, Arc::clone(&holder));
        Sender { senders: Arc::clone(self), server, holder }
    }

    /// Every server: its process id, the client that had it last, and whether that still has it.
    pub(in crate::upstream) fn view(&self) -> Vec<(u32, Option<u32>, bool)> {
        let view = |server: &u32, holder: &Holder| {
            let client = holder.client.load(Ordering::Relaxed);
            (*server, (client != 0).then_some(client), holder.is_used.load(Ordering::Relaxed))
        };
        self.0.iter().map(|entry| view(entry.key(), entry.value())).collect()
    }
}

impl Sender {
    /// One of a pool of its own.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_tests() -> Self {
        Arc::<Senders>::default().enter(1)
    }

    /// A client has the server from here on.
    pub fn is(&self, client: u32) {
        self.holder.client.store(client, Ordering::Relaxed);
        self.holder.is_used.store(true, Ordering::Relaxed);
    }

    /// Nobody has it.
    pub fn rests(&self) {
        self.holder.is_used.store(false, Ordering::Relaxed);
    }

    /// The client that had a server of this pool last.
    pub fn behind(&self, server: u32) -> Option<u32> {
        let client = self.senders.0.get(&server)?.client.load(Ordering::Relaxed);
        (client != 0).then_some(client)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.senders.0.remove_if(&self.server, |_, holder| Arc::ptr_eq(holder, &self.holder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_known_as_long_as_its_server_lives() {
        let senders = Arc::<Senders>::default();
        let (one, two) = (senders.enter(1), senders.enter(2));
        assert_eq!(two.behind(1), None, "nobody yet");
        one.is(77);
        assert_eq!(two.behind(1), Some(77));
        let again = senders.enter(1);
        drop(one);
        again.is(78);
        assert_eq!(two.behind(1), Some(78), "a process id that is used again");
        drop(again);
        assert_eq!(two.behind(1), None);
    }
}
