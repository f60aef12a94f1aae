CREATE TABLE pgtenant.users (
    name text PRIMARY KEY,
    password text CHECK (password LIKE 'SCRAM-SHA-256$%'),
    certificate text,
    token text CHECK (token IN ('password', 'oauthbearer')),
    tenant text,
    tenants text[],
    tenant_comment boolean NOT NULL DEFAULT false,
    allow text[],
    pool_mode text CHECK (pool_mode IN ('transaction', 'session')),
    pinning text CHECK (pinning IN ('allow', 'refuse')),
    CHECK (num_nonnulls(password, certificate, token) > 0),
    CHECK (num_nonnulls(tenant, tenants) = 1)
)
