"""Which CPU backend runs a bundle's static network faster in INT8: their engines of ``full``, called in turn."""

from __future__ import annotations

import logging

from ...grid.bundle import Bundle
from ...grid.errors import BackendError, MissingPackageError
from ...grid.manifest import Precision
from ...runtime.backends.registry import ON_CPU
from .int8_speed import call_on_noise, medians
from .jobs import fused_jobs
from .makers import open_maker, preparation
from .segment_graphs import EngineGraphs

LOG = logging.getLogger("dynvid")

_INT8: Precision = "int8"
CLEARLY = 1.05
"""How many times another backend's time this one's must be to recommend the other."""


def static_ms(bundle: Bundle) -> dict[str, float]:
    """Return the milliseconds of one video through the static network in INT8, by CPU backend.

    Medians of interleaved calls for a video of noise, on all cores. Backends that are not installed, or that cannot
    compute in INT8 here, are left out.

    Raises:
        HashError, LintError: As ``EngineGraphs``.
    """
    (job,) = (job for job in fused_jobs(bundle, _INT8) if job.name == "full")
    backends, calls = [], {}
    try:
        for name in ON_CPU:
            try:
                maker = open_maker(name, precision=_INT8)
                graph = EngineGraphs(bundle, _INT8, preparation(name)).take(job.source)
                engine, _, _ = maker.make(job, graph)
                backend = maker.backend()
                assert backend is not None
                backends.append(backend)
                calls[name] = call_on_noise(backend, job, engine)
            except (BackendError, MissingPackageError) as error:
                LOG.debug(f"full in int8 is not timed on {name}: {error}")
        return dict(zip(calls, medians(list(calls.values())), strict=True))
    finally:
        for backend in backends:
            backend.close()


def advise(bundle: Bundle, chosen: str) -> None:
    """Say how long the static network takes on each CPU backend, and warn if the chosen one is clearly slower.

    Raises:
        HashError, LintError: As ``static_ms``.
    """
    found = static_ms(bundle)
    if chosen not in found or len(found) < 2:
        return
    told = ", ".join(f"{ms:.3g} ms on {name}" for name, ms in found.items())
    fastest = min(found, key=found.__getitem__)
    if found[chosen] < CLEARLY * found[fastest]:
        LOG.info(f"the static network in INT8: {told}")
        return
    LOG.warning(
        f"the static network in INT8 takes {told}: 'dynvid build-engines {bundle.root} --int8 "
        f"--backend {fastest}' builds the faster engines"
    )
