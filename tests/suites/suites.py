"""The suites: where each comes from, how it is run against a server, and how its results are read."""

import os
import re
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as xml
from pathlib import Path

PASSWORD = "suite-secret"

# Of a Django release: what talks to the database in ways that a pooler could break.
DJANGO_LABELS = [
    "backends", "transactions", "transaction_hooks", "select_for_update", "bulk_create", "get_or_create", "update",
    "lookup", "db_functions", "introspection", "schema", "prefetch_related", "raw_query", "timezones", "force_insert_update",
]


class Suite:
    """One suite. `limit`: seconds for a whole run of it."""

    name, limit, packages = "", 600, ()
    # Whether it is of use to a role that is neither superuser nor alone in its database.
    is_for_tenants = False

    def fetch(self, kit):
        """Puts the suite's files in place; `kit.path` is kept between runs."""

    def prepare(self, target):
        """What the database needs before a run, as superuser."""
        return ""

    def run(self, kit, target, work):
        """Runs it, gives test -> "passed" | "failed" | "skipped"."""
        raise NotImplementedError


class Asyncpg(Suite):
    is_for_tenants = True
    name, packages = "asyncpg", ("asyncpg==0.30.0", "pytest", "distro")

    def fetch(self, kit):
        self.source = kit.python_source("asyncpg", "0.30.0")
        # The tests use the installed package, not the tree without its compiled parts.
        self.tests = kit.copy(self.source / "tests", "asyncpg-tests/tests")

    def run(self, kit, target, work):
        env = {"PGHOST": target.host, "PGPORT": str(target.port), "PGUSER": target.user, "PGPASSWORD": target.password,
               "PGDATABASE": target.database, "PYTHONPATH": str(self.tests.parent)}
        return kit.pytest(work, [self.tests, "-p", "no:cacheprovider"], self.tests.parent, env, self.limit)


class Sqlalchemy(Suite):
    """The dialect's part of SQLAlchemy's own tests, which contains `sqlalchemy.testing.suite`."""

    is_for_tenants = True
    name, packages = "sqlalchemy", ("sqlalchemy==2.0.41", "psycopg[binary]==3.2.9", "pytest<9", "greenlet", "typing_extensions")
    driver = "psycopg"

    def fetch(self, kit):
        self.source = kit.python_source("sqlalchemy", "2.0.41")

    def prepare(self, target):
        return ("CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext; "
                "ALTER DATABASE app SET default_text_search_config = 'pg_catalog.english'")

    def run(self, kit, target, work):
        uri = f"postgresql+{self.driver}://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"
        # A tenant cannot end a prepared transaction, whose locks would stop the rest.
        tests = ["-k", "not two_phase and not twophase"] if target.user == "suite" else []
        tests += ["test/dialect/test_suite.py", "test/dialect/postgresql", "test/engine/test_transaction.py", "test/engine/test_reconnect.py"]
        return kit.pytest(work, [*tests, "-p", "no:cacheprovider", "--dburi", uri, "-p", "no:xdist"], self.source, {}, self.limit)


class SqlalchemyAsyncpg(Sqlalchemy):
    name, packages, driver = "sqlalchemy-asyncpg", (*Sqlalchemy.packages, "asyncpg==0.30.0"), "asyncpg"


class Django(Suite):
    name, packages = "django", ("django==5.2.3", "psycopg[binary]==3.2.9", "psycopg_pool", "jinja2", "pytz")

    def fetch(self, kit):
        self.source = kit.python_source("django", "5.2.3")

    def run(self, kit, target, work):
        (work / "pgt_settings.py").write_text(f"""
DATABASES = {{name: {{"ENGINE": "django.db.backends.postgresql", "NAME": "app", "USER": {target.user!r}, "PASSWORD": {target.password!r},
    "HOST": {target.host!r}, "PORT": {target.port}, "TEST": test}} for name, test in (("default", {{"NAME": "app"}}), ("other", {{"MIRROR": "default"}}))}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
""")
        argv = [kit.python, "tests/runtests.py", "--settings=pgt_settings", "--parallel=1", "--keepdb", "--noinput", "-v", "2", *DJANGO_LABELS]
        text = kit.command(work, argv, self.source, {"PYTHONPATH": str(work)}, self.limit)
        return unittest_verdicts(text)


class TokioPostgres(Suite):
    is_for_tenants = True
    name = "tokio-postgres"

    def fetch(self, kit):
        self.source = kit.crate("tokio-postgres", "0.7.18")
        # The tests want a server at this port. It is ours as long as the run lasts.
        self.port = 5433

    def prepare(self, target):
        return "; ".join(f"SET password_encryption = '{kind}'; CREATE ROLE {name} LOGIN PASSWORD 'password'" for name, kind in
                         (("pass_user", "scram-sha-256"), ("md5_user", "md5"), ("scram_user", "scram-sha-256"))) + "; CREATE EXTENSION hstore; CREATE EXTENSION citext"

    def run(self, kit, target, work):
        # They log in as postgres and without a password, which pgtenant lets nobody do.
        login = f"user={target.user} password={target.password} dbname={target.database}"
        for tests in (self.source / "tests" / "test").rglob("*.rs"):
            tests.write_text(re.sub(r"user=(?:postgres|suite)(?: password=[\w-]+ dbname=\w+)?(?=[\" ])", login, tests.read_text()))
        with target.listens_at(self.port):
            env = {"CARGO_TARGET_DIR": str(kit.path / "cargo")}
            text = kit.command(work, ["cargo", "test", "--test", "test", "--all-features", "--", "--test-threads=4"], self.source, env, self.limit)
        verdicts = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}
        return {name: verdicts[verdict] for name, verdict in re.findall(r"^test (\S+) \.\.\. (ok|FAILED|ignored)", text, re.M)}


ALL = {suite.name: suite for suite in (Asyncpg(), Sqlalchemy(), SqlalchemyAsyncpg(), Django(), TokioPostgres())}


class Kit:
    """What the suites are fetched with and run by; one directory, kept between runs."""

    def __init__(self, path, suite):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.python = self.venv(suite)

    def venv(self, suite):
        home = self.path / f"venv-{suite.name}"
        python = home / "bin" / "python"
        if suite.packages and not python.exists():
            subprocess.run(["python3", "-m", "venv", home], check=True, timeout=120)
            subprocess.run([python, "-m", "pip", "install", "-q", *suite.packages], check=True, timeout=600)
        return python

    def python_source(self, package, version):
        """The source distribution, unpacked."""
        home = self.path / f"{package}-{version}"
        if not home.exists():
            subprocess.run([self.python, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "-d", self.path,
                            f"{package}=={version}"], check=True, timeout=600)
            unpack(next(self.path.glob(f"{package}-{version}.tar.gz")), self.path)
        return home

    def crate(self, name, version):
        """A crate's source as cargo keeps it, with a workspace of its own."""
        home = self.path / f"{name}-{version}"
        if not home.exists():
            fetcher = self.path / "fetcher"
            (fetcher / "src").mkdir(parents=True, exist_ok=True)
            (fetcher / "src" / "lib.rs").write_text("")
            (fetcher / "Cargo.toml").write_text(f'[package]\nname = "fetcher"\nversion = "0.1.0"\nedition = "2021"\n'
                                                f'[dependencies]\n{name} = "={version}"\n[workspace]\n')
            subprocess.run(["cargo", "vendor", "-q", self.path / "vendor"], cwd=fetcher, check=True, timeout=600)
            shutil.copytree(self.path / "vendor" / name, home)
            manifest = home / "Cargo.toml"
            manifest.write_text(manifest.read_text() + "\n[workspace]\n")
        return home

    def copy(self, source, name):
        to = self.path / name
        if not to.exists():
            shutil.copytree(source, to)
        return to

    def command(self, work, argv, cwd, env, limit):
        """Its output, which is also kept as run.log."""
        with open(work / "run.log", "wb") as log:
            try:
                subprocess.run([str(word) for word in argv], cwd=cwd, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               timeout=limit, env={**os.environ, **env})
            except subprocess.TimeoutExpired:
                log.write(b"\n-- ended: it took too long\n")
        return (work / "run.log").read_text(errors="replace")

    def pytest(self, work, words, cwd, env, limit):
        report = work / "report.xml"
        self.command(work, [self.python, "-m", "pytest", "-q", f"--junitxml={report}", *words], cwd, env, limit)
        found = {}
        if report.exists():
            for case in xml.parse(report).getroot().iter("testcase"):
                kinds = {child.tag for child in case}
                verdict = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
                found[f"{case.get('classname')}::{case.get('name')}"] = verdict
        return found


def unittest_verdicts(text):
    """What unittest says at -v 2. A test's own words may stand between its name and its verdict."""
    words = {"ok": "passed", "expected failure": "passed", "skipped": "skipped", "FAIL": "failed", "ERROR": "failed"}
    found, name = {}, None
    for line in text.splitlines():
        begins = re.match(r"(\w+ \([\w.]+\))", line)
        name = begins.group(1) if begins else name
        verdict = re.search(r"\.\.\. (ok|expected failure|skipped|FAIL|ERROR)\b", line) or re.match(r"(ok|FAIL|ERROR)$", line)
        if name and verdict:
            found[name] = words[verdict.group(1)]
            name = None
    for name in re.findall(r"^(?:ERROR|FAIL): (\w+ \([\w.]+\))", text, re.M):
        found[name] = "failed"
    return found


def unpack(archive, where):
    with tarfile.open(archive) as tar:
        tar.extractall(where, filter="data")
