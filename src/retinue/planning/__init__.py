"""Plans: a graph of tasks, carried out by runs, that survives like a run."""

from retinue.planning.lead import find_orchestrator

__all__ = ["find_orchestrator"]
