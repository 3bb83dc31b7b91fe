"""A workflow as it is written: the fields of the document, strictly. The published JSON Schema is made from here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

SPEC_VERSION = 1
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
STEP_ID = r"^[A-Za-z][A-Za-z0-9_]{0,47}$"
MOST_STEPS = 500
MOST_IN_A_LIST = 100
LONGEST_SECONDS = 366 * 86_400

_PART = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(duration: str | int | float) -> float:
    """Return how many seconds a duration is: a number of seconds, or text such as ``90s``, ``1h30m``, ``500ms``.

    Raises:
        ValueError: it is neither, or more than a year.
    """
    if isinstance(duration, str):
        parts = _PART.findall(duration)
        if not parts or "".join(number + unit for number, unit in parts) != duration:
            raise ValueError("a duration is a number of seconds, or text such as 90s, 1h30m or 500ms")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        seconds = float(duration)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError("a duration is 0 seconds to a year")
    return seconds


def _checked_duration(duration: str | int | float) -> str | int | float:
    seconds_of(duration)
    return duration


def _bare(text: str) -> str:
    """Take an expression out of ``${ }``, where somebody wrote those."""
    inside = text.strip()
    return inside[2:-1].strip() if inside.startswith("${") and inside.endswith("}") else inside


Duration = Annotated[str | int | float, AfterValidator(_checked_duration)]
Cel = Annotated[str, StringConstraints(min_length=1, max_length=4_200), AfterValidator(_bare)]
StepId = Annotated[str, StringConstraints(pattern=STEP_ID)]
ShortText = Annotated[str, StringConstraints(max_length=1_000)]
LongText = Annotated[str, StringConstraints(max_length=100_000)]
AgentName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ToolName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
WorkflowName = Annotated[str, StringConstraints(pattern=NAME)]
OnFailure = Literal["continue", "stop"]


class _Part(BaseModel):
    """Nothing is passed over or bent to fit: an unknown field and ``"3"`` for 3 are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RetryPart(_Part):
    """How often a failed step is tried, and the pause before the second try, which doubles each time."""

    attempts: int = Field(ge=1, le=20)
    pause: Duration = 1


class ErrorPart(_Part):
    """What is done when the step has failed for good."""

    steps: Steps


class _Step(_Part):
    """What every step has.

    ``needs`` names the steps that must have ended before; without it, that is the step before in the list.
    """

    id: StepId
    title: ShortText = ""
    needs: list[StepId] | None = Field(default=None, max_length=MOST_IN_A_LIST)
    when: Cel | None = Field(default=None, description="CEL; the step is skipped when it is false")


class _Tried(_Step):
    """A step that can fail by itself."""

    retry: RetryPart | None = None
    on_error: Literal["fail", "continue"] | ErrorPart = "fail"


class _Run(_Tried):
    """A step that is a run of an agent. ``timeout``: how long a worker may have it."""

    timeout: Duration | None = None


class AgentStep(_Run):
    """Work of an agent."""

    agent: AgentName | None = Field(default=None, description="name of the agent; without it, that of `defaults`")
    instructions: LongText = Field(min_length=1, description="what it is to do; may hold `${ CEL }`")
    expected: LongText = Field(default="", description="what its result shall be")
    output_schema: dict[str, Any] | None = Field(default=None, description="JSON Schema that its answer must fit")


class ToolStep(_Run):
    """A call of a tool, without a model, under the policy of an agent."""

    tool: ToolName
    arguments: dict[str, Any] = Field(default={}, description="texts may hold `${ CEL }`")
    agent: AgentName | None = Field(default=None, description="whose policy and lane hold")


class HttpRequest(_Part):
    """A request that a tool makes; ``http_fetch`` gets a page and can do nothing else."""

    url: str = Field(min_length=1, max_length=8_000)
    tool: ToolName = Field(default="http_fetch", description="the tool that makes it")
    arguments: dict[str, Any] = Field(default={}, description="further arguments, where the tool has some")


class HttpStep(_Run):
    """A request over HTTP, made by a tool under the policy of an agent."""

    http: HttpRequest
    agent: AgentName | None = None


class OperationRequest(_Part):
    """What an operation is asked for; texts may hold `${ CEL }`."""

    driver: ShortText = Field(min_length=1, description="which agent or program, such as `qwen` or `command`")
    goal: LongText = Field(min_length=1)
    parameters: dict[str, Any] = Field(default={}, description="the driver's own")
    model: ShortText | None = None
    inputs: list[dict[str, Any]] | str = Field(
        default=[], description="artifacts: `{artifact_id, name}` each, or `${ CEL }` that gives such a list"
    )
    files: dict[str, str] = Field(default={}, max_length=50, description="small text files, by name")
    expected: list[ShortText] = Field(default=[], max_length=50, description="names or patterns it must leave")
    seconds: float | int | None = Field(default=None, gt=0, le=86_400)


class OperationStep(_Run):
    """An operation in the sandbox, begun by the tool `operate` under the policy of an agent that has it.

    Its output tells the artifacts that were made: `artifacts`, and their ids `by_name`.
    """

    operation: OperationRequest
    agent: AgentName | None = None


class WorkflowStep(_Tried):
    """Another workflow: its version at the start of the run is compiled in. Its output is that of the workflow."""

    workflow: WorkflowName
    inputs: dict[str, Any] = Field(default={}, description="texts may hold `${ CEL }`")


class IfStep(_Step):
    """One of two branches. Its output is whether the condition holds."""

    if_: Cel = Field(alias="if")
    then: Steps
    else_: Steps = Field(default=[], alias="else")


class SwitchStep(_Step):
    """The branch whose name the value has. Its output is the value, as text."""

    switch: Cel
    cases: dict[ShortText, Steps] = Field(min_length=1, max_length=MOST_IN_A_LIST)
    default: Steps = []


class ParallelStep(_Step):
    """Branches at the same time. Its output is what the last step of each gave, by the branch's name."""

    parallel: dict[StepId, Steps] = Field(min_length=1, max_length=MOST_IN_A_LIST)


class ForEachStep(_Tried):
    """Steps for each item of a list; they see ``item`` and ``index``. Its output is a list."""

    for_each: Cel
    steps: Steps
    most: int = Field(default=100, ge=1, le=10_000, description="more items fail the step")
    at_once: int = Field(default=10, ge=1, le=1_000)
    output: Any = Field(default=None, description="what one item gives; without it, the results by step")


class EventPart(_Part):
    """The next event of a type in the tenant for which ``match``, over ``event``, holds."""

    type: str = Field(pattern=r"^[a-z_]+(\.[a-z_]+)+$", max_length=100)
    match: Cel | None = None


class WaitPart(_Part):
    """Exactly one of these."""

    duration: Duration | None = None
    until: Cel | None = Field(default=None, description="CEL that gives a time, such as `timestamp(inputs.at)`")
    event: EventPart | None = None


class WaitStep(_Step):
    """Waiting; it holds no worker."""

    wait: WaitPart
    timeout: Duration | None = Field(default=None, description="for an event: the step fails when none came in time")
    on_error: Literal["fail", "continue"] | ErrorPart = "fail"


class ApprovalPart(_Part):
    """A question to people; the step fails when they decline."""

    text: LongText = Field(min_length=1)
    assignees: list[ShortText] = Field(default=[], max_length=50, description="user ids, e-mails or roles")
    options: list[ShortText] = Field(default=[], max_length=20)


class ApprovalStep(_Step):
    """A question to people. Without an answer in time (``timeout``, 300 s) it counts as declined."""

    approval: ApprovalPart
    timeout: Duration = 300
    on_error: Literal["fail", "continue"] | ErrorPart = "fail"


class ValueStep(_Step):
    """A value that is computed and nothing else."""

    value: Any
    on_error: Literal["fail", "continue"] | ErrorPart = "fail"


_KINDS = (
    "tool",
    "http",
    "operation",
    "workflow",
    "if",
    "switch",
    "parallel",
    "for_each",
    "wait",
    "approval",
    "value",
)


def _kind(step: Any) -> str:
    """Return which kind of step this is: the first of the fields that only one kind has; else an agent's."""
    if isinstance(step, Mapping):
        return next((kind for kind in _KINDS if kind in step), "agent")
    return next((kind for kind, model in _MODELS.items() if isinstance(step, model)), "agent")


Step = Annotated[
    Annotated[AgentStep, Tag("agent")]
    | Annotated[ToolStep, Tag("tool")]
    | Annotated[HttpStep, Tag("http")]
    | Annotated[OperationStep, Tag("operation")]
    | Annotated[WorkflowStep, Tag("workflow")]
    | Annotated[IfStep, Tag("if")]
    | Annotated[SwitchStep, Tag("switch")]
    | Annotated[ParallelStep, Tag("parallel")]
    | Annotated[ForEachStep, Tag("for_each")]
    | Annotated[WaitStep, Tag("wait")]
    | Annotated[ApprovalStep, Tag("approval")]
    | Annotated[ValueStep, Tag("value")],
    Discriminator(_kind),
]
Steps = Annotated[list[Step], Field(max_length=MOST_IN_A_LIST)]

_MODELS: Mapping[str, type[BaseModel]] = {
    "agent": AgentStep,
    "tool": ToolStep,
    "http": HttpStep,
    "operation": OperationStep,
    "workflow": WorkflowStep,
    "if": IfStep,
    "switch": SwitchStep,
    "parallel": ParallelStep,
    "for_each": ForEachStep,
    "wait": WaitStep,
    "approval": ApprovalStep,
    "value": ValueStep,
}


class CronPart(_Part):
    """Times, as cron writes them (five fields), in a time zone of the IANA list."""

    cron: str = Field(min_length=1, max_length=200, examples=["0 7 * * 1-5"])
    timezone: str = Field(default="UTC", max_length=100, examples=["Europe/Berlin"])


class WebhookPart(_Part):
    """A signed request to ``/v1/hooks/{id}`` (Standard Webhooks); the secret is shown once, when it is made."""

    webhook: Literal[True]


class _OneTrigger(_Part):
    id: StepId
    inputs: dict[str, Any] = Field(
        default={}, description="inputs of the run; texts may hold `${ CEL }` over `trigger`"
    )


class CronTrigger(_OneTrigger, CronPart):
    """Starts a run at times."""


class WebhookTrigger(_OneTrigger, WebhookPart):
    """Starts a run for each signed request; its body is ``trigger.body``."""


class EventTrigger(_OneTrigger):
    """Starts a run for each event of a type in the tenant; it is ``trigger.event``."""

    event: EventPart


def _trigger_kind(trigger: Any) -> str:
    if isinstance(trigger, Mapping):
        return next((kind for kind in ("cron", "webhook", "event") if kind in trigger), "cron")
    return (
        "webhook" if isinstance(trigger, WebhookTrigger) else "event" if isinstance(trigger, EventTrigger) else "cron"
    )


Trigger = Annotated[
    Annotated[CronTrigger, Tag("cron")]
    | Annotated[WebhookTrigger, Tag("webhook")]
    | Annotated[EventTrigger, Tag("event")],
    Discriminator(_trigger_kind),
]


class DefaultsPart(_Part):
    """What holds where a step says nothing."""

    agent: AgentName | None = None
    timeout: Duration | None = None
    on_failure: OnFailure = Field(default="stop", description="what a failed step means for the others")


class Workflow(_Part):
    """A workflow: steps that become the tasks of a plan."""

    model_config = ConfigDict(
        title="Retinue workflow",
        json_schema_extra={
            "examples": [
                {
                    "spec_version": 1,
                    "name": "greet",
                    "inputs": {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]},
                    "steps": [{"id": "text", "value": "Hello ${ inputs.who }"}],
                    "output": "${ steps.text.output }",
                }
            ]
        },
    )

    spec_version: Literal[1]
    name: WorkflowName
    description: LongText = ""
    inputs: dict[str, Any] = Field(
        default={"type": "object", "properties": {}}, description="JSON Schema of an object: what a run is given"
    )
    steps: Steps = Field(min_length=1)
    output: Any = Field(default=None, description="what a run gives; texts may hold `${ CEL }`")
    output_schema: dict[str, Any] | None = Field(default=None, description="JSON Schema of the output")
    defaults: DefaultsPart = DefaultsPart()
    triggers: list[Trigger] = Field(default=[], max_length=20)


for _model in _MODELS.values():
    _model.model_rebuild()
ErrorPart.model_rebuild()
Workflow.model_rebuild()


def published_schema() -> dict[str, Any]:
    """Return the JSON Schema of a document."""
    schema = Workflow.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
