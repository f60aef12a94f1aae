"""Clients that work while an attack runs, of each party that it must not disturb: whether their answers are their own, how
long they wait, and how many server processes come and go meanwhile.

They run in a process of their own, so that what the attacker costs its own process is not taken for what the victim
waits for. `Watch` starts that process; the two talk in lines of JSON. Standard library only.
"""

import json
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import asdict

from client import Client, Closed, bind, message, text

WORKERS = 3  # clients of a party that work at one time
PAUSE = 0.003  # seconds between two statements of one client
PATIENCE = 15.0  # seconds after which a client gives an answer up
KEPT = 5  # examples of what went wrong that are told


class Watch:
    """The process with the clients, as the runner sees it."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what, **more):
        self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process with the clients has ended")
        answer = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(f"the clients cannot work: {answer['failed']}")
        return answer

    def begin(self, place, parties, admin):
        """Returns when every client has had its first answer. `parties`: login and work (see `Worker`) by name; `admin`:
        (place, login, roles)."""
        parties = {name: [asdict(login), work] for name, (login, work) in parties.items()}
        self.ask("begin", place=place, parties=parties, admin=[admin[0], asdict(admin[1]), admin[2]])

    def round(self, limits):
        """The parties of which a client has no answer, within the party's limit in seconds, to a statement that it begins
        from now on."""
        return self.ask("round", limits=limits)["late"]

    def end(self):
        """What the clients saw, by party: answers, median, slowest, wrong, examples; and the servers."""
        return self.ask("end")

    def close(self):
        self.process.stdin.close()
        self.process.wait(2 * PATIENCE)


class Worker(threading.Thread):
    """One client, which asks in all ways in turn and knows what the answer is.

    `work` holds `rows`, what `source` selects, and `write`, a text that is rolled back and answers with `written`.
    Each statement carries a new nonce that comes back in its rows: an answer to another statement is a wrong one.
    """

    def __init__(self, number, party, place, login, work):
        super().__init__(daemon=True)
        self.number, self.party, self.place, self.login, self.work = number, party, place, login, work
        self.seconds, self.wrong, self.begun, self.is_over = [], [], None, False
        self.turn = 0  # of the statement that runs, or of the last one
        self.answered = 0  # the turn of the last statement that was answered rightly
        self.client = None

    def log_in(self):
        self.client = Client(self.place, self.login, patience=PATIENCE)
        if self.work["enter"]:
            self.client.query(self.work["enter"])
        self.client.tell(message(b"P", text("work") + text(f"SELECT $1::text, {self.work['source']}") + b"\0\0") + message(b"S", b""))
        self.client.answer()

    def run(self):
        while not self.is_over:
            self.begun = time.monotonic()
            self.turn += 1
            problem = None
            try:
                if self.client is None:
                    self.log_in()
                problem = self.one(self.turn % 4)
            except (Closed, TimeoutError, OSError) as error:
                problem = f"{type(error).__name__} {error}"
                self.drop()
            if self.is_over and problem:
                return  # it was stopped
            if self.client:
                del self.client.heard[:]
            self.seconds.append(time.monotonic() - self.begun)
            self.begun = None
            if problem:
                self.wrong.append(problem)
            else:
                self.answered = self.turn
            time.sleep(PAUSE)

    def one(self, way):
        """One statement and its answer; what is wrong with it, or nothing."""
        nonce = secrets.token_hex(4)
        expected = [[nonce, *row] for row in self.work["rows"]]
        if way == 0:
            answer = self.client.query(f"SELECT '{nonce}', {self.work['source']}")
        elif way == 1:
            answer = self.client.extended([f"SELECT $1::text, {self.work['source']}"], [nonce])
        elif way == 2:
            self.client.tell(bind(name="work", args=[nonce]) + message(b"E", text("") + bytes(4)) + message(b"S", b""))
            answer = self.client.answer()
        else:
            expected = [[self.work["written"], nonce]]
            answer = self.client.query(self.work["write"].replace("{key}", str(950 + self.number)).replace("{nonce}", nonce))
        if answer.errors:
            return f"an error: {', '.join(answer.errors)}: {bytes(self.client.heard[-200:])!r}"
        if answer.rows != expected:
            return f"{str(answer.rows)[:160]} in place of {str(expected)[:160]}"
        return None

    def drop(self):
        if self.client:
            self.client.socket.close()
        self.client = None

    def stop(self):
        self.is_over = True
        self.join(2)
        if self.is_alive():
            self.seconds.append(time.monotonic() - (self.begun or time.monotonic()))
        self.drop()


class Counter(threading.Thread):
    """Server processes of the roles that were not there at the beginning."""

    def __init__(self, place, login, roles):
        super().__init__(daemon=True)
        self.client = Client(place, login, patience=30)
        self.sql = f"SELECT pid FROM pg_stat_activity WHERE usename IN ({roles}) AND backend_type = 'client backend'"
        self.first, self.seen, self.is_over = self.pids(), set(), False

    def pids(self):
        found = {row[0] for row in self.client.query(self.sql).rows}
        del self.client.heard[:]
        return found

    def run(self):
        while not self.is_over:
            self.seen |= self.pids()
            time.sleep(0.02)

    def stop(self):
        self.is_over = True
        self.join(30)
        self.client.leave()
        return len(self.seen - self.first)


class Shift:
    """One attack's time, from `begin` to `end`."""

    def __init__(self, place, parties, admin):
        class Who:
            def __init__(self, words):
                self.__dict__.update(words)

        self.workers = [Worker(number, party, tuple(place), Who(login), work)
                        for party, (login, work) in parties.items() for number in range(WORKERS)]
        for worker in self.workers:
            worker.start()
        if self.round(dict.fromkeys(parties, PATIENCE))["late"]:
            raise TimeoutError(f"no answer: {[problem for worker in self.workers for problem in worker.wrong][:KEPT]}")
        for worker in self.workers:  # what came before the attack is not told
            worker.seconds, worker.wrong = [], []
        self.counter = Counter(tuple(admin[0]), Who(admin[1]), admin[2])
        self.counter.start()

    def round(self, limits):
        began, marks = time.monotonic(), {worker: worker.turn for worker in self.workers if worker.party in limits}
        late = set(limits)
        while late and time.monotonic() - began < max(limits[party] for party in late):
            time.sleep(0.002)
            late = {worker.party for worker, mark in marks.items() if worker.answered <= mark}
        return {"late": sorted(late)}

    def end(self):
        for worker in self.workers:
            worker.is_over = True
        for worker in self.workers:
            worker.stop()
        parties = {party: told([worker for worker in self.workers if worker.party == party])
                   for party in dict.fromkeys(worker.party for worker in self.workers)}
        return {"parties": parties, "servers": self.counter.stop()}


def told(workers):
    """What the clients of one party saw."""
    seconds = sorted(second for worker in workers for second in worker.seconds) or [0.0]
    wrong = [problem for worker in workers for problem in worker.wrong]
    return {"answers": len(seconds), "median": seconds[len(seconds) // 2], "slowest": seconds[-1],
            "wrong": len(wrong), "examples": wrong[:KEPT]}


def main():
    shift = None
    for line in sys.stdin:
        words = json.loads(line)
        what = words.pop("do")
        try:
            if what == "begin":
                shift, answer = Shift(**words), {}
            else:
                answer = getattr(shift, what)(**words)
        except (OSError, TimeoutError) as error:
            answer = {"failed": f"{type(error).__name__} {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
