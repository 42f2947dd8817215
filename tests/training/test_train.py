import csv
import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from dynvid import api
from dynvid.grid.errors import (
    InputRefusedError,
    ListError,
    NetworkError,
    TrainingCheckpointError,
    UsageError,
    VideoError,
)
from dynvid.models.layouts import load_training_checkpoint
from dynvid.training import train as train_module
from dynvid.training.clips import CLASSES, write_clips
from dynvid.training.data.clip_list import read_clip_list, write_clip_list
from dynvid.training.data.record import Record
from dynvid.training.optimisation import progress as progress_module
from dynvid.training.optimisation import trainer as trainer_module

NETWORK = """
[network]
network = "msdnet"
input_sets = 2
frames_per_set = 1
route = "0,0 1,1"
options = { layers = [1, 1], channels = 4, growth = 2, growth_factors = [1, 2], bottleneck_factors = [1, 2] }
head = { width = 8, dropout = 0.2 }
preprocessing = { short_side = 36, crop = 32 }
"""
DATA = {"train": "clips/clips.csv", "validation": "clips/clips.csv", "held_out": 0.0}
RECIPE = {
    "epochs": 1.9, "batch": 4, "learning_rate": 0.01, "learning_rate_batch": 4, "optimizer": "adamw",
    "schedule": "cosine", "flip": "swap",
}  # fmt: skip
RUN = {"threads": 1, "workers": 0, "log_steps": 2, "save_steps": 3, "evaluate_epochs": 1.0, "tensorboard": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    write_clips(folder / "clips", 13, 5)
    return folder


def write_configuration(path, network=NETWORK, **changes):
    """Write the configuration with some keys changed; return its path."""
    text = network
    for name, table in (("data", DATA), ("recipe", RECIPE), ("run", RUN)):
        table = {key: changes.get(f"{name}_{key}", value) for key, value in table.items()}
        table |= {key.removeprefix(f"{name}_"): value for key, value in changes.items() if key.startswith(name)}
        text += f"\n[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items() if v is not None)
    path.write_text(text)
    return path


@pytest.fixture
def configured(folder, tmp_path):
    """Return a function that writes a configuration with some keys changed."""

    def write(network=NETWORK, **changes):
        number = len(list(folder.glob(f"{tmp_path.name}*")))
        return write_configuration(folder / f"{tmp_path.name}-{number}.toml", network, **changes)

    return write


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Return the folder of a run that nothing interrupted, of the configuration without changes; only to be read."""
    run = tmp_path_factory.mktemp("whole") / "run"
    api.train(write_configuration(folder / "whole.toml"), run)
    return run


@pytest.fixture(autouse=True)
def _only_one_run_draws(request, monkeypatch):
    """Curves are half of a small run's time: draw them only where they are looked at."""
    if request.function is not test_a_run_leaves_what_its_users_look_for:
        monkeypatch.setattr(progress_module, "draw_curves", lambda *_: None)


def weights(path):
    return load_training_checkpoint(path).network.state_dict()


def last(run):
    return weights(run / "weights" / "last.pth")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def results(run):
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_its_users_look_for(configured, tmp_path):
    lines = []
    path = api.train(configured(data_held_out=0.2), run := tmp_path / "run", report=lines.append)
    assert path == run / "weights" / "best.pth"
    network = load_training_checkpoint(path).network
    assert network.config.labels == tuple(sorted(CLASSES)) and network.config.head.dropout == 0.2
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6] and log[0]["steps"] == 6
    assert all({"data_s", "step_s", "loss", "learning_rate", "epoch"} <= line.keys() for line in log)
    rows = results(run)
    assert [row["step"] for row in rows] == ["4", "6"] and list(rows[0])[2:] == [
        "accuracy_1",
        "accuracy_2",
        "accuracy_mean",
    ]
    assert [line for line in lines if "loss" in line] == log
    assert lines[0] == {
        "step": 0, "steps": 6, "clips": 13, "held_out": 0, "validation": 13, "batch": 4, "scaled_learning_rate": 0.01,
        "device": "1 x cpu",
    }  # fmt: skip
    assert lines[-1]["next"][0] == f"dynvid export {path} -o {run}/model.bundle"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == str(torch.__version__) and environment["threads"] == 1
    assert (run / "classes.txt").read_text().split() == sorted(CLASSES)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = api.train(run / "config.toml", tmp_path / "again")
    assert same(weights(again), weights(path))


def test_the_held_out_clips_are_listed_and_not_trained_on(configured, folder, tmp_path):
    write_clips(folder / "more", 39, 6)
    config = configured(data_train="more/clips.csv", data_validation=None, data_held_out=0.34, recipe_epochs=0.3)
    api.train(config, run := tmp_path / "run")
    with (run / "held_out.csv").open(newline="") as file:
        held = list(csv.DictReader(file))
    assert len(held) == 13 and {row["label"] for row in held} == set(CLASSES)
    state = torch.load(run / "state.pth", weights_only=True)
    assert state["trainer"]["step"] == round(0.3 * 26 / 4)


class Interrupted(Exception):
    pass


VARIANTS = {
    "plain": {},
    "average": {"recipe_average": 0.9},
    "distillation": {"recipe_distillation": 0.5, "recipe_gradient_equilibrium": True},
    "sgd": {"recipe_optimizer": "sgd", "recipe_parameter_groups": "tsn", "recipe_schedule": "step"},
}


@pytest.mark.parametrize(
    "variant", ["plain", "distillation", *(pytest.param(name, marks=pytest.mark.full) for name in ("average", "sgd"))]
)
def test_a_run_that_was_interrupted_goes_on_to_the_same_weights_and_logs(configured, whole, tmp_path, variant):
    config = configured(**VARIANTS[variant])
    if VARIANTS[variant]:
        api.train(config, whole := tmp_path / "whole")

    def interrupt(line):
        if line["step"] == 4 and "loss" in line:  # after the state of step 3 was saved, and before that of step 4
            raise Interrupted

    with pytest.raises(Interrupted):
        api.train(config, run := tmp_path / "run", report=interrupt)
    assert torch.load(run / "state.pth", weights_only=True)["trainer"]["step"] == 3
    api.train(config, run)
    assert same(last(whole), last(run)) and results(whole) == results(run)
    losses = [[json.loads(line)["loss"] for line in (r / "log.jsonl").read_text().splitlines()] for r in (whole, run)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    before = (run / "state.pth").stat().st_mtime_ns
    api.train(config, run)
    assert (run / "state.pth").stat().st_mtime_ns == before  # nothing is left to do


def test_the_seed_changes_the_weights(configured, tmp_path):
    for seed in (0, 1):
        api.train(configured(recipe_epochs=0.3), tmp_path / str(seed), changes=[f"recipe.seed={seed}"])
    assert not same(last(tmp_path / "0"), last(tmp_path / "1"))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.full)])
def test_workers_change_no_bit(configured, whole, tmp_path, workers):
    api.train(configured(run_workers=workers), tmp_path / "ahead")
    assert same(last(whole), last(tmp_path / "ahead"))


# Fixed statistics of BatchNorm make the clips of a batch independent, so its parts can be compared with the whole.
FIXED = """
from torch import nn
from dynvid import api
from dynvid.training import train
build = train.build
def fixed(config):
    network = build(config)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_pre_hook(lambda module, _: module.eval() and None)
    return network
"""
CALM = ["network.head.dropout=0", "recipe.optimizer=sgd", "recipe.epochs=1", "recipe.learning_rate=0.05"]


def nearly_same(one, other):
    assert not same(one, other)  # other sums, other roundings
    worst = max(float((one[key] - other[key]).abs().max()) for key in one if "num_" not in key)
    return worst < 1e-6


def test_parts_of_a_batch_are_worth_the_whole(configured, tmp_path, monkeypatch):
    names: dict = {}
    exec(FIXED, names)
    monkeypatch.setattr(train_module, "build", names["fixed"])
    for name, more in {"whole": [], "parts": ["recipe.accumulate=2"], "fewer": ["recipe.batch=2"]}.items():
        api.train(configured(), tmp_path / name, changes=[*CALM, *more])
    whole, parts, fewer = (last(tmp_path / name) for name in ("whole", "parts", "fewer"))
    assert nearly_same(whole, parts) and not nearly_same(whole, fewer)


def test_recomputation_changes_no_bit(configured, tmp_path):
    for name, more in {"kept": [], "again": ["recipe.recompute=true"]}.items():
        api.train(configured(recipe_epochs=0.7), tmp_path / name, changes=more)
    assert same(last(tmp_path / "kept"), last(tmp_path / "again"))


RESNET = """
[network]
network = "resnet"
options = { layers = [1, 1, 1, 1], width = 8 }
input_sets = 8
frames_per_set = 1
preprocessing = { short_side = 36, crop = 32 }
"""


@pytest.mark.parametrize(
    ("network", "route", "checkpoints", "plain"),
    [
        ("msdnet", "depth", 2, False),
        ("msdnet", "input", 2, True),
        ("msdnet", "full", 1, False),
        ("resnet", "joint", 4, False),
        ("resnet", "joint", 4, True),
        ("resnet", "depth", 3, True),
        ("resnet", "input", 4, False),
        ("resnet", "full", 1, True),
        ("resnet", "1,2 3,4 7,4", 3, False),
    ],
)
def test_every_route_is_trained_with_and_without_shift_and_permutation(
    configured, tmp_path, network, route, checkpoints, plain
):
    text = (NETWORK if network == "msdnet" else RESNET).replace('route = "0,0 1,1"', "")
    changes = [f"network.route='{route}'", "recipe.epochs=0.3"]
    if plain:
        changes += ["network.shift.enabled=false", "network.permutation=none"]
    api.train(configured(text), run := tmp_path / "run", changes=changes)
    config = load_training_checkpoint(run / "weights" / "last.pth").network.config
    assert len(config.route) == checkpoints and len(results(run)[0]) == 3 + checkpoints
    assert (config.shift.enabled, config.grid.permutation) == ((not plain), "none" if plain else "evil_odious")


def test_training_starts_from_another_network_and_keeps_what_fits(configured, tmp_path):
    first = api.train(configured(), tmp_path / "first")
    small = ["recipe.learning_rate=1e-12", "recipe.weight_decay=0", "recipe.epochs=0.3", f"recipe.initial={first}"]
    second = api.train(configured(), tmp_path / "second", changes=small)
    start, end = weights(first), weights(second)
    first.rename(tmp_path / "moved.pth")
    api.train(configured(), tmp_path / "second", changes=small)  # a run that goes on needs it no more
    for key in start:
        if "running" not in key and "batches" not in key:
            assert torch.allclose(start[key], end[key], atol=1e-9), key


@pytest.mark.full
def test_two_processes_are_worth_one(configured, tmp_path, monkeypatch):
    names: dict = {}
    exec(FIXED, names)
    config, real = configured(run_device="cpu"), train_module.build
    monkeypatch.setattr(train_module, "build", names["fixed"])
    api.train(config, tmp_path / "one", changes=CALM)
    monkeypatch.setattr(train_module, "build", real)
    code = f"{FIXED}\ntrain.build = fixed\napi.train({str(config)!r}, {str(tmp_path / 'two')!r}, changes={CALM!r})"
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared["MASTER_PORT"] = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=180)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert nearly_same(last(tmp_path / "one"), last(tmp_path / "two"))
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert one == two


@pytest.mark.full
def test_kill_9_anywhere_is_survived(configured, tmp_path):
    config = configured(recipe_epochs=9.9, run_save_steps=2)
    api.train(config, whole := tmp_path / "whole")
    code = f"from dynvid import api; api.train({str(config)!r}, {str(tmp_path / 'run')!r})"
    rng, killed = np.random.default_rng(0), 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        )
        if killed < 5:
            while not (tmp_path / "run" / "config.toml").exists() and process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0.2, 3.0))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += 1
        if process.wait() == 0:
            break
    assert killed >= 2 and process.returncode == 0
    assert same(last(whole), last(tmp_path / "run")) and results(whole) == results(tmp_path / "run")


def test_another_number_of_threads_is_told(configured, tmp_path, caplog):
    config = configured(recipe_epochs=0.7, run_save_steps=1)

    def interrupt(line):
        if "loss" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        api.train(config, tmp_path / "run", report=interrupt)
    before = torch.get_num_threads()
    api.train(config, tmp_path / "run", changes=["run.threads=2"])
    torch.set_num_threads(before)
    assert "begun with 1 threads and goes on with 2" in caplog.text


def test_another_configuration_and_a_damaged_state_are_refused(configured, tmp_path):
    api.train(configured(recipe_epochs=0.3), run := tmp_path / "run")
    with pytest.raises(UsageError, match=r"begun with another configuration \(recipe.batch, recipe.seed\)"):
        api.train(configured(recipe_epochs=0.3), run, changes=["recipe.seed=1", "recipe.batch=2"])
    api.train(configured(recipe_epochs=0.3), run, changes=["run.workers=1", "run.log_steps=7"])
    (run / "state.pth").write_bytes(b"damaged")
    with pytest.raises(TrainingCheckpointError, match="is damaged: remove it"):
        api.train(configured(recipe_epochs=0.3), run)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be a folder"):
        api.train(configured(), tmp_path / "file")


def test_a_disk_that_is_full_keeps_the_last_state(configured, whole, tmp_path):
    """The limit on the size of files stands in for the disk: the second state does not fit."""
    config, run = configured(), tmp_path / "run"
    code = f"""
import resource
from dynvid import api
from dynvid.training.optimisation.run_folder import RunFolder
save = RunFolder.save_state
def save_and_fill(folder, state):
    save(folder, state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
RunFolder.save_state = save_and_fill
api.train({str(config)!r}, {str(run)!r})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "ResourceError" in done.stderr and "cannot be written (File too large)" in done.stderr
    assert torch.load(run / "state.pth", weights_only=True)["trainer"]["step"] == 3
    assert [path.name for path in run.glob(".*")] == [".lock"]
    api.train(config, run)
    assert same(last(run), last(whole))


def test_a_folder_with_other_files_and_one_that_is_in_use_are_left_alone(configured, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text("my own")
    with pytest.raises(UsageError, match="holds other files, such as 'config.toml'"):
        api.train(configured(), tmp_path / "mine")
    assert (tmp_path / "mine" / "config.toml").read_text() == "my own"

    def again(line):
        if "loss" in line:
            with pytest.raises(UsageError, match="another process trains into"):
                api.train(configured(), tmp_path / "run")

    api.train(configured(recipe_epochs=0.7), tmp_path / "run", report=again)


def test_a_torn_log_and_damaged_results_do_not_stop_a_run_that_goes_on(configured, whole, tmp_path):
    config, run = configured(), tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "log.jsonl").write_bytes((run / "log.jsonl").read_bytes()[:-20] + b"\xff")
    (run / "results.csv").write_bytes((run / "results.csv").read_bytes()[:-5] + b"\xff\xff,")
    (run / "classes.txt").write_text("damaged")
    api.train(config, run)
    assert len((run / "log.jsonl").read_text().splitlines()) == 2 and results(run) == results(whole)[:-1]
    assert (run / "classes.txt").read_text().split() == sorted(CLASSES)


def test_ctrl_c_ends_after_a_step_and_saves_it(configured, whole, tmp_path):
    """In a process of its own, so that what happens to it cannot end the tests."""
    config, run = configured(run_save_steps=500), tmp_path / "run"
    script = f"""
        import signal
        from dynvid import api
        before = signal.getsignal(signal.SIGINT)
        def press(line):
            if "loss" in line:
                signal.raise_signal(signal.SIGINT)
        try:
            api.train({str(config)!r}, {str(run)!r}, report=press)
        except KeyboardInterrupt:
            print("interrupted", signal.getsignal(signal.SIGINT) is before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr
    assert "the state after step 2 of 6 is saved: the same command goes on" in done.stderr
    assert torch.load(run / "state.pth", weights_only=True)["trainer"]["step"] == 2
    api.train(config, run)
    assert same(last(run), last(whole))


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_state(configured, tmp_path, monkeypatch):
    real, calls = trainer_module.loss_of, itertools.count()
    monkeypatch.setattr(trainer_module, "loss_of", lambda *a: real(*a) * (math.nan if next(calls) == 4 else 1))
    with pytest.raises(NetworkError, match=r"the loss is nan at step 5: training diverged. .*The state before"):
        api.train(configured(), run := tmp_path / "run")
    state = torch.load(run / "state.pth", weights_only=True)["trainer"]
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in state["network"].values())


def test_one_batch_is_learnt_by_heart_or_the_run_says_so(configured, tmp_path, monkeypatch):
    fast, lines = ["recipe.learning_rate=0.03", "network.head.dropout=0"], []
    api.train(configured(), tmp_path / "run", changes=fast, overfit_one_batch=True, report=lines.append)
    assert lines[-1]["learnt"] and lines[-1]["loss"] < 0.1 * lines[-1]["first_loss"] and not (tmp_path / "run").exists()
    monkeypatch.setattr(train_module, "_FIT_STEPS", 5)
    with pytest.raises(NetworkError, match="one batch is not learnt by heart in 5 steps"):
        api.train(configured(), tmp_path / "run", changes=["recipe.learning_rate=1e-9"], overfit_one_batch=True)


def test_a_first_loss_far_from_guessing_and_a_device_that_waits_are_told(configured, tmp_path, caplog, monkeypatch):
    real = trainer_module.loss_of
    monkeypatch.setattr(trainer_module, "loss_of", lambda *a: 10 * real(*a))
    api.train(configured(), tmp_path / "run")
    assert "but guessing gives 5.13" in caplog.text  # 2 ln 13
    assert "of the time the device waits for clips: raise run.workers" in caplog.text


def test_broken_clips_are_counted_and_too_many_end_the_run(configured, folder, tmp_path, caplog):
    write_clips(folder / "holes", 13, 5)
    for number in (7, 8):
        (folder / "holes" / "clips" / f"00000{number}.mp4").write_text("not a video")
    with pytest.raises(VideoError, match=r"2 of 13 training clips cannot be read, more than 1%; .*00000[78]\.mp4"):
        api.train(configured(data_train="holes/clips.csv"), tmp_path / "run")
    assert (tmp_path / "run" / "broken.csv").read_text().count(".mp4") >= 2
    few = configured(data_validation="holes/clips.csv", recipe_epochs=0.3)
    api.train(few, run := tmp_path / "few")
    with (run / "broken.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"validation"} and len(rows) == 2 and "It is left out" in caplog.text


def test_one_broken_clip_is_replaced_and_counted_after_a_resume(configured, folder, tmp_path):
    write_clips(folder / "hole", 13, 5)
    (folder / "hole" / "clips" / "000007.mp4").write_text("not a video")
    config = configured(data_train="hole/clips.csv")
    api.train(config, whole := tmp_path / "whole")

    def interrupt(line):
        if line["step"] == 4 and "loss" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        api.train(config, run := tmp_path / "run", report=interrupt)
    api.train(config, run)
    assert same(last(run), last(whole))
    assert (run / "broken.csv").read_text() == (whole / "broken.csv").read_text()
    assert (run / "broken.csv").read_text().count("000007.mp4") >= 1


def test_what_does_not_fit_is_refused_in_one_line(configured, folder, tmp_path):
    strange = folder / "strange.csv"
    strange.write_text((folder / "clips" / "clips.csv").read_text().replace("star", "comet"))
    moved = strange.read_text().replace("clips/0", "clips/clips/0")
    strange.write_text(moved)
    for config, kind, message in (
        (
            configured(data_validation="strange.csv"),
            ListError,
            "the labels 'comet', which are not among the 13 classes",
        ),
        (configured(data_train="missing.csv"), ListError, "missing.csv': No such file"),
        (configured(recipe_initial="missing.pth"), InputRefusedError, "missing.pth"),
        (configured(recipe_flip="on"), UsageError, "'moves_left' and 'moves_right' are mirror images"),
        (configured(recipe_batch=5, recipe_accumulate=2), UsageError, "recipe.batch 5 cannot be split"),
        (configured(recipe_precision="fp16"), UsageError, 'recipe.precision "fp16" needs a GPU'),
        (configured(run_device="cuda"), UsageError, "PyTorch finds no GPU here"),
        (configured(recipe_batch=14), UsageError, "recipe.batch 14 is more than the 13 training clips"),
        (configured(network=NETWORK.replace("0,0 1,1", "nope")), UsageError, "network.route"),
        (configured(run_device="tpu"), UsageError, "run.device 'tpu': expected auto, cpu"),
        (configured(NETWORK + "classes = 5"), UsageError, "network.classes 5, but the data have 13 classes"),
        (configured(NETWORK.replace("msdnet", "msdnot")), UsageError, "Did you mean 'msdnet'"),
    ):
        with pytest.raises(kind, match=message) as caught:
            api.train(config, tmp_path / "run")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_memory_does_not_grow_with_the_number_of_clips(configured, folder, tmp_path):
    """Peak memory of a run of three steps over 1,000 and over 10,000 records."""
    (row, *_) = read_clip_list(folder / "clips" / "clips.csv")
    peaks = []
    for count in (1_000, 10_000):
        records = [Record(row.path, CLASSES[i % 13], start_s=1e-9 * i) for i in range(count)]
        write_clip_list(tmp_path / f"{count}.csv", records)
        config = configured(data_train=str(tmp_path / f"{count}.csv"), recipe_epochs=12 / count)
        code = (
            f"import resource; from dynvid import api; api.train({str(config)!r}, {str(tmp_path / str(count))!r}); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        peaks.append(int(said.stdout.split()[-1]) / 1024)  # MiB
    assert peaks[1] - peaks[0] < 30  # 9,000 clips of 16 frames of 64 x 64 would be 1,700


def test_tensorboard_that_is_asked_for_and_missing_is_told(configured, tmp_path, monkeypatch):
    monkeypatch.setattr("dynvid.training.optimisation.progress.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="run.tensorboard true, but it is not installed"):
        api.train(configured(run_tensorboard=True), tmp_path / "run")


@pytest.mark.parametrize("shifts", [True, False])
def test_fixed_baselines_are_trained_by_the_same_command(configured, tmp_path, shifts):
    """TSM, shifted both ways, and TSN."""
    text = RESNET.replace("frames_per_set = 1", "frames_per_set = 1\nstatic = true")
    changes = [f"network.shift.enabled={'true' if shifts else 'false'}", "recipe.epochs=0.3"]
    api.train(configured(text), run := tmp_path / "run", changes=changes)
    config = load_training_checkpoint(run / "weights" / "last.pth").network.config
    assert config.static and len(config.route) == 1 and config.grid.permutation == "none"
    assert config.shift.enabled is shifts
