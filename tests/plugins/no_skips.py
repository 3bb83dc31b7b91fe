"""A pytest plugin: under CI=true a skipped test fails, and says why it would have been skipped.

On a user's machine a test may be skipped because something is missing there. In continuous integration the
same skip would be a hole that nobody sees. Load it with `-p tests.plugins.no_skips`.
"""

import os
from collections.abc import Generator

import pytest


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as skipped too; it ran, and xfail_strict watches it.
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    details = report.longrepr
    reason = str(details[2]) if isinstance(details, tuple) else str(details)
    report.outcome = "failed"
    report.longrepr = f"skipped under CI=true, where everything must run: {reason.removeprefix('Skipped: ')}"


class NoSkips:
    """Turns a skip into a failure, of a test and of a whole module."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        _fail_if_skipped(report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        _fail_if_skipped(report)
        return report


def pytest_configure(config: pytest.Config) -> None:
    """Watch for skips in this process when it runs under continuous integration."""
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(NoSkips(), "no-skips")
