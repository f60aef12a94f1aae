//! `[token]`: whose JSON Web Tokens are believed.

use std::time::Duration;

use super::compile::DAY;
use super::file::Section;
use super::keys;
use super::problem::{InvalidValue, refuse};
use crate::auth::settings::{Algorithm, JwksSource, TokenSettings, algorithm};

/// The section, if there is one; none as well if something in it is wrong.
pub(super) fn token(top: &Section<'_>) -> Option<TokenSettings> {
    if !top.has("token") {
        return None;
    }
    let section = top.section("token", &keys::TOKEN);
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let issuer = section.required("issuer").map(str::to_owned);
    let audience = section.required("audience").map(str::to_owned);
    let jwks = jwks(&section);
    let jwks_ca = section.file("jwks_ca");
    if section.has("jwks_ca") && !matches!(jwks, Some(JwksSource::Https(_))) {
        section.report("jwks_ca", refuse("is for an https address in jwks", "leave the line out"));
    }
    let claim = |key: &str| {
        let text = section.text(key)?;
        if text.is_empty() {
            section.report(key, refuse("must not be empty", "name a claim, or leave the line out"));
        }
        Some(text.to_owned())
    };
    Some(TokenSettings {
        algorithms: algorithms(&section),
        jwks_interval: section.duration("jwks_interval", minutes(10), Duration::from_secs(1)..=DAY),
        tenant_claim: claim("tenant_claim"),
        user_claim: claim("user_claim"),
        scope: section.text("scope").unwrap_or("openid").to_owned(),
        leeway: section.duration("leeway", Duration::from_secs(30), Duration::ZERO..=minutes(5)),
        end_sessions: section.flag("end_sessions").unwrap_or(false),
        jwks_ca,
        issuer: issuer?,
        audience: audience?,
        jwks: jwks?,
    })
}

fn jwks(section: &Section<'_>) -> Option<JwksSource> {
    let text = section.required("jwks")?;
    match text.split_once("://") {
        Some(("https", _)) => Some(JwksSource::Https(text.to_owned())),
        Some(_) => {
            let hint = "use https://…, or the path of a file: who can change the keys can log in as anybody";
            section.report("jwks", refuse("is no https address", hint));
            None
        }
        None => section.file("jwks").map(JwksSource::File),
    }
}

fn algorithms(section: &Section<'_>) -> Vec<Algorithm> {
    let Some(texts) = section.texts("algorithms") else { return vec![Algorithm::RS256, Algorithm::ES256] };
    let named = |text: &str| -> Result<Algorithm, InvalidValue> {
        let hint = "use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA";
        algorithm(text).ok_or_else(|| refuse("is no public-key algorithm known here", hint))
    };
    texts.into_iter().filter_map(|(place, text)| section.accept(&place, named(text))).collect()
}
