"""QStash's delay expressions: arithmetic over `retried` that gives milliseconds.

    expression := term (("+" | "-") term)*
    term       := unary (("*" | "/") unary)*
    unary      := "-" unary | number | "retried" | "(" expression ")" | function
    function   := name "(" expression ("," expression)* ")"

Parsed once, by a parser of its own, into a short program in postfix order; nothing is ever
handed to Python's `eval`. Text, depth and arguments are bounded and all numbers are floats, so
neither parsing nor computing can take long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from taskq.errors import InvalidSetting

MAX_CHARS = 512
MAX_DEPTH = 32
LONGEST_MS = 366 * 86_400_000.0
FALLBACK_MS = 86_400_000.0

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_]+)|(?P<sign>[-+*/(),]))"
)


def _round(value: float) -> float:
    """To the nearest whole number, halves away from zero, as a calculator does it."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


# name -> (least arguments, most arguments, what it computes)
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., float]]] = {
    "pow": (2, 2, math.pow),
    "exp": (1, 1, math.exp),
    "sqrt": (1, 1, math.sqrt),
    "abs": (1, 1, abs),
    "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil),
    "round": (1, 1, _round),
    "min": (1, 16, min),
    "max": (1, 16, max),
}
_OPERATORS: dict[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "negate": lambda a: -a,
}

# A step is a number to push, or (name, count): replace the last `count` numbers by one; count 0 pushes `retried`.
_Step = float | tuple[str, int]


@dataclass(frozen=True, slots=True)
class Expression:
    """A delay in milliseconds that depends on the number of retries made so far.

    Made by `parse`; equal when the text is equal; may be evaluated any number of times.
    """

    text: str
    _program: tuple[_Step, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read an expression such as `"pow(2, retried) * 1000"`.

        Args:
            text: at most 512 characters: numbers, `+ - * /`, unary minus, parentheses to a depth
                of 32, the variable `retried`, and the functions pow(x, y), exp, sqrt, abs, floor,
                ceil, round, min and max.

        Raises:
            InvalidSetting: it is no such expression (the text says where), or it does not depend
                on `retried` and cannot be computed, such as `1 / 0`.
        """
        if not isinstance(text, str):
            raise InvalidSetting(f"a delay expression is text, got {text!r:.80}")
        if len(text) > MAX_CHARS:
            raise InvalidSetting(f"a delay expression has at most {MAX_CHARS} characters, got {len(text)}")
        return cls(text, _program_of(text))

    def evaluate(self, retried: int) -> float:
        """Milliseconds to wait, 0 to `LONGEST_MS` (366 days); never raises.

        A negative result is 0. What has no result (a division by zero, the root of a negative
        number, an overflow) is `FALLBACK_MS`, a day: a message that is tried late is not lost,
        and one that is tried without pause is a storm.

        Args:
            retried: retries made so far, 0 before the first.
        """
        value = _compute(self._program, float(min(retried, 2**53)))
        return FALLBACK_MS if value is None else min(max(value, 0.0), LONGEST_MS)


def _compute(program: tuple[_Step, ...], retried: float) -> float | None:
    """The value, or None when there is none."""
    stack: list[float] = []
    try:
        for step in program:
            if isinstance(step, float):
                stack.append(step)
                continue
            name, count = step
            if count == 0:
                stack.append(retried)
                continue
            function = _OPERATORS[name] if name in _OPERATORS else _FUNCTIONS[name][2]
            stack[-count:] = [float(function(*stack[-count:]))]
            if not math.isfinite(stack[-1]):
                return None
    except (ArithmeticError, ValueError):
        return None
    return stack[0] if math.isfinite(stack[0]) else None


@lru_cache(1024)
def _program_of(text: str) -> tuple[_Step, ...]:
    program = _Parser(text).parse()
    if ("retried", 0) not in program and _compute(program, 0.0) is None:
        raise InvalidSetting(f"delay expression {text!r} cannot be computed: it divides by zero or leaves the numbers")
    return program


class _Parser:
    """One pass over one text, emitting the program as it goes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self.depth = 0
        self.program: list[_Step] = []
        self.advance()

    def parse(self) -> tuple[_Step, ...]:
        self.expression()
        if self.token:
            raise self.error("expected an operator or the end")
        return tuple(self.program)

    def advance(self) -> None:
        """Read the next token; "" at the end."""
        match = _TOKEN.match(self.text, self.end)
        if match is None:
            rest = self.text[self.end :]
            self.start = self.end + len(rest) - len(rest.lstrip())
            self.kind, self.token = "end", ""
            if self.start < len(self.text):
                self.token = self.text[self.start]
                raise self.error("unknown character")
            return
        self.kind = match.lastgroup or "end"
        self.token = match.group(self.kind)
        self.start, self.end = match.start(self.kind), match.end()

    def error(self, what: str) -> InvalidSetting:
        found = repr(self.token) if self.token else "the end"
        return InvalidSetting(f"delay expression {self.text!r}: {what} at position {self.start + 1}, found {found}")

    def expression(self) -> None:
        self.term()
        while self.token in ("+", "-"):
            operator = self.token
            self.advance()
            self.term()
            self.program.append((operator, 2))

    def term(self) -> None:
        self.unary()
        while self.token in ("*", "/"):
            operator = self.token
            self.advance()
            self.unary()
            self.program.append((operator, 2))

    def unary(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH}")
        if self.token == "-":
            self.advance()
            self.unary()
            self.program.append(("negate", 1))
        elif self.token == "(":
            self.advance()
            self.expression()
            self.take(")")
        elif self.kind == "number":
            value = float(self.token)
            if not math.isfinite(value):
                raise self.error("a number too large")
            self.program.append(value)
            self.advance()
        elif self.kind == "name":
            self.name()
        else:
            raise self.error("expected a number, 'retried', a function or '('")
        self.depth -= 1

    def name(self) -> None:
        name = self.token
        if name == "retried":
            self.program.append((name, 0))
            self.advance()
            return
        if name not in _FUNCTIONS:
            raise self.error(f"unknown name (known: retried, {', '.join(_FUNCTIONS)})")
        at = self.start
        self.advance()
        self.take("(")
        count = 1
        self.expression()
        while self.token == ",":
            self.advance()
            self.expression()
            count += 1
        self.take(")")
        least, most, _ = _FUNCTIONS[name]
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise InvalidSetting(
                f"delay expression {self.text!r}: {name} at position {at + 1} takes {wanted} arguments, got {count}"
            )
        self.program.append((name, count))

    def take(self, sign: str) -> None:
        if self.token != sign:
            raise self.error(f"expected {sign!r}")
        self.advance()
