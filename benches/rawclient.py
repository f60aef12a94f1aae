"""The smallest PostgreSQL client that can log in with SCRAM-SHA-256, wait, and read a result without looking at it."""

import base64
import functools
import hashlib
import hmac
import os
import socket
import struct

READY = b"Z\x00\x00\x00\x05I"


@functools.lru_cache(maxsize=64)
def salted_password(password, salt, iterations):
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


class RawClient:
    def __init__(self, port, user, password, database="app"):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parameters = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
        self.socket.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
        self.buffer = b""
        self.log_in(password)

    def message(self):
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack_from("!i", self.buffer, 1)[0]:
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionError("closed during the login")
            self.buffer += part
        end = 1 + struct.unpack_from("!i", self.buffer, 1)[0]
        tag, body, self.buffer = self.buffer[:1], self.buffer[5:end], self.buffer[end:]
        if tag == b"E":
            raise ConnectionError(body.decode(errors="replace").replace("\0", " "))
        return tag, body

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!i", len(body) + 4) + body)

    def log_in(self, password):
        nonce = base64.b64encode(os.urandom(18)).decode()
        bare = f"n=,r={nonce}"
        while True:
            tag, body = self.message()
            if tag == b"Z":
                return
            if tag != b"R":
                continue
            kind, = struct.unpack_from("!i", body)
            if kind == 10:
                first = f"n,,{bare}".encode()
                self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif kind == 11:
                self.send(b"p", proof(password, bare, body[4:].decode()))
            elif kind not in (0, 12):
                raise ConnectionError(f"authentication request {kind}")

    def read_through(self, sql):
        """Runs one statement and throws its result away; gives the number of bytes received."""
        self.send(b"Q", sql.encode() + b"\0")
        self.socket.settimeout(60)
        received, tail, room = 0, b"", bytearray(262144)
        while tail != READY:
            size = self.socket.recv_into(room)
            if size == 0:
                raise ConnectionError("closed during the result")
            received += size
            tail = (tail + bytes(room[max(0, size - len(READY)):size]))[-len(READY):]
        return received

    def close(self):
        self.socket.close()


def proof(password, bare, server_first):
    fields = dict(word.split("=", 1) for word in server_first.split(","))
    salted = salted_password(password, base64.b64decode(fields["s"]), int(fields["i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c=biws,r={fields['r']}"
    signed = f"{bare},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    answer = bytes(a ^ b for a, b in zip(client_key, signature))
    return f"{without_proof},p={base64.b64encode(answer).decode()}".encode()
