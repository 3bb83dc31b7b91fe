"""Puts what is asked to the person at the terminal, and sends what they decide."""

from __future__ import annotations

from retinue.cli.client import Client
from retinue.cli.deciding import Decider
from retinue.cli.failures import Refusal
from retinue.cli.screen import Json
from retinue.cli.transcript import Transcript


class Answering:
    """Asks each approval once, and tells the server."""

    def __init__(self, client: Client, transcript: Transcript, decide: Decider) -> None:
        self._client = client
        self._transcript = transcript
        self._decide = decide
        self._asked: set[str] = set()

    def required(self, approval: Json, by: str = "") -> bool:
        """Ask a person, if that was not done and nobody has decided yet; return whether it is decided now.

        Args:
            by: which task asks, for the person.
        """
        approval_id = str(approval["approval_id"])
        if approval_id in self._asked:
            return False
        self._asked.add(approval_id)
        self._transcript.close_line()
        # The event may be old, and it need not show everything: the approval itself counts.
        current = self._client.get(f"/v1/my/approvals/{approval_id}")
        if current["status"] != "pending":
            return True
        return self._put({**current, "asked_by": by})

    def _put(self, approval: Json) -> bool:
        body = self._decide(approval)
        if body is None:
            return False
        try:
            self._client.post(f"/v1/my/approvals/{approval['approval_id']}/confirm", body)
        except Refusal as refusal:
            if refusal.status != 409 and refusal.status != 422:
                raise
            self._transcript.note(f"    {refusal}", style="red")
            if refusal.status == 422:  # what was edited does not fit: ask again, and go on from there
                return self._put({**approval, "edited_arguments": body.get("edited_arguments")})
        return True
