"""Templates: a starter team of seven and the orchestrator that leads it, as YAML in ``templates/``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

from retinue.agents import commands
from retinue.agents.events import AgentDefinition
from retinue.agents.rules import Agent
from retinue.agents.shapes import definition_of
from retinue.agents.yaml_form import parsed
from retinue.kernel import BadInput, NotFound, Scope

TEAM = ("researcher", "architect", "implementer", "experimenter", "reviewer", "writer", "operator")
"""The starter team."""

ORCHESTRATOR = "orchestrator"
"""Who leads it: gets messages that name no agent."""

NAMES = (*TEAM, ORCHESTRATOR)


@cache
def template(name: str) -> AgentDefinition:
    """Return a template by name.

    Raises:
        NotFound: there is none of that name.
    """
    if name not in NAMES:
        raise NotFound("template")
    text = resources.files("retinue.agents").joinpath("templates", f"{name}.yaml").read_bytes()
    return definition_of(parsed(text))


async def install(scope: Scope, names: Sequence[str]) -> list[tuple[Agent, bool]]:
    """Make agents from templates, for the scope's user; return each with whether it is new.

    An agent of that name that the user has already is left as it is.

    Raises:
        BadInput: there is no template of a name.
    """
    for index, name in enumerate(names):
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise BadInput(f"There is no template called '{name[:100]}'. There are: {known}.", field=f"names[{index}]")
    return [await _install(scope, name) for name in dict.fromkeys(names)]


async def _install(scope: Scope, name: str) -> tuple[Agent, bool]:
    try:
        return await commands.find(scope, name), False
    except NotFound:
        return await commands.create(scope, template(name)), True
