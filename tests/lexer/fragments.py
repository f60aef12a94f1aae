"""Random texts for tests/lexer/compare.py: pieces that a scanner may stumble over, in any order."""

FRAGMENTS = [
    # blanks and comments
    " ", "\n", "\r", "\t", "\f", "\v", "\r\n", "--", "-- x\n", "--\r", "-- '\n", "/*", "*/", "/**/", "/* /* */ */",
    "/*/*/", "/***/", "/* ' */", "/* -- */", "*/*", "/-", "-/*", "+--\n",
    # quotes
    "'", "''", "'a'", "'a''b'", "'\\'", "\\", "\\'", "E'", "e'\\'", "E'\\\\'", "E'a'", "N'", "n'a'", "B'", "b'01'",
    "X'", "x'1f'", "U&'", "u&'\\0041'", 'U&"', 'u&"a"', "U&", "u&", "U& ", '"', '""', '"a"', '"a""b"', '"a\'b"',
    "'a'\n'b'", "'a' \n 'b'", "'a' 'b'", "'a' -- x\n'b'", "'a' /* */ 'b'", "'a'/*\n*/'b'", "'a'\v\n'b'",
    "E'a'\n'\\''", "'a'\nE'\\''", "U&'a'\n'b'", "x'1'\n'2'", "UESCAPE '!'", "uescape",
    # dollar quotes
    "$", "$$", "$$a$$", "$a$", "$a$ $b$ $a$", "$A$", "$é$", "$1$", "$_1$", "$a", "a$", "a$$", "$$'$$", "$a$$", "$-$",
    # numbers and parameters
    "0", "1", "12", "1.", ".5", "1.5", "1..2", "1...2", "1e5", "1e+5", "1e-5", "1e", "1e+", "1E5", "0x1f", "0x", "0o17",
    "0b01", "0b2", "1_000", "1__0", "_1", "1_", "1a", "1e5a", "1.5.6", "$1", "$12", "$1a", "$0", "$1_0", "1_0e-5",
    # operators and punctuation
    "+", "-", "*", "/", "%", "^", "<", ">", "=", "~", "!", "@", "#", "&", "|", "`", "?", "<=", ">=", "<>", "!=", "=>",
    "->", "->>", "@-", "@+", "=-", "=+", "+-", "-+", "<-", "||/", "?|", "?&", "*-*", "~-~", "--+", "(", ")", "[", "]",
    ",", ";", ":", "::", ":=", ".", "..", "{", "}",
    # words
    "a", "A", "select", "e", "n", "b", "x", "u", "U", "é", "ñ1", "日本", "\u00a0", "\u2003", "\ufeff", "\u200b", "😀", "_",
    "a1", "set", "app", "from", "nchar", "National",
]


def random_text(chance):
    pieces = chance.choices(FRAGMENTS, k=chance.randint(1, 8))
    return "".join(pieces) if chance.random() < 0.8 else " ".join(pieces)


def mutated(chance, text):
    """A statement of which pieces are lost, doubled, replaced or put elsewhere."""
    text = text[:600]
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.choice([0, 1, 1, 2, 5, 20]))
        piece = text[start:end]
        rest = text[:start] + text[end:]
        at = chance.randint(0, len(rest))
        text = chance.choice([
            rest,
            text[:end] + piece + text[end:],
            text[:start] + chance.choice(FRAGMENTS) + text[end:],
            text[:start] + chance.choice(FRAGMENTS) + text[start:],
            rest[:at] + piece + rest[at:],
        ])
    return text
