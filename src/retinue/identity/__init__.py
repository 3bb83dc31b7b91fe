"""Users, logins, tokens and API keys: who is asking."""

from retinue.identity.commands import Arrival, SignedIn, arrivals, log_in, sign_up
from retinue.identity.credentials import Credentials
from retinue.identity.emails import normalised
from retinue.identity.grantees import GranteeKey, grantee_id
from retinue.identity.keys import create_key, known_scopes, revoke_keys_of
from retinue.identity.services import install
from retinue.identity.views import Person, find_by_email, people

__all__ = [
    "Arrival",
    "Credentials",
    "GranteeKey",
    "Person",
    "SignedIn",
    "arrivals",
    "create_key",
    "find_by_email",
    "grantee_id",
    "install",
    "known_scopes",
    "log_in",
    "normalised",
    "people",
    "revoke_keys_of",
    "sign_up",
]
