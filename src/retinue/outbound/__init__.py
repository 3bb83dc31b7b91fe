"""Requests that leave this server: where they may go, and connections that nobody leaves behind.

What a tenant or a text named goes through :class:`OutboundTransport`, which checks every address. What the operator
named goes through :func:`operator_client`, which checks none and heeds the proxies of the environment.
"""

from retinue.outbound.addresses import AddressCheck, AddressRefused, Dial, Resolve, resolve
from retinue.outbound.transport import OutboundTransport, operator_client, system_tls

__all__ = [
    "AddressCheck",
    "AddressRefused",
    "Dial",
    "OutboundTransport",
    "Resolve",
    "operator_client",
    "resolve",
    "system_tls",
]
