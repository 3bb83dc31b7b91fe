"""The long-lived objects of this room."""

from __future__ import annotations

from retinue.identity.credentials import Credentials
from retinue.identity.issuer import Issuer
from retinue.identity.keys import Pepper
from retinue.identity.passwords import Passwords
from retinue.identity.tokens import Tokens
from retinue.kernel import Clock, Services, Settings
from retinue.vault import Vault


def install(services: Services) -> None:
    """Add this room's services; settings, clock and vault must be there.

    Raises:
        ValueError: the settings of the external issuer are not complete; the message names what is missing.
    """
    settings, vault = services.get(Settings), services.get(Vault)
    clock = services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol
    services.add(Passwords, Passwords())
    services.add(Tokens, Tokens(vault, settings, clock))
    services.add(Pepper, Pepper(vault))
    services.add(Credentials, Credentials(services, Issuer.from_settings(settings, clock)))
