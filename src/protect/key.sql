CREATE TABLE pgtenant.key (
    kid text PRIMARY KEY,
    ipad bytea NOT NULL,
    opad bytea NOT NULL,
    t_ipad bytea NOT NULL,
    t_opad bytea NOT NULL
)
