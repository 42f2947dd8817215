"""The bundle: a folder with a manifest and one ONNX file per unique subgraph and precision, written atomically."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import HashError, InputRefusedError, ManifestError, ResourceError, StaticBundleError, UsageError
from .manifest import FILE_NAME, Manifest, Precision, Variant, graphs_of
from .manifest_reader import read_manifest
from .storage.files import read_file, remedy_for, sha256_of, sync_folder, write_file

LOG = logging.getLogger("dynvid")

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. ``sha256`` is that of its manifest and so identifies every byte of it.

    ``held`` maps names to contents for a bundle that is not on disk yet.
    """

    root: Path
    manifest: Manifest
    sha256: str
    held: Mapping[str, bytes] | None = None

    @classmethod
    def open(cls, root: Path) -> Bundle:
        """Return the bundle in the folder ``root``; graphs are read and checked on demand.

        Raises:
            ManifestError: If there is no readable manifest.
            HashError: If the manifest has changed.
        """
        try:
            text = read_file(root / MANIFEST)
        except OSError as error:
            raise ManifestError(
                f"{str(root)!r} is not a bundle: {MANIFEST} cannot be read ({error.strerror}). Give a folder that "
                "'dynvid export' wrote."
            ) from None
        return cls(root, read_manifest(text, str(root)), hashlib.sha256(text).hexdigest())

    def read(self, variant: Variant) -> bytes:
        """Return the bytes of a subgraph's file, after checking their size and sha256 against the manifest.

        Raises:
            HashError: If the file is missing, is a link, or differs.
        """
        try:
            content = read_file(self.root / variant.file) if self.held is None else self.held[variant.file]
        except OSError as error:
            raise HashError(
                f"bundle {str(self.root)!r}: {variant.file} cannot be read ({error.strerror}). "
                "Run 'dynvid export' again."
            ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != variant.sha256 or len(content) != variant.bytes:
            raise HashError(
                f"bundle {str(self.root)!r}: {variant.file} has changed since export (sha256 {found[:8]}… instead of "
                f"{variant.sha256[:8]}…, {len(content)} bytes instead of {variant.bytes}). Run 'dynvid export' again."
            )
        return content

    def require(self, precision: Precision) -> None:
        """Check that the bundle holds the graphs for computing in ``precision``.

        Raises:
            UsageError: If not.
        """
        graphs = graphs_of(precision)
        if graphs not in self.manifest.precisions:
            how = "Run 'dynvid quantize'" if graphs == "int8" else f"Export again with --precision {graphs}"
            raise UsageError(
                f"precision {precision}: bundle {str(self.root)!r} holds {', '.join(self.manifest.precisions)}. {how}."
            )

    def require_exits(self, what: str, advice: str = "give a bundle of a network with a route") -> None:
        """Check that videos may leave early, which ``what`` is about.

        Raises:
            StaticBundleError: If the bundle is static.
        """
        if self.manifest.static:
            raise StaticBundleError(
                f"{what}: bundle {str(self.root)!r} is static: it answers once, from all frames, so it has no exits and "
                f"no thresholds: {advice}"
            )

    def require_source(self, training_checkpoint: Path) -> None:
        """Check that the bundle was exported from this file, so that its proved fp32 subgraphs are the reference.

        Raises:
            InputRefusedError: If not, or if it cannot be read.
        """
        try:
            found = sha256_of(training_checkpoint)
        except OSError as error:
            raise InputRefusedError(f"{str(training_checkpoint)!r} cannot be read ({error.strerror})") from None
        if found != self.manifest.source_sha256:
            raise InputRefusedError(
                f"{str(training_checkpoint)!r} (sha256 {found[:8]}…) is not what bundle {str(self.root)!r} was "
                f"exported from ({self.manifest.source_sha256[:8]}…): export it, or give the original"
            )

    def verify(self) -> int:
        """Read every file once; return their number. A warning names files that do not belong to the bundle.

        Raises:
            HashError: If a file is missing or differs.
        """
        files = [variant for s in self.manifest.subgraphs for variant in s.variants.values()]
        for variant in files:
            self.read(variant)
        known = {self.root / MANIFEST, *(self.root / variant.file for variant in files)}
        strange = sorted(path for path in self.root.rglob("*") if path.is_file() and path not in known)
        if strange:
            LOG.warning(f"{len(strange)} files in '{self.root}' are not of the bundle, such as '{strange[0].name}'")
        return len(files)


def require_target(root: Path) -> None:
    """Check that a bundle can be written to ``root``: it is missing, a bundle, or an empty folder, and may be replaced.

    Raises:
        InputRefusedError: If something else is there, or it is a mount point.
        ResourceError: If nothing can be written beside it.
    """
    root = root.resolve()
    if root.exists() and (os.path.ismount(root) or str(root) in _mount_points()):
        raise InputRefusedError(
            f"{str(root)!r} is a mount point, which a bundle cannot replace: give a folder in it, such as "
            f"{str(root / 'model.bundle')!r}"
        )
    beside = next(folder for folder in root.parents if folder.exists())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{root.name}.", dir=beside))
    except OSError as error:
        raise ResourceError(
            f"bundle {str(root)!r} cannot be written ({error.strerror}): {remedy_for(error, 'give another -o')}"
        ) from None
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    try:
        ours = b'"format": "dynvid.bundle"' in read_file(root / MANIFEST)
        others = [p.name for p in root.iterdir() if p.name != MANIFEST and not FILE_NAME.fullmatch(p.name)]
    except OSError:
        ours, others = False, []
    if not ours or others:
        holds = f" (it holds {others[0]!r})" if others else ""
        raise InputRefusedError(f"{str(root)!r} exists and is not a bundle{holds}: give another -o")


def write_bundle(root: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle to ``root``, or leave what was there: the old bundle, or nothing.

    All files are written and synced to a temporary sibling folder, the manifest last. Then the sibling takes the name
    in one step, by exchange if a bundle is already there.

    Raises:
        InputRefusedError: If ``root`` exists and is not a bundle, or cannot be exchanged.
        ResourceError: If the disk is full or not writable.
    """
    root = root.resolve()
    require_target(root)
    temporary: Path | None = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        for name, content in (*sorted(files.items()), (MANIFEST, manifest.to_bytes())):
            write_file(temporary / name, content)
        temporary.chmod(0o755)
        sync_folder(temporary)
        if root.exists():
            _exchange(temporary, root)
        else:
            temporary.rename(root)
        sync_folder(root.parent)
    except OSError as error:
        raise ResourceError(
            f"bundle {str(root)!r} could not be written ({error.strerror}); what was there before is untouched. "
            f"To mend it: {remedy_for(error, 'give another -o')}."
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # after an exchange, the old bundle
    return Bundle.open(root)


def _mount_points() -> set[str]:
    """Return the mount points that the system lists; ``os.path.ismount`` misses those of the same file system."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in lines}


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step (Linux renameat2), so that a bundle exists at every moment."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    if rename is None or rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) != 0:
        code = ctypes.get_errno()
        if rename is None or code in (errno.EINVAL, errno.ENOSYS):
            raise InputRefusedError(
                f"{str(other)!r} exists, and this file system cannot exchange two folders: remove it first, or give "
                "another -o"
            )
        raise OSError(code, os.strerror(code))
