"""The attacks as data: read, checked, and spread into the variants that are sent.

A file of attacks/ is a family. README.md describes the keys.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEYS = {"id", "title", "steps", "spread", "where", "beside", "hold", "login", "seen_when", "disturbed_when", "leave",
        "protocols", "from", "until", "note", "one_server", "watch", "keeps", "memory", "servers", "columns", "maintenance"}
STEP_KEYS = {"sql", "batch", "as", "args", "copy", "frames", "save", "cancel", "run", "raw", "until", "times", "seconds", "crowd", "source", "owed"}
WHO = {"attacker", "second", "colleague", "victim", "admin"}

# What every change of context is for: the other tenant's rows read, then written.
TOUCH = "SELECT count(*) FROM jobs"  # a proxy may enter the context late: it has to be there before it is changed
TAKE = ["SELECT id, note FROM orders", "UPDATE orders SET note = 'taken' WHERE tenant_id = '@victim@'"]


@dataclass(frozen=True)
class Variant:
    """One way to send an attack."""

    protocol: str  # simple | extended
    arrangement: str  # as written | apart | block | batch | as maintenance
    steps: tuple
    is_maintenance: bool = False  # the attacker is a maintenance user

    @property
    def name(self):
        return self.protocol if self.arrangement == "as written" else f"{self.protocol}, {self.arrangement}"


@dataclass(frozen=True)
class Attack:
    id: str
    family: str
    title: str
    steps: tuple
    spread: bool = False
    where: str = "narrow"
    beside: bool = False
    hold: bool = False
    login: dict = field(default_factory=dict)
    seen_when: str = ""
    disturbed_when: str = ""
    leave: str = "stay"
    protocols: tuple = ("simple", "extended")
    one_server: bool = False  # needs the pool of one even if both work in turns
    watch: bool = False  # clients of the victim work meanwhile
    keeps: bool = False  # an open transaction of the attacker's may keep the only server
    memory: int = 48  # MiB by which the proxy may grow meanwhile
    servers: int = 8  # server processes that may be started meanwhile
    columns: tuple = ()  # the only ones where it is tried
    maintenance: bool = False  # also as a maintenance user

    def variants(self):
        if not self.spread:
            written = [Variant(protocol, "as written", self.steps) for protocol in self.protocols]
            return written + [Variant(self.protocols[0], "as maintenance", self.steps, True)] * self.maintenance
        own = [step["sql"] for step in self.steps]
        ways = {
            "apart": [{"sql": sql} for sql in own + TAKE],
            "block": [{"sql": sql} for sql in ["BEGIN", TOUCH, *own, *TAKE, "COMMIT"]],
            "batch": [{"batch": [TOUCH, *own, *TAKE]}],
        }
        # Statements that stand apart meet a new context each time: one protocol is enough for them.
        return [Variant(protocol, way, tuple(steps)) for way, steps in ways.items()
                for protocol in (self.protocols if way != "apart" else self.protocols[:1])]


def load(version=99, only=()):
    """All attacks for a PostgreSQL version, or those whose id or family is named."""
    found = []
    for path in sorted((HERE / "attacks").glob("*.toml")):
        words = tomllib.loads(path.read_text())
        for raw in words["attack"]:
            if raw.get("from", 0) <= version <= raw.get("until", 99):
                found.append(attack({**words.get("every", {}), **raw}, path.stem))
    names = [it.id for it in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"attacks with one id: {', '.join(sorted(twice))}")
    unknown = set(only) - set(names) - {it.family for it in found}
    if unknown:
        raise ValueError(f"no attack and no family is called {', '.join(sorted(unknown))}")
    return [it for it in found if not only or it.id in only or it.family in only]


def attack(raw, family):
    def refuse(what):
        raise ValueError(f"{family}.toml, {raw.get('id', '?')}: {what}")

    if raw.keys() - KEYS or not {"id", "title"} <= raw.keys():
        refuse(f"keys: {sorted(raw)}")
    steps = tuple({"sql": step} if isinstance(step, str) else step for step in raw.get("steps", []))
    for step in steps:
        if step.keys() - STEP_KEYS or step.get("as", "attacker") not in WHO:
            refuse(f"step {step}")
    if raw.get("spread") and any(step.keys() != {"sql"} for step in steps):
        refuse("only plain SQL can be spread")
    is_raw = any("frames" in step or "raw" in step for step in steps) and not any("sql" in step or "batch" in step for step in steps)
    protocols = tuple(raw.get("protocols", ("simple",) if is_raw else ("simple", "extended")))
    rest = {key: raw[key] for key in ("spread", "where", "beside", "hold", "login", "seen_when", "disturbed_when", "leave", "one_server",
                                 "watch", "keeps", "memory", "servers", "columns", "maintenance") if key in raw}
    return Attack(raw["id"], family, raw["title"], steps, protocols=protocols, **rest)
