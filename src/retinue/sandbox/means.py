"""What this machine gives a sandbox besides walls: looked for once, and each piece can be left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retinue.sandbox import volumes, workspaces
from retinue.sandbox.groups import Group, Groups
from retinue.sandbox.identities import is_root
from retinue.sandbox.jobs import Finding, Workspace
from retinue.sandbox.levels import Level


@dataclass(frozen=True, slots=True)
class Means:
    """The pieces.

    Attributes:
        groups: makes control groups; None: not used.
        volume: what holds a job's files.
        volume_complaint: why nothing better holds them.
    """

    groups: Groups | None
    volume: volumes.Kind
    volume_complaint: str = ""

    @classmethod
    def find(cls, folder: Path) -> Means:
        """Look for all of them; ``folder`` is where jobs are kept."""
        kind, complaint = volumes.find_kind(folder)
        return cls(Groups(), kind, complaint)

    def group(self, workspace: Workspace) -> Group | None:
        """Return a job's control group, which need not exist; None where there are none."""
        if self.groups is None:
            return None
        # Another server on this machine may have a job of the same id.
        return self.groups.group(f"{workspaces.place_of(workspace.folder.parent)}-{workspace.job_id}")

    def findings(self) -> list[Finding]:
        """Say of each piece whether it is there."""
        groups = self.groups
        if groups is None:
            counted = Finding("control groups", False, "not used")
        else:
            counted = Finding("control groups", not groups.missing, groups.missing or groups.version)
        limited = self.volume is not volumes.Kind.FOLDER
        held = Finding("volume", limited, str(self.volume) if limited else self.volume_complaint or "not used")
        user = "each job has one of its own" if is_root() else "jobs have this server's: only root can give others"
        return [counted, held, Finding("user id", is_root(), user)]


def level_of(*, group: Group | None, workspace: Workspace, private: bool) -> Level:
    """Return the level that these pieces make, with bubblewrap's walls around them."""
    return Level.A if group is not None and private and volumes.limited(workspace) else Level.B
