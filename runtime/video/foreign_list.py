"""What a file that is no LIST seems to be, and the command that makes a LIST of it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

_LOOKED_AT = 1 << 16  # bytes
_NAMES = ("path", "file", "filename", "file_name", "video_path", "video_name", "video_file", "clip", "name")
VIDEO_END = re.compile(r"\.(mp4|avi|mkv|webm|mov|m4v|mpe?g|ts|flv|wmv|gif|npy|3gp|ogv)$", re.IGNORECASE)
_QUOTE_ALL = 'gsub(/"/,"\\"\\"",$i);$i="\\""$i"\\""'  # awk: a field as CSV

Guess = tuple[str, str]  # what the file seems to be, and the command up to the file's name


def advice(path: Path) -> str | None:
    """Return what a file seems to be and the command that makes a LIST of it; None if that is not known.

    The command writes ``NAME.list.csv`` beside the file, since the paths of a LIST are relative to its folder.
    """
    if not path.is_file():
        return None  # a pipe cannot be read again
    with path.open("rb") as file:
        content = file.read(_LOOKED_AT)
    if len(content) == _LOOKED_AT:
        content = content[: content.rfind(b"\n") + 1]  # whole lines
    written = path.with_name(f"{path.stem}.list.csv")
    source, target = shlex.quote(os.fspath(path)), shlex.quote(os.fspath(written))
    guess = _encoding(content)
    if guess is None:
        lines = [line for line in content.decode("utf-8-sig", "replace").splitlines() if line.strip()]
        guesses = (ask(path.name, lines) for ask in _FORMATS) if lines else ()
        guess = next((guess for guess in guesses if guess is not None), None)
    if guess is None:
        return None
    what, command = guess
    return f"It seems to be {what}. To make a LIST of it: {command} {source} > {target}"


def _encoding(content: bytes) -> Guess | None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16", "iconv -f UTF-16 -t UTF-8"
    try:
        content.decode()
    except UnicodeDecodeError:
        binary = b"\0" in content
        return None if binary else ("text in Latin-1 or another one-byte encoding", "iconv -f LATIN1 -t UTF-8")
    return None


def _json_lines(name: str, lines: Sequence[str]) -> Guess | None:
    if all(line.startswith("{") and '"video"' in line for line in lines):
        return "JSON Lines with the key 'video'", 'jq -rn \'["video","label"],(inputs|[.video,.label])|@csv\''
    return None


def _separated(name: str, lines: Sequence[str]) -> Guess | None:
    """A LIST but for its separator, or the rows 'id;class' of Something-Something."""
    for separator, what in (("\t", "tabs"), (";", "semicolons")):
        if "video" in [field.strip() for field in lines[0].split(separator)] and separator in lines[0]:
            if not any(mark in line for line in lines for mark in ',"'):
                return f"separated by {what} instead of commas", f"tr '{_escaped(separator)}' , <"
            quoted = f'{{sub(/\\r$/,"");for(i=1;i<=NF;i++){{{_QUOTE_ALL}}}}}1'
            return f"separated by {what} instead of commas", f"awk -F'{_escaped(separator)}' -v OFS=, '{quoted}'"
    if all(re.fullmatch(r"[0-9]+;[^;]+", line.strip()) for line in lines):
        row = 'BEGIN{print "video,label"}NF{sub(/\\r$/,"");gsub(/"/,"\\"\\"");print $1 ".webm,\\"" $2 "\\""}'
        return "rows 'id;class' of Something-Something (videos ID.webm)", f"awk -F';' '{row}'"
    return None


def _kinetics(name: str, lines: Sequence[str]) -> Guess | None:
    columns = [column.strip() for column in lines[0].split(",")]
    if columns[:4] != ["label", "youtube_id", "time_start", "time_end"]:
        return None
    row = (
        'NR==1{print "video,label";next}NF{gsub(/"/,"",$1);'
        'printf "\\"%s/%s_%06d_%06d.mp4\\",\\"%s\\"\\n",$1,$2,$3,$4,$1}'
    )
    return "an annotation file of Kinetics (videos CLASS/ID_START_END.mp4)", f"awk -F, '{row}'"


def _other_name(name: str, lines: Sequence[str]) -> Guess | None:
    columns = [column.strip() for column in lines[0].split(",")]
    found = [column for column in columns if column.lower() in _NAMES]
    if len(found) != 1 or "video" in columns:
        return None
    named = f"a CSV that names the videos in '{found[0]}'; 'dynvid classify' reads it with --video-column {found[0]}"
    return named, f"sed '1s/{found[0]}/video/'"


def _rows_without_header(name: str, lines: Sequence[str]) -> Guess | None:
    first = [line.split(",")[0].strip().strip('"') for line in lines]
    if not all("," in line and VIDEO_END.search(path) for line, path in zip(lines, first, strict=True)):
        return None
    return "a CSV without a header", "sed '1i video,label'" if lines[0].count(",") == 1 else "sed '1i video,label,more'"


def _path_and_number(name: str, lines: Sequence[str]) -> Guess | None:
    """Rows 'path number', as of UCF101, TSN and mmaction2; in HMDB51's files, the number is the split."""
    if not all(re.fullmatch(r"(.*\S)\s+[0-9]+\s*", line) for line in lines):
        return None
    if not all(VIDEO_END.search(re.sub(r"\s+[0-9]+\s*$", "", line)) for line in lines):
        return None
    split = re.fullmatch(r"(.+)_test_split([0-9])\.txt", name)
    if split:
        row = f'BEGIN{{print "video,label"}}$2==2{{print $1 ",{split[1]}"}}'
        return "a split of HMDB51 (1: train, 2: test; the class is the file's name)", f"awk '{row}'"
    row = (
        'BEGIN{print "video,label"}NF{sub(/\\r$/,"");label=$NF;sub(/[ \\t]+[^ \\t]+[ \\t]*$/,"");'
        'gsub(/"/,"\\"\\"");print "\\"" $0 "\\"," label}'
    )
    return "rows 'path label' without a header", f"awk '{row}'"


def _path_only(name: str, lines: Sequence[str]) -> Guess | None:
    if not all(VIDEO_END.search(line.strip()) for line in lines):
        return None
    return "one path a line, without a header", 'sed \'s/\\r$//;s/"/""/g;s/.*/"&"/;1s/^/video\\n/\''


_FORMATS: tuple[Callable[[str, Sequence[str]], Guess | None], ...] = (
    _json_lines, _separated, _kinetics, _other_name, _rows_without_header, _path_and_number, _path_only,
)  # fmt: skip


def _escaped(separator: str) -> str:
    return "\\t" if separator == "\t" else separator
