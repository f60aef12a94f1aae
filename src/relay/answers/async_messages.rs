//! What PostgreSQL sends by itself: parameters that changed, and notifications.

use std::sync::Arc;

use crate::net::buffer::WriteBuffer;
use crate::relay::answers::Disposition;
use crate::relay::core::replies::Reply;
use crate::relay::core::segment::InFront;
use crate::relay::core::session_state::PutBack;
use crate::relay::requests::ClientSide;
use crate::relay::{Conversation, RelayFault};
use crate::upstream::{APPLICATION_NAME, ServerSide};
use crate::wire::{backend, encode};

/// What PostgreSQL reports and a client may change; carried from server to server.
const REPORTED: &[&str] = &[
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
    "application_name",
    "default_transaction_read_only",
];

/// Whether PostgreSQL reports each change of this setting, so that it need not be asked for it.
pub(in crate::relay) fn is_reported(name: &str) -> bool {
    REPORTED.iter().any(|reported| reported.eq_ignore_ascii_case(name))
}

impl Conversation {
    /// Passes on what came while a statement of the proxy ran.
    pub fn notify(&self, output: &mut WriteBuffer, server: &mut dyn ServerSide) {
        for body in std::mem::take(&mut server.state().notifications) {
            if self.notification(&body, output, server) == Disposition::Forward {
                encode::frame(output.space(), b'A', |out| out.extend_from_slice(&body));
            }
        }
    }

    /// The defaults of this server may be others than the client was told at login: it is told those that hold for it.
    pub fn tell_defaults(&mut self, output: &mut WriteBuffer, server: &mut dyn ServerSide) {
        let defaults = &server.state().defaults;
        if Arc::ptr_eq(&self.defaults, defaults) {
            return;
        }
        self.defaults = Arc::clone(defaults);
        for (name, value) in self.defaults.iter() {
            let is_own = self.parameters.get(&name.to_ascii_lowercase()).is_some();
            let is_known = self.greeting.get(name).is_none_or(|told| told == value);
            if is_own || is_known {
                continue;
            }
            encode::parameter_status(output.space(), name, value);
            Arc::make_mut(&mut self.greeting).insert(name.clone(), value.clone());
        }
    }

    /// A notification names the process of its sender; a client of this pool is named as clients know it.
    pub(super) fn notification(
        &self,
        body: &[u8],
        output: &mut WriteBuffer,
        server: &mut dyn ServerSide,
    ) -> Disposition {
        let is_anothers = match self.replies.front() {
            Some(Reply::OwnQuery | Reply::Reset(_) | Reply::OpenBlock(_)) => true,
            Some(Reply::Query(text)) => text.is_handing_over(),
            _ => false,
        };
        if !self.listens() || is_anothers {
            // It was meant for the client that had the server before.
            return Disposition::Swallow;
        }
        let Some((sender, rest)) = body.split_first_chunk::<4>() else { return Disposition::Forward };
        match server.state().sender.behind(u32::from_be_bytes(*sender)) {
            Some(sender) => {
                encode::notification(output.space(), sender, rest);
                Disposition::Swallow
            }
            None => Disposition::Forward,
        }
    }

    pub(super) fn parameter(
        &mut self,
        body: &[u8],
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Disposition, RelayFault> {
        let (name, value) =
            backend::parameter_status(body).ok_or(RelayFault::Doubt("a malformed ParameterStatus"))?;
        let state = server.state();
        if state.parameters.get(name).is_none_or(|known| known != value) {
            state.parameters.insert(name.to_owned(), value.to_owned());
        }
        if self.replies.is_own() || self.is_put_back(name, value) {
            return Ok(Disposition::Swallow);
        }
        if name == APPLICATION_NAME && server.context().name(&self.parameters).is_some() {
            return Ok(self.application_name(value, client, server));
        }
        if is_reported(name) {
            self.session.save(&self.parameters);
            self.parameters.set(name, value);
            self.note_reported(server);
        }
        Ok(Disposition::Forward)
    }

    /// Whether a hand-over in front of what is answered has made the value what the client knows already: one in its text,
    /// or the entry of a sealed context, which sets what SET does not read as `set_config` does. PostgreSQL reports all
    /// that has changed in front of ReadyForQuery.
    fn is_put_back(&self, name: &str, value: &str) -> bool {
        let is_in_text = matches!(self.replies.front(), Some(Reply::Query(text)) if text.front.is_some());
        (is_in_text || self.in_front == InFront::HandOver) && self.known(name) == Some(value)
    }

    /// What the client knows of a parameter.
    fn known(&self, name: &str) -> Option<&str> {
        let own = self.parameters.get(&name.to_ascii_lowercase());
        own.or_else(|| self.greeting.get(name).map(String::as_str))
    }

    /// A text behind a hand-over may have set what the server's last user had set: PostgreSQL compares with what it
    /// reported last, at the end of a Query, and reports nothing. The client is told, and the value is carried.
    pub(super) fn tell_unreported(
        &mut self,
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<(), RelayFault> {
        let Some(Reply::Query(text)) = self.replies.front() else { return Ok(()) };
        if text.front.is_none() || text.is_handing_over() {
            return Ok(());
        }
        for name in REPORTED {
            let named = server.context().name(&self.parameters).filter(|_| *name == APPLICATION_NAME);
            let expected = named.as_deref().or_else(|| self.known(name));
            let value = server.state().parameters.get(*name);
            let Some(value) = value.filter(|value| expected.is_some_and(|known| known != *value)) else {
                continue;
            };
            let report = [name.as_bytes(), value.as_bytes(), b""].join(&0);
            if self.parameter(&report, client, server)? == Disposition::Forward {
                encode::frame(client.output.space(), b'S', |out| out.extend_from_slice(&report));
            }
        }
        Ok(())
    }

    /// The server has these parameters, as it said itself.
    fn note_reported(&self, server: &mut dyn ServerSide) {
        if let Some(stamp) = &mut server.state().stamp {
            stamp.parameters = self.parameters.fingerprint();
        }
    }

    /// On servers the tenant is part of the name. The client reads its own, also when a rollback brings that back.
    fn application_name(
        &mut self,
        value: &str,
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Disposition {
        let before = self.session.before(&self.parameters).clone();
        let is_back = server.context().name(&before).as_deref() == Some(value);
        let own = if is_back { before.get(APPLICATION_NAME).unwrap_or_default() } else { value };
        if is_back && self.parameters.get(APPLICATION_NAME).unwrap_or_default() == own {
            // The proxy's own doing, reported late.
            return Disposition::Swallow;
        }
        client.input.forget();
        encode::parameter_status(client.output.space(), APPLICATION_NAME, own);
        self.session.save(&before);
        self.parameters.set(APPLICATION_NAME, own);
        self.note_reported(server);
        self.session.put_back_later(if is_back { PutBack::Nothing } else { PutBack::Name });
        Disposition::Swallow
    }
}
