"""A client that says anything the protocol allows, and much that it does not, and keeps every byte it hears.

Grown from the benchmark's raw client: the login is the same. Standard library only.
"""

import socket
import struct
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "benches"))

from rawclient import RawClient  # noqa: E402

QUIET = 0.04  # seconds without a byte, after frames that owe no answer
LONG = 0.3  # seconds after which it is worth asking what a statement waits for
READY_TAG = b"Z\x00\x00\x00\x05"
CANCEL = 80877102


class Closed(ConnectionError):
    """The other side has closed the connection, or refused the login."""


class Answer:
    """What came back to one request: result rows as text, SQLSTATEs, command tags, the last transaction status."""

    def __init__(self):
        self.rows, self.errors, self.tags, self.status = [], [], [], None

    def value(self):
        """The first column of the last row, or nothing."""
        return self.rows[-1][0] if self.rows and self.rows[-1] else None

    def told(self):
        """What a later run must repeat: rows and errors, not their wording."""
        return {"rows": self.rows, "errors": self.errors}


class Client(RawClient):
    """One connection. `place` is (host, port); a host that begins with a slash is a unix socket's directory."""

    def __init__(self, place, login, startup=None, patience=2.0):
        self.socket = reach(place, patience)
        self.buffer, self.heard, self.key, self.status, self.last = b"", bytearray(), None, None, None
        self.patience = patience
        words = {"user": login.user, "database": login.database, **(startup or {})}
        body = b"".join(word.encode() + b"\0" for pair in words.items() for word in pair) + b"\0"
        self.socket.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
        try:
            self.log_in(login.password)
        except BaseException:
            self.socket.close()
            raise

    # === hearing ===

    def receive(self, limit):
        """More bytes into the buffer. Raises TimeoutError behind the limit, a point in time."""
        rest = limit - time.monotonic()
        if rest <= 0:
            raise TimeoutError
        self.socket.settimeout(rest)
        try:
            part = self.socket.recv(65536)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("closed by the other side")
        self.buffer += part
        self.heard += part

    def frame(self, limit):
        while True:
            if len(self.buffer) >= 5:
                end = 1 + struct.unpack_from("!i", self.buffer, 1)[0]
                if len(self.buffer) >= end:
                    tag, body, self.buffer = self.buffer[:1], self.buffer[5:end], self.buffer[end:]
                    return tag, body
            self.receive(limit)

    def message(self):
        """What the login of the base class waits for."""
        tag, body = self.frame(time.monotonic() + self.patience)
        if tag == b"E":
            raise Closed(body.decode(errors="replace").replace("\0", " "))
        if tag == b"K":
            self.key = body
        if tag == b"Z":
            self.status = body
        return tag, body

    def answer(self, ready=1, feed=None, until=None):
        """Reads up to the given number of ReadyForQuery, or to a frame of the kind `until`; `feed` is what a COPY that asks
        for data gets."""
        limit, got = time.monotonic() + self.patience, Answer()
        self.last = got
        while ready > 0:
            tag, body = self.frame(limit)
            if tag == b"D":
                got.rows.append(columns(body))
            elif tag == b"d":
                got.rows.append([body.decode(errors="replace")])
            elif tag == b"E":
                got.errors.append(sqlstate(body))
            elif tag == b"C":
                got.tags.append(body[:-1].decode(errors="replace"))
            elif tag == b"G" and feed:
                self.tell(feed)
            elif tag == b"Z":
                self.status = got.status = body
                ready -= 1
            if until and tag in (until, b"Z"):
                break
        return got

    def overhear(self, seconds=QUIET):
        """Whatever comes until it is quiet."""
        while True:
            try:
                self.receive(time.monotonic() + seconds)
            except (TimeoutError, Closed):
                return
            if len(self.heard) > 1 << 24:
                return

    # === saying ===

    def tell(self, data):
        """Sends bytes as they are; a side that does not read is not waited for."""
        self.socket.settimeout(self.patience)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from error

    def query(self, sql, copy=None):
        self.tell(frame(["query", sql]))
        return self.answer(feed=given(copy) if copy else NO_DATA)

    def extended(self, statements, args=(), copy=None):
        """One or several statements as a pipeline with one Sync; a COPY's data goes between Execute and Sync."""
        self.tell(b"".join(statement(sql, args) for sql in statements) + given(copy) + message(b"S", b""))
        # A server that waits for data has ignored the Sync: it gets another.
        return self.answer(feed=b"" if copy else NO_DATA + message(b"S", b""))

    def run(self, statements, protocol, args=(), copy=None):
        if protocol == "extended" or args:
            return self.extended(statements, args, copy)
        return self.query("; ".join(statements), copy)

    def each(self, statements, protocol, on_wait=None):
        """Every statement by itself, all sent at once; their answers in order. Asks `on_wait` once if it takes long."""
        is_extended = protocol == "extended"
        self.tell(b"".join(statement(sql) + message(b"S", b"") if is_extended else frame(["query", sql]) for sql in statements))
        if on_wait:
            limit = time.monotonic() + LONG
            try:
                while self.buffer.count(READY_TAG) < len(statements):
                    self.receive(limit)
            except TimeoutError:
                on_wait()
        return [self.answer() for _ in statements]

    def say(self, frames, until=None, owed=None):
        """Raw frames. Reads up to a frame of the kind `until`, or the answers that are owed, or until it is quiet if none is."""
        self.tell(b"".join(frame(words) for words in frames))
        if until:
            return self.answer(1 << 20, until=until.encode())
        owed = owed or sum(words[0] in ("query", "sync", "call") or words[:2] in (["tagged", "Q"], ["tagged", "S"]) for words in frames)
        try:
            return self.answer(owed) if owed else self.overhear()
        except TimeoutError:
            return None

    def is_idle(self):
        return self.status == b"I" and not self.buffer

    def leave(self):
        """As a polite client does."""
        try:
            self.socket.settimeout(0.2)
            self.socket.sendall(message(b"X", b""))
        except OSError:
            pass
        self.socket.close()


def reach(place, patience=2.0):
    host, port = place
    if not host.startswith("/"):
        found = socket.create_connection((host, port), patience)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(patience)
    found.connect(f"{host}/.s.PGSQL.{port}")
    return found


def cancel(place, pid, key):
    """A cancel request; returns when the other side has closed its connection."""
    request = struct.pack("!iiI", 12 + len(key), CANCEL, pid & 0xFFFFFFFF) + key
    with reach(place) as line:
        try:
            line.sendall(request)
            line.recv(1)
        except OSError:
            pass


# === frames ===


def message(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


def given(copy):
    return message(b"d", copy) + message(b"c", b"") if copy else b""


NO_DATA = message(b"f", b"no data\0")


def text(word):
    return word.encode("utf-8", "surrogateescape") + b"\0"


def bind(portal="", name="", args=(), results=0):
    values = b"".join(struct.pack("!i", -1) if arg is None else struct.pack("!i", len(arg.encode())) + arg.encode() for arg in args)
    return message(b"B", text(portal) + text(name) + struct.pack("!hh", 0, len(args)) + values + struct.pack("!hh", 1, results))


def statement(sql, args=()):
    return (message(b"P", text("") + text(sql) + b"\0\0") + bind(args=args)
            + message(b"D", b"P\0") + message(b"E", b"\0" + struct.pack("!i", 0)))


def call(oid, *args):
    values = b"".join(struct.pack("!i", len(arg.encode())) + arg.encode() for arg in args)
    return message(b"F", struct.pack("!ihh", int(oid), 0, len(args)) + values + struct.pack("!h", 0))


def startup(*words):
    """A startup packet; an empty word ends its parameters, with more behind it."""
    body = struct.pack("!i", 196608) + b"".join(text(word) for word in words) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


FRAMES = {
    "startup": startup,
    "query": lambda sql: message(b"Q", text(sql)),
    "parse": lambda name, sql: message(b"P", text(name) + text(sql) + b"\0\0"),
    "bind": lambda portal, name, *args: bind(portal, name, args),
    "describe": lambda kind, name: message(b"D", kind.encode() + text(name)),
    "execute": lambda portal, limit="0": message(b"E", text(portal) + struct.pack("!i", int(limit))),
    "close": lambda kind, name: message(b"C", kind.encode() + text(name)),
    "sync": lambda: message(b"S", b""),
    "flush": lambda: message(b"H", b""),
    "data": lambda data: message(b"d", data.encode()),
    "done": lambda: message(b"c", b""),
    "fail": lambda why: message(b"f", text(why)),
    "terminate": lambda: message(b"X", b""),
    "call": call,
    "tagged": lambda tag, body: message(tag.encode("latin-1"), body.encode("latin-1")),
    "lied": lambda tag, size, body: tag.encode("latin-1") + struct.pack("!i", int(size)) + body.encode("latin-1"),
    "hex": bytes.fromhex,
    # Long ones: a body that repeats something, between a beginning and an end; and the beginning of one that is never finished.
    "repeated": lambda tag, head, unit, times, tail="": message(tag.encode(), (head + unit * int(times) + tail).encode("latin-1")),
    "part": lambda tag, size, unit, times: tag.encode() + struct.pack("!i", int(size)) + unit.encode("latin-1") * int(times),
}


def frame(words):
    """One raw frame from its words: ["parse", "name", "SELECT 1"]."""
    kind, *rest = words
    return FRAMES[kind](*rest)


def columns(body):
    count, = struct.unpack_from("!h", body)
    found, at = [], 2
    for _ in range(count):
        size, = struct.unpack_from("!i", body, at)
        at += 4
        found.append(None if size < 0 else body[at:at + size].decode(errors="replace"))
        at += max(size, 0)
    return found


def sqlstate(body):
    for field in body.split(b"\0"):
        if field[:1] == b"C":
            return field[1:].decode(errors="replace")
    return "?????"
