"""How much work an expression can be at most, from its text and the sizes of what it names. Pure.

The library that evaluates CEL cannot be interrupted, and one round of a macro may touch any amount of text. So the
work is estimated before, on the cautious side; tests hold the time of hostile expressions to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retinue.kernel import BadInput

NAMES = ("inputs", "steps", "item", "index", "trigger", "event")
MAX_DEPTH = 64

# One unit of work is about 5 ns: what it takes to copy a character. Measured; tests hold the sum to its bound.
MOST_WORK = 80_000_000
_MOST_DATA = 4_000_000
_NODE = 20
_LEAST_WORK = 20_000
_MOST_NESTED = 32
ROUNDS = 10_000
_MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})
_OPERATORS = frozenset("+-*/%<>=!&|?[")
TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>(?:[bB]?[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*'))
       |(?:[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9][0-9A-Za-z_.]*)
    |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_REPEATS = re.compile(r"\{(\d+)(?:,(\d*))?\}")


@dataclass(frozen=True, slots=True)
class _Reference:
    """A name of the context as the text uses it: its path, how many macros go round it, and whether it is indexed."""

    path: tuple[str, ...]
    depth: int
    indexed: bool = False


@dataclass(slots=True)
class _Macro:
    """A macro in the text: its name and variable, and for each use of the variable how many macros lie between."""

    name: str
    variable: str
    depth: int
    uses: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outline:
    """What of an expression's text its work depends on.

    Attributes:
        references: names of the context, with their paths.
        literals: length of each written value, and how many macros go round it.
        steps: the ids in ``steps.<id>``; None when a step is reached by a computed name.
        patterns: how much the written patterns can cost.
    """

    text: str
    steps: frozenset[str] | None
    references: tuple[_Reference, ...]
    literals: tuple[tuple[int, int], ...]
    macros: tuple[_Macro, ...]
    depth: int
    operators: int
    longest: int
    patterns: int
    splits: bool

    @property
    def names(self) -> frozenset[str]:
        """Which of :data:`NAMES` it uses."""
        return frozenset(one.path[0] for one in self.references)


def outline(text: str) -> Outline:
    """Read an expression that is known to be CEL.

    Raises:
        BadInput: a pattern is not written out, or repeats too often.
    """
    return _Reader(text).read()


class _Reader:
    """Finds in the text what the work depends on: macros and what they go round, names, literals, patterns."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [(one.lastgroup or "", one.group()) for one in TOKEN.finditer(text) if one.lastgroup != "space"]
        self.references: list[_Reference] = []
        self.literals: list[tuple[int, int]] = []
        self.macros: list[_Macro] = []
        self.steps: set[str] | None = set()
        self.patterns = self.depth = 0
        self.longest = 1

    def read(self) -> Outline:
        signs = [token for kind, token in self.tokens if kind == "sign"]
        calls = [token for at, (kind, token) in enumerate(self.tokens) if kind == "name" and self._sign(at + 1) == "("]
        self._walk()
        return Outline(
            text=self.text,
            steps=None if self.steps is None else frozenset(self.steps),
            references=tuple(self.references),
            literals=tuple(self.literals),
            macros=tuple(self.macros),
            depth=self.depth,
            operators=1 + sum(sign in _OPERATORS for sign in signs) + len(calls),
            longest=self.longest,
            patterns=self.patterns,
            splits="split" in calls,
        )

    def _walk(self) -> None:
        open_brackets: list[tuple[_Macro | None, list[int]]] = []  # with the commas seen in each
        for at, (kind, token) in enumerate(self.tokens):
            macros = [macro for macro, _ in open_brackets if macro is not None]
            if kind == "sign" and token in "([{":
                open_brackets.append((self._macro(at, len(macros)) if token == "(" else None, []))
                self.depth = max(self.depth, sum(macro is not None for macro, _ in open_brackets))
            elif kind == "sign" and token in ")]}" and open_brackets:
                _, commas = open_brackets.pop()
                self.longest = max(self.longest, len(commas) + 1)
            elif kind == "sign" and token == "," and open_brackets:
                open_brackets[-1][1].append(at)
            elif kind in ("text", "number"):
                self.literals.append((len(token), len(macros)))
            elif kind == "name":
                self._name(at, macros)

    def _name(self, at: int, macros: Sequence[_Macro]) -> None:
        token = self.tokens[at][1]
        if self._sign(at - 1) == ".":
            if token == "matches" and self._sign(at + 1) == "(":
                self._note_pattern(at)
            return
        if token == "matches":
            raise BadInput(f"Write x.matches('pattern') in {shown(self.text)}.")
        for between, macro in enumerate(reversed(macros)):
            if macro.variable == token:
                macro.uses.append(between)
                return
        if token in NAMES:
            self._note(at, len(macros))

    def _macro(self, bracket: int, around: int) -> _Macro | None:
        """Return the macro whose bracket this is, or None."""
        kind, name = self.tokens[bracket - 1] if bracket else ("", "")
        if kind != "name" or name not in _MACROS or self._sign(bracket - 2) != "." or bracket + 1 >= len(self.tokens):
            return None
        self.macros.append(_Macro(name, self.tokens[bracket + 1][1], around + 1))
        return self.macros[-1]

    def _note(self, at: int, depth: int) -> None:
        path = [self.tokens[at][1]]
        while self._sign(at + 1) == "." and self._kind(at + 2) == "name" and self._sign(at + 3) != "(":
            path.append(self.tokens[at + 2][1])
            at += 2
        if path == ["steps"] and self._sign(at + 1) == "[" and self._sign(at + 3) == "]":
            plain = re.fullmatch(r"""(["'])([^"'\\]*)\1""", self.tokens[at + 2][1])
            path += [plain.group(2)] if plain else []
        if path[0] == "steps" and self.steps is not None:
            self.steps = self.steps | {path[1]} if len(path) > 1 else None
        self.references.append(_Reference(tuple(path), depth, self._sign(at + 1) == "["))

    def _note_pattern(self, at: int) -> None:
        if self._kind(at + 2) != "text" or self._sign(at + 3) != ")":
            raise BadInput(f"The pattern of matches() must be written out in {shown(self.text)}: x.matches('pattern').")
        pattern = self.tokens[at + 2][1]
        repeats = [max(int(low), int(high or 0), 1) for low, high in _REPEATS.findall(pattern)]
        if len(repeats) > 8 or any(one > 100 for one in repeats):
            raise BadInput(f"A pattern in {shown(self.text)} repeats too often: at most 100 times, at most 8 such.")
        self.patterns += len(pattern) + sum(repeats)

    def _kind(self, at: int) -> str:
        return self.tokens[at][0] if 0 <= at < len(self.tokens) else ""

    def _sign(self, at: int) -> str:
        return self.tokens[at][1] if self._kind(at) == "sign" else ""


def work(outline: Outline, given: Mapping[str, Any]) -> int:
    """Return how much there is to do at most, by what macros go round and what is touched in each round."""
    sizes = _Sizes()
    data = sum(_Sizes().of(value) for value in given.values())
    if data > _MOST_DATA:
        raise BadInput(f"What the expression {shown(outline.text)} looks at is too large.")
    known: dict[_Reference, int] = {}
    for one in outline.references:
        known[one] = known[one] if one in known else _size(sizes, given, one)
    longest = max(sizes.longest, outline.longest, sizes.characters if outline.splits else 0)
    longest, growth = _growth(outline.macros, longest)
    rounds = [min(longest**depth, ROUNDS) for depth in range(outline.depth + 1)]
    handled = _NODE * outline.operators * rounds[-1]
    handled += sum(known[one] * rounds[one.depth] for one in outline.references)
    handled += sum((_NODE + length) * rounds[depth] for length, depth in outline.literals)
    outer = rounds[-2] if outline.depth > 1 else 1
    work = handled * growth * outer * min(outline.operators, _MOST_NESTED)
    # The library copies the list that map and filter make for each item that it gets.
    work += sum(6 * longest * rounds[one.depth] for one in outline.macros if one.name in ("map", "filter"))
    patterns = outline.patterns * (data + sum(length for length, _ in outline.literals)) * rounds[-1] // 4
    total: int = work + patterns + 3 * data + _LEAST_WORK
    return total


def _growth(macros: Sequence[_Macro], longest: int) -> tuple[int, int]:
    """Return how long lists can become, and by what factor values can grow because a ``map`` uses its item often."""
    maps = [one for one in macros if one.name == "map"]
    flat = nested = 1
    for one in maps:
        flat *= max(1, len(one.uses) - 1)  # the first use is where it is named
    longest = min(longest * flat, ROUNDS)
    for one in maps:
        nested *= longest ** max(one.uses, default=0)
    growth: int = flat * nested
    return longest, growth


def _size(sizes: _Sizes, given: Mapping[str, Any], reference: _Reference) -> int:
    value = _at(given, reference.path)
    if not reference.indexed:
        return sizes.of(value)
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else (value,)
    return _NODE + max((sizes.of(one) for one in inside), default=0)


class _Sizes:
    """Measures JSON values: characters, and a price for every value; and notes the longest list or map."""

    def __init__(self) -> None:
        self.longest = 1
        self.characters = 0

    def of(self, value: Any) -> int:
        total, left = 0, [(value, 0)]
        while left:
            one, depth = left.pop()
            total += _NODE
            if depth > MAX_DEPTH or total > _MOST_DATA:
                raise BadInput("What the expression looks at is too large or nested too deep.")
            if isinstance(one, str | bytes):
                total += len(one)
                self.characters = max(self.characters, len(one))
            elif isinstance(one, Mapping):
                self.longest = max(self.longest, len(one))
                left += [(inside, depth + 1) for inside in one.values()]
                total += sum(len(name) for name in one if isinstance(name, str))
            elif isinstance(one, list | tuple):
                self.longest = max(self.longest, len(one))
                left += [(inside, depth + 1) for inside in one]
        return total


def _at(given: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return what a path leads to, or the last value on the way."""
    value: Any = given
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return value if value is not given else None
        value = value[name]
    return value


def shown(text: str) -> str:
    """Return an expression as it is named in messages: on one line, and short."""
    short = " ".join(text[:200].split())
    return repr(short if len(short) <= 80 else short[:77] + "...")
