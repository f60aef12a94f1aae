"""Private servers for the driver tests and the benchmarks: PostgreSQL, certificates, child processes.

Promises that everything it starts listens on loopback only, lives in one temporary directory and
ends, by process id, with its owner. Standard library only.
"""

import base64
import glob
import hashlib
import hmac
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


class Stage:
    """A temporary directory and the processes that run in it; leaving it ends them all."""

    def __init__(self, prefix):
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        os.chmod(self.path, 0o755)
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            stop(process)
        shutil.rmtree(self.path, ignore_errors=True)

    def start(self, argv, log, unprivileged=False, env=None):
        """Starts a child whose output goes to `log` and which dies with this process."""
        argv = [str(word) for word in argv]
        with open(self.path / log, "ab") as output:
            process = subprocess.Popen(
                [*child_prefix(unprivileged), *argv],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.path, env={**os.environ, **(env or {})},
            )
        self.processes.append(process)
        return process

    def directory(self, name, unprivileged=False):
        path = self.path / name
        path.mkdir(mode=0o700)
        if unprivileged:
            give_to_postgres(path)
        return path

    def write(self, name, text, unprivileged=False):
        path = self.path / name
        path.write_text(text)
        path.chmod(0o600)
        if unprivileged:
            give_to_postgres(path)
        return path

    def tail(self, log, lines=15):
        path = self.path / log
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def is_root():
    return os.geteuid() == 0


def child_prefix(unprivileged):
    """PostgreSQL and PgBouncer refuse root; every child is killed when its parent dies."""
    prefix = ["setpriv", "--pdeathsig", "KILL"]
    if unprivileged and is_root():
        prefix += ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    return prefix


def give_to_postgres(path):
    if is_root():
        account = pwd.getpwnam("postgres")
        os.chown(path, account.pw_uid, account.pw_gid)


def stop(process, sign=signal.SIGINT, patience=5.0):
    """Asks a child of ours to end, then kills it. Gives its exit code."""
    if process.poll() is None:
        process.send_signal(sign)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process, what, patience=15.0):
    """Waits until something accepts on the port; says so if the process has ended instead."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with code {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{what} did not listen within {patience:.0f} s")


def scram_verifier(password, iterations=4096):
    """What PostgreSQL keeps in pg_authid.rolpassword (RFC 5803, StoredKey and ServerKey)."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"


def make_certificates(stage):
    """A small authority and one certificate for localhost: ca.crt, server.crt, server.key."""
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=stage.path, check=True, capture_output=True, timeout=30)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=pgtenant test authority")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    stage.write("server.ext", "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-out", "server.crt", "-extfile", "server.ext")


class PostgreSQL:
    """A cluster of its own; the superuser `postgres` comes in by the unix socket without a password."""

    def __init__(self, stage, settings=None, hba="host all all 127.0.0.1/32 scram-sha-256", tls=False):
        self.stage = stage
        self.bin = newest_postgres()
        self.port = free_port()
        self.sockets = stage.directory("pgsocket", unprivileged=True)
        self.sockets.chmod(0o755)
        data = stage.directory("pgdata", unprivileged=True)
        subprocess.run(
            [*child_prefix(True), self.bin / "initdb", "-D", data, "-U", "postgres", "--no-sync",
             "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust"],
            check=True, capture_output=True, timeout=60, cwd=stage.path)
        (data / "pg_hba.conf").write_text(f"local all all trust\n{hba}\n")
        base = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.sockets,
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "logging_collector": "off", "max_connections": 100,
        }
        if tls:
            for name in ("server.crt", "server.key"):
                shutil.copy(stage.path / name, data / name)
                (data / name).chmod(0o600)
                give_to_postgres(data / name)
            base["ssl"] = "on"
        options = [word for key, value in {**base, **(settings or {})}.items() for word in ("-c", f"{key}={value}")]
        self.process = stage.start([self.bin / "postgres", "-D", data, *options], "postgres.log", unprivileged=True)
        wait_for_port(self.port, self.process, "PostgreSQL")
        self.wait_ready()

    def wait_ready(self):
        for _ in range(100):
            if self.psql_process("SELECT 1", "postgres").returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL does not answer")

    def psql_process(self, sql, database):
        return subprocess.run(
            [psql_of(self.bin), "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-p", str(self.port),
             "-U", "postgres", "-d", database, "-f", "-"],
            input=sql, text=True, capture_output=True, timeout=300)

    def sql(self, sql, database="app"):
        """Runs statements as superuser and gives what they print."""
        done = self.psql_process(sql, database)
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    @property
    def version(self):
        words = subprocess.run([self.bin / "postgres", "--version"], capture_output=True, text=True, timeout=10)
        return words.stdout.split()[2]


def psql_of(place):
    """A server's own psql, or the newest one: packages of other versions hold no clients."""
    own = place / "psql"
    return own if own.exists() else newest_installed() / "psql"


def newest_postgres():
    """The newest /usr/lib/postgresql/*/bin, unless PG_BIN names another."""
    if os.environ.get("PG_BIN"):
        return Path(os.environ["PG_BIN"])
    return newest_installed()


def newest_installed():
    found = glob.glob("/usr/lib/postgresql/*/bin")
    if not found:
        raise RuntimeError("no PostgreSQL under /usr/lib/postgresql; set PG_BIN to its bin directory")
    return Path(max(found, key=lambda path: int(re.search(r"(\d+)/bin$", path).group(1))))
