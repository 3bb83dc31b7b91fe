"""A scripted model provider on the wire, for tests and benches.

It speaks OpenAI chat completions and responses, Anthropic messages and Google generateContent, streamed
and whole, so that the real client code runs. What it answers is scripted (`Step`, `script(...)`), or built
in and chosen by the model's name or by lines in the user's text (see `builtin`).

    async with ModelServer() as server:
        server.script(Step(text="hello"), contains="greet")
        ...                                     # OPENAI_BASE_URL = server.base_url
        assert len(server.requests) == 1 and not server.repeated()
"""

from tests.support.model_server.log import Recorded
from tests.support.model_server.process import ModelServerProcess
from tests.support.model_server.script import Script, Step, ToolCall, Usage
from tests.support.model_server.server import ModelServer

__all__ = ["ModelServer", "ModelServerProcess", "Recorded", "Script", "Step", "ToolCall", "Usage"]
