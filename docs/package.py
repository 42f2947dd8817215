"""A hook of mkdocs: links the package where mkdocstrings finds it, for the repository root has another name than it."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """Make ``build/docs/dynvid``, a folder of links to the modules and packages of the root."""
    package = ROOT / "build" / "docs" / "dynvid"
    package.mkdir(parents=True, exist_ok=True)
    for link in package.iterdir():
        link.unlink()
    for source in ROOT.iterdir():
        if source.suffix == ".py" or (source / "__init__.py").exists():
            (package / source.name).symlink_to(source)
    return config
