"""Write a model repository for Triton: config.pbtxt, model.py, and copies of bundle, thresholds and engines."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...grid.bundle import Bundle
from ...grid.engines.cache import EngineCache
from ...grid.engines.request import engines_folder
from ...grid.errors import ResourceError, UsageError
from ...grid.manifest import Precision
from ...grid.storage.files import remedy_for
from ...grid.thresholds import read_thresholds
from ...runtime.argument_checks import require_count
from ...runtime.backends.registry import NAMES, require_precision
from ..answer import OUTPUTS
from ..request import CLIP, FRAMES, require_name

_MARK = "# written by dynvid export-triton\n"
_MODEL = f'''{_MARK}"""The model of this repository; Triton's Python needs dynvid installed."""

from dynvid.serving.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_TYPES = {"BYTES": "TYPE_STRING", "INT32": "TYPE_INT32", "FP64": "TYPE_FP64"}


def write_model(
    bundle: Path,
    repository: Path,
    name: str,
    thresholds: Path | None,
    backend: str,
    precision: Precision,
    engines: Path | None,
    threads: int | None,
    batch: int,
    queue_delay_ms: float,
) -> Path:
    """Write the model ``name`` into the repository; return its folder. Arguments as ``api.export_triton``.

    Raises:
        UsageError: If an argument is not one, or something else is there.
        ManifestError, HashError, ThresholdsError, StaleThresholdsError: If the bundle or thresholds cannot be used.
        ResourceError: If it cannot be written.
    """
    require_name(name)
    if threads is not None:
        require_count("threads", threads)
    if backend == "null" or backend not in ("auto", *NAMES):
        known = ", ".join(name for name in NAMES if name != "null")
        raise UsageError(f"backend {backend!r}: expected one of auto, {known}")
    if backend != "auto":
        require_precision(backend, precision)
    opened = Bundle.open(bundle)
    opened.verify()
    opened.require(precision)
    if thresholds is not None:
        opened.require_exits("thresholds", "leave --thresholds out")
        read_thresholds(thresholds, opened.sha256, len(opened.manifest.route_cells), precision)
    built = engines_folder(bundle) if engines is None else engines
    cells = engines == Path("none")
    if engines is not None and not cells and not engines.is_dir():
        raise UsageError(f"--engines {str(engines)!r} is not a folder: give one that 'dynvid build-engines' wrote")
    if engines is not None and not cells and not EngineCache(engines, bundle).engines().engines:
        raise UsageError(
            f"--engines {str(engines)!r} holds no engines: give a folder that 'dynvid build-engines' wrote"
        )
    if repository.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(f"-o {str(repository)!r} is inside the bundle, which is copied there: give a folder outside")
    folder = repository.resolve() / name
    if folder.exists() and not _is_ours(folder):
        raise UsageError(f"{str(folder)!r} exists and is not an export of this command: give another --name or -o")
    options = {
        "bundle": "model.bundle",
        "thresholds": None if thresholds is None else "T.json",
        "engines": "none"
        if cells
        else None
        if engines is None
        else "model.bundle.engines",  # None finds those beside the bundle
        "backend": backend,
        "precision": precision,
        "threads": threads,
        "batch": batch,
    }
    temporary: Path | None = None
    try:
        repository.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=repository))
        version = temporary / "new" / "1"
        shutil.copytree(bundle, version / "model.bundle")
        if thresholds is not None:
            shutil.copyfile(thresholds, version / "T.json")
        if built.is_dir() and not cells:
            shutil.copytree(built, version / "model.bundle.engines")
        (version / "model.py").write_text(_MODEL)
        (version.parent / "config.pbtxt").write_text(_config(name, options, batch, queue_delay_ms))
        if folder.exists():
            folder.rename(temporary / "old")
        version.parent.rename(folder)
    except OSError as error:
        raise ResourceError(
            f"the model {str(folder)!r} cannot be written ({error.strerror or error}): "
            f"{remedy_for(error, 'give another -o')}"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_ours(folder: Path) -> bool:
    try:
        return (folder / "1" / "model.py").read_text().startswith(_MARK)
    except OSError:
        return not any(folder.iterdir()) if folder.is_dir() else False


def _config(name: str, options: Mapping[str, object], batch: int, queue_delay_ms: float) -> str:
    """Return config.pbtxt, in protocol buffers' text format, whose strings are JSON's."""
    inputs = [
        f'  {{ name: "{one}" data_type: {kind} dims: {dims} optional: true allow_ragged_batch: true }}'
        for one, kind, dims in ((CLIP, "TYPE_STRING", "[ 1 ]"), (FRAMES, "TYPE_UINT8", "[ -1, -1, -1, 3 ]"))
    ]
    outputs = [
        f'  {{ name: "{one}" data_type: {_TYPES[kind]} dims: [ {-1 if one == "warnings" else 1} ] }}'
        for one, kind in OUTPUTS.items()
    ]
    text = json.dumps(json.dumps(options))
    return "\n".join(
        [
            _MARK.rstrip(),
            f'name: "{name}"',
            'backend: "python"',
            f"max_batch_size: {batch}",
            "input [",
            ",\n".join(inputs),
            "]",
            "output [",
            ",\n".join(outputs),
            "]",
            f"dynamic_batching {{ max_queue_delay_microseconds: {round(queue_delay_ms * 1e3)} }}",
            "instance_group [ { kind: KIND_CPU count: 1 } ]",
            f'parameters {{ key: "options" value: {{ string_value: {text} }} }}',
            "",
        ]
    )
