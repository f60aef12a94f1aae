"""What the Python workers share: a line of words comes in, a line of JSON goes out."""

import json
import os
import sys

READ = "SELECT a FROM moving WHERE id = %s"
STAR = "SELECT * FROM moving WHERE id = %s"
INSERT = "INSERT INTO moving (id, a) VALUES (%s, %s)"
ROWS, FAILS_AT = 2000, 10  # of a COPY that fails: one key comes twice, with most rows still on their way


def login(tenant):
    return {"host": "127.0.0.1", "port": int(os.environ["DRIVERS_PORT"]), "database": "app", "user": f"{tenant}_app",
            "password": f"{tenant}_app-secret"}


def serve(do, sqlstate):
    for line in sys.stdin:
        try:
            told = {"values": {key: str(value) for key, value in do(*line.split()).items()}}
        except Exception as error:  # every one is an outcome
            told = {"error": sqlstate(error) or type(error).__name__, "text": str(error)}
        print(json.dumps(told), flush=True)
    return 0
