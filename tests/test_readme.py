"""What the documents say is so: links resolve, commands parse, lines fit, the Python example runs."""

import json
import re
import shlex
import shutil

import click
import pytest
from samples import ROOT

from dynvid.cli import cli
from dynvid.training.clips import write_clips

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]
GUIDES = [path for path in DOCUMENTS if "lab" not in path.parts]  # the lab also keeps commands of its day
LONGEST_LINE, LONGEST_README = 120, 120


def name(path):
    return str(path.relative_to(ROOT))


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(path):
    """Return the words of every command in a document's shell blocks; a line that ends in a backslash goes on."""
    lines = "".join(blocks(path.read_text(), "sh")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def require_parsed(words):
    """Parse a command line of dynvid as click does, and run nothing."""
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None, words
    command.make_context(words[1], list(words[2:]), parent=click.Context(cli)).close()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_resolve(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        file = target.split("#")[0]
        assert target.startswith("http") or not file or (path.parent / file).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_parse(path):
    for words in commands(path):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[0].endswith("dynvid"):
            require_parsed(words)
        elif words[0] == "python":
            assert (ROOT / words[1]).exists(), words


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_options_named_in_the_text_exist(path):
    """Of commands that stand in a line of text, such as `dynvid classify -o`."""
    for text in re.findall(r"`dynvid ([^`]+)`", path.read_text()):
        command, *words = text.split()
        if command.startswith("-") or command.isupper():
            continue
        assert command in cli.commands, text
        known = {
            option
            for parameter in cli.commands[command].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert all(word.strip("[],") in known | {"--help"} for word in words if word.startswith(("-", "[-"))), text


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_classify_examples_say_what_saves(path):
    """A video leaves early by thresholds only, so a document that classifies shows them."""
    classified = [words for words in commands(path) if words[1:2] == ["classify"]]
    assert all({"--thresholds", "--trace"} & set(words) for words in classified), classified


@pytest.mark.parametrize(
    "arguments", ["classfy a.bundle", "classify b --treshold T.json", "bench b", "plan r --frames many"]
)
def test_a_wrong_command_is_found(arguments):
    with pytest.raises((click.ClickException, AssertionError)):
        require_parsed(["dynvid", *arguments.split()])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_lines_fit(path):
    lines = [line for line in path.read_text().splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert not lines


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README


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
    assert all(f"`dynvid {command}`" in text for command in cli.commands)


def test_the_architecture_names_files_that_exist():
    """Of the folders' table, the journeys and the questions: every path that it gives in full."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    missing = [path for path in re.findall(r"`([a-z_0-9/]+/[a-z_0-9]*(?:\.py)?)`", text) if not (ROOT / path).exists()]
    assert not missing
