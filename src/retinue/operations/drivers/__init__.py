"""The drivers of this server: those that come with it, and those of installed packages (``retinue.drivers``).

An entry point names a driver (see ``retinue.operations.driver``), or a callable without parameters that returns one. A
plugin that is broken is left out, and named with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points

from retinue.kernel import BadInput
from retinue.operations.driver import Driver
from retinue.operations.drivers.command import CommandDriver
from retinue.operations.drivers.gemini import GeminiDriver
from retinue.operations.drivers.qwen import QwenDriver
from retinue.tools import ArgumentCheck

logger = logging.getLogger(__name__)

GROUP = "retinue.drivers"


def built_in() -> list[Driver]:
    """Return the drivers that come with the server."""
    return [CommandDriver(), GeminiDriver(), QwenDriver()]


class Drivers:
    """All drivers of this server; a service of the house.

    Attributes:
        broken: plugins that could not be loaded, by name, with the reason.
    """

    def __init__(self, entries: Iterable[EntryPoint] | None = None) -> None:
        self.broken: dict[str, str] = {}
        self._by_name: dict[str, Driver] = {}
        self._checks: dict[str, ArgumentCheck] = {}
        for driver in built_in():
            self.add(driver)
        for entry in entry_points(group=GROUP) if entries is None else entries:
            try:
                loaded = entry.load()
                self.add(loaded if hasattr(loaded, "attempt") and not isinstance(loaded, type) else loaded())
            # SystemExit: a module that ends the program when it is imported must not end the server.
            except (Exception, SystemExit) as error:
                self.broken[entry.name] = f"{type(error).__name__}: {error}"[:500]
                logger.warning("the driver %s (%s) is broken", entry.name, entry.value, exc_info=error)

    def add(self, driver: Driver) -> None:
        """Offer one more driver.

        Raises:
            ValueError: its name is taken, or its schema is none.
        """
        if driver.name in self._by_name:
            raise ValueError(f"there is a driver called {driver.name} already")
        self._checks[driver.name] = ArgumentCheck(dict(driver.parameters))
        self._by_name[driver.name] = driver

    def names(self) -> list[str]:
        """Return the names of all drivers."""
        return sorted(self._by_name)

    def get(self, name: str) -> Driver | None:
        """Return a driver; None: there is none of that name."""
        return self._by_name.get(name)

    def named(self, name: str, field: str) -> Driver:
        """Return a driver that somebody asks for.

        Raises:
            BadInput: there is none of that name; ``field`` is where it stood.
        """
        driver = self.get(name)
        if driver is None:
            raise BadInput(f"There is no driver {name[:50]!r}. There are: {', '.join(self.names())}.", field=field)
        return driver

    def check(self, names: Sequence[str]) -> None:
        """Refuse names of drivers that are not there.

        Raises:
            BadInput: there is such a one, in the field ``drivers``; it says which there are.
        """
        for index, name in enumerate(names):
            self.named(name, f"drivers.{index}")

    def complaint(self, name: str, parameters: dict[str, object]) -> str | None:
        """Say why a driver does not take these parameters; None: it does."""
        return self._checks[name].complaint(parameters)
