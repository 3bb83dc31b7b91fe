"""Workflows: YAML definitions that become plans; what sets them off, and who is told of their end."""
