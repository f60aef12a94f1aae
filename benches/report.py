"""Turns raw results into tables, and says on what machine they were made without naming it."""

import os
import platform
import re
import statistics
import subprocess
from pathlib import Path


def machine():
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", text)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {"cpu": model.group(1).strip() if model else platform.machine(), "cores": os.cpu_count(),
            "memory_gib": round(int(memory.group(1)) / 2**20), "kernel": platform.release(),
            "load_before": round(os.getloadavg()[0], 2)}


def revision(root):
    """The commit that was measured, if this is a checkout, and whether it had changes of its own."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "src", "Cargo.lock") else "")


def markdown(results):
    parts = [head(results)]
    for name, table in [("select", select_table), ("context", context_table), ("connect", connect_table),
                        ("memory", memory_table), ("large", large_table), ("calls", calls_table)]:
        if name in results:
            parts.append(table(results))
    return "\n".join(parts)


def head(results):
    about, settings = results["machine"], results["settings"]
    versions = ", ".join(results["versions"].values())
    return f"""# Comparison

{about['cores']} × {about['cpu']}, {about['memory_gib']} GiB, Linux {about['kernel']}, load before the run {about['load_before']}; clients, proxies and PostgreSQL share these cores.
{versions}, revision {results['revision']}.
Pool size {settings['pool_size']}, pgbench scale {settings['scale']}, {settings['rounds']} rounds of {settings['seconds']:g} s, targets in turns; medians. Ratios are medians of the rounds' own ratios. Raw figures: `results.json`.
"""


# === numbers ===


def good(results):
    return [] if isinstance(results, str) else [one for one in results if "failed" not in one]


def median(results, key):
    values = [one[key] for one in good(results) if one.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(mine, theirs, key):
    """Median of the rounds' ratios; a round in which one of both failed does not count."""
    if isinstance(mine, str) or isinstance(theirs, str):
        return None
    pairs = [(a[key], b[key]) for a, b in zip(mine, theirs) if a.get(key) and b.get(key)]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def show(value, places=1):
    return "–" if value is None else f"{value:,.{places}f}"


def cell(results, key, places=1):
    if isinstance(results, str):
        return results
    if not good(results):
        return "failed" if results else "–"
    failed = len(results) - len(good(results))
    return show(median(results, key), places) + (f" ({failed} failed)" if failed else "")


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


# === tables ===


def select_table(results):
    rows, times = [], []
    for name, found in results["select"].items():
        mine, direct, bouncer = found["pgtenant"], found["direct"], found.get("pgbouncer", [])
        rows.append([name, cell(direct, "tps", 0), cell(bouncer, "tps", 0), cell(mine, "tps", 0),
                     show(ratio(mine, direct, "tps"), 2), show(ratio(mine, bouncer, "tps"), 2),
                     cell(bouncer, "proxy_us"), cell(mine, "proxy_us"), show(ratio(mine, bouncer, "proxy_us"), 2),
                     cell(bouncer, "all_us"), cell(mine, "all_us")])
        times.append([name, *(f"{cell(way, 'p50_ms', 2)} / {cell(way, 'p99_ms', 2)}" if good(way) else cell(way, "p50_ms")
                              for way in (direct, bouncer, mine))])
    commands = table(["row", "command, with --sampling-rate=0.1 -l"],
                     [[name, f"`{command}`"] for name, command in results["select_commands"].items()])
    return "## Select-only pgbench: protocol, clients in all\n\n" + table(
        ["row", "direct tps", "pgbouncer tps", "pgtenant tps", "pgtenant/direct", "pgtenant/pgbouncer",
         "pgbouncer CPU µs/tx", "pgtenant CPU µs/tx", "CPU ratio", "pgbouncer + PostgreSQL µs/tx",
         "pgtenant + PostgreSQL µs/tx"], rows) + "\nLatency p50 / p99 in milliseconds:\n\n" + table(
        ["row", "direct", "pgbouncer", "pgtenant"], times) + "\n" + commands


def context_table(results):
    base = results["context"]["plain SELECT through pgtenant"]
    return "## The tenant set by hand against by the proxy (simple, 16 clients)\n\n" + table(
        ["what", "tps", "CPU µs/tx, proxy + PostgreSQL", "CPU against pgtenant", "p50 / p99 ms"],
        [[name, cell(found, "tps", 0), cell(found, "all_us"), show(ratio(found, base, "all_us"), 2),
          f"{cell(found, 'p50_ms', 2)} / {cell(found, 'p99_ms', 2)}"] for name, found in results["context"].items()])


def connect_table(results):
    rows = []
    for name, found in results["connect"].items():
        for way, runs in found.items():
            rows.append([name, way, cell(runs, "tps", 0), cell(runs, "proxy_us", 0), cell(runs, "all_us", 0)])
    return "## Connections: connect, log in, SELECT, close (`pgbench -S -C`)\n\n" + table(
        ["row", "target", "connections/s", "proxy CPU µs/connection", "proxy + PostgreSQL µs/connection"], rows)


def memory_table(results):
    rows = []
    for way, seen in results["memory"].items():
        steps = sorted((int(step), kib) for step, kib in seen.items())
        last, first = steps[-1], steps[0]
        rows.append([way, *(f"{kib / 1024:.1f}" for _, kib in steps), show((last[1] - first[1]) / (last[0] - first[0]), 2)])
    header = [f"{step:,} clients, MiB" for step in sorted(int(step) for step in next(iter(results["memory"].values())))]
    return "## Resident memory with idle clients (no TLS)\n\n" + table(["target", *header, "KiB/client"], rows)


def large_table(results):
    rows = []
    for name, found in results["large"].items():
        for way, runs in found.items():
            rows.append([name, way, cell(runs, "mb"), cell(runs, "ms", 0), show(ratio(runs, found["direct"], "ms"), 2),
                         cell(runs, "proxy_ms", 0), cell(runs, "all_ms", 0)])
    return "## One large result\n\n" + table(
        ["row", "target", "MB", "ms", "against direct", "proxy CPU ms", "proxy + PostgreSQL CPU ms"], rows)


def calls_table(results):
    rows = []
    for name, found in results["calls"].items():
        for way, runs in found.items():
            names = ", ".join(f"{call} {value:g}" for call, value in good(runs)[0]["by_name"].items()) if good(runs) else ""
            rows.append([name, way, cell(runs, "calls", 2), names])
    return "## System calls a transaction (`strace -c -f`, logins included)\n\n" + table(
        ["row", "target", "calls", "most frequent"], rows)
