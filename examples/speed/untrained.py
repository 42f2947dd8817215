"""Write an untrained network as a training checkpoint, to measure time with: ``untrained.py NETWORK OUT.pth [HEAD [CROP]]``.

Its weights let signal through, so that exporting proves it, but what it answers means nothing. HEAD is ``conv`` or
``linear``, by default ``linear`` for a ResNet and ``conv`` for an MSDNet. CROP is the frames' size, 224 by default.
"""

import sys
from pathlib import Path

from dynvid.models.config_json import from_json
from dynvid.models.network import initialise
from dynvid.models.registry import build
from dynvid.models.training_checkpoint import save


def main() -> None:
    name, path = sys.argv[1], Path(sys.argv[2])
    head = sys.argv[3] if len(sys.argv) > 3 else "linear" if name.startswith("resnet") else "conv"
    crop = int(sys.argv[4]) if len(sys.argv) > 4 else 224
    frames = {"short_side": crop * 8 // 7, "crop": crop}
    config = from_json(
        {"network": name, "classes": 400, "route": "joint", "head": {"style": head}, "preprocessing": frames}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save(initialise(build(config), seed=0), path)
    print(f"wrote {path}: untrained {name}, {head} heads, 400 classes, joint route, {crop} x {crop}")


if __name__ == "__main__":
    main()
