"""Compare the ports that a bundle declares with those that a backend sees: names, dtypes and shapes. Needs no onnx."""

from __future__ import annotations

from ..grid.bundle import Bundle
from ..grid.errors import BackendError, LintError
from .backends.base import Backend

BATCH, FRAMES = 2, 3


def check_ports(bundle: Bundle, backend: Backend) -> None:
    """Load every graph that the backend can run, and call it once on tensors of the declared shapes.

    Raises:
        HashError: If a file has changed.
        LintError: If a graph has other ports.
    """
    for subgraph in bundle.manifest.subgraphs:
        for precision, variant in subgraph.variants.items():
            name, content = f"{subgraph.name} {precision}", bundle.read(variant)
            if (backend.name, precision) == ("openvino", "int8"):
                continue  # it runs INT8 engines only
            program = backend.load(content, variant, name)
            inputs, outputs = (
                {spec.name: backend.zeros(spec.concrete(BATCH, FRAMES), spec.dtype) for spec in specs}
                for specs in (variant.inputs, variant.outputs)
            )
            try:
                program.prepare(inputs, outputs)()
            except BackendError as error:
                raise LintError(f"bundle {str(bundle.root)!r}: {name} is not as its manifest says: {error}") from None
