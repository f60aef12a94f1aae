"""The database under attack: what is planted in it, what it must look like, and how it is put back.

Everything here goes straight to PostgreSQL as a superuser; the proxy is never asked.
"""

import base64
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from client import Client

HERE = Path(__file__).resolve().parent
LARGE_OBJECT = 777001
TABLES = ("orders", "lines", "papers", "events", "jobs")


@dataclass(frozen=True)
class Login:
    user: str
    password: str
    database: str


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


class World:
    def __init__(self, target):
        self.target = target
        self.token = "vt" + secrets.token_hex(6)
        self.number = str(secrets.randbelow(9 * 10**8) + 10**8)
        self.words = {
            "attacker": target.tenants[0], "victim": target.tenants[1], "role": target.role, "owner": target.owner,
            "setting": target.setting, "database": target.attacker.database, "token": self.token,
            "number": self.number, "large": str(LARGE_OBJECT), "attacker_user": target.attacker.user,
            "victim_user": target.victim.user, "invoker": "", **bulk(), **target.words,
        }
        self.needles = needles(self.token) + [self.number.encode()]
        self.admin, self.holder = self.log_in(), self.log_in()
        self.version = int(self.sql("SHOW server_version_num").value()) // 10000
        if self.version >= 15:
            self.words["invoker"] = "WITH (security_invoker = true)"

    def log_in(self):
        return Client(self.target.direct, self.target.admin, {"options": "-c statement_timeout=10s"}, patience=30)

    def sql(self, text):
        answer = self.admin.query(text)
        if answer.errors:
            raise RuntimeError(f"{answer.errors}: {bytes(self.admin.heard[-400:])!r} for {text[:200]}")
        del self.admin.heard[:]
        return answer

    def fill(self, text, more=None):
        """Puts values for @words@; unknown ones stay, since @ is also an operator."""
        for word, value in {**self.words, **(more or {})}.items():
            text = text.replace(f"@{word}@", str(value))
        return text

    def script(self, name):
        return self.fill((HERE / name).read_text())

    # === making ===

    def make(self):
        """The schema with the planted secrets, in an empty database."""
        self.sql(self.script("schema.sql"))
        self.sql("CREATE SCHEMA isolation_seed; REVOKE ALL ON SCHEMA isolation_seed FROM PUBLIC; " + "; ".join(
            f"CREATE TABLE isolation_seed.{table} AS TABLE public.{table}" for table in TABLES))
        self.sql("ANALYZE")

    def settle(self):
        """Remembers this state as the one that every attack finds and has to leave."""
        self.fingerprint_sql = self.script("fingerprint.sql")
        self.restore_sql = self.script("restore.sql")
        if self.sql("SELECT to_regclass('pgtenant.key')").value():
            self.fingerprint_sql = self.fingerprint_sql.replace(
                "SELECT part, md5(", "SELECT 'keys', md5(string_agg(k::text, '' ORDER BY k::text)) FROM pgtenant.key k UNION ALL SELECT part, md5(")
        verifier = self.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{self.target.role}'").value()
        kept = self.sql(
            "SELECT format('ALTER ROLE %I %s SET %s TO %L', rolname, CASE WHEN setdatabase > 0 THEN 'IN DATABASE ' || current_database() END, "
            "split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) c "
            f"WHERE rolname = '{self.target.role}'").rows
        self.role_sql = "; ".join([
            f"ALTER ROLE {self.target.role} RESET ALL", f"ALTER ROLE {self.target.role} IN DATABASE {self.target.attacker.database} RESET ALL",
            *(row[0] for row in kept), *([f"ALTER ROLE {self.target.role} PASSWORD '{verifier}'"] if verifier else [])])
        self.canonical = self.look()

    # === watching ===

    def look(self):
        return {part: digest for part, digest in self.sql(self.fingerprint_sql).rows}

    def restore(self, is_light=False):
        """Puts the database back, and says so if it cannot. Light: the attacker has changed what is its own."""
        if not is_light:
            self.end_servers()
            for gid, in self.sql("SELECT gid FROM pg_prepared_xacts").rows:
                self.sql(f"ROLLBACK PREPARED '{gid}'")
            self.sql(self.role_sql)
        self.sql(self.restore_sql)
        found = self.look()
        if found != self.canonical:
            raise RuntimeError(f"could not restore: {', '.join(changes(self.canonical, found))}")

    def end_servers(self):
        theirs = f"FROM pg_stat_activity WHERE usename = '{self.target.role}'"
        self.sql(f"SELECT pg_terminate_backend(pid) {theirs}")
        limit = time.monotonic() + 5
        while self.sql(f"SELECT count(*) {theirs}").value() != "0" and time.monotonic() < limit:
            pass

    # === a victim that is busy ===

    def hold_row(self):
        """Locks a row of the victim's, so that its update of that row runs until `let_go`."""
        self.holder.query(f"BEGIN; SELECT 1 FROM public.orders WHERE tenant_id = '{self.target.tenants[1]}' AND id = 1 FOR UPDATE")

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
        return self.sql(f"SELECT (pg_blocking_pids(pid))[1] FROM pg_stat_activity WHERE usename = '{self.target.role}' "
                        "AND wait_event_type = 'Lock' AND cardinality(pg_blocking_pids(pid)) > 0").value()

    def holder_pid(self):
        return int.from_bytes(self.holder.key[:4], "big")

    # === what betrays the victim ===

    def is_told(self, heard):
        return any(needle in heard for needle in self.needles)


def bulk():
    """Words for attacks by size, depth and repetition."""
    return {
        "wide": "w" * 200, "long": "l" * 9000, "mega": "m" * 1000000, "tag": "t" * 100, "ones": "1," * 1500,
        "selects": "SELECT 1;" * 1000, "semicolons": ";" * 1000, "opens": "/*" * 1000, "closes": "*/" * 1000,
        "parens": "(" * 500, "unparens": ")" * 500,
    }


def needles(token):
    """A secret as text, in hexadecimal, and in base64 at each of its three alignments."""
    raw = token.encode()
    coded = [base64.b64encode(b"\0" * shift + raw)[skip:-4] for shift, skip in ((0, 0), (1, 2), (2, 3))]
    return [raw, raw.upper(), raw[::-1], raw.hex().encode(), *coded]


def changes(before, after):
    return sorted(part for part in before.keys() | after.keys() if before.get(part) != after.get(part))
