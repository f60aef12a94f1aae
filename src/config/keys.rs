//! Every key that a configuration may hold, and whether a reload applies it.
//! The reader refuses what is not in these tables; tests hold the example, the documentation
//! and the reload comparison to them. A new setting starts here.

/// One key of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name in the section.
    pub name: &'static str,
    /// Whether a reload applies it.
    pub reload: Reload,
}

/// What a reload does with a changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Applies it.
    Live,
    /// Names it and leaves the running value.
    Restart,
}

/// The keys of one section.
#[derive(Debug, PartialEq, Eq)]
pub struct Keys {
    /// The section as documented: `listen`, `upstream.*`, `user`.
    pub section: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Keys {
    /// Whether the section may hold `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        let keys = self.keys;
        keys.iter().map(|key| key.name)
    }
}

/// Every section that holds settings, in the order of the documentation.
pub static SECTIONS: &[&Keys] = &[
    &LISTEN,
    &METRICS,
    &LOG,
    &UPSTREAM,
    &TENANCY,
    &TOKEN,
    &DIRECTORY,
    &AUTH_QUERY,
    &CANARY,
    &DEFAULTS,
    &TENANT,
    &USER,
    &MAINTENANCE,
];

/// The sections themselves.
pub(super) static TOP: Keys = Keys {
    section: "",
    keys: &[
        restart("listen"),
        restart("metrics"),
        restart("log"),
        restart("upstream"),
        live("tenancy"),
        restart("token"),
        restart("directory"),
        restart("auth_query"),
        restart("canary"),
        live("defaults"),
        live("tenant"),
        live("user"),
    ],
};

pub(super) static LISTEN: Keys = Keys {
    section: "listen",
    keys: &[
        restart("address"),
        restart("socket_dir"),
        restart("tls"),
        live("certificate"),
        live("private_key"),
        live("client_ca"),
        live("client_crl"),
        live("databases"),
        restart("workers"),
        restart("max_clients"),
        restart("max_logins"),
        restart("max_logins_per_address"),
        restart("max_server_connections"),
        restart("login_timeout"),
        restart("drain_timeout"),
        restart("max_startup_bytes"),
        restart("max_message_bytes"),
        restart("message_timeout"),
        restart("max_prepared_bytes"),
        restart("max_client_memory"),
        restart("max_tenant_memory"),
        restart("max_memory"),
        live("allow_plain_passwords"),
    ],
};

pub(super) static METRICS: Keys =
    Keys { section: "metrics", keys: &[restart("address"), restart("max_tenants")] };

pub(super) static LOG: Keys = Keys { section: "log", keys: &[restart("format"), restart("level")] };

pub(super) static UPSTREAM: Keys = Keys {
    section: "upstream.*",
    keys: &[
        restart("hosts"),
        restart("database"),
        restart("user"),
        restart("password"),
        restart("tls"),
        restart("ca"),
        restart("pool_size"),
        restart("tenant_pool_size"),
        restart("tenant_idle_timeout"),
        restart("max_connections"),
        restart("connect_timeout"),
        restart("max_prepared"),
    ],
};

pub(super) static TENANCY: Keys = Keys {
    section: "tenancy",
    keys: &[
        restart("setting"),
        restart("context"),
        live("seal_key"),
        restart("guard"),
        restart("application_name"),
        live("server_name"),
        live("require_tenant"),
        restart("allow_unsafe"),
        restart("doctor_interval"),
        restart("chooser"),
        restart("claims_setting"),
        restart("claims_pointer"),
    ],
};

pub(super) static TOKEN: Keys = Keys {
    section: "token",
    keys: &[
        restart("issuer"),
        restart("audience"),
        restart("algorithms"),
        restart("jwks"),
        restart("jwks_ca"),
        restart("jwks_interval"),
        restart("tenant_claim"),
        restart("user_claim"),
        restart("scope"),
        restart("leeway"),
        restart("end_sessions"),
    ],
};

pub(super) static DIRECTORY: Keys = Keys {
    section: "directory",
    keys: &[
        restart("upstream"),
        restart("database"),
        restart("user"),
        restart("password"),
        restart("interval"),
        restart("max_rows"),
    ],
};

pub(super) static AUTH_QUERY: Keys = Keys {
    section: "auth_query",
    keys: &[
        restart("upstream"),
        restart("database"),
        restart("user"),
        restart("password"),
        restart("query"),
        restart("ttl"),
        restart("negative_ttl"),
        restart("max_entries"),
    ],
};

pub(super) static CANARY: Keys =
    Keys { section: "canary", keys: &[restart("tenants"), restart("interval"), restart("query")] };

pub(super) static DEFAULTS: Keys = Keys {
    section: "defaults",
    keys: &[
        live("max_clients"),
        live("max_servers"),
        live("max_pins"),
        live("queue_timeout"),
        live("statement_timeout"),
        live("idle_transaction_timeout"),
    ],
};

pub(super) static TENANT: Keys = Keys {
    section: "tenant",
    keys: &[
        live("id"),
        live("upstream"),
        live("isolation"),
        live("database"),
        live("schema"),
        live("role"),
        live("role_password"),
        live("max_clients"),
        live("max_servers"),
        live("max_pins"),
        live("queue_timeout"),
        live("statement_timeout"),
        live("idle_transaction_timeout"),
    ],
};

pub(super) static USER: Keys = Keys {
    section: "user",
    keys: &[
        live("name"),
        live("password"),
        live("certificate"),
        live("token"),
        live("tenant"),
        live("tenants"),
        live("maintenance"),
        live("operator"),
        live("tenant_comment"),
        live("choice"),
        live("allow"),
        live("roles"),
        live("pool_mode"),
        live("pinning"),
    ],
};

pub(super) static MAINTENANCE: Keys = Keys {
    section: "user.maintenance",
    keys: &[
        live("upstream"),
        live("server_user"),
        live("server_password"),
        live("databases"),
        live("max_replication"),
    ],
};

/// `{ env = "…" }` or `{ file = "…" }` in place of a secret's text.
pub(super) static SECRET: Keys = Keys { section: "", keys: &[live("env"), live("file")] };

const fn live(name: &'static str) -> Key {
    Key { name, reload: Reload::Live }
}

const fn restart(name: &'static str) -> Key {
    Key { name, reload: Reload::Restart }
}
