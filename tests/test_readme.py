"""What the documents say is so: links resolve, commands and options exist, the Python example runs."""

import json
import re
import shutil

import pytest
from samples import ROOT

from dynvid.cli import cli
from dynvid.training.clips import write_clips

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_their_options_exist(path):
    for line in [line for block in blocks(path.read_text(), "sh") for line in block.splitlines()]:
        words = line.split("#")[0].split()
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        if words and words[0].endswith("dynvid"):
            assert words[1] in cli.commands, line
            known = [
                option
                for parameter in cli.commands[words[1]].params
                for option in parameter.opts + parameter.secondary_opts
            ]
            assert all(word in known for word in words[2:] if word.startswith("-")), line


def test_nothing_is_left_to_fill_in():
    for path in DOCUMENTS:
        assert not re.search(r"TODO|FIXME|XXX|_TABLE", path.read_text()), path


def test_the_python_example_runs(tiny_bundle, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_bundle.root, tmp_path / "demo_output" / "bundle")
    thresholds = {"bundle_sha256": tiny_bundle.sha256, "q": None, "thresholds": [0.0, 1.0, 1.0, None]}
    (tmp_path / "demo_output" / "T.json").write_text(json.dumps(thresholds))
    write_clips(tmp_path / "demo_output" / "shown", 1, 0)
    monkeypatch.chdir(tmp_path)
    (example,) = blocks((ROOT / "README.md").read_text(), "python")
    exec(compile(example, "README.md", "exec"), {})
    label, checkpoint, gmacs = capsys.readouterr().out.split()
    assert label in "abcde" and checkpoint == "1" and float(gmacs) > 0


def test_the_changelog_names_every_command():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert all(f"`dynvid {name}`" in text for name in cli.commands)
