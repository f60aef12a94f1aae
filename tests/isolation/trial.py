"""One variant of one attack: the attacker's steps, then what the victim and the database look like.

Judged by the victim's rows, role, settings and session afterwards, and by every byte that the attacker's
connections received. Error texts are never looked at.
"""

import re
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from crowd import Crowd
from client import QUIET, Client, Closed, cancel, frame, message, reach
from watch import Watch
from world import Login, changes

# How a session looks from inside, with rows of its own and a write that is undone. A fresh one is the measure.
SETTINGS = """application_name bytea_output check_function_bodies client_encoding client_min_messages cursor_tuple_fraction DateStyle
default_tablespace default_transaction_deferrable default_transaction_isolation default_transaction_read_only
enable_hashjoin enable_indexscan enable_mergejoin enable_nestloop enable_seqscan escape_string_warning extra_float_digits
from_collapse_limit gin_fuzzy_search_limit idle_in_transaction_session_timeout idle_session_timeout IntervalStyle
lc_messages lc_monetary lc_numeric lc_time lock_timeout max_parallel_workers_per_gather plan_cache_mode
quote_all_identifiers role row_security search_path session_replication_role standard_conforming_strings statement_timeout
synchronous_commit temp_tablespaces TimeZone transaction_isolation transaction_read_only transform_null_equals
work_mem xmlbinary xmloption""".split()
PROBE = [
    "SELECT tenant_id, id, note, cents FROM orders ORDER BY id /* @token@ */",
    "SELECT session_user, current_user, current_database(), current_schemas(false), NULLIF(current_setting('@setting@', true), ''), "
    "NULLIF(current_setting('app.planted', true), ''), NULLIF(current_setting('app.job', true), ''), "
    "to_regclass('orders')::oid, '1'::text || 'a', 1 + 1, now() IS NULL, upper('a'), "
    + ", ".join(f"current_setting('{name}')" for name in SETTINGS),
    "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() UNION ALL "
    "SELECT proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema() UNION ALL "
    "SELECT typname FROM pg_type WHERE typnamespace = pg_my_temp_schema() ORDER BY 1",
    "BEGIN",
    "INSERT INTO lines (id, order_id, note) VALUES (900, 1, '@token@-probe') RETURNING tenant_id, note",
    "UPDATE orders SET note = note WHERE id = 1 RETURNING tenant_id, note",
    "ROLLBACK",
    "SELECT * FROM session_left()",
    "SELECT lastval()",
]
ATTACKER, VICTIM = 0, 1
# What the victim's clients do while an attack runs, and a maintenance user's with tables of its own: see watch.py.
WORK = {"source": "id, note FROM orders ORDER BY id", "write": "BEGIN; INSERT INTO lines (id, order_id, note) VALUES ({key}, 1, '{nonce}') RETURNING tenant_id, note; ROLLBACK"}
SESSION = ("session_user || ' ' || current_user || ' ' || coalesce(current_setting('@setting@', true), '') || ' ' || "
           + " || ' ' || ".join(f"current_setting('{name}')" for name in ("search_path", "TimeZone", "DateStyle", "work_mem", "row_security"))
           + " || ' ' || (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())")
MAINTENANCE_WORK = {
    "source": "id, note FROM orders ORDER BY id",
    "write": f"BEGIN; INSERT INTO orders (tenant_id, id, note) VALUES ('maintenance', {{key}}, '{{nonce}}') RETURNING {SESSION}, note; ROLLBACK"}
VICTIMS, MAINTENANCE = "the victim", "the maintenance user"  # the parties whose clients work
# What they may wait, in seconds: never more than the floor or so many times what they wait alone, whichever is more.
# Far above what a busy machine adds, far below what an attack that works takes.
SLOWEST, MEDIAN, FACTOR = 2.0, 0.3, 25
ALONE = 0.4  # seconds for which they are watched alone
BUSY = "UPDATE orders SET note = note WHERE id = 1 /* @token@-busy */"


@dataclass
class Outcome:
    """What an attack did to the victim; nothing, if it is harmless."""

    seen: list = field(default_factory=list)
    changed: list = field(default_factory=list)
    disturbed: list = field(default_factory=list)

    def kinds(self):
        return [kind for kind in ("seen", "changed", "disturbed") if getattr(self, kind)]


class Range:
    """The target with its victim; runs trials one after the other and puts the world back between them."""

    def __init__(self, world):
        self.world, self.target = world, world.target
        self.victims = {}
        self.probe = [world.fill(sql) for sql in PROBE]
        self.measure = {(where, protocol): self.probed(where, protocol)
                        for where in ("narrow", "wide", "fair") for protocol in ("simple", "extended")}
        self.watch, self.alone = None, {}

    # === the victim ===

    def victim(self, where):
        if where not in self.victims:
            self.victims[where] = self.log_in(self.place(where), self.target.victim, VICTIM)
        return self.victims[where]

    def place(self, where):
        return getattr(self.target, where) or self.target.wide

    def log_in(self, place, login, who, startup=None):
        client = Client(place, login, startup, self.target.patience)
        if self.target.enter:
            client.query(self.target.enter.replace("{tenant}", self.target.tenants[who]))
        return client

    def probed(self, where, protocol):
        """What the victim's session shows: one answer for each statement of the probe."""
        return [answer.told() for answer in self.victim(where).each(self.probe, protocol, self.refuse_blocked)]

    def refuse_blocked(self):
        """A victim that waits for a lock of the role's other sessions need not be waited for."""
        holder = self.world.blocker()
        if holder:
            raise TimeoutError(f"it waits for a lock that server process {holder} holds")

    def check_victim(self, where, protocol, outcome, measure=None):
        """The victim goes on working where it was, and logs in anew; both as if it were alone."""
        alone = self.measure[where, protocol]
        expected = measure or alone
        try:
            found = self.probed(where, protocol)
            for sql, was, new, now in zip(self.probe, expected, alone, found):
                # What the victim itself has left on a server may be gone: a pooler need not keep it.
                if now not in (was, new) and not (outcome.changed and names_rows(sql)):
                    outcome.disturbed.append(f"{short(sql)}: {short(now)} in place of {short(was)}")
            fresh = self.log_in(self.place(where), self.target.victim, VICTIM)
            first = fresh.run([self.probe[0]], protocol).told()
            if first != expected[0] and not outcome.changed:
                outcome.disturbed.append(f"a fresh login sees {short(first)}")
            fresh.leave()
        except (TimeoutError, OSError) as error:
            outcome.disturbed.append(f"the victim is stopped: {type(error).__name__} {error}")

    # === the clients that work meanwhile ===

    def watch_begins(self, where):
        """Clients of both parties work from here on. Watches them alone first, once for each place."""
        if self.watch is None:
            self.watch = Watch()
        if where not in self.alone:
            self.begin_work(where)
            time.sleep(ALONE)
            self.alone[where] = self.watch.end()["parties"]
            for party, alone in self.alone[where].items():
                if alone["wrong"]:
                    raise RuntimeError(f"clients of {party} do not work even when nobody attacks: {alone['examples']}")
        self.begin_work(where)
        return self.alone[where]

    def begin_work(self, where):
        target, world = self.target, self.world
        own = f"SET search_path = {world.victims.schema}; SELECT id, note FROM orders WHERE tenant_id = '{target.tenants[VICTIM]}' ORDER BY id"
        parties = {VICTIMS: (target.victim, {
            **WORK, "enter": target.enter.replace("{tenant}", target.tenants[VICTIM]), "written": target.tenants[VICTIM],
            "rows": world.sql(own).rows})}
        if target.maintenance:
            owner = Client(target.direct, Login(target.owner, "", target.maintenance.database))
            parties[MAINTENANCE] = (target.maintenance, {
                **{key: world.fill(text) for key, text in MAINTENANCE_WORK.items()}, "enter": "",
                "written": owner.query(world.fill(f"SELECT {SESSION}")).value(), "rows": owner.query(f"SELECT {MAINTENANCE_WORK['source']}").rows})
            owner.leave()
        self.watch.begin(self.place(where), parties, (target.direct, target.admin, world.roles(target.owner)))

    def close(self):
        if self.watch:
            self.watch.close()

    # === one trial ===

    def run(self, attack, variant):
        started = time.monotonic()
        both_work = any(step.get("as") in ("victim", "admin") for step in variant.steps)
        if both_work and self.target.keeps_servers and not attack.one_server:
            # One of them might keep the only server.
            attack = replace(attack, where="wide")
        trial = Trial(self, attack, variant)
        expected = self.world.canonical
        if trial.has_others:
            expected = self.rehearse(attack, variant, trial)
        outcome = trial.run(expected)
        if trial.has_others:
            self.forget_victims()
        if outcome.kinds() or not all(part.startswith("own.") for part in trial.dirt):
            self.start_over()
        elif trial.has_others and not self.world.shared:
            # What a victim itself leaves on servers of its own stays there.
            self.start_over()
        elif trial.dirt:
            self.world.restore(is_light=all(part.startswith(("own.rows", "own.large", "own.place")) for part in trial.dirt))
        return outcome, time.monotonic() - started, trial.figures

    def rehearse(self, attack, variant, trial):
        """The victim's own steps without an attacker: what they answer, and the state they leave."""
        rehearsal = Trial(self, attack, variant)
        rehearsal.nonce = trial.nonce
        for step in variant.steps:
            if step.get("as") in ("victim", "admin"):
                rehearsal.step(step, Outcome())
        trial.answers, trial.measure = rehearsal.told, self.probed(attack.where, variant.protocol)
        found = self.world.look()
        self.start_over()
        return found

    def forget_victims(self):
        for client in self.victims.values():
            client.leave()
        self.victims.clear()

    def start_over(self):
        self.forget_victims()
        self.world.restore()


class Trial:
    def __init__(self, range_, attack, variant):
        self.range, self.world, self.target = range_, range_.world, range_.target
        self.attack, self.variant = attack, variant
        self.place = range_.place(attack.where)
        self.crowd = Crowd()
        self.nonce = secrets.token_hex(4)
        self.clients, self.saved, self.told, self.answers = {}, {}, [], None
        self.gone = bytearray()
        self.dirt, self.busy, self.measure, self.figures = [], None, None, None
        self.has_others = any(step.get("as") in ("victim", "admin") for step in variant.steps)

    def run(self, expected):
        outcome = Outcome()
        if self.attack.beside:
            self.victim_begins()
        alone = self.watch_begins() if self.attack.watch else None
        for step in self.variant.steps or ({"run": "log in"},):
            try:
                self.step(step, outcome)
            except (Closed, TimeoutError, OSError) as error:
                if step.get("as") in ("victim", "admin"):
                    outcome.disturbed.append(f"{short(step)}: {type(error).__name__} {error}")
        if self.attack.hold:  # the attacker's transaction stays open while the victim works
            self.range.check_victim(self.attack.where, self.variant.protocol, outcome, self.measure)
        if alone:
            self.round(alone, outcome, "while the attacker is there")
        self.end_attack()
        if alone:
            self.round(alone, outcome, "behind the attacker", is_gone=True)
            self.watch_ends(alone, outcome)
        if self.busy:
            self.victim_ends(outcome)
        found = self.world.look()
        outcome.changed += [part for part in changes(expected, found) if not part.startswith("own.")]
        self.dirt = changes(self.world.canonical, found)
        if not self.attack.hold:
            self.range.check_victim(self.attack.where, self.variant.protocol, outcome, self.measure)
        self.judge_what_was_heard(outcome)
        for client in self.clients.values():
            client.leave()
        return outcome

    # === the clients that work meanwhile ===

    def watch_begins(self):
        alone = self.range.watch_begins(self.attack.where)
        self.proxy = Process(self.target.processes.get(self.place[1]))
        return alone

    def may_wait(self, party):
        """Whether the attacker may keep the only server of this party's."""
        shares = self.variant.is_maintenance if party == MAINTENANCE else self.world.shared and not self.variant.is_maintenance
        return self.attack.keeps and shares

    def round(self, alone, outcome, when, is_gone=False):
        limits = {party: max(SLOWEST, FACTOR * own["slowest"]) for party, own in alone.items() if is_gone or not self.may_wait(party)}
        for party in self.range.watch.round(limits) if limits else ():
            outcome.disturbed.append(f"{when} a client of {party} has no answer within {limits[party]:.1f} s")

    def watch_ends(self, alone, outcome):
        """What the clients saw, and what the proxy took, against what is theirs."""
        found, grown = self.range.watch.end(), self.proxy.grown()
        for party, own in found["parties"].items():
            if own["wrong"]:
                outcome.disturbed.append(f"{own['wrong']} of {own['answers']} answers to {party} are wrong: {own['examples']}")
            for what, floor in () if self.may_wait(party) else (("slowest", SLOWEST), ("median", MEDIAN)):
                limit = max(floor, FACTOR * alone[party][what])
                if own[what] > limit:
                    outcome.disturbed.append(f"{party}: {what} answer within {own[what]:.2f} s, {alone[party][what]:.3f} s alone, limit {limit:.2f} s")
        if grown > self.attack.memory:
            outcome.disturbed.append(f"the proxy grew by {grown} MiB, limit {self.attack.memory} MiB")
        if found["servers"] > self.attack.servers:
            outcome.disturbed.append(f"{found['servers']} server processes were started, limit {self.attack.servers}")
        self.figures = {party: {"answers": own["answers"], "slowest": round(own["slowest"], 3), "median": round(own["median"], 4)}
                        for party, own in found["parties"].items()} | {"grown": grown, "servers": found["servers"]}

    def judge_what_was_heard(self, outcome):
        heard = bytes(self.gone) + b"".join(bytes(client.heard) for client in self.clients.values())
        if self.world.is_told(heard):
            outcome.seen.append("a secret of the victim's")
        pattern = self.fill(self.attack.seen_when)
        if pattern and re.search(pattern.encode(), heard):
            outcome.seen.append(f"/{pattern}/")

    # === steps ===

    def fill(self, text):
        # Where the victim's tables are elsewhere, who names a schema names that.
        return self.world.fill(text.replace("public.", "@victim_schema@."), {"nonce": self.nonce, **self.saved})

    def step(self, step, outcome):
        who = step.get("as", "attacker")
        if who == "admin":
            return self.world.sql(self.fill(step["sql"]))
        if "cancel" in step:
            return self.cancel(step["cancel"])
        if "crowd" in step:
            return self.crowd.act(step, self.fill, lambda: self.range.log_in(self.place, self.words(), ATTACKER), self.place)
        if "raw" in step:
            return self.raw(step["raw"])
        client = self.client(who)
        if "run" in step:
            return self.special(step["run"], who)
        for _ in range(step.get("times", 1)):
            answer = self.say(client, step)
        if who == "victim":
            self.note(step, answer, outcome)
        if answer and "save" in step:
            self.saved[step["save"]] = answer.value() or "none"
        return None

    def say(self, client, step):
        if "frames" in step:
            return client.say([[self.fill(word) for word in words] for words in step["frames"]], step.get("until"), step.get("owed"))
        statements = [self.fill(sql) for sql in step.get("batch", [step.get("sql")])]
        copy = self.fill(step["copy"]).encode() if "copy" in step else None
        args = [self.fill(arg) for arg in step.get("args", [])]
        return client.run(statements, self.variant.protocol, args, copy)

    def client(self, who):
        if who == "victim":
            return self.range.victim(self.attack.where)
        if who not in self.clients:
            startup = {self.fill(key): self.fill(value) for key, value in self.attack.login.get("startup", {}).items()}
            login = self.target.colleague or self.target.attacker if who == "colleague" else self.words()
            self.clients[who] = self.range.log_in(self.place, login, ATTACKER, startup)
        return self.clients[who]

    def words(self):
        """Who the attacker logs in as."""
        if self.variant.is_maintenance:
            return self.target.maintenance
        login, own = self.attack.login, self.target.attacker
        return type(own)(self.fill(login.get("user", own.user)), self.fill(login.get("password", own.password)),
                         self.fill(login.get("database", own.database)))

    def special(self, what, who):
        if what == "vanish":
            client = self.clients.pop(who)
            client.overhear(0.01)
            self.gone += client.heard
            client.socket.close()
        elif what == "leave":
            client = self.clients.pop(who)
            self.gone += client.heard
            client.leave()
        elif what == "listen":
            self.clients[who].overhear()
        elif what == "victim begins":
            self.victim_begins()

    def note(self, step, answer, outcome):
        """A step of the victim's answers as it does when nobody attacks."""
        if answer is None or "save" in step:  # what is saved is another value each time
            return
        told = answer.told()
        self.told.append(told)
        if self.answers is not None and told != self.answers[len(self.told) - 1]:
            outcome.disturbed.append(f"{short(step)}: {short(told)} in place of {short(self.answers[len(self.told) - 1])}")
        if self.attack.disturbed_when and self.answers is not None:
            text = "\n".join(str(value) for row in answer.rows for value in row)
            if re.search(self.fill(self.attack.disturbed_when), text):
                outcome.disturbed.append(f"{short(step)}: /{self.attack.disturbed_when}/")

    def raw(self, frames):
        """A connection that does not log in: says this, and hears until it is quiet."""
        with reach(self.place, self.target.patience) as line:
            line.settimeout(2 * QUIET)
            try:
                line.sendall(b"".join(frame([self.fill(word) for word in words]) for words in frames))
                while part := line.recv(65536):
                    self.gone += part
            except OSError:
                pass

    def cancel(self, whose):
        """A cancel request: with the attacker's own key, or with the victim's process id and a guess."""
        if whose == "own":
            key = self.client("attacker").key
            return cancel(self.place, int.from_bytes(key[:4], "big"), key[4:])
        pid = int(self.saved["victim_pid"])
        return cancel(self.place, pid, bytes.fromhex(whose))

    # === the busy victim ===

    def victim_begins(self):
        self.world.hold_row()
        self.busy = self.range.log_in(self.place, self.target.victim, VICTIM)
        self.busy.tell(message(b"Q", self.fill(BUSY).encode() + b"\0"))
        self.saved["victim_pid"] = self.world.waiting_pid()
        self.saved["victim_key"] = self.busy.key[:4].hex() if self.busy.key else "0"

    def victim_ends(self, outcome):
        self.world.let_go()
        try:
            answer = self.busy.answer()
            if answer.errors or answer.tags != ["UPDATE 1"]:
                outcome.disturbed.append(f"the victim's running statement: {answer.errors or answer.tags}")
        except (Closed, TimeoutError) as error:
            outcome.disturbed.append(f"the victim's running statement: {type(error).__name__} {error}")
        self.busy.leave()

    # === the end ===

    def end_attack(self):
        """Gives back what must be given back: open transactions are committed, doubtful connections dropped."""
        self.gone += self.crowd.end()
        for who, client in list(self.clients.items()):
            if self.attack.leave == "vanish":
                self.special("vanish", who)
                continue
            try:
                if client.status in (b"T", b"E") and not client.buffer:
                    client.query("COMMIT")
                is_settled = client.is_idle()
            except (Closed, TimeoutError):
                is_settled = False
            if not is_settled:
                self.special("vanish", who)
            elif self.attack.leave == "leave" or (self.target.keeps_servers and self.attack.where == "narrow"):
                # The only server comes to others when a client that keeps it leaves.
                self.special("leave", who)


class Process:
    """The memory of the proxy's process from here on, if it is one that can be looked at."""

    def __init__(self, pid):
        self.status = pid and Path(f"/proc/{pid}/status")
        if pid:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from now
            self.before = self.size("VmRSS")

    def size(self, what):
        return int(re.search(rf"{what}:\s*(\d+) kB", self.status.read_text()).group(1))

    def grown(self):
        """MiB by which it was larger at its largest."""
        return (self.size("VmHWM") - self.before) // 1024 if self.status else 0


def names_rows(sql):
    """What is said already as a change is not said again as a disturbance."""
    return "orders" in sql or "lines" in sql


def short(what):
    text = str(what)
    return text if len(text) <= 160 else text[:157] + "..."
