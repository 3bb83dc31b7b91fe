"""The vocabulary every room shares: ids, clock, money, faults, scope, settings and telemetry."""

from retinue.kernel.addresses import Address, address_refusal
from retinue.kernel.bounds import least
from retinue.kernel.clock import Clock, ManualClock, SystemClock, to_the_second
from retinue.kernel.encoding import base64url, from_base64url
from retinue.kernel.faults import (
    BadInput,
    BudgetExhausted,
    Conflict,
    Fault,
    Forbidden,
    Gone,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    QuotaExhausted,
    StorageFull,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from retinue.kernel.ids import new_id, parse_id
from retinue.kernel.manifest import Room
from retinue.kernel.money import NANOS_PER_DOLLAR, dollars, nanos
from retinue.kernel.scope import SYSTEM, Actor, ActorKind, Alone, Queries, Row, Scope, Services, UnitOfWork
from retinue.kernel.settings import Settings
from retinue.kernel.telemetry import (
    configure_logging,
    configure_tracing,
    shutdown_tracing,
    span,
    tracing_is_on,
)
from retinue.kernel.waiting import to_its_end
from retinue.kernel.yaml_reading import YamlDocument, YamlLoader, read_yaml, write_yaml

__all__ = [
    "NANOS_PER_DOLLAR",
    "SYSTEM",
    "Actor",
    "ActorKind",
    "Address",
    "Alone",
    "BadInput",
    "BudgetExhausted",
    "Clock",
    "Conflict",
    "Fault",
    "Forbidden",
    "Gone",
    "ManualClock",
    "NotFound",
    "PayloadTooLarge",
    "PreconditionFailed",
    "Queries",
    "QuotaExhausted",
    "Room",
    "Row",
    "Scope",
    "Services",
    "Settings",
    "StorageFull",
    "SystemClock",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "UnitOfWork",
    "UnsupportedMediaType",
    "YamlDocument",
    "YamlLoader",
    "address_refusal",
    "base64url",
    "configure_logging",
    "configure_tracing",
    "dollars",
    "from_base64url",
    "least",
    "nanos",
    "new_id",
    "parse_id",
    "read_yaml",
    "shutdown_tracing",
    "span",
    "to_its_end",
    "to_the_second",
    "tracing_is_on",
    "write_yaml",
]
