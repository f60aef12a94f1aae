"""What the Python driver scripts share: who they are, how they connect, how a check is told."""

import asyncio
import inspect
import os
import signal
import traceback

# Tenants and the number of their rows in `orders`, as `run` seeds them.
TENANTS = {"acme": 120, "globex": 80}
HOST, ADDRESS = "localhost", "127.0.0.1"
PORT = int(os.environ.get("DRIVERS_PORT", "0"))
CA = os.environ.get("DRIVERS_CA", "")
TMP = os.environ.get("DRIVERS_TMP", "")
SOCKETS = os.environ.get("DRIVERS_SOCKETS", "")
DIRECT = os.environ.get("DRIVERS_DIRECT") == "1"
LIMIT = 10  # seconds for one check

WHOSE = "SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id ORDER BY 1"


def user(tenant):
    return f"{tenant}_app"


def password(name):
    return f"{name}-secret"


def other(tenant):
    return "globex" if tenant == "acme" else "acme"


def equal(got, expected, what="value"):
    assert got == expected, f"{what}: got {got!r}, expected {expected!r}"


class Suite:
    """The checks of one driver; each runs once for every tenant, or once for `together`."""

    def __init__(self, driver):
        self.driver = driver
        self.checks = []

    def check(self, name, proxy_only=False, together=False, limit=LIMIT):
        def register(function):
            self.checks.append((name, function, proxy_only, ["both"] if together else TENANTS, limit))
            return function
        return register

    def run(self):
        failed = 0
        for name, function, proxy_only, tenants, limit in self.checks:
            for tenant in tenants:
                if proxy_only and DIRECT:
                    tell("skip", self.driver, tenant, f"{name}: only through the proxy")
                    continue
                problem = attempt(function, tenant, limit)
                failed += problem is not None
                tell("FAIL" if problem else "ok", self.driver, tenant, f"{name}: {problem}" if problem else name)
        return 1 if failed else 0


def tell(verdict, driver, tenant, text):
    print(f"{verdict:<4} {driver:<13} {tenant:<7} {' '.join(text.split())}", flush=True)


def attempt(function, tenant, limit):
    """Runs one check within its time; gives the problem as one line, or None."""
    def too_long(*_):
        raise TimeoutError(f"not done within {limit} s")
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit)
    try:
        if inspect.iscoroutinefunction(function):
            asyncio.run(function(tenant))
        else:
            function(tenant)
    except Exception as error:  # every surprise is this check's failure and nobody else's
        place = [frame for frame in traceback.extract_tb(error.__traceback__) if "tests/drivers" in frame.filename]
        line = f" (line {place[-1].lineno})" if place else ""
        code = getattr(error, "sqlstate", None)
        return f"{type(error).__name__}{f' {code}' if code else ''}: {error}{line}"[:600]
    finally:
        signal.alarm(0)
    return None
