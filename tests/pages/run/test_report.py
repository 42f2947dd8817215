import dataclasses
import json
import os
import random
import re
import time
from collections import Counter

import pytest
from command_line import dynvid as run
from command_line import ok, refused
from hostile_names import HOSTILE, SCRIPT
from page_reader import data_of, read, require_alone
from samples import write_noise

import dynvid
from dynvid.grid.errors import ResultsError, StaleThresholdsError, UsageError
from dynvid.grid.storage.sealed import seal
from dynvid.grid.thresholds import CONFIDENCE_BINS, Thresholds
from dynvid.pages.legible import legible
from dynvid.pages.run import words
from dynvid.runtime.results.run import FORMAT, VERSION, Run, sidecar_of
from dynvid.training.clips import write_clips

CLASSES = ["a", "b", "c", "d", "e"]


def line(video, label="a", listed="a", checkpoint=1, confidence=0.9, ms=2.0, **others):
    return {
        "video": video, "status": "ok", "label": label, "listed_label": listed, "error": None, "class_index": 0,
        "confidence": confidence, "checkpoint": checkpoint, "gmacs": 0.1 * checkpoint, "fraction": 0.25 * checkpoint,
        "latency_ms": ms * checkpoint, "decode_ms": 3.0, "frames_decoded": 4, "frames_total": 9, "damaged": False,
        "warnings": [], **others,
    }  # fmt: skip


def failed(video, error):
    return {**line(video), "status": "damaged", "label": None, "checkpoint": None, "confidence": None, "error": error}


def made(count, names=str, seed=0):
    """Return the lines of a run, made up."""
    rng = random.Random(seed)
    lines = []
    for index in range(count):
        listed, checkpoint = rng.choice(CLASSES), rng.choice([1, 1, 1, 2, 3])
        label = listed if rng.random() < 0.9 else rng.choice(CLASSES)
        if rng.random() < 0.02:
            lines.append(failed(names(index), f"video '{names(index)}' cannot be decoded: frame {index} is missing"))
        else:
            lines.append(line(names(index), label, listed, checkpoint, rng.random(), rng.random() + 1))
    return lines


def write(path, lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


@pytest.fixture(scope="module")
def lines():
    return made(300)


@pytest.fixture(scope="module")
def written(lines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    dynvid.report(write(folder / "r.jsonl", lines), folder / "page.html")
    return (folder / "page.html").read_text()


def differences(text, lines):
    """Return in what a page and the lines of its run differ."""
    shown, told = read(text), data_of(read(text))
    answered = [one for one in lines if one["status"] == "ok"]
    exits = Counter(one["checkpoint"] for one in answered)
    right = Counter(one["checkpoint"] for one in answered if one["label"] == one["listed_label"])
    pairs = Counter((one["listed_label"], one["label"]) for one in answered)
    tables = {table.all("caption")[0].text.split(".")[0]: table for table in shown.all("table")}
    rows = {
        name: [
            [cell.text for cell in row.children if not isinstance(cell, str)] for row in table.all("tbody")[0].all("tr")
        ]
        for name, table in tables.items()
    }
    bars = {
        int(one.attributes["data-exit"]): int(one.attributes["data-videos"])
        for one in shown.all("rect")
        if "data-exit" in one.attributes
    }
    names = sorted(CLASSES)
    by_class = {
        name: [str(sum(o["listed_label"] == name and o["checkpoint"] == k for o in answered)) for k in (1, 2, 3)]
        for name in names
    }
    wanted = {
        "exits": bars == exits,
        "accuracy by exit": [row[3] for row in rows["By exit"][:-1]] == [f"{right[k] / exits[k]:.1%}" for k in sorted(exits)],
        "accuracy": told["right"] == sum(right.values()) and (told["videos"], told["answered"]) == (len(lines), len(answered)) and told["labelled"] == len(answered),
        "exits by class": {row[0]: row[3:6] for row in rows["By label"]} == by_class,
        "confusion": [[row[1:][k].replace("·", "0") for k in range(5)] for row in rows["Rows: labels"]]
        == [[str(pairs[label, answer]) for answer in names] for label in names],
        "failures": [int(row[1]) for row in rows["Videos without an answer, by cause"]] == [len(lines) - len(answered)],
        "lines": [row[0] for row in rows["As they finished"]] == [one["video"] for one in lines],
        "cost": rows["A video's costs"][0][1] == f"{sum(one['latency_ms'] for one in answered) / len(answered):.2f}",
    }  # fmt: skip
    return [name for name, equal in wanted.items() if not equal]


def test_the_page_is_what_the_lines_say(written, lines):
    assert differences(written, lines) == []
    require_alone(written)


PLANTED = {
    "exits": (r'data-videos="\d', 'data-videos="9'),
    "accuracy by exit": (r'(<td class="n">\d+\.\d%</td><td class="n">)\d\d', r"\g<1>11"),
    "accuracy": (r'"answered": \d', '"answered": 9'),
    "exits by class": (r'(data-class="a".*?data-sort.*?<td class="n">)\d', r"\g<1>9"),
    "confusion": (r'<td class="n good">\d', '<td class="n good">0'),
    "lines": (r'<td class="long"><bdi>7</bdi>', '<td class="long"><bdi>70</bdi>'),
    "cost": (r'(compute, ms</th><td class="n">)\d', r"\g<1>9"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found(written, lines, name):
    before, after = PLANTED[name]
    text = re.sub(before, after, written, count=1, flags=re.DOTALL)
    assert text != written and name in differences(text, lines)


def test_two_thousand_videos_make_a_small_page_soon(tmp_path):
    clips = sorted((write_clips(tmp_path / "few", 4, 0).parent / "clips").glob("*.mp4"))
    for index in range(2000):
        os.link(clips[index % 4], tmp_path / f"{index:04}-of-a-class-with-a-long-name.mp4")
    results = write(
        tmp_path / "r.jsonl", made(2000, lambda index: str(tmp_path / f"{index:04}-of-a-class-with-a-long-name.mp4"))
    )
    begun = time.monotonic()
    dynvid.report(results, tmp_path / "page.html")
    assert time.monotonic() - begun < 10
    assert (tmp_path / "page.html").stat().st_size < 3e6
    shown = read((tmp_path / "page.html").read_text())
    assert len(shown.all("table")[-1].all("tr")) == 2001 and len(shown.all("img")) == 3 * (8 + 8 + 16)


def test_what_lies_beyond_two_thousand_rows_is_counted_not_listed(tmp_path):
    dynvid.report(write(tmp_path / "r.jsonl", [line(str(i)) for i in range(2005)]), tmp_path / "page.html")
    shown = read((tmp_path / "page.html").read_text())
    assert len(shown.all("table")[-1].all("tr")) == 2001
    assert "2,000 videos, the first of 2,005" in shown.text and data_of(shown)["videos"] == 2005


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_name_becomes_a_tag_and_all_stay_legible(kind, tmp_path):
    text = HOSTILE[kind]
    lines = [
        line(f"x/{text}", text, text),
        line("b", text, "other"),
        failed(f"f/{text}", f"video 'f/{text}' is no video"),
    ]
    dynvid.report(lines, tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = require_alone(written)
    assert SCRIPT not in written and len(shown.all("script")) == 2
    assert shown.text.count(legible(text)) >= 5
    assert data_of(shown)["by_class"][0]["name"] in (text, "other")


def test_failures_are_grouped_by_cause_and_counted(tmp_path):
    lines = [
        line("a"),
        *(failed(f"{i}.mp4", f"video '{i}.mp4' breaks off at frame {i}") for i in range(5)),
        failed("n", "n: No such file"),
    ]
    figures = dynvid.report(lines)
    assert [(f.cause, f.videos, f.examples) for f in figures.failures] == [
        ("video '…' breaks off at frame 0", 5, ("0.mp4", "1.mp4", "2.mp4")), ("…: No such file", 1, ("n",)),
    ]  # fmt: skip


def test_no_answer_and_no_label_still_make_a_page(tmp_path):
    dynvid.report([failed("a", "why")], tmp_path / "none.html")
    assert "0 of 1 video has an answer" in read((tmp_path / "none.html").read_text()).text
    figures = dynvid.report([line("a", listed=None)], tmp_path / "page.html")
    assert figures.total.accuracy is None
    shown = read((tmp_path / "page.html").read_text())
    assert "no video has a label" in shown.text and "What was taken for what" not in shown.text


def test_a_list_brings_labels(tmp_path):
    (tmp_path / "list.csv").write_text("video,label\n0.npy,b\n1.npy,a\n")
    lines = [line(str(tmp_path / "0.npy"), listed=None), line(str(tmp_path / "1.npy"), listed="c")]
    assert dynvid.report(lines, data=tmp_path / "list.csv").total.right == 1


def test_a_list_without_labels_takes_none_away(tmp_path, caplog):
    for name in ("list.csv", "0.npy", "1.npy"):
        (tmp_path / name).write_text("video\n0.npy\n1.npy\n")
    lines = [line(str(tmp_path / "0.npy")), line(str(tmp_path / "1.npy"), listed="c")]
    for data in (tmp_path / "list.csv", tmp_path / "*.npy"):
        caplog.clear()
        total = dynvid.report(lines, data=data).total
        assert (total.labelled, total.right) == (2, 1), data
        assert f"list '{data}' has no labels: those in the results stay" in caplog.text


@pytest.mark.parametrize("label", ["nonsense", "3"])
def test_labels_that_are_no_classes_are_warned_of(tiny_bundle, tmp_path, caplog, label):
    lines = [line(str(tmp_path / "0.npy")), line(str(tmp_path / "1.npy"), "b")]
    (tmp_path / "list.csv").write_text(f"video,label\n0.npy,{label}\n1.npy,{label}\n")
    dynvid.report(lines, data=tmp_path / "list.csv")
    assert (
        f"no label of list '{tmp_path / 'list.csv'}' is an answer in these results, first '{label}' of" in caplog.text
    )
    caplog.clear()
    (tmp_path / "list.csv").write_text(f"video,label\n0.npy,{label}\n1.npy,a\n")
    dynvid.report(lines, data=tmp_path / "list.csv")
    assert caplog.text == ""  # some are answers, and nothing says which others there are
    dynvid.report(lines, data=tmp_path / "list.csv", bundle=tiny_bundle.root)
    assert f"1 label of the list is not a class of the bundle, first '{label}' of" in caplog.text


def test_a_list_of_other_videos_is_warned_of(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("video,label\nelsewhere/0.npy,a\nelsewhere/1.npy,a\n")
    total = dynvid.report([line(str(tmp_path / "0.npy"), listed="b")], data=tmp_path / "list.csv").total
    assert (total.labelled, total.right) == (1, 0)
    assert "none of the 2 videos of list" in caplog.text and "is in these results" in caplog.text


def test_videos_behind_uris_are_found_by_uri(tmp_path):
    (tmp_path / "list.csv").write_text("video,label\nmemory://videos/0.npy,b\nmemory://videos/1.npy,a\n")
    lines = [line("memory://videos/0.npy", listed=None), line("memory://videos/1.npy", listed=None)]
    total = dynvid.report(lines, data=tmp_path / "list.csv").total
    assert (total.labelled, total.right) == (2, 1)


def test_videos_are_found_by_the_column_of_ids(tmp_path):
    (tmp_path / "list.csv").write_text("clip,class,key\n0.npy,b,x\n0.npy,a,y\n1.npy,a,z\n")
    video = str(tmp_path / "elsewhere" / "0.npy")
    lines = [line(video, listed=None, id="x"), line(video, listed=None, id="y"), line(video, id="other")]
    results = write(tmp_path / "r.jsonl", lines)
    columns = ("--video-column", "clip", "--label-column", "class", "--id-column", "key")
    total = json.loads(ok("report", results, "--data", tmp_path / "list.csv", *columns, "--json"))
    assert (total["labelled"], total["accuracy"]) == (3, pytest.approx(2 / 3))
    said = refused(
        3, "report", results, "--data", tmp_path / "list.csv", "--video-column", "clip", "--label-column", "x"
    )
    assert "no column 'x': columns are clip, class, key" in said
    said = refused(2, "report", results, *columns)
    assert "name columns of a LIST: give --data LIST" in said
    write(results, [line(video), line(str(tmp_path / "1.npy"))])
    said = refused(2, "report", results, "--data", tmp_path / "list.csv", *columns)
    assert "was read with ids, and the results have none: leave --id-column out" in said
    with pytest.raises(ResultsError, match="id 3, expected a text or null"):
        dynvid.report([line(video, id="x"), line(video, id=3)])


@pytest.fixture
def of_run(tiny_bundle, tmp_path):
    """Return a writer of results with what lies beside them; changes are of the run."""

    def write_run(lines, **changes):
        run = Run(tiny_bundle.sha256, (0.0, 0.0, 0.0, None), None, "fp32", "onnxruntime", False, len(lines), "")
        path = write(tmp_path / "r.jsonl", lines)
        run = dataclasses.replace(run, **changes)
        sidecar_of(path).write_bytes(seal(dataclasses.asdict(run), FORMAT, VERSION))
        return path

    return write_run


FEW = [line(str(i), confidence=0.95) for i in range(10)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": None}, "had no thresholds"),
        ({"thresholds": (0.5, 0.0, 0.0, None)}, "these results left by other thresholds"),
        ({"temperatures": (1.0, 1.0, 1.0, 2.0)}, "these results left by other thresholds"),
    ],
)
def test_results_that_left_by_other_thresholds_are_not_compared(tiny_bundle, tmp_path, of_run, changes, message):
    path, results = expecting(tiny_bundle, tmp_path / "T.json", 97), of_run(FEW)
    assert dynvid.report(results, thresholds=path).drift.videos == dynvid.drift(tiny_bundle.root, path, results).videos
    results = of_run(FEW, **changes)
    for bundle in (None, tiny_bundle.root):
        with pytest.raises(StaleThresholdsError, match=message):
            dynvid.report(results, thresholds=path, bundle=bundle)
    with pytest.raises(StaleThresholdsError, match=message):
        dynvid.drift(tiny_bundle.root, path, results)


def test_results_of_another_bundle_are_refused(tiny_bundle, tmp_path, of_run):
    results, path = of_run(FEW, bundle_sha256="0" * 64), expecting(tiny_bundle, tmp_path / "T.json", 97)
    assert "00000000" in refused(4, "report", results, "--bundle", tiny_bundle.root)
    assert "00000000" in refused(4, "drift", tiny_bundle.root, "--thresholds", path, "--results", results)
    assert ok("report", of_run(FEW), "--bundle", tiny_bundle.root).startswith("10 of 10 videos have an answer.")


@pytest.mark.parametrize(
    ("videos", "shard", "missing", "said"),
    [
        (10, (1, 1), 0, ""),
        (20, (1, 1), 10, "10 of 20 videos; 10 have no line. "),
        (11, (1, 1), 1, "10 of 11 videos; 1 has no line. "),
        (20, (2, 2), 0, "This is shard 2 of 2. "),
        (23, (1, 2), 2, "This is shard 1 of 2. 10 of 12 videos; 2 have no line. "),
    ],
)
def test_videos_without_a_line_are_counted(of_run, tmp_path, videos, shard, missing, said):
    results = of_run(FEW, videos=videos, shard=shard)
    printed = ok("report", results, "-o", tmp_path / "page.html")
    assert printed.startswith(f"{said}10 of 10 videos have an answer.")
    text = read((tmp_path / "page.html").read_text()).text
    assert text.count(said.strip()) >= 2  # in the sentence and on the card
    told = json.loads(ok("report", results, "--json"))
    assert (told["missing"], told["listed"], told["shard"]) == (missing, 10 + missing, list(shard))


def test_a_run_that_ended_before_its_list_was_read_says_so(of_run):
    results = of_run(FEW, videos=0, list_sha256="0" * 64)
    assert ok("report", results).startswith("The run ended before its list was read, so how many videos have no line")
    told = json.loads(ok("report", results, "--json"))
    assert (told["missing"], told["listed"], told["list_read"]) == (None, None, False)


def test_of_one_checkpoint_neither_first_nor_last_is_said():
    assert "at the first checkpoint" not in words.summary(dynvid.report([line("a")]))
    assert "at the first checkpoint" in words.summary(dynvid.report([line("a"), line("b", checkpoint=2)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gmacs": 10**400}, "line 2: gmacs 1000"),
        ({"gmacs": 1e308}, "gmacs 1e+308, expected a number from 0 to 1e+09"),
        ({"latency_ms": float("nan")}, "latency_ms nan"),
        ({"fraction": float("inf")}, "fraction inf"),
        ({"confidence": 7}, "confidence 7"),
        ({"checkpoint": 65}, "checkpoint 65: expected a number from 1 to 64"),
        ({"checkpoint": 10**400}, "expected a number from 1 to 64"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ResultsError, match=re.escape(message)) as caught:
        dynvid.report([line("a"), {**line("b"), **changes}])
    assert len(str(caught.value)) < 200


def test_answers_that_are_no_classes_of_the_bundle_are_refused(tiny_bundle, tmp_path):
    results = write(
        tmp_path / "r.jsonl", [line("v", "a"), line("w", "elsewhere")]
    )  # nothing beside them says whose they are
    said = refused(4, "report", results, "--bundle", tiny_bundle.root)
    assert "'elsewhere', the answer for 'w', is no class of bundle" in said
    ok("report", write(results, [line("v", "a")]), "--bundle", tiny_bundle.root)


def test_the_saving_is_one_figure_of_one_baseline(tmp_path):
    lines = [line("a", fraction=0.25), line("b", checkpoint=2, fraction=0.5)]  # 0.1 and 0.2 GMACs of 0.4
    figures = dynvid.report(lines, tmp_path / "page.html")
    text = read((tmp_path / "page.html").read_text()).text
    assert figures.to_json()["static_gmacs"] == pytest.approx(0.4)
    assert "On average a video used 0.15 of 0.4 GMACs: 62.5% saved." in words.summary(figures)
    assert "saved62.5%used 0.15 of 0.4 GMACs on average" in text.replace("\n", "")
    for others in ({"fraction": 0.9}, {"fraction": None}, {"fraction": 0.0}):
        dynvid.report([line("a"), line("b", **others)], tmp_path / "page.html")
        text = read((tmp_path / "page.html").read_text()).text
        assert "% saved" not in text and "do not tell, or not alike, what the static network takes" in text


def test_right_and_wrong_are_marked_with_more_than_a_colour(tmp_path):
    dynvid.report([line("a"), line("b", "c")], tmp_path / "page.html")
    shown = read((tmp_path / "page.html").read_text())
    assert [row.all("td")[3].text for row in shown.all("table")[-1].all("tr")[1:]] == ["✓ right", "✗ wrong"]
    assert "✗ wrong: the label is a" in " ".join(shown.text.split())


def test_a_failure_of_several_lines_is_printed_in_one(tmp_path):
    printed = ok("report", write(tmp_path / "r.jsonl", [failed("v", "bad\nline \x1b[31m")]))
    assert printed.splitlines()[-1] == r"  1 failed: bad\nline \x1b[31m"


def test_a_checkpoint_beyond_the_route_is_refused(of_run):
    with pytest.raises(ResultsError, match="line 1: label 'a' at checkpoint 5: expected a number from 1 to 4"):
        dynvid.report(of_run([line("a", checkpoint=5)]))


def test_a_video_counts_once_by_its_last_line(tiny_bundle, tmp_path, caplog):
    lines = [line("a", "b"), line("c"), line("a"), line("d", id="1"), line("d", id="2")]
    figures = dynvid.report(write(tmp_path / "r.jsonl", lines))
    assert (len(figures.lines), figures.total.right) == (4, 4)
    assert "1 video has several lines, first 'a' on lines 1 and 3: the last one counts" in caplog.text
    path = expecting(tiny_bundle, tmp_path / "T.json", 97)
    assert dynvid.drift(tiny_bundle.root, path, tmp_path / "r.jsonl").videos == 4


def test_the_verdict_on_drift_is_printed(tiny_bundle, tmp_path):
    results = write(tmp_path / "r.jsonl", [line(str(i), confidence=0.95) for i in range(100)])
    for first in (97, 20):
        path = expecting(tiny_bundle, tmp_path / "T.json", first)
        done = run("report", results, "--thresholds", path, "--bundle", tiny_bundle.root)
        assert ("Videos leave as they did" in done.stdout) == (first == 97)
        assert ("Videos leave differently" in done.stdout) == (first == 20)
        share = "3.0%" if first == 97 else "80.0%"
        assert f"{share} of the videos would have to leave at another checkpoint" in done.stdout
        assert ("Warning: videos leave differently than at calibration" in done.stderr) == (first == 20)


def test_a_torn_last_line_is_said_in_one_number(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps(line("a")) + "\n" + json.dumps(line("b"))[:50])
    said = refused(3, "report", tmp_path / "r.jsonl")
    assert said.endswith("line 2 ends in the middle: run classify again, or remove it") and said.count("line ") == 1
    (tmp_path / "r.jsonl").write_text('{"video": }\n')
    assert refused(3, "report", tmp_path / "r.jsonl").count("line ") == 1


def test_a_folder_of_shards_is_to_be_merged(tmp_path):
    assert f"'dynvid merge {tmp_path} -o results.jsonl' first" in refused(3, "report", tmp_path)


@pytest.mark.parametrize("results", [[1], None, 5, line("a")])
def test_what_are_no_results_is_refused(results):
    with pytest.raises(UsageError, match="expected the path of a file of results, or records"):
        dynvid.report(results)


def test_more_than_the_static_network_is_explained(tmp_path):
    for fraction in (1.16, 1.0):
        dynvid.report([line("a", fraction=fraction)], tmp_path / "page.html")
        said = "passes the head of every checkpoint on its way" in read((tmp_path / "page.html").read_text()).text
        assert said == (fraction > 1)


def test_figures_that_are_not_known_have_no_units(tmp_path):
    dynvid.report([line("a", gmacs=None, latency_ms=None)], tmp_path / "page.html")
    text = read((tmp_path / "page.html").read_text()).text
    assert "– G" not in text and "– ms" not in text and "1 of 1 video has an answer" in text


def expecting(bundle, path, first):
    tally = (
        ((*[0] * (CONFIDENCE_BINS - 1), first),)
        + ((*[0] * (CONFIDENCE_BINS - 1), 100 - first),)
        + ((0,) * CONFIDENCE_BINS,) * 2
    )
    Thresholds(bundle.sha256, (0.0, 0.0, 0.0, None), expected=tally).write(path)
    return path


@pytest.mark.parametrize(("first", "said"), [(97, "leave as they did"), (20, "leave differently")])
def test_drift_from_calibration_is_shown(tiny_bundle, tmp_path, first, said):
    lines = [line(str(i), checkpoint=1, confidence=0.95) for i in range(100)]
    path = expecting(tiny_bundle, tmp_path / "T.json", first)
    with pytest.raises(UsageError, match="nothing beside the results says which bundle they are of"):
        dynvid.report(lines, thresholds=path)
    figures = dynvid.report(lines, tmp_path / "page.html", thresholds=path, bundle=tiny_bundle.root)
    assert figures.drift.drifted == (first == 20) and figures.checkpoints == 4
    assert said in read((tmp_path / "page.html").read_text()).text


def test_classify_writes_the_page_of_its_run(tiny_bundle, tmp_path):
    listed = write_noise(tmp_path, 6)
    path = expecting(tiny_bundle, tmp_path / "T.json", 97)
    for output in ([], ["-o", tmp_path / "r.jsonl"]):
        common = (
            "classify",
            tiny_bundle.root,
            "--data",
            listed,
            "--thresholds",
            path,
            "--report",
            tmp_path / "page.html",
        )
        ok(*common, *output)
        data = data_of(read((tmp_path / "page.html").read_text()))
        assert data["videos"] == data["labelled"] == 6 and data["drift"] is not None
    assert ok("report", tmp_path / "r.jsonl", "--thresholds", path).startswith("6 of 6 videos have an answer.")
    assert json.loads(ok("report", tmp_path / "r.jsonl", "--thresholds", path, "--json")) == data


def test_classify_reports_even_where_no_video_can_be_read(tiny_bundle, tmp_path):
    done = run("classify", tiny_bundle.root, tmp_path / "a.mp4", "--report", tmp_path / "page.html")
    assert done.returncode == 3 and "No such file" in read((tmp_path / "page.html").read_text()).text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "hold no line"),
        ("[1]\n", "line 1: status None of None"),
        ('{"video": "a", "status": "fine"}\n', "line 1: status 'fine' of 'a'"),
        ('{"video": "a", "status": "ok", "label": "x", "checkpoint": 0}\n', "label 'x' at checkpoint 0"),
        (json.dumps(line("a")) + "\n" + json.dumps({**line("b"), "gmacs": -1}) + "\n", "line 2: gmacs -1, expected"),
        (json.dumps({**line("a"), "listed_label": 3}) + "\n", "listed_label 3"),
        ("{", "line 1"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(tmp_path, text, message):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(ResultsError, match=re.escape(message)):
        dynvid.report(tmp_path / "r.jsonl")


def test_a_page_needs_a_pages_name_and_replaces_nothing_else(tmp_path, lines):
    results = write(tmp_path / "r.jsonl", lines)
    assert "ends in .html" in refused(2, "report", results, "-o", tmp_path / "page.pdf")
    assert "is not a page" in refused(2, "report", results, "-o", results)
    assert "ends in .html" in refused(2, "classify", tmp_path, "a", "--report", "page.txt")
