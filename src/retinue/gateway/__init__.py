"""The model gateway: model calls of programs that speak a provider's own format, metered and within a budget."""

from retinue.gateway.commands import Caller
from retinue.gateway.line import Line, listen
from retinue.gateway.rules import Rules, Use

__all__ = ["Caller", "Line", "Rules", "Use", "listen"]
