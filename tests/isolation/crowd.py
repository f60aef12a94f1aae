"""Many connections of the attacker's at one time. Standard library only."""

import socket
import threading
import time

from client import Closed, frame

SMALL = 1 << 20  # bytes of what one connection hears that are kept


class Crowd:
    """Connections that stay until the end of the attack, each with a thread that says what its step holds."""

    def __init__(self):
        self.lines, self.threads, self.refused, self.gone, self.is_over = [], [], 0, bytearray(), False

    def act(self, step, fill, log_in, place):
        """`crowd` connections: logged in, or not where the step is `raw`. Says `sql` or `frames` once, `times` or for
        `seconds`, and returns when all have said it."""
        known = len(self.lines)
        for _ in range(step["crowd"]):
            try:
                self.lines.append(raw_line(place, step.get("source")) if "raw" in step else log_in())
            except (Closed, OSError):
                self.refused += 1  # a limit: nobody else is told
        until = time.monotonic() + step.get("seconds", 0)
        threads = [threading.Thread(target=self.say, args=(line, step, fill, until), daemon=True) for line in self.lines[known:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    def say(self, line, step, fill, until):
        try:
            if "raw" in step:
                line.settimeout(2)
                return line.sendall(b"".join(frame([fill(word) for word in words]) for words in step["raw"]))
            data = b"".join(frame([fill(word) for word in words]) for words in step.get("frames", []))
            turn = 0
            while not self.is_over and (turn < step.get("times", 1) or time.monotonic() < until):
                turn += 1
                self.once(line, step, fill, data)
                if len(line.heard) > SMALL:
                    del line.heard[:]
        except (Closed, OSError, ValueError):
            pass  # the other side has had enough
        return None

    def once(self, line, step, fill, data):
        if not data:
            data = frame(["query", fill(step["sql"])])
        line.tell(data)
        if "until" in step:
            line.answer(1 << 20, until=step["until"].encode())
        elif "sql" in step:
            line.answer()
        elif step.get("times", 1) > 1 or step.get("seconds"):
            line.answer(max(1, sum(words[0] in ("query", "sync") for words in step["frames"])))

    def end(self):
        """Goes without a word; gives what was heard."""
        self.is_over = True
        for line in self.lines:
            self.gone += getattr(line, "heard", b"")[:SMALL]
            (line if isinstance(line, socket.socket) else line.socket).close()
        self.lines.clear()
        return self.gone


def raw_line(place, source=None):
    line = socket.create_connection(place, 2, (source, 0) if source else None)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line
