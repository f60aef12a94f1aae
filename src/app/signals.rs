//! The signals that operators send. Handlers are installed before anything else is done, so that a signal which comes while
//! the process starts waits for it, and does not end it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The installed handlers.
#[derive(Debug)]
pub(super) struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// SIGTERM or SIGINT has come.
    is_over: bool,
}

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// SIGHUP: the configuration is to be read again.
    Reload,
    /// SIGTERM or SIGINT: the process is to end.
    End,
}

impl Signals {
    /// Installs the handlers.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            is_over: false,
        })
    }

    /// The next signal; one that came before this call counts. Cancel safe.
    pub(super) async fn next(&mut self) -> Wanted {
        if self.is_over {
            return Wanted::End;
        }
        tokio::select! {
            _ = self.reload.recv() => Wanted::Reload,
            _ = self.terminate.recv() => Wanted::End,
            _ = self.interrupt.recv() => Wanted::End,
        }
    }

    /// Waits for SIGTERM or SIGINT, and returns at once from then on. Cancel safe; a SIGHUP is kept for
    /// [`next`](Self::next).
    pub(super) async fn end(&mut self) {
        let Self { terminate, interrupt, reload: _, is_over } = self;
        if !*is_over {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            *is_over = true;
        }
    }
}
