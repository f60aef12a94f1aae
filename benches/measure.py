"""One measurement each: a pgbench load, system calls, connections, idle memory, one large result."""

import os
import re
import signal
import subprocess
import time

from rawclient import RawClient
from targets import PASSWORD, SCALE, user

ROWS = 200_000
SELECT = f"\\set aid random(1, {100_000 * SCALE})\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
# What an application without pgtenant sends to read the same row safely.
BY_HAND = (f"\\set aid random(1, {100_000 * SCALE})\nBEGIN;\nSELECT set_config('app.tenant_id', 'acme', true);\n"
           "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\nCOMMIT;\n")


class Failed(Exception):
    """A load that did not run to its end."""


class Load:
    """Which pgbench: protocol, clients in all, and over how many tenants they are split."""

    def __init__(self, protocol, clients, tenants, script=None, reconnect=False):
        self.protocol, self.clients = protocol, clients
        self.tenants = min(tenants, clients)
        self.script, self.reconnect = script, reconnect

    def options(self):
        how = ["-f", self.script] if self.script else ["-S"]
        return ["-n", "-M", self.protocol, *how, *(["-C"] if self.reconnect else [])]

    def shares(self):
        """Clients of each process; the same split for every target."""
        whole, rest = divmod(self.clients, self.tenants)
        return [whole + (n < rest) for n in range(self.tenants)]

    def command(self):
        script = ["-f", os.path.basename(self.script)] if self.script else ["-S"]
        words = ["pgbench", "-n", "-M", self.protocol, *script, *(["-C"] if self.reconnect else [])]
        return f"{self.tenants} × {' '.join(words)} -c {self.shares()[0]} -j 1"


def run_load(stage, database, target, load, length, percentiles=True):
    """Runs the load, `length` as pgbench's own option ("-T", 3); gives tps, latencies, CPU."""
    prefix = stage.path / "latency"
    for old in stage.path.glob("latency*"):
        old.unlink()
    logging = ["-l", "--sampling-rate=0.1", "--log-prefix"] if percentiles else []
    proxy_before, database_before = target.cpu(), database.cpu()
    processes = [
        subprocess.Popen(
            [database.cluster.bin / "pgbench", *load.options(), "-c", str(share), "-j", "1", *map(str, length),
             *logging, *([f"{prefix}{n}"] if logging else []),
             "-h", "127.0.0.1", "-p", str(target.port), "-U", user(n), "app"],
            env={**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
            cwd=stage.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n, share in enumerate(load.shares())]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    proxy, server = target.cpu() - proxy_before, database.cpu() - database_before
    for process, (_, errors) in zip(processes, outputs):
        if process.returncode != 0:
            raise Failed(errors.strip()[-300:])
    word = "including reconnection" if load.reconnect else "without initial"
    counts = [re.search(r"actually processed: (\d+)", out) for out, _ in outputs]
    speeds = [re.search(rf"tps = ([\d.]+) \({word}", out) for out, _ in outputs]
    if not all(counts + speeds):
        raise Failed("pgbench ended before its clients had logged in; give it more --seconds")
    count, speed = sum(int(found.group(1)) for found in counts), sum(float(found.group(1)) for found in speeds)
    result = {"tps": speed, "transactions": count, "proxy_us": proxy / count * 1e6 if target.pid else None,
              "server_us": server / count * 1e6, "all_us": (proxy + server) / count * 1e6}
    if percentiles:
        result.update(latencies(prefix.parent))
    return result


def latencies(folder):
    """p50 and p99 in milliseconds of pgbench's sampled log: the third word is microseconds."""
    times = sorted(int(line.split()[2]) for log in folder.glob("latency*") for line in log.read_text().splitlines())
    if not times:
        return {}
    return {"p50_ms": times[len(times) // 2] / 1000, "p99_ms": times[min(len(times) - 1, len(times) * 99 // 100)] / 1000}


def system_calls(stage, database, target, load, transactions=4000):
    """System calls a transaction, counted by strace on the proxy; logins and log-outs are in it."""
    log = stage.path / "strace.txt"
    tracer = subprocess.Popen(["strace", "-c", "-f", "-o", log, "-p", str(target.pid)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        each = max(1, transactions // load.clients)
        result = run_load(stage, database, target, load, ["-t", each], percentiles=False)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    calls = {}
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            calls[words[-1]] = int(words[3]) / result["transactions"]
    top = dict(sorted(calls.items(), key=lambda item: -item[1])[:6])
    return {"calls": sum(calls.values()), "by_name": {name: round(value, 3) for name, value in top.items()}}


def idle_memory(target, steps):
    """Resident KiB of the proxy with each number of idle, logged-in clients."""
    clients, seen = [], {}
    try:
        for step in steps:
            while len(clients) < step:
                clients.append(RawClient(target.port, user(len(clients) % 2), PASSWORD))
            time.sleep(1)
            seen[step] = target.resident_kib()
    finally:
        for client in clients:
            client.close()
    return seen


def large_result(database, target, copy):
    """Time and CPU to bring ROWS rows through, read by a client that does nothing with them."""
    select = f"SELECT aid, bid, abalance, filler FROM pgbench_accounts WHERE aid <= {ROWS}"
    sql = f"COPY ({select}) TO STDOUT" if copy else select
    client = RawClient(target.port, user(0), PASSWORD)
    try:
        client.read_through("SELECT 1")
        proxy_before, database_before, began = target.cpu(), database.cpu(), time.monotonic()
        size = client.read_through(sql)
        seconds = time.monotonic() - began
    finally:
        client.close()
    proxy = target.cpu() - proxy_before
    return {"ms": seconds * 1000, "proxy_ms": proxy * 1000 if target.pid else None,
            "all_ms": (proxy + database.cpu() - database_before) * 1000, "mb": size / 1e6}
