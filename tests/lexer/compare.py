"""One version's part of tests/lexer/run: our tokens against those of the scanner that `import pglast` finds.

Where PostgreSQL's scanner raises an error, the text cannot run, so there it is enough that ours goes through.
Everywhere else the tokens must be the same but for the differences that `explained` names.
"""

import itertools
import random
import re
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pglast
from pglast.parser import parse_sql_json, scan

from fragments import random_text, mutated

VERSION = pglast.get_postgresql_version()[0]
BATCH = 2000
# A check of nothing proves nothing: fewer than these and something is amiss with the texts.
LEAST = {"files": 100, "statements": 20_000, "random texts": 2_000}


def main():
    tokens, regression, seconds, seed = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    files = [text_of(path) for path in sorted(regression.glob("*.sql"))]
    statements = [piece for text in files for piece in text.split(";\n") if piece.strip()]
    problems = compare("files", tokens, [files])
    problems += compare("statements", tokens, batches(statements))
    problems += compare("random texts", tokens, endless(chance, statements, time.monotonic() + seconds))
    if problems:
        print(f"seed {seed}")
    return 1 if problems else 0


def text_of(path):
    """What psql would send: without its own commands and without the data behind COPY."""
    text = path.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
    text = re.sub(r"(?ims)^(copy [^;]*from stdin[^;]*;)\n.*?^\\\.$", r"\1", text)
    return re.sub(r"(?m)^\\.*$", "", text)


def batches(texts):
    return [texts[at:at + BATCH] for at in range(0, len(texts), BATCH)]


def endless(chance, statements, deadline):
    for group in itertools.count():
        if group >= 4 and time.monotonic() >= deadline:
            return
        yield [random_text(chance) if chance.random() < 0.7 else mutated(chance, chance.choice(statements))
               for _ in range(BATCH)]


def compare(what, tokens, groups):
    """Says how many were compared, and each kind of difference by its smallest example."""
    seen, names, problems = Counter(), Counter(), []
    for texts in groups:
        for text, ours in zip(texts, our_tokens(tokens, texts)):
            theirs = their_tokens(text)
            if not comparable(text, theirs):
                seen["refused"] += 1
                continue
            seen["compared"] += 1
            if difference(text, ours, theirs, names):
                problems.append(text)
        if len(problems) >= 5:
            break
    for text in problems[:5]:
        show(tokens, smallest(tokens, text))
    if seen["compared"] < LEAST[what]:
        print(f"FAIL only {seen['compared']} {what} were compared")
        problems.append("")
    told = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    print(f"{what}: {seen['compared']} compared, {len(problems)} differ, {seen['refused']} refused; "
          f"explained: {told or 'none'}")
    return len(problems)


def comparable(text, theirs):
    """Whether PostgreSQL reads the text at all, and libpg_query as PostgreSQL does."""
    if theirs is None:
        return False
    # Before 17 a vertical tab is no white space but a character that the grammar has no use for.
    if VERSION < 17 and any(kind == "Unknown" and text.encode()[start:end] == b"\v" for start, end, kind in theirs):
        return can_run(text)  # compared, to fail, if it could
    # Comments are tokens to libpg_query; before 18 they also end a literal there, which they do not in PostgreSQL.
    return not (VERSION < 18 and re.search(r"'[ \t\f\v\r\n]*--[^\n\r]*[\r\n](?:\s|--[^\n\r]*[\r\n])*'", text))


def difference(text, ours, theirs, names=None):
    """Where the two go apart, None if nowhere."""
    names = Counter() if names is None else names
    encoded, i, j = text.encode(), 0, 0
    while j < len(theirs):
        if i < len(ours) and ours[i] == theirs[j]:
            i, j = i + 1, j + 1
            continue
        name, used = explained(encoded, ours[i:i + 40], theirs[j:j + 2])
        if name is None:
            return i, ours[i:i + 3], theirs[j:j + 3]
        names[name] += 1
        if used is CANNOT_RUN:
            return (i, name, "but it can run") if can_run(text) else None
        i, j = i + used[0], j + used[1]
    return None if i == len(ours) else (i, ours[i:i + 3], [])


# The text is no SQL by PostgreSQL's grammar, which is asked, so how the rest of it is split does not matter.
CANNOT_RUN = ()


def can_run(text):
    try:
        parse_sql_json(text)
    except (pglast.parser.ParseError, UnicodeDecodeError):
        return False
    return True


def explained(text, ours, theirs):
    """The name of a difference that is meant, and how many of our tokens answer how many of theirs."""
    start, end, kind = theirs[0]
    spelling = text[start:end]
    first = ours[0] if ours else (None, None, None)
    following = theirs[1] if len(theirs) > 1 else (None, None, None)
    if kind == "NCHAR" and first == (start, following[1], "Text"):
        return "N'...' is one token", (1, 2)
    if kind == "Number" and (count := tiles(ours, start, end, {"Number", "Word", "Operator", "Dot"})):
        return "a number's trailing junk is a word", (count, 1)
    # PostgreSQL 14 reads it as we do; for later versions a number with a constant or a dot at its end is no SQL.
    if kind == "Number" and VERSION > 15 and text[end:end + 1] in b"$.0123456789":
        return "a number's trailing junk goes on", CANNOT_RUN
    if kind == "Pair" and (count := tiles(ours, start, end, {"Dot", "Punctuation", "Operator"})):
        return ":: := and .. are two tokens", (count, 1)
    if kind == "Pair" and (count := tiles(ours, start, following[1], {"Punctuation", "Operator"})):
        return "behind := the operator begins with =", (count, 2)
    if spelling == b"..":
        return "`..2` is a dot and a number (PL/pgSQL's `..` is no SQL)", CANNOT_RUN
    # FIXME: two constants in a row are no SQL, so it does no harm, but a bit string knows no doubled quote.
    if kind == "BitText" and first[::2] == (start, kind) and following[0] == end:
        return "a doubled quote does not end a bit string", CANNOT_RUN
    if VERSION == 15 and end is None and first[::2] == (start, kind):
        return "libpg_query's: U&... without its end", (1, 1)
    return None, CANNOT_RUN


def tiles(ours, start, end, kinds):
    """How many of our tokens, of these kinds, fill the place from start to end."""
    if end is not None and ours and ours[0][0] == start:
        for count, our in enumerate(ours, 1):
            if our[2] not in kinds or our[1] > end:
                break
            if our[1] == end:
                return count
    return 0


# === tokens of both sides: (start, end, kind), in bytes ===


def our_tokens(tokens, texts):
    encoded = [text.encode() for text in texts]
    data = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    done = subprocess.run([tokens], input=data, stdout=subprocess.PIPE, check=True, timeout=300)
    lines = done.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(texts), (len(lines), len(texts))
    return [[our(token) for token in line.split(";") if token] for line in lines]


def our(token):
    start, end, kind = token.split()
    return int(start), int(end), kind


def their_tokens(text):
    try:
        found = scan(text)
    except (pglast.parser.ParseError, UnicodeDecodeError):  # the latter: a message cut inside a character
        return None
    place = None if text.isascii() else byte_places(text)
    tokens = []
    for token in found:
        if token.name in ("SQL_COMMENT", "C_COMMENT"):
            continue
        if VERSION == 15 and token.name in ("USCONST", "UIDENT"):
            tokens.append((place[token.start] if place else token.start, None, NAMED[token.name]))
            continue
        start, end = token.start, token.end + 1
        kind = their_kind(text[start:end], token)
        tokens.append((place[start], place[end], kind) if place else (start, end, kind))
    return tokens


def byte_places(text):
    places, at = [0], 0
    for character in text:
        at += len(character.encode())
        places.append(at)
    return places


NAMED = {
    "UIDENT": "UnicodeWord", "USCONST": "UnicodeText", "BCONST": "BitText", "XCONST": "BitText", "ICONST": "Number",
    "FCONST": "Number", "PARAM": "Parameter", "Op": "Operator", "TYPECAST": "Pair", "DOT_DOT": "Pair",
    "COLON_EQUALS": "Pair", "NOT_EQUALS": "Operator", "LESS_EQUALS": "Operator", "GREATER_EQUALS": "Operator",
    "EQUALS_GREATER": "Operator",
}
CHARACTERS = {
    "(": "Open", ")": "Close", ";": "Semicolon", ",": "Comma", ".": "Dot", "[": "Punctuation", "]": "Punctuation",
    ":": "Punctuation", **{sign: "Operator" for sign in "+-*/%^<>="},
}


def their_kind(spelling, token):
    if token.name == "NCHAR" and len(spelling) == 1:
        return "NCHAR"
    if token.name == "IDENT":
        return "QuotedWord" if spelling.startswith('"') else "Word"
    if token.name == "SCONST":
        return {"e": "EscapeText", "$": "DollarText"}.get(spelling[:1].lower(), "Text")
    if token.kind == "NO_KEYWORD" and (token.name.startswith("ASCII_") or token.name == "UNKNOWN"):
        return CHARACTERS.get(spelling, "Unknown")
    return NAMED.get(token.name, "Word")


# === what to show of a difference ===


def differs(tokens, text):
    theirs = their_tokens(text)
    return comparable(text, theirs) and difference(text, our_tokens(tokens, [text])[0], theirs) is not None


def smallest(tokens, text):
    """Takes pieces away as long as the difference stays."""
    size = max(1, len(text) // 2)
    while size:
        at = 0
        while at < len(text):
            shorter = text[:at] + text[at + size:]
            if differs(tokens, shorter):
                text = shorter
            else:
                at += size
        size //= 2
    return text


def show(tokens, text):
    print(f"FAIL {text!r}\n  ours   {our_tokens(tokens, [text])[0]}\n  theirs {their_tokens(text)}")


if __name__ == "__main__":
    sys.exit(main())
