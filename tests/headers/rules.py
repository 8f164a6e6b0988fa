# SPDX-License-Identifier: Apache-2.0
"""What the words beside a declaration must say. Each rule takes what clang knows and the words, and tells what is missing."""

import re

ERRNO = re.compile(r"-E[A-Z0-9]+\b|-errno\b|errno\b")
NUMBER = re.compile(
    r"\b([Hh]ow (many|much|long|far)|number of|count|index|length|bytes?|ids?|descriptor|fd|pid|cookie|percent|port|"
    r"([Mm]illi|[Nn]ano|[Mm]icro)?[Ss]econds|sum|size|entries|lines|times|version|hash|code|[Rr]eturns|position|mask|bits?|"
    r"generation|-1|0|1)\b"
)
INTEGER = re.compile(
    r"\b([Hh]ow (many|much|long)|[Nn]umber of|count|index|length|[Rr]eturns|0|1|exit (code|status)|codes?|descriptor|"
    r"fd|pid)\b|-1\b"
)
TRUTH = re.compile(r"\b(true|false|whether|if|unless|only|not?|yes)\b", re.I)
PREDICATE = re.compile(
    r"(^|_)(is|has|have|can|may|must|needs|wants|holds|allows?|accepts|contains|equals?|empty|known|matches|armed|"
    r"enabled|expired|ready|live|same|complete|valid|open|closed|attached|listed|excluded|live|due|over|full|"
    r"covers|admits|knows|owns|speaks|belongs|exists|fits|done|decided|within|waits|wanted|running|begun)(_|$)"
)
ABSENT = re.compile(r"\bNULL\b|\bnever\b|\balways\b|\breturns \w+\b", re.I)
OWNER = re.compile(
    r"\b(free[sd]?|owns?|owner|own|caller('s)?|callers|valid|lives?|until|static|points? into|as long as|belongs?|"
    r"unref|reference|borrowed|kept|stays?|for ever|allocate[sd]?|\w+'s|returns \w+|"
    r"literal|constant|with it|the map|the table)\b",
    re.I,
)
TIME_NAME = re.compile(
    r"(^|_)(timeout|deadline|interval|delay|after|age|ttl|time|period|expiry|expires|until|now|since|grace|due|"
    r"linger|rest|wait|stall|stamp|when|elapsed|duration|retry|backoff|lifetime)(_|$)",
    re.I,
)
SIZE_NAME = re.compile(
    r"(^|_)(max|limit|budget|size|room|high|low|window|threshold|maximum|minimum|capacity)(_|$)", re.I
)
TIME_SAID = re.compile(
    r"((milli|micro|nano)?seconds?|\bm?s\b|\d+ ?m?s\b|\bns\b|minutes?|hours?|loop_now|CLOCK_|turns?|epoch)",
    re.I,
)
UNIT_NAME = re.compile(
    r"(milliseconds?|microseconds?|nanoseconds?|seconds?|_ms|_us|_ns|_bytes|_count|_entries|_lines)$", re.I
)
SIZE_SAID = re.compile(
    r"\b(bytes?|characters?|KiB|MiB|GiB|[kM]B|octets|entries|elements|members?|lines?|columns|items?|words|bits?|"
    r"names?|pods?|connections?|streams?|messages?|addresses|pieces?|records?|numbers?|percent|tunnels?|"
    r"descriptors?|requests?|buffers?|frames?|headers?|labels?|rules?|rows?|of them|how many|so many|NUL|"
    r"(milli|micro|nano)?seconds|[a-z]{3,}s)\b"
)
CALLED = re.compile(
    r"\b(thread|threads|loop|worker|workers|inside|within|before|after|once|when|whenever|while|for each|of each|"
    r"calls?|called|from)\b",
    re.I,
)
THREAD = re.compile(
    r"\b(threads?|thread-safe|loop|loop's|worker|worker's|workers|main|inside|calling|functions? of (its|their) "
    r"arguments|before it returns|during the call|pure)\b",
    re.I,
)
FREEING = re.compile(r"_(free|close|unref|delete|destroy)$")
COUNTS = re.compile(r"^(ret_)?(\w*_)?(len|size|count)$")


class Shape:
    """A type as far as the rules look: void, bool, pointer, enum, number, or aggregate."""

    def __init__(self, kind, spelling):
        self.kind, self.spelling = kind, spelling


def releases(f):
    """void x_free(struct x **x): the house rule (CONTRIBUTING.md) says all of it."""
    return (
        f.result.kind == "void"
        and len(f.parameters) == 1
        and FREEING.search(f.name)
        and re.fullmatch(r"struct \w+ \*\*|cJSON \*\*", f.parameters[0][1].spelling)
    )


def result(f, text):
    kind, name = f.result.kind, f.name
    if kind == "void":
        return
    if kind == "bool":
        if not TRUTH.search(text) and not PREDICATE.search(name):
            yield "when it is true"
    elif kind == "pointer":
        if not ABSENT.search(text):
            yield "whether it can be NULL"
        if "(" not in f.result.spelling and not OWNER.search(text):
            yield "who owns the result, or how long it is valid"
    elif f.result.spelling in ("int", "ssize_t", "long"):
        if not ERRNO.search(text) and not INTEGER.search(text):
            yield "what it returns: 0 or -errno, or what else"
    elif kind == "number":  # noqa: SIM102
        if not UNIT_NAME.search(name) and not NUMBER.search(text) and not SIZE_SAID.search(text):
            yield "what the result counts, and in which unit"


def outputs(f, text):
    for name, shape in f.parameters:
        if not (name == "ret" or name.startswith("ret_")):
            continue
        if f.result.kind in ("bool", "void", "pointer", "enum") and not re.search(
            rf"\b{name}\b|\bret\b|writes|fills|result", text, re.I
        ):
            yield f"what becomes of {name}, and when it is not written"
        if shape.spelling in (
            "char **",
            "const char **",
            "uint8_t **",
            "const uint8_t **",
            "void **",
        ) and not OWNER.search(text):
            yield f"who owns *{name}, or how long it is valid"


def unit(name, shape, text):
    """Of a number with this name: a parameter, a field, or a result."""
    if shape.kind != "number" or UNIT_NAME.search(name) or COUNTS.match(name):
        return
    if TIME_NAME.search(name) and shape.spelling not in ("bool",):
        if not TIME_SAID.search(text):
            yield f"the unit of {name}"
    elif SIZE_NAME.search(name) and not SIZE_SAID.search(text):
        yield f"the unit of {name}"


def callback(text, around):
    if not CALLED.search(text):
        yield "when it is called"
    if not THREAD.search(text + " " + around):
        yield "on which thread it is called (here, at its struct, or at the head of the header)"
