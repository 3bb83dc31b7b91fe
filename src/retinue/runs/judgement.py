"""What policy says about a call the model proposes: act, ask a person, or refuse."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from retinue import approvals
from retinue.agents import AgentDefinition
from retinue.kernel import Scope
from retinue.runs.rules import Call, RunState
from retinue.tools import UNLABELLED, Autonomy, Decision, Labels, OpenTools, Tool, ToolFault, Verdict, needs_approval


class Judgement:
    """The tools of one activation and the policy over them."""

    def __init__(self, run_id: UUID, agent_id: UUID, agent: AgentDefinition, tools: OpenTools) -> None:
        self._run_id = run_id
        self._agent_id = agent_id
        self._agent = agent
        self._tools = tools

    def labels(self, tool: str) -> Labels:
        """Return what is known of a tool; of an unknown one, the worst."""
        found = self._tools.get(tool)
        return found.labels if found is not None else UNLABELLED

    def acts(self, call: Call) -> bool:
        """Whether the call changes something, so that its start is recorded before it acts."""
        return self._tools.get(call.tool) is not None and self.labels(call.tool).changes_something

    async def judge(self, scope: Scope, call: Call, state: RunState) -> approvals.ApprovalRequest | str | None:
        """Return None when the call may act, a question for a person, or the text of a refusal."""
        tool = self._tools.get(call.tool)
        if tool is None:
            return f"There is no tool {call.tool}."
        try:
            arguments = call.parsed()
        except ToolFault as error:
            return str(error)
        if tool.labels.waits:
            return self._question(state, call, arguments)
        decision = self._decide(tool, bool(state.tainted_by))
        if decision.verdict is Verdict.DENY:
            return f"Not done: {decision.reason}."
        if decision.verdict is Verdict.ALLOW or await self._learnt(scope, call, state):
            return None
        return self._request(state, call, tool, arguments, decision.reason)

    def _decide(self, tool: Tool, tainted: bool) -> Decision:
        override = self._agent.tool_policy.get(tool.name)
        return needs_approval(
            tool.labels,
            Autonomy(self._agent.autonomy),
            Verdict(override) if override else None,
            tainted=tainted,
        )

    async def _learnt(self, scope: Scope, call: Call, state: RunState) -> bool:
        """Whether a person has said "always" to this tool of this agent; that never counts in a tainted run."""
        if state.tainted_by or self._agent.tool_policy.get(call.tool) == "ask":
            return False
        return await approvals.rule_for(scope, self._agent_id, call.tool) == "allow"

    def _request(
        self, state: RunState, call: Call, tool: Tool, arguments: dict[str, Any], reason: str
    ) -> approvals.ApprovalRequest:
        assert state.requested is not None
        return approvals.ApprovalRequest(
            kind="tool",
            run_id=self._run_id,
            session_id=state.requested.session_id,
            agent_id=self._agent_id,
            tool=call.tool,
            arguments=arguments,
            parameters=tool.parameters,
            effect=tool.labels.effect,
            reason=reason,
            tainted_by=", ".join(state.tainted_by) or None,
            seconds=self._agent.limits.approval_seconds,
            resume=self._resume(),
            owner_id=state.requested.owner_id,
        )

    def _question(self, state: RunState, call: Call, arguments: dict[str, Any]) -> approvals.ApprovalRequest:
        assert state.requested is not None
        options = arguments.get("options")
        return approvals.ApprovalRequest(
            kind="question",
            run_id=self._run_id,
            session_id=state.requested.session_id,
            agent_id=self._agent_id,
            tool=call.tool,
            arguments=arguments,
            question=str(arguments.get("question", "")),
            options=[str(one) for one in options] if isinstance(options, list) else [],
            seconds=self._agent.limits.approval_seconds,
            resume=self._resume(),
            owner_id=state.requested.owner_id,
        )

    def _resume(self) -> approvals.Resume:
        return approvals.Resume(kind="run.advance", subject_id=self._run_id)

    def answer_without_acting(self, call: Call) -> tuple[str, bool] | None:
        """Return what the model is told when a decided call does not act, and whether that is a failure.

        None: the call was approved and is now carried out.
        """
        comment = f" They said: {call.comment}" if call.comment else ""
        if call.decision == "approved":
            if self.labels(call.tool).waits:
                return (call.answer or call.comment or "(no answer)"), False
            return None
        if call.decision == "expired":
            return "Declined: nobody decided in time. Go on without it, or say what is missing.", True
        return f"Declined by a person.{comment} Do not try it again unless they ask for it.", True
