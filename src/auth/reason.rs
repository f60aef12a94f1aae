//! Why a login is refused with the one text. Promise: for the log only, and nothing that a client sent as a secret is in it.

/// What a refused login lacks. Clients are told the same text for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nothing that names users has the name.
    #[error("no user of the configuration, of [directory] or of [auth_query] has this name")]
    UnknownUser,
    /// The SCRAM proof was made from another password.
    #[error("the password is wrong")]
    WrongPassword,
    /// The SCRAM messages break the protocol or the channel binding.
    #[error("the messages of the password exchange are not valid: {0}")]
    Exchange(&'static str),
    /// The user needs a certificate, and the client showed none.
    #[error("the client showed no certificate, and user.certificate asks for one")]
    NoCertificate,
    /// The certificate names another user.
    #[error("the client's certificate does not hold the name in user.certificate")]
    OtherCertificate,
    /// Tokens are not asked for where others can read them.
    #[error("a login by token needs TLS or a unix socket")]
    CleartextToken,
    /// The token proves nothing, or another user.
    #[error("the token is refused: {0}")]
    Token(String),
    /// The OAUTHBEARER messages carry no token, or break the protocol.
    #[error("OAUTHBEARER failed: {0}")]
    OauthBearer(&'static str),
    /// The user is proven, and the tenant that the login names does not exist.
    #[error("there is no tenant {0:?}, which the login names")]
    UnknownTenant(String),
}
