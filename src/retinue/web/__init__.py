"""HTTP: the application, one scope a request, problems, limits, idempotency and the live streams."""

from retinue.web.gate import Credential, Entry, Gate, Permission

__all__ = ["Credential", "Entry", "Gate", "Permission"]
