"""Floors: the smallest programs that do the same work, without durability, tenancy or events."""
