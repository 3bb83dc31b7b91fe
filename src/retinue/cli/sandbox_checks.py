"""The doctor's look at the sandbox: the level that operations get here, and what is missing for a better one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from retinue.cli.diagnosis import Finding, Patient

_INSTALL = "Install bubblewrap (Debian and Ubuntu: apt-get install bubblewrap), or set RETINUE_SANDBOX."


async def sandbox(patient: Patient, *, whole: bool) -> list[Finding]:
    """Try each sandbox that the settings allow; ``whole``: say everything that was found, not only the best level."""
    if patient.settings.data.is_dir():
        return await _sandbox(patient, whole)
    with TemporaryDirectory() as folder:  # the first start makes the data folder, not the doctor
        settings = patient.settings.model_copy(update={"data": Path(folder)})
        return await _sandbox(replace(patient, settings=settings), whole)


async def _sandbox(patient: Patient, whole: bool) -> list[Finding]:
    from retinue.kernel import Fault
    from retinue.sandbox import Level, candidates

    minimum = Level(patient.settings.sandbox_minimum)
    best, lines, missing = Level.D, list[Finding](), ""
    name = "none"
    try:
        found = candidates(patient.settings)
    except (Fault, ImportError) as problem:
        return [Finding("sandbox", "cannot", getattr(problem, "detail", str(problem)))]
    for kind, one in found.items():
        try:
            probe = await one.probe()
        finally:
            await one.close()
        lines += [Finding(it.what, "ok" if it.ok else "note", it.detail) for it in probe.findings]
        if probe.level < best:
            best, name = probe.level, kind
        missing = missing or probe.missing
    if best.reaches(minimum):
        wanting = f"; for a better one: {missing}" if missing and best is not Level.A else ""
        summary = Finding(
            "sandbox", "ok", f"{name}, level {best} (at least {minimum} is asked for){wanting if whole else ''}"
        )
    elif patient.settings.sandbox == "none":
        summary = Finding("sandbox", "note", "switched off: no operation is run")
    else:
        # Who asks about the sandbox alone wants it; a server without operations works without one.
        text = f"level {best}, at least {minimum} is asked for: {missing}; no operation is run"
        summary = Finding("sandbox", "cannot" if whole else "note", text, _INSTALL)
    return [summary, *lines] if whole else [summary]
