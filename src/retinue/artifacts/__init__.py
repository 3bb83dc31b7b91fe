"""Artifacts: files under seal, uploaded or left by operations; who may open them, for how long."""
