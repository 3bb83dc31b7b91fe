"""What a caller of the gateway may use: models, money, tokens, calls; and how far that is used. Without a database.

The numbers are exact however many calls run at once. A call holds the most it is likely to use before it is made. One
that does not fit waits while others are under way, because those may turn out to use less than they hold; it is refused
once nothing is left, and let in alone when something is. So what is used passes a limit by one call at most.

That needs holds that are not too small. Where a limit applies, the first call goes alone, and if a call used more than
it held, later ones hold more in proportion.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from math import ceil

from retinue.kernel import dollars

_MOST_NOTED = 20

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a caller may use.

    Attributes:
        models: patterns over ``provider:model`` with ``*`` and ``?``, such as ``openai:gpt-5*``; no pattern, no model.
        default_model: what is asked for a call that names no model, or ``default``; None: the server's default.
        budget: nano-dollars of all calls together; None for no limit. A call of unknown price counts for
            ``RETINUE_UNPRICED_CALL_COST``.
        tokens: read and written, of all calls together; None for no limit.
        calls: how many calls may be made; None for no limit.
        reach: whether a provider may go out to the network for the caller: search the web, fetch addresses, call MCP
            servers. For a program without a network that would be a way out.
    """

    models: tuple[str, ...] = ("*",)
    default_model: str | None = None
    budget: int | None = None
    tokens: int | None = None
    calls: int | None = None
    reach: bool = False

    def allows(self, model: str) -> bool:
        """Whether a model, as ``provider:model``, may be asked."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


def is_plain(model: str) -> bool:
    """Whether a provider's own name of a model has nothing in it that a path or a proxy could read otherwise."""
    return _MODEL.fullmatch(model) is not None and ".." not in model and "//" not in model


@dataclass(slots=True)
class Use:
    """What was used. Money is in nano-dollars.

    Attributes:
        calls: calls that a provider answered, or may have.
        input_tokens: tokens read.
        output_tokens: tokens written.
        cost: of the calls whose price is known.
        unpriced: calls whose price is not known.
        estimated: calls whose tokens the provider did not tell; they are estimated from the characters.
        refused: calls that were not let through.
        used_up: those of them for which no money, tokens or calls were left.
        forbidden: models that were asked for and are not allowed; the first ones.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    estimated: int = 0
    refused: int = 0
    used_up: int = 0
    forbidden: set[str] = field(default_factory=set)

    def note_refusal(self, status: int) -> None:
        """Count a call that was not let through, by the status it was answered with."""
        self.refused += status in (402, 403)
        self.used_up += status == 402

    def note_forbidden(self, model: str) -> None:
        """Note a model that is not allowed; a program may make up any number of them."""
        if len(self.forbidden) < _MOST_NOTED:
            self.forbidden.add(model)


class UsedUp(Exception):
    """A limit of the rules is reached; the text says which."""


@dataclass(slots=True, eq=False)
class Hold:
    """What a call under way may use at most, and by what it was reckoned (``_said``); money in nano-dollars."""

    tokens_said: int
    cost_said: int
    tokens: int = 0
    cost: int = 0


@dataclass(slots=True)
class Allowance:
    """How far rules are used.

    Attributes:
        rules: the limits.
        unpriced_cost: nano-dollars that a call of unknown price counts for.
        careful: whether there is a limit of money or tokens, these rules' or somebody else's.
        use: what was used so far.
    """

    rules: Rules
    unpriced_cost: int
    careful: bool = False
    use: Use = field(default_factory=Use)
    _holds: list[Hold] = field(default_factory=list)
    _counted: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _more_tokens: Fraction = Fraction(1)
    _more_cost: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        self.careful = self.careful or self.rules.budget is not None or self.rules.tokens is not None

    async def hold(self, tokens: int, cost: int | None) -> Hold:
        """Let a call in and hold what it may use; wait while that depends on calls under way.

        Raises:
            UsedUp: a limit is reached.
        """
        hold = Hold(max(1, tokens), max(1, self.unpriced_cost if cost is None else cost))
        async with self._changed:
            while True:
                self._check()
                hold.tokens = ceil(hold.tokens_said * self._more_tokens)
                hold.cost = ceil(hold.cost_said * self._more_cost)
                if not self._holds or self._fits(hold):
                    self._holds.append(hold)
                    return hold
                await self._changed.wait()

    async def give_back(self, hold: Hold) -> None:
        """End a call that used nothing."""
        async with self._changed:
            self._holds.remove(hold)
            self._changed.notify_all()

    async def settle(self, hold: Hold, read: int, written: int, cost: int | None, *, estimated: bool) -> None:
        """End a call; ``cost`` None means that its price is not known."""
        counted = self.unpriced_cost if cost is None else cost
        async with self._changed:
            use = self.use
            self._holds.remove(hold)
            use.calls += 1
            use.input_tokens += read
            use.output_tokens += written
            use.estimated += estimated
            use.unpriced += cost is None
            use.cost += cost or 0
            self._counted += counted
            self._more_tokens = max(self._more_tokens, Fraction(read + written, hold.tokens_said))
            self._more_cost = max(self._more_cost, Fraction(counted, hold.cost_said))
            self._changed.notify_all()

    def _check(self) -> None:
        rules, use = self.rules, self.use
        if rules.calls is not None and use.calls >= rules.calls:
            raise UsedUp(f"The {rules.calls} model calls that were allowed are used up.")
        if rules.tokens is not None and use.input_tokens + use.output_tokens >= rules.tokens:
            raise UsedUp(f"The {rules.tokens:,} tokens that were allowed are used up.")
        if rules.budget is not None and self._counted >= rules.budget:
            raise UsedUp(f"The budget of ${dollars(rules.budget)} for model calls is used up.")

    def _fits(self, hold: Hold) -> bool:
        rules, use, holds = self.rules, self.use, [*self._holds, hold]
        if self.careful and not use.calls:
            return False
        return (
            (rules.calls is None or use.calls + len(holds) <= rules.calls)
            and (
                rules.tokens is None
                or use.input_tokens + use.output_tokens + sum(one.tokens for one in holds) <= rules.tokens
            )
            and (rules.budget is None or self._counted + sum(one.cost for one in holds) <= rules.budget)
        )


def allowed_text(patterns: Sequence[str]) -> str:
    """Return the allowed models for a refusal."""
    return ", ".join(patterns) if patterns else "none"
