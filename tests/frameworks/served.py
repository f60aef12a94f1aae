"""A threaded HTTP server around one function: GET /TENANT/ID answers with the rows that it gives, or with its error."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GATEWAY = os.environ["APP_USER"] == "gateway"
DB_PORT, POOL = int(os.environ["DB_PORT"]), int(os.environ["APP_POOL"])
LOGINS = ["api"] if GATEWAY else ["acme_app", "globex_app"]


def login(tenant):
    return "api" if GATEWAY else f"{tenant}_app"


def told(error):
    cause = getattr(error, "orig", None) or error.__cause__ or error
    return f"{type(error).__name__} {getattr(cause, 'sqlstate', None)}: {error}"


def serve(handle):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            _, tenant, id_ = self.path.split("/")
            try:
                status, told_ = 200, {"rows": handle(tenant, int(id_))}
            except Exception as error:  # every one is the answer
                status, told_ = 500, {"error": told(error)}
            body = json.dumps(told_).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size, daemon_threads = 200, True

    Server(("127.0.0.1", int(os.environ["APP_PORT"])), Handler).serve_forever()
