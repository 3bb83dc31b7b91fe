"""Grants: what a user lets an application do in its name, how often, for how much and until when.

An application (the grantee) signs its requests with the key that the grant names; ``identity`` checks the signature,
``tenancy`` lets it in with ``Scope.grant_id`` set. Whoever begins an operation calls :func:`use` in the transaction
that begins it, and :func:`settle` in the one that ends it; every other use is recorded by :func:`note`.
"""

from retinue.grants.commands import Wanted, grant_checks, note, on_revoke, settle, terms, use
from retinue.grants.rules import Terms, check_parameters

__all__ = [
    "Terms",
    "Wanted",
    "check_parameters",
    "grant_checks",
    "note",
    "on_revoke",
    "settle",
    "terms",
    "use",
]
