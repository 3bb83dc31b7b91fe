"""E-mail addresses as they are stored and compared."""

from __future__ import annotations

import unicodedata

from email_validator import EmailNotValidError, validate_email

from retinue.kernel import BadInput

_LONGEST = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets


def normalised(text: str, *, field: str = "email") -> str:
    """Return the one form of an address under which its user is found (NFKC, casefold).

    Intranet domains without a dot are accepted; nothing is looked up in the DNS.

    Raises:
        BadInput: it is no e-mail address; ``field`` is named.
    """
    if len(text) > _LONGEST:
        raise BadInput(f"An e-mail address has at most {_LONGEST} characters.", field=field)
    folded = unicodedata.normalize("NFKC", text).strip().casefold()
    try:
        checked = validate_email(folded, check_deliverability=False, globally_deliverable=False, test_environment=True)
    except (EmailNotValidError, UnicodeError):
        raise BadInput("This is not an e-mail address.", field=field) from None
    return unicodedata.normalize("NFKC", checked.normalized).casefold()
