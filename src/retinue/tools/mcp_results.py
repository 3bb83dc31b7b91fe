"""What an MCP server answers, as text for the model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from retinue.tools.calls import ToolOutcome

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock


def presented(result: CallToolResult) -> ToolOutcome:
    """Turn a result of the protocol into text; what is no text is named, not shown."""
    texts = [_as_text(block) for block in result.content]
    if not texts and result.structured_content is not None:
        texts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return ToolOutcome("\n".join(texts), failed=bool(result.is_error))


def _as_text(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[a file that is not text: {block.resource.uri}]"
    return f"[{block.type} {block.mime_type}, {len(block.data) * 3 // 4:,} bytes, not shown]"
