CREATE TABLE pgtenant.tenants (
    id text PRIMARY KEY,
    upstream text,
    isolation text NOT NULL DEFAULT 'row' CHECK (isolation IN ('row', 'schema', 'database')),
    database text,
    schema text,
    role text,
    role_password text,
    max_clients integer,
    max_servers integer,
    max_pins integer,
    queue_timeout interval,
    statement_timeout interval,
    idle_transaction_timeout interval
)
