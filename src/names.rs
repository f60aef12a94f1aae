//! The kinds of name pgtenant speaks of, each parsed once at the door.
//! A name is cheap to clone, bounded in length and free of control characters, so that it may travel
//! to labels, log lines and SQL; each destination still escapes for itself.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest name accepted, in bytes. `PostgreSQL` itself stops at 63 for identifiers.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than [`MAX_NAME_BYTES`].
    #[error("a name must not be longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// The text holds a control character, NUL included.
    #[error("a name must not hold control characters")]
    ControlCharacter,
}

fn validate(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a text; the only way to make one.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                validate(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// One customer's id.
    TenantId
);
name!(
    /// The name a client logs in with.
    UserName
);
name!(
    /// A `[upstream.NAME]` of the configuration.
    UpstreamName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bounded_and_free_of_control_characters() {
        assert_eq!(TenantId::parse("acme").unwrap().as_str(), "acme");
        assert_eq!(TenantId::parse(""), Err(NameError::Empty));
        assert_eq!(TenantId::parse("a\0b"), Err(NameError::ControlCharacter));
        assert!(TenantId::parse(&"x".repeat(MAX_NAME_BYTES)).is_ok());
        assert_eq!(TenantId::parse(&"x".repeat(MAX_NAME_BYTES + 1)), Err(NameError::TooLong));
    }
}
