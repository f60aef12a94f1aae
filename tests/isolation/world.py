"""The database under attack: what is planted in it, what it must look like, and how it is put back.

Everything here goes straight to PostgreSQL as a superuser; the proxy is never asked.
"""

import base64
import hashlib
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from client import Client

HERE = Path(__file__).resolve().parent
LARGE_OBJECT = 777001
TABLES = ("orders", "lines", "papers", "events", "jobs", "loose")
ONCE = "-- === once\n"


@dataclass(frozen=True)
class Login:
    user: str
    password: str
    database: str


@dataclass(frozen=True)
class Place:
    """Where tables are, and the role that runs the statements of those whose rows are in them."""

    tenant: str = ""  # the only one; none: all tenants share them
    database: str = ""  # if it is not the administrator's
    schema: str = "public"
    role: str = ""  # if it is not the target's


@dataclass
class Target:
    """What is attacked and by whom."""

    narrow: tuple  # a pool of one server: what is left on it meets the next client
    wide: tuple  # a pool with room for several clients at once
    direct: tuple  # PostgreSQL itself
    admin: Login
    attacker: Login
    victim: Login
    tenants: tuple = ("acme", "globex")  # the attacker's, the victim's
    role: str = "app"  # the role that the proxy logs in as
    owner: str = "app_owner"
    setting: str = "app.tenant_id"
    enter: str = ""  # what an application says itself after login, where the proxy enters no context
    patience: float = 2.0
    keeps_servers: bool = False  # whether a client with state of its own keeps a server between transactions
    words: dict = field(default_factory=dict)  # further words for the attacks
    places: tuple = (Place(),)  # the victim's is the last
    fair: tuple = ()  # as wide, with limits for each tenant; without it, the same
    roles: tuple = ()  # that the attacker's role may become
    colleague: Login | None = None  # another user of the attacker's tenant
    maintenance: Login | None = None  # who is no tenant, on servers of its own role (the owner's)
    processes: dict = field(default_factory=dict)  # the proxy's process, by port, where its memory can be read


class World:
    def __init__(self, target):
        self.target = target
        self.token = "vt" + secrets.token_hex(6)
        self.number = str(secrets.randbelow(9 * 10**8) + 10**8)
        self.words = {
            "attacker": target.tenants[0], "victim": target.tenants[1], "role": target.role, "owner": target.owner,
            "setting": target.setting, "database": target.attacker.database, "token": self.token,
            "number": self.number, "large": str(LARGE_OBJECT), "attacker_user": target.attacker.user,
            "victim_user": target.victim.user, "invoker": "", **digests(target.tenants[1]), **bulk(), **target.words,
        }
        self.needles = needles(self.token) + [self.number.encode()]
        self.shared, self.victims = len(target.places) == 1, target.places[-1]
        self.words |= {"own_role": "" if self.shared else target.places[0].role, "victim_role": self.victims.role or target.role,
                       "victim_schema": self.victims.schema, "victim_database": target.admin.database, "role": self.role_of(target.places[0]), "database": target.places[0].database or target.attacker.database}
        self.admin, self.holder = self.log_in(), self.log_in()
        self.elsewhere = {place.database: self.log_in(place.database) for place in target.places if place.database}
        self.version = int(self.sql("SHOW server_version_num").value()) // 10000
        if self.version >= 15:
            self.words["invoker"] = "WITH (security_invoker = true)"

    def log_in(self, database=""):
        login = self.target.admin
        login = Login(login.user, login.password, database or login.database)
        path = "" if self.victims.schema == "public" else f" -c search_path={self.victims.schema}"
        return Client(self.target.direct, login, {"options": f"-c statement_timeout=10s{path}"}, patience=30)

    def sql(self, text, database=""):
        admin = self.elsewhere[database] if database else self.admin
        answer = admin.query(text)
        if answer.errors:
            raise RuntimeError(f"{answer.errors}: {bytes(admin.heard[-400:])!r} for {text[:200]}")
        del admin.heard[:]
        return answer

    def role_of(self, place):
        return place.role or self.target.role

    def roles(self, *more):
        """The roles of all tenants, as a list for SQL."""
        return ", ".join(f"'{role}'" for role in sorted({*more, *(self.role_of(place) for place in self.target.places)}))

    def fill(self, text, more=None):
        """Puts values for @words@; unknown ones stay, since @ is also an operator."""
        for word, value in {**self.words, **(more or {})}.items():
            text = text.replace(f"@{word}@", str(value))
        return text

    def script(self, name, place):
        """A script for one place; what is no row of the victim's, as its large object, is made once."""
        text = (HERE / name).read_text()
        if place is not self.victims:
            text = text.split(ONCE)[0]
        if place.schema != "public":
            text = text.replace("public.", f"{place.schema}.").replace("SCHEMA public", f"SCHEMA {place.schema}")
        return self.fill(text.replace("isolation_seed", self.seed(place)), {"role": self.role_of(place)})

    def seed(self, place):
        return f"isolation_seed_{place.tenant}" if place.tenant else "isolation_seed"

    # === making ===

    def make(self):
        """The schema with the planted secrets, in an empty database."""
        for place in self.target.places:
            self.sql(self.script("schema.sql", place), place.database)
            seed, schema = self.seed(place), place.schema
            if place.tenant:
                # The place is the boundary here, and the only one.
                self.sql("; ".join(f"DELETE FROM {schema}.{table} WHERE tenant_id <> '{place.tenant}'; "
                                   f"ALTER TABLE {schema}.{table} DISABLE ROW LEVEL SECURITY" for table in TABLES), place.database)
            self.sql(f"CREATE SCHEMA {seed}; REVOKE ALL ON SCHEMA {seed} FROM PUBLIC; " + "; ".join(
                f"CREATE TABLE {seed}.{table} AS TABLE {schema}.{table}" for table in TABLES), place.database)
            self.sql("ANALYZE", place.database)

    def settle(self):
        """Remembers this state as the one that every attack finds and has to leave."""
        self.fingerprint_sql = self.script("fingerprint.sql", self.victims)
        if self.sql("SELECT to_regclass('pgtenant.key')").value():
            self.fingerprint_sql = self.fingerprint_sql.replace(
                "SELECT part, md5(", "SELECT 'keys', md5(string_agg(k::text, '' ORDER BY k::text)) FROM pgtenant.key k UNION ALL SELECT part, md5(")
        self.role_sql = "; ".join([*(text for place in self.target.places for text in self.role_as_it_is(place)),
                                   *(f"ALTER ROLE {role} RESET ALL; ALTER ROLE {role} NOLOGIN PASSWORD NULL" for role in self.target.roles)])
        self.canonical = self.look()

    def role_as_it_is(self, place):
        role, database = self.role_of(place), place.database or self.target.admin.database
        verifier = self.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'").value()
        kept = self.sql(
            "SELECT format('ALTER ROLE %I %s SET %s TO %L', rolname, CASE WHEN setdatabase > 0 THEN 'IN DATABASE ' || current_database() END, "
            "split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) c "
            f"WHERE rolname = '{role}'").rows
        return [f"ALTER ROLE {role} RESET ALL", f"ALTER ROLE {role} IN DATABASE {database} RESET ALL",
                *(row[0] for row in kept), *([f"ALTER ROLE {role} PASSWORD '{verifier}'"] if verifier else [])]

    # === watching ===

    def look(self):
        found = {part: digest for part, digest in self.sql(self.fingerprint_sql).rows}
        for place in self.target.places[:-1]:
            # A place of the attacker's is its own as a whole.
            rows = "; ".join(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {place.schema}.{table} t" for table in TABLES)
            found[f"own.place of {place.tenant}"] = str(self.sql(rows, place.database).rows)
        return found

    def restore(self, is_light=False):
        """Puts the database back, and says so if it cannot. Light: the attacker has changed what is its own."""
        if not is_light:
            self.end_servers()
            for gid, database in self.sql("SELECT gid, database FROM pg_prepared_xacts").rows:
                self.sql(f"ROLLBACK PREPARED '{gid}'", database if database in self.elsewhere else "")
            self.sql(self.role_sql)
        for place in self.target.places:
            self.sql(self.script("restore.sql", place), place.database)
        found = self.look()
        if found != self.canonical:
            raise RuntimeError(f"could not restore: {', '.join(changes(self.canonical, found))}")

    def end_servers(self):
        theirs = f"FROM pg_stat_activity WHERE usename IN ({self.roles()})"
        self.sql(f"SELECT pg_terminate_backend(pid) {theirs}")
        limit = time.monotonic() + 5
        while self.sql(f"SELECT count(*) {theirs}").value() != "0" and time.monotonic() < limit:
            pass

    # === a victim that is busy ===

    def hold_row(self):
        """Locks a row of the victim's, so that its update of that row runs until `let_go`."""
        self.holder.query(f"BEGIN; SELECT 1 FROM {self.victims.schema}.orders WHERE tenant_id = '{self.target.tenants[1]}' AND id = 1 FOR UPDATE")

    def let_go(self):
        self.holder.query("ROLLBACK")

    def waiting_pid(self):
        """The server process that runs the victim's statement."""
        holder = self.holder_pid()
        limit = time.monotonic() + 3
        while time.monotonic() < limit:
            pid = self.sql(f"SELECT pid FROM pg_stat_activity WHERE {holder} = ANY (pg_blocking_pids(pid))").value()
            if pid:
                return pid
        raise TimeoutError("the victim's statement did not begin to run")

    def blocker(self):
        """A session of the role that another one waits for."""
        return self.sql(f"SELECT (pg_blocking_pids(pid))[1] FROM pg_stat_activity WHERE usename IN ({self.roles()}) "
                        "AND wait_event_type = 'Lock' AND cardinality(pg_blocking_pids(pid)) > 0").value()

    def holder_pid(self):
        return int.from_bytes(self.holder.key[:4], "big")

    # === what betrays the victim ===

    def is_told(self, heard):
        return any(needle in heard for needle in self.needles)


def digests(tenant):
    """What the register of a sealed context holds for a tenant."""
    digest = hashlib.sha256(tenant.encode()).digest()
    return {f"digest_{number + 1}": int.from_bytes(digest[8 * number:8 * number + 8], "big", signed=True) for number in range(2)}


def bulk():
    """Words for attacks by size, depth and repetition."""
    return {
        "wide": "w" * 200, "long": "l" * 9000, "mega": "m" * 1000000, "tag": "t" * 100, "ones": "1," * 1500,
        "selects": "SELECT 1;" * 1000, "semicolons": ";" * 1000, "opens": "/*" * 1000, "closes": "*/" * 1000,
        "parens": "(" * 500, "unparens": ")" * 500,
        "syncs": "53 00 00 00 04 " * 20000, "flushes": (bytes.fromhex("42 0000000c 00 00 0000 0000 0000") + bytes.fromhex("45 00000009 00 00000000 48 00000004")).hex() * 3000,
        "parses": "".join((b"P" + (len(f"n{n}") + 16).to_bytes(4, "big") + f"n{n}".encode() + b"\0SELECT 1\0\0\0").hex() for n in range(3000)),
        "binds": "".join((b"B" + (len(f"n{n}") + 13).to_bytes(4, "big") + f"n{n}".encode() + b"\0s\0" + bytes(6) + b"").hex() for n in range(3000)),
        "queries": b"Q\0\0\0\x0dSELECT 1\0".hex() * 20000, "refused": b"Q\0\0\0\x0dLOCK o;;\0".hex() * 20000,
        "prepares": " ".join(f"PREPARE q{n} AS SELECT {n};" for n in range(300)),
        "cursors": " ".join(f"DECLARE c{n} CURSOR WITH HOLD FOR SELECT {n};" for n in range(300)),
        "settings": " ".join(f"SET app.s{n} = '{n}';" for n in range(60)),
        "temps": " ".join(f"CREATE TEMP TABLE tt{n} (x int);" for n in range(500)),
    }


def needles(token):
    """A secret as text, in hexadecimal, and in base64 at each of its three alignments."""
    raw = token.encode()
    coded = [base64.b64encode(b"\0" * shift + raw)[skip:-4] for shift, skip in ((0, 0), (1, 2), (2, 3))]
    return [raw, raw.upper(), raw[::-1], raw.hex().encode(), *coded]


def changes(before, after):
    return sorted(part for part in before.keys() | after.keys() if before.get(part) != after.get(part))
