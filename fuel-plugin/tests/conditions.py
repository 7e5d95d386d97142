"""The language of Fuel's restrictions and of conditions in tasks of Fuel 8.0.

expression := term (("and" | "or") term)*, from the left, "and" first; == and != bind closer, "not" and "in" closest.
Operands: numbers, quoted text, true, false, null, and paths into the models such as settings:section.key.value.
"""

import re

TOKEN = re.compile(
    r"""\s*(?:(?P<path>\w*:[\w.\-]+\??)|(?P<number>-?\d+)|(?P<text>'[^']*'|"[^"]*")"""
    r"""|(?P<word>true|false|null|and|or|not|in)\b|(?P<mark>==|!=|\(|\)))"""
)
BINDS = {"or": 1, "and": 2, "==": 3, "!=": 3, "in": 4}


def tokens(text):
    at, found = 0, []
    text = text.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError("cannot be read from %r on" % text[at:])
        found.append((match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return found


def paths(text):
    """Returns the paths that a condition names."""
    return [value.rstrip("?") for kind, value in tokens(text) if kind == "path"]


def evaluate(text, look_up):
    """Returns the value of a condition; `look_up` takes a path."""
    rest = tokens(text)
    value = _expression(rest, look_up, 0)
    if rest:
        raise ValueError("%r is left over" % (rest[0][1],))
    return value


def _expression(rest, look_up, binds):
    left = _operand(rest, look_up)
    while rest and BINDS.get(rest[0][1], 0) > binds and rest[0][0] in ("word", "mark"):
        operator = rest.pop(0)[1]
        right = _expression(rest, look_up, BINDS[operator])
        left = {
            "or": lambda: left or right,
            "and": lambda: left and right,
            "==": lambda: left == right,
            "!=": lambda: left != right,
            "in": lambda: left in right,
        }[operator]()
    return left


def _operand(rest, look_up):
    if not rest:
        raise ValueError("ends where an operand is expected")
    kind, value = rest.pop(0)
    if kind == "path":
        return look_up(value.rstrip("?"))
    if kind == "number":
        return int(value)
    if kind == "text":
        return value[1:-1]
    if value == "not":
        return not _expression(rest, look_up, BINDS["in"])
    if value == "(":
        inner = _expression(rest, look_up, 0)
        if not rest or rest.pop(0)[1] != ")":
            raise ValueError("a parenthesis is not closed")
        return inner
    if value in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[value]
    raise ValueError("%r stands where an operand is expected" % value)
