//! Single values: addresses, byte sizes, the tenant's setting. Pure, and never quoting what they refuse.

use std::net::Ipv6Addr;
use std::path::Path;

use toml::de::DeValue;

use super::problem::{InvalidValue, refuse};
use crate::directory::ChooserName;
use crate::sql::keyword::Keyword;
use crate::tenant::{CertificateName, Pattern, SealKey, SubjectKind};
use crate::upstream::settings::ServerAddress;

/// The longest path of a unix socket, `sun_path` less its NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Where `PostgreSQL` listens unless it is told otherwise.
const DEFAULT_PORT: u16 = 5432;

/// First words of settings that belong to `PostgreSQL`'s own modules: it refuses others' names there.
const RESERVED_CLASSES: [&str; 11] = [
    "auth_delay",
    "auto_explain",
    "basic_archive",
    "isn",
    "passwordcheck",
    "pgtenant",
    "plperl",
    "plpgsql",
    "pltcl",
    "postgres_fdw",
    "sepgsql",
];

/// A whole number, whatever its radix.
pub(super) fn integer(value: &DeValue<'_>) -> Option<usize> {
    let DeValue::Integer(integer) = value else { return None };
    usize::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// "64MiB": a number and a unit; as in `PostgreSQL`, kB, MB and GB count by 1024 too.
pub(super) fn bytes(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" | "KiB" => 1 << 10,
        "MB" | "MiB" => 1 << 20,
        "GB" | "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// `host:port` to listen on; port 0 takes a free one.
pub(super) fn listen_address(text: &str) -> Result<String, InvalidValue> {
    let hint = || "write it as \"127.0.0.1:6432\", \"0.0.0.0:6432\" or \"[::]:6432\"";
    let (_, port) = host_port(text).ok_or_else(|| refuse("is not host:port", hint()))?;
    port.map(|_| text.to_owned()).ok_or_else(|| refuse("has no port", hint()))
}

/// `host`, `host:port`, `[::1]:port`, `/dir` or `/dir/.s.PGSQL.port`.
pub(super) fn server_address(text: &str) -> Result<ServerAddress, InvalidValue> {
    let hint = "write it as \"db.example.com:5432\", \"[::1]:5432\" or \"/run/postgresql\"";
    if text.starts_with('/') {
        return socket_address(text);
    }
    match host_port(text) {
        Some((_, Some(0))) => Err(refuse("has port 0", hint)),
        Some((host, port)) => {
            Ok(ServerAddress::Tcp { host: host.to_owned(), port: port.unwrap_or(DEFAULT_PORT) })
        }
        None => Err(refuse("is neither host:port nor a socket's path", hint)),
    }
}

fn socket_address(text: &str) -> Result<ServerAddress, InvalidValue> {
    let path = Path::new(text);
    let is_socket = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".s.PGSQL."));
    let path = if is_socket { path.to_owned() } else { path.join(format!(".s.PGSQL.{DEFAULT_PORT}")) };
    socket_path(&path)?;
    Ok(ServerAddress::Unix(path))
}

/// Whether a unix socket may have this path.
pub(super) fn socket_path(path: &Path) -> Result<(), InvalidValue> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_SOCKET_PATH_BYTES || bytes.contains(&0) {
        let what = format!("makes a socket path longer than {MAX_SOCKET_PATH_BYTES} bytes");
        return Err(refuse(what, "use a shorter directory"));
    }
    Ok(())
}

/// Splits `host:port`; the host comes without brackets.
fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, rest)
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        let letters = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if host.is_empty() || host.len() > 253 || !letters {
            return None;
        }
        (host, rest)
    };
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((host, Some(digits.parse().ok()?)))
}

/// `app.tenant_id`: two simple identifiers, not in a class that belongs to `PostgreSQL`.
/// Names of settings ignore case in `PostgreSQL`, so the lower-case one stands for all.
pub(super) fn tenancy_setting(text: &str) -> Result<String, InvalidValue> {
    let hint = "use two words joined by a dot, for example \"app.tenant_id\"";
    let setting = text.to_ascii_lowercase();
    let Some((class, name)) = setting.split_once('.') else {
        return Err(refuse("must hold one dot", hint));
    };
    if !is_identifier(class) || !is_identifier(name) {
        return Err(refuse("must be two identifiers of at most 63 letters, digits and underscores", hint));
    }
    if class.starts_with("pg_") || RESERVED_CLASSES.contains(&class) {
        return Err(refuse(format!("{class:?} is reserved"), hint));
    }
    Ok(setting)
}

/// `request.jwt.claims`: two identifiers or more.
pub(super) fn claims_setting(text: &str) -> Result<String, InvalidValue> {
    let hint = "use words joined by dots, for example \"request.jwt.claims\"";
    let setting = text.to_ascii_lowercase();
    let class = setting.split('.').next().unwrap_or_default();
    if setting.split('.').count() < 2 || !setting.split('.').all(is_identifier) {
        return Err(refuse("must be identifiers of letters, digits and underscores, joined by dots", hint));
    }
    if class.starts_with("pg_") || class == "pgtenant" || RESERVED_CLASSES.contains(&class) {
        return Err(refuse(format!("{class:?} is reserved"), hint));
    }
    Ok(setting)
}

/// A JSON pointer (RFC 6901).
pub(super) fn json_pointer(text: &str) -> Result<String, InvalidValue> {
    if !text.starts_with('/') || text.len() > 256 || text.chars().any(char::is_control) {
        return Err(refuse("must be a JSON pointer", "write it as \"/app/tenant_id\""));
    }
    Ok(text.to_owned())
}

/// `app.set_tenant(text)`: a function by its schema, name and argument. Its name is none of the guard's own words.
pub(super) fn chooser(text: &str) -> Result<ChooserName, InvalidValue> {
    let hint = "write it as \"app.set_tenant(text)\", in lower case";
    let name =
        text.strip_suffix("(text)").ok_or_else(|| refuse("must have one argument, of type text", hint))?;
    let parts = name.split_once('.').filter(|(schema, name)| {
        let is_plain =
            |part: &str| is_identifier(part) && !part.bytes().any(|byte| byte.is_ascii_uppercase());
        is_plain(schema) && is_plain(name)
    });
    let Some((schema, name)) = parts else {
        return Err(refuse("must be a schema, a dot and a name, without quotes", hint));
    };
    if schema.starts_with("pg") || Keyword::of_name(name.as_bytes()) != Keyword::Other {
        return Err(refuse("names a function that is not the database's own", hint));
    }
    Ok(ChooserName { schema: schema.to_owned(), name: name.to_owned() })
}

/// The name of a database, schema or role of PostgreSQL.
pub(super) fn identifier(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() || text.len() > 63 || text.chars().any(char::is_control) {
        return Err(refuse(
            "must be 1 to 63 bytes without control characters",
            "{tenant} stands for the tenant's id",
        ));
    }
    Ok(text.to_owned())
}

/// The name of a role that clients may SET. Of plain ASCII, so that it reads the same in every encoding.
pub(super) fn application_role(text: &str) -> Result<String, InvalidValue> {
    let is_plain = (1..=63).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_plain {
        let hint = "write the name as it stands in pg_roles, for example \"authenticated\"";
        return Err(refuse("must be 1 to 63 characters of printable ASCII", hint));
    }
    if text == "none" || text == "public" || text.starts_with("pg_") {
        let hint = "name a role of the application, which owns nothing";
        return Err(refuse(format!("{text:?} is PostgreSQL's own"), hint));
    }
    if text == "pgtenant_register" {
        return Err(refuse("is the role of the register", "name a role of the application"));
    }
    Ok(text.to_owned())
}

/// The name of a database that clients connect to.
pub(super) fn database(text: &str) -> Result<String, InvalidValue> {
    identifier(text)
        .map_err(|refusal| refuse(refusal.what, "write each name as it stands in connection strings"))
}

/// The TLS server name that stands for a tenant. Names of hosts ignore case, so the lower-case one stands for all.
pub(super) fn server_name(text: &str) -> Result<Pattern, InvalidValue> {
    let pattern = Pattern::parse(&text.to_ascii_lowercase()).filter(Pattern::has_gap);
    pattern.ok_or_else(|| refuse("must hold {tenant} once", "for example \"{tenant}.db.example.com\""))
}

/// `cn:name`, `dns:name` or `uri:name`; `{user}` stands for the user, `{tenant}` is read out of the certificate.
pub(super) fn certificate_name(text: &str, user: &str) -> Result<CertificateName, InvalidValue> {
    let hint =
        "for example \"cn:{user}\", \"dns:api.example.com\" or \"uri:spiffe://example.com/{tenant}/api\"";
    let kind_and_name = text.split_once(':').and_then(|(kind, name)| match kind {
        "cn" => Some((SubjectKind::Cn, name.to_owned())),
        "dns" => Some((SubjectKind::Dns, name.to_ascii_lowercase())),
        "uri" => Some((SubjectKind::Uri, name.to_owned())),
        _ => None,
    });
    let (kind, name) = kind_and_name.ok_or_else(|| refuse("must begin with cn:, dns: or uri:", hint))?;
    let pattern = Pattern::parse(&name.replace("{user}", user));
    let pattern = pattern.ok_or_else(|| refuse("must be a name, with {tenant} at most once", hint))?;
    Ok(CertificateName { kind, pattern })
}

/// What clients are called on servers.
pub(super) fn name_form(text: &str) -> Result<String, InvalidValue> {
    let hint = "for example \"{tenant} {application_name}\"";
    if !["{tenant}", "{application_name}"].iter().any(|word| text.contains(word)) {
        return Err(refuse("must hold {tenant} or {application_name}", hint));
    }
    if text.len() > 63 || text.chars().any(char::is_control) {
        return Err(refuse("must be at most 63 bytes without control characters", hint));
    }
    Ok(text.to_owned())
}

/// 32 bytes in hexadecimal, as `openssl rand -hex 32` prints them.
pub(super) fn seal_key(text: &str) -> Result<SealKey, InvalidValue> {
    let refused = || refuse("must be 64 hexadecimal digits", "make one with: openssl rand -hex 32");
    let digits = text.trim();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| refused())?;
    }
    Ok(SealKey::new(key))
}

fn is_identifier(word: &str) -> bool {
    let starts_well = word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts_well && word.len() <= 63 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
