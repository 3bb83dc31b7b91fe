"""Workflows: YAML definitions that become plans; what sets them off, and who is told of their end."""

from retinue.workflows.compiling import Compiled, Known, compile_workflow, mistakes_in
from retinue.workflows.document import Workflow, published_schema
from retinue.workflows.drawing import dot, mermaid
from retinue.workflows.reading import Source, WorkflowMistake, read_text

__all__ = [
    "Compiled",
    "Known",
    "Source",
    "Workflow",
    "WorkflowMistake",
    "compile_workflow",
    "dot",
    "mermaid",
    "mistakes_in",
    "published_schema",
    "read_text",
]
