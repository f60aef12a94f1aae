"""The three ways to one PostgreSQL: direct, through PgBouncer, through pgtenant. Same pool size, same logins."""

import glob
import os
import re
import resource
import subprocess
from pathlib import Path

from private import PostgreSQL, free_port, scram_verifier, wait_for_port

POOL_SIZE = 20
MAX_CLIENTS = 6000
TENANTS = 8
SCALE = 10
PASSWORD = "bench-secret"
TICK = os.sysconf("SC_CLK_TCK")


def user(number):
    return f"tenant{number}_app"


class Target:
    """One way in. `pid` is the proxy's process, none for the direct way."""

    def __init__(self, name, port, process=None, prepared=True, version=""):
        self.name, self.port, self.process = name, port, process
        self.prepared, self.version = prepared, version

    @property
    def pid(self):
        return self.process.pid if self.process else None

    def cpu(self):
        """CPU seconds of the proxy's process so far, all threads, ended ones too."""
        return process_cpu(self.pid) if self.pid else 0.0

    def resident_kib(self):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))


class Database:
    """The private PostgreSQL with pgbench's tables, and the role that every way ends in."""

    def __init__(self, stage):
        self.stage = stage
        self.verifier = scram_verifier(PASSWORD)
        self.cluster = PostgreSQL(stage, settings={
            "shared_buffers": "256MB", "max_connections": 200, "max_wal_size": "4GB", "autovacuum": "off"})
        self.cluster.sql("CREATE DATABASE app", "postgres")
        subprocess.run(
            [self.cluster.bin / "pgbench", "-q", "-i", "-s", str(SCALE), "-h", self.cluster.sockets,
             "-p", str(self.cluster.port), "-U", "postgres", "app"], check=True, capture_output=True, timeout=120)
        # The role's stored verifier is the clients' verifier too: every login costs every server the same.
        for name in ["app", *(user(n) for n in range(TENANTS))]:
            self.cluster.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{self.verifier}'")
            self.cluster.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        self.cluster.sql("CHECKPOINT")

    def cpu(self):
        """CPU seconds of the postmaster, its living and its ended children."""
        children = Path(f"/proc/{self.cluster.process.pid}/task/{self.cluster.process.pid}/children").read_text().split()
        return process_cpu(self.cluster.process.pid, reaped=True) + sum(process_cpu(pid, missing=0.0) for pid in children)


def process_cpu(pid, reaped=False, missing=None):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        if missing is None:
            raise
        return missing
    return sum(int(field) for field in fields[11:15 if reaped else 13]) / TICK


def raise_file_limit():
    """5,000 idle clients need as many descriptors, here and in the servers that inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def direct(database):
    return Target("direct", database.cluster.port, version=f"PostgreSQL {database.cluster.version}")


# === PgBouncer ===


def find_pgbouncer():
    """$PGBOUNCER, or the newest in the usual places; gives (path, (major, minor)) or None."""
    places = [os.environ["PGBOUNCER"]] if os.environ.get("PGBOUNCER") else [
        *glob.glob("/usr/sbin/pgbouncer"), *glob.glob("/usr/bin/pgbouncer"), *glob.glob("/usr/local/*bin/pgbouncer"),
        *glob.glob("/opt/*/bin/pgbouncer")]
    found = []
    for path in places:
        words = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
        version = tuple(int(part) for part in re.search(r"PgBouncer (\d+)\.(\d+)", words).groups())
        found.append((version, path))
    return max(found, default=None)


def pgbouncer(stage, database, suffix=""):
    found = find_pgbouncer()
    if not found:
        return None
    version, path = found
    port = free_port()
    users = "".join(f'"{user(n)}" "{database.verifier}"\n' for n in range(TENANTS))
    user_file = stage.write(f"userlist{suffix}.txt", users, unprivileged=True)
    prepared = version >= (1, 21)
    config = stage.write(f"pgbouncer{suffix}.ini", f"""
[databases]
app = host=127.0.0.1 port={database.cluster.port} dbname=app user=app password={PASSWORD}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {user_file}
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = {MAX_CLIENTS}
log_connections = 0
log_disconnections = 0
{"max_prepared_statements = 100" if prepared else ""}
""", unprivileged=True)
    process = stage.start([path, config], f"pgbouncer{suffix}.log", unprivileged=True)
    wait_for_port(port, process, "PgBouncer")
    return Target("pgbouncer", port, process, prepared, f"PgBouncer {version[0]}.{version[1]}")


# === pgtenant ===


def pgtenant(stage, database, binary, suffix="", tenancy='context = "plain"', more=""):
    port, metrics = free_port(), free_port()
    parts = [f"""
[listen]
address = "127.0.0.1:{port}"
tls = "off"
max_clients = {MAX_CLIENTS}
[metrics]
address = "127.0.0.1:{metrics}"
[upstream.main]
hosts = ["127.0.0.1:{database.cluster.port}"]
database = "app"
user = "app"
password = "{PASSWORD}"
tls = "off"
pool_size = {POOL_SIZE}
[tenancy]
{tenancy}
[defaults]
max_clients = {MAX_CLIENTS}
max_servers = {POOL_SIZE}
queue_timeout = "30s"
{more}
"""]
    for n in range(TENANTS):
        parts.append(f'[[tenant]]\nid = "tenant{n}"\nupstream = "main"\nisolation = "row"\n'
                     f'[[user]]\nname = "{user(n)}"\npassword = "{database.verifier}"\ntenant = "tenant{n}"\n')
    config = stage.write(f"pgtenant{suffix}.toml", "\n".join(parts))
    process = stage.start([binary, "serve", "--config", config], f"pgtenant{suffix}.log")
    try:
        wait_for_port(port, process, "pgtenant")
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{stage.tail(f'pgtenant{suffix}.log')}") from None
    words = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
    return Target("pgtenant", port, process, True, words or "pgtenant")
