"""Plans: a graph of tasks, carried out by runs, that survives like a run."""
