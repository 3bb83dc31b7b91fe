"""Two tools that count words: the smallest useful plugin for Retinue."""

from __future__ import annotations

from retinue.tools import Effect, ToolContext, ToolFault, Trust, Workspace, tool


# A tool without labels may do anything, so a person is asked before every call. This one only thinks.
@tool(effect=Effect.READ, output=Trust.TRUSTED, private=False, idempotent=True)
def count_words(text: str) -> int:
    """Count the words of a text.

    Args:
        text: The text, in any language that puts spaces between words.
    """
    return len(text.split())


# A first parameter annotated with ToolContext is filled in by the server; the model does not see it.
@tool(effect=Effect.READ, output=Trust.TRUSTED, idempotent=True)
def count_file(context: ToolContext, path: str, lines: bool = False) -> dict[str, int]:
    """Count the words of a text file of this conversation.

    Args:
        path: The file, relative to the conversation's folder.
        lines: Count its lines too.
    """
    workspace = Workspace(context.workspace, context.settings.workspace_quota)
    with workspace.open(path) as file:
        try:
            text = file.read().decode()
        except UnicodeDecodeError:
            raise ToolFault(f"{path} is not a text file.") from None
    counted = {"words": len(text.split())}
    return {**counted, "lines": len(text.splitlines())} if lines else counted
