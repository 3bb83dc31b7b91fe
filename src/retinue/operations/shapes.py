"""Operations as the API takes and shows them."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from retinue.kernel import BadInput
from retinue.operations.commands import MOST_INPUTS, Wanted, WantedInput
from retinue.operations.events import Expected
from retinue.operations.rules import LONGEST_NAME
from retinue.web import Money, nanos_of

Level = Literal["A", "B", "C"]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GivenInput(_Body):
    """An artifact to work on: an upload, or what another operation left."""

    artifact_id: UUID
    name: _Name | None = Field(default=None, description="its name in the workspace; left out: its own")


class GivenFile(_Body):
    """A small file that comes with the request, as text or in base64."""

    name: _Name
    content: str | None = Field(default=None, max_length=1_000_000, examples=["a,b\n1,2\n"])
    content_base64: str | None = Field(default=None, max_length=1_400_000)

    @model_validator(mode="after")
    def _one_of_both(self) -> GivenFile:
        if (self.content is None) == (self.content_base64 is None):
            raise ValueError("give either content or content_base64")
        return self

    def bytes(self, where: str) -> bytes:
        """Return the content.

        Raises:
            BadInput: the base64 is none.
        """
        if self.content_base64 is None:
            return (self.content or "").encode()
        try:
            return base64.b64decode(self.content_base64, validate=True)
        except (ValueError, binascii.Error):
            raise BadInput(f"{where}: this is not base64.", field=where) from None


class GivenExpectation(_Body):
    """What must be among the outputs."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: _Name = Field(description="a name, or a pattern with * and ?", examples=["report.md", "*.json"])
    at_least: int = Field(default=1, ge=1, le=1000, description="how many outputs fit it")
    json_schema: dict[str, Any] | None = Field(
        default=None, alias="schema", description="the JSON Schema that each of them fits"
    )


class GivenLimits(_Body):
    """Limits that shall differ from the policy's. Bytes, seconds, processor cores."""

    seconds: float | None = Field(default=None, gt=0, le=86_400)
    memory: int | None = Field(default=None, gt=0, le=2**50)
    disk: int | None = Field(default=None, gt=0, le=2**50)
    processes: int | None = Field(default=None, gt=0, le=100_000)
    cores: float | None = Field(default=None, gt=0, le=1024)
    output: int | None = Field(default=None, gt=0, le=2**50, description="bytes of standard output and error")
    artifacts: int | None = Field(default=None, ge=0, le=100_000, description="files that are kept")
    artifact_bytes: int | None = Field(default=None, gt=0, le=2**50, description="bytes of each of them")


class NewOperation(_Body):
    """A goal and files, for a headless agent or a program to work on."""

    driver: str = Field(min_length=1, max_length=100, examples=["command"], description="which agent or program")
    goal: str = Field(min_length=1, max_length=50_000, examples=["Summarise notes.txt into summary.md."])
    parameters: dict[str, Any] = Field(
        default={}, description="the driver's own", examples=[{"argv": ["/usr/bin/sort", "-o", "out.txt", "in.txt"]}]
    )
    model: str | None = Field(default=None, min_length=1, max_length=200, examples=["openai:gpt-5-mini"])
    inputs: list[GivenInput] = Field(default=[], max_length=MOST_INPUTS, description="artifacts to work on")
    files: list[GivenFile] = Field(default=[], max_length=MOST_INPUTS, description="small files to work on")
    expected: list[GivenExpectation] = Field(
        default=[], max_length=100, description="it fails unless these are among its outputs"
    )
    limits: GivenLimits = Field(default_factory=GivenLimits)
    budget: Money | None = Field(default=None, description="US dollars that its model calls may cost")
    retention_seconds: int | None = Field(
        default=None, ge=1, le=10 * 366 * 86_400, description="how long its outputs are kept"
    )
    min_level: Level | None = Field(default=None, description="least isolation, where more than the policy's is wanted")
    priority: int = Field(default=0, ge=-100, le=100, description="among those that wait; higher goes first")

    def wanted(self) -> Wanted:
        """Return it as the room takes it.

        Raises:
            BadInput: two files have one name, or one is not base64.
        """
        files = {one.name: one.bytes(f"files.{index}.content_base64") for index, one in enumerate(self.files)}
        if len(files) < len(self.files):
            raise BadInput("Two files have the same name.", field="files")
        return Wanted(
            driver=self.driver,
            goal=self.goal,
            parameters=self.parameters,
            model=self.model,
            inputs=[WantedInput(one.artifact_id, one.name) for one in self.inputs],
            files=files,
            expected=[Expected(name=one.name, at_least=one.at_least, schema=one.json_schema) for one in self.expected],
            limits=self.limits.model_dump(exclude_none=True),
            budget=nanos_of(self.budget),
            retention_seconds=self.retention_seconds,
            min_level=self.min_level,
            priority=self.priority,
        )


class NewCancellation(_Body):
    """Why an operation is cancelled."""

    reason: str = Field(default="", max_length=1000, examples=["asked for the wrong file"])
