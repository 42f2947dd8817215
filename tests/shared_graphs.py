"""Graphs that torch exports once for modules of one structure, kept on disk; each module's own weights are put in."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from dynvid.exporter.split.subgraphs import SubgraphModule
from dynvid.models.shift import ShiftConfig

_KNOWN = (bool, int, float, str, tuple, torch.dtype, ShiftConfig)


class SharedGraphs:
    """``to_onnx`` for tests: the same bytes, but torch exports modules of one structure once."""

    def __init__(self, folder: Path, to_onnx: Callable[[SubgraphModule], bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.to_onnx = folder, to_onnx

    def __call__(self, part: SubgraphModule) -> bytes:
        modules = list(part.module.modules())
        if not all(type(module).__module__.startswith(("dynvid.", "torch.")) for module in modules):
            return self.to_onnx(part)  # a test's own, whose code is no part of the sources' hash
        facts = [{k: v for k, v in vars(module).items() if isinstance(v, _KNOWN)} for module in modules]
        said = repr((part.name, part.precision, part.inputs, part.outputs, part.module, facts))
        tensors = part.module.state_dict()
        weights = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        # torch leaves out the adding of zeros, and holds equal tensors once
        odd = {name: weights[name] for name, tensor in tensors.items() if (tensor == tensor.flatten()[0]).all()}
        equal = [list(weights.values()).index(value) for value in weights.values()]
        shared, own = (self._path(said, equal, held) for held in (odd, weights))
        for path in (shared, own):
            if path.exists():
                model = onnx.load_model_from_string(path.read_bytes())
                for tensor in model.graph.initializer:
                    tensor.raw_data = weights.get(tensor.name, tensor.raw_data)
                return model.SerializeToString(deterministic=True)
        content = self.to_onnx(part)
        kept = onnx.load_model_from_string(content).graph.initializer
        values = {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in kept}
        found = all(values.get(name) == value for name, value in weights.items() if name not in odd)
        path = shared if found else own
        written = path.with_suffix(f".{os.getpid()}")
        written.write_bytes(content)
        written.rename(path)
        return content

    def _path(self, *facts: object) -> Path:
        return self.folder / hashlib.sha256(repr(facts).encode()).hexdigest()
