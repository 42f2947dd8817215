"""The engine cache: plan files, each with a sidecar that describes it; the sidecars together are the ledger.

A plan without its sidecar is ignored. Engines are never the product: one that does not fit is built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from ..errors import (
    EngineFileError,
    IntegrityError,
    MissingEngineError,
    ResourceError,
    StaleEngineError,
    UntrustedEngineError,
    UsageError,
)
from ..manifest import Precision
from ..storage.files import open_regular, sync_folder, write_file
from ..storage.strict_json import StrictJsonError
from .key import RTX_TARGETS, Engine, EngineKey, Flavour, Profile, read_engine, this_platform
from .plan_header import header_fault
from .request import EngineRequest, build_command, engines_folder

__all__ = [
    "RTX_TARGETS",
    "Engine",
    "EngineCache",
    "EngineKey",
    "EngineRequest",
    "Flavour",
    "Ledger",
    "Profile",
    "engines_folder",
    "this_platform",
]  # fmt: skip

_SIDECAR = re.compile(
    rf"(.+)\.({'|'.join(get_args(Precision))})\.({'|'.join(get_args(Flavour))})\.[0-9a-f]{{12}}\.json"
)


class Ledger(NamedTuple):
    """The engines of a folder, ordered by file name, and the error for each damaged sidecar, by its name."""

    engines: tuple[Engine, ...]
    damaged: dict[str, IntegrityError]


class EngineCache:
    """The engines in ``folder``.

    Errors name the command that builds them for ``bundle``, the bundle's folder. If that is None, the bundle is the
    one that ``folder`` lies beside.
    """

    def __init__(self, folder: Path, bundle: Path | None = None) -> None:
        self.folder = folder
        self.bundle = bundle
        if bundle is None and folder.name.endswith(".engines") and folder.name != ".engines":
            self.bundle = folder.with_name(folder.name.removesuffix(".engines"))

    def engines(self) -> Ledger:
        """Return every engine in the folder; none if it does not exist.

        Raises:
            UntrustedEngineError: If others may write to the folder.
            EngineFileError: If it cannot be read.
        """
        return self._ledger()

    def find(self, wanted: EngineRequest) -> Engine:
        """Return the engine that fits ``wanted``, the newest if several do; reads sidecars only.

        Raises:
            MissingEngineError: If there is no engine.
            StaleEngineError: If none fits; the message compares the nearest one with what is needed.
            EngineFileError, UntrustedEngineError: If the one that could fit is damaged or writable by others.
        """
        remedy = wanted.remedy(None, self.bundle, self.folder)
        engines, damaged = self._ledger(remedy, f"{wanted.subgraph}.{wanted.precision}.{wanted.flavour}.")
        fitting = [engine for engine in engines if not wanted.differences(engine.key)]
        if fitting:
            return max(fitting, key=lambda engine: (engine.built, engine.key.name))
        if damaged:
            raise next(iter(damaged.values()))
        engines = self._ledger(remedy).engines
        if not engines:
            raise MissingEngineError(
                f"no engine in {str(self.folder)!r}: expected one of {wanted.subgraph} in {wanted.precision} for "
                f"{wanted.flavour}. {remedy}"
            )
        differences = {engine.key.name: wanted.differences(engine.key) for engine in engines}
        first = ("subgraph", "flavour", "precision")
        nearest = min(
            engines,
            key=lambda engine: (
                [name in differences[engine.key.name] for name in first],
                len(differences[engine.key.name]),
            ),
        )
        listed = "; ".join(f"{field} {values}" for field, values in differences[nearest.key.name].items())
        raise StaleEngineError(
            f"no engine in {str(self.folder)!r} fits; the nearest, {nearest.plan}, has {listed}. "
            f"{wanted.remedy(nearest.key, self.bundle, self.folder)}"
        )

    def has(self, key: EngineKey) -> Engine | None:
        """Return the engine of ``key`` if it is intact; None if it is missing or damaged and must be built.

        Raises:
            UntrustedEngineError: If others may write to the folder, which building would not fix.
        """
        self._require_closed_folder()
        remedy = self._remedy(key)
        try:
            engine = self._load(f"{key.name}.json", remedy)
            self._plan(engine, remedy)
        except IntegrityError:
            return None
        return engine if engine.key == key else None

    def read(self, engine: Engine) -> bytes:
        """Return the plan of an engine in the ledger, after every check that needs no GPU.

        Raises:
            UntrustedEngineError: If others may write to the folder or to one of its two files.
            EngineFileError: If it is not in the ledger, its file is a link or missing, or its size, sha256 or header
                differ.
        """
        self._require_closed_folder()
        remedy = self._remedy(engine.key)
        if self._load(f"{engine.key.name}.json", remedy) != engine:
            raise EngineFileError(
                f"engine {str(self.folder / engine.plan)!r} is no longer the one in the ledger: look it up again. "
                f"{remedy}"
            )
        return self._plan(engine, remedy)

    def write(self, key: EngineKey, plan: bytes, seconds: float, dtype_census: Mapping[str, Any]) -> Engine:
        """Write the engine of ``key``, plan first, sidecar last, so that a crash leaves it whole or absent; return it.

        If a complete one already exists, because another process was faster, that one is kept and returned.

        Raises:
            EngineFileError: If the header of ``plan`` contradicts the key.
            UntrustedEngineError: If others may write to the folder.
            UsageError: If the folder is a file.
            ResourceError: If the disk is full or not writable.
        """
        fault = header_fault(plan, key.flavour, key.version)
        if fault:
            raise EngineFileError(
                f"plan of {key.subgraph} in {key.precision} is not kept: {fault}. Run 'dynvid doctor'."
            )
        built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        engine = Engine(key, hashlib.sha256(plan).hexdigest(), len(plan), seconds, dict(dtype_census), built)
        try:
            with self._lock():
                whole = self.has(key)
                if whole is None:
                    self._replace(engine, plan)
                return whole or self._load(f"{key.name}.json", self._remedy(key))
        except OSError as error:
            raise ResourceError(
                f"engine {str(self.folder / engine.plan)!r} could not be written ({error.strerror}); no part of it "
                "remains. Free some space, make the folder writable, or give another --engines."
            ) from None

    def _replace(self, engine: Engine, plan: bytes) -> None:
        target, sidecar = self.folder / engine.plan, self.folder / f"{engine.key.name}.json"
        # fixed names: the next writer, which holds the lock, overwrites what a killed one left
        new_plan, new_sidecar = self.folder / ".new.plan", self.folder / ".new.json"
        try:
            for path, content in ((new_plan, plan), (new_sidecar, engine.to_bytes())):
                path.unlink(missing_ok=True)
                write_file(path, content)
            new_plan.replace(target)
            sync_folder(self.folder)
            new_sidecar.replace(sidecar)
            sync_folder(self.folder)
        finally:
            new_plan.unlink(missing_ok=True)
            new_sidecar.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Create the folder if missing and lock it against other writers, at most until the process ends."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{str(self.folder)!r} is a file, expected a folder for engines: give another --engines")
        if not self.folder.exists():
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            sync_folder(self.folder.parent)
        self._require_closed_folder()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.folder / ".lock", flags, 0o644), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _ledger(self, remedy: str | None = None, prefix: str = "") -> Ledger:
        self._require_closed_folder()
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.startswith(prefix))
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise self._unreadable(error) from None
        engines, damaged = [], {}
        for match in filter(None, map(_SIDECAR.fullmatch, names)):
            precision, flavour = cast(Precision, match[2]), cast(Flavour, match[3])
            command = build_command(self.bundle, self.folder, flavour, precision)
            try:
                engines.append(self._load(match[0], remedy or f"Run '{command}'."))
            except IntegrityError as error:
                damaged[match[0]] = error
        return Ledger(tuple(engines), damaged)

    def _load(self, sidecar: str, remedy: str) -> Engine:
        """Return the engine that a sidecar describes, without reading its plan."""
        path = self.folder / sidecar
        try:
            engine = read_engine(self._read(path, None, remedy))
        except (StrictJsonError, UsageError) as error:
            raise EngineFileError(f"engine file {str(path)!r} is malformed: {error}. {remedy}") from None
        if sidecar != f"{engine.key.name}.json":
            raise EngineFileError(f"engine file {str(path)!r} describes another engine, {engine.plan}. {remedy}")
        return engine

    def _plan(self, engine: Engine, remedy: str) -> bytes:
        """Return the plan of an engine if its size, sha256 and header are right."""
        path = self.folder / engine.plan
        plan = self._read(path, engine.plan_bytes, remedy)
        sha256 = hashlib.sha256(plan).hexdigest()
        if sha256 != engine.plan_sha256:
            raise EngineFileError(
                f"engine file {str(path)!r} has changed since it was built (plan sha256 {sha256[:8]}… instead of "
                f"{engine.plan_sha256[:8]}…). {remedy}"
            )
        fault = header_fault(plan, engine.key.flavour, engine.key.version)
        if fault:
            raise EngineFileError(f"engine file {str(path)!r} is refused: {fault}. {remedy}")
        return plan

    def _read(self, path: Path, size: int | None, remedy: str) -> bytes:
        """Return a file that only its owner may change, of ``size`` bytes if that is known."""
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                _require_closed(path, status)
                if size not in (None, status.st_size):
                    raise EngineFileError(
                        f"engine file {str(path)!r} has changed since it was built (plan size {status.st_size} bytes "
                        f"instead of {size}). {remedy}"
                    )
                return file.read()
        except OSError as error:
            raise EngineFileError(f"engine file {str(path)!r} cannot be read ({error.strerror}). {remedy}") from None

    def _require_closed_folder(self) -> None:
        try:
            status = self.folder.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error) from None
        _require_closed(self.folder, status)

    def _unreadable(self, error: OSError) -> EngineFileError:
        return EngineFileError(
            f"engines in {str(self.folder)!r} cannot be read ({error.strerror}): give another --engines"
        )

    def _remedy(self, key: EngineKey) -> str:
        command = build_command(self.bundle, self.folder, key.flavour, key.precision, key.targets, key.largest_batch)
        return f"Run '{command}'."


def _require_closed(path: Path, status: os.stat_result) -> None:
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedEngineError(
            f"{str(path)!r} may be written by group or others (mode {stat.S_IMODE(status.st_mode):04o}), and an "
            f"engine is code: expected the owner alone. Run {shlex.join(['chmod', 'go-w', str(path)])!r} if you "
            "trust what is there."
        )
