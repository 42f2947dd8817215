import pytest

from dynvid.grid.errors import UsageError
from dynvid.training.configuration.read import PRESETS, read_configuration
from dynvid.training.configuration.recipe import Recipe
from dynvid.training.configuration.schedule import Schedule

MINIMAL = '[network]\nnetwork = "resnet50"\n[data]\nfolder = "clips"\n'


@pytest.fixture
def config(tmp_path):
    def write(text=MINIMAL, *changes):
        (tmp_path / "train.toml").write_text(text)
        return read_configuration(tmp_path / "train.toml", changes)

    return write


PAPER = {  # section 4.2: epochs, epochs of decay, dropout
    "kinetics400": (50, (25, 35, 45), 0.5),
    "something-v1": (50, (25, 35, 45), 0.5),
    "something-v2": (50, (25, 35, 45), 0.5),
    "ucf101": (25, (10, 20), 0.8),
    "hmdb51": (25, (10, 20), 0.8),
}


@pytest.mark.parametrize("preset", PAPER)
def test_every_preset_is_the_papers_recipe(config, preset):
    recipe = config(f'{MINIMAL}[recipe]\npreset = "{preset}"\n').recipe
    epochs, milestones, dropout = PAPER[preset]
    assert (recipe.epochs, recipe.milestones, recipe.dropout) == (epochs, milestones, dropout)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (recipe.batch, recipe.scaled_rate, recipe.schedule) == (128, 0.01, "step")
    assert not recipe.partial_batch_norm and recipe.distillation == 0 and not recipe.gradient_equilibrium
    assert (recipe.frames, recipe.crops, recipe.scales) == ("segments", "tsn", (1.0, 0.875, 0.75, 0.66))
    assert recipe.flip == ("off" if preset.startswith("something") else "on")
    schedule = Schedule(recipe, clips=12800)  # 100 steps an epoch
    assert schedule.steps == 100 * epochs
    for index, epoch in enumerate(milestones):
        assert schedule.rate(100 * epoch - 1) == pytest.approx(0.01 * 0.1**index)
        assert schedule.rate(100 * epoch) == pytest.approx(0.01 * 0.1 ** (index + 1))


def test_the_presets_are_those_of_the_paper():
    assert set(PRESETS) == set(PAPER)


def test_a_file_goes_over_its_preset_and_changes_go_over_both(config):
    text = f'{MINIMAL}[recipe]\npreset = "ucf101"\nepochs = 12\nbatch = 32\n'
    changed = config(text, "recipe.batch=64", "recipe.optimizer=adamw", "run.device = 'cpu'", "recipe.scales=[1.0]")
    assert config(text).recipe.epochs == 12 and config(text).recipe.dropout == 0.8
    assert config(text).recipe.scaled_rate == pytest.approx(0.01 / 4)
    assert changed.recipe.batch == 64 and changed.recipe.optimizer == "adamw" and changed.recipe.scales == (1.0,)
    assert changed.run.device == "cpu" and changed.recipe.epochs == 12
    nested = config(f"{MINIMAL}[network.options]\nwidth = 8\ndilated = 1\n", "network.options.width=16")
    assert nested.network["options"] == {"width": 16, "dilated": 1}


def test_paths_are_relative_to_the_file_and_those_of_the_command_line_to_the_working_folder(
    config, tmp_path, monkeypatch
):
    monkeypatch.chdir("/")
    found = config(f'{MINIMAL}validation = "/v.csv"\n[recipe]\ninitial = "a/b.pth"\n', "data.train=t.csv")
    assert found.data.folder == str(tmp_path / "clips") and found.data.train == "/t.csv"
    assert found.data.validation == "/v.csv" and found.recipe.initial == str(tmp_path / "a" / "b.pth")


def test_the_resolved_configuration_reads_as_itself(config, tmp_path):
    found = config(
        f'{MINIMAL}classes = "c\\"l.txt"\n[recipe]\npreset = "hmdb51"\n[network.head]\nwidth = 8\n', "run.workers=3"
    )
    (tmp_path / "resolved.toml").write_text(found.toml())
    assert read_configuration(tmp_path / "resolved.toml") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network", "is not TOML in UTF-8"),
        ('network = "resnet"', r"'network' as a value or a list: expected one table \[network\]"),
        ('[[network]]\nnetwork = "resnet"', r"expected one table \[network\]"),
        (f"{MINIMAL}[recipe]\nseed = 99999999999", "recipe.seed 99999999999"),
        (f"{MINIMAL}[recipe]\nepochs = 1e308", "recipe.epochs 1e.308"),
        (f"{MINIMAL}[recipe]\nbatch = 9999999", "recipe.batch 9999999: expected 1 to 1000000"),
        ("", r"has no \[network\]"),
        (MINIMAL.replace("data", "date"), r"the table 'date': expected .*\. Did you mean data\?"),
        (f"seed = 1\n{MINIMAL}", "key outside the tables 'seed'"),
        (f"{MINIMAL}[recipe]\nepoch = 3", r"unknown key recipe.epoch: .*Did you mean recipe.epochs\?"),
        (f"{MINIMAL}[recipe]\nbatch = '4'", "recipe.batch: '4', expected int"),
        (f"{MINIMAL}[recipe]\npreset = 'ucf11'", r"recipe.preset 'ucf11': .* Did you mean ucf101\?"),
        (f"{MINIMAL}[recipe]\noptimizer = 'adam'", "recipe.optimizer: 'adam', expected one of"),
        (f"{MINIMAL}[recipe]\nepochs = 0", r"recipe.epochs 0(\.0)?: expected above 0"),
        (f"{MINIMAL}[recipe]\nmilestones = [3, 2]", "expected growing numbers"),
        (f"{MINIMAL}[recipe]\nwarmup_epochs = 50", "recipe.warmup_epochs 50"),
        (f"{MINIMAL}[recipe]\ndistillation = 2", r"expected in \[0, 1\]"),
        (f"{MINIMAL}[recipe]\nscales = []", r"shares in \(0, 1\]"),
        (f"{MINIMAL}held_out = 1.0", "data.held_out 1.0"),
        ('[network]\nnetwork = "resnet50"\n', r"\[data\] names no clips"),
        (f"{MINIMAL}[run]\nworkers = -1", "run.workers -1: expected 0 to 256"),
        (f"{MINIMAL}[run]\nworkers = 5000", "run.workers 5000: expected 0 to 256"),
        (f"{MINIMAL}[run]\nsave_steps = 0", "run.save_steps 0"),
        (f"{MINIMAL}[run]\nevaluate_epochs = 0", "run.evaluate_epochs 0"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_in_one_line(config, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        config(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch=4", "expected TABLE.KEY=VALUE"),
        ("recipe.epochs=2\n[run]", "expected TABLE"),
        ("recipe.batch", "expected TABLE.KEY=VALUE"),
        ("recipe.scales=[1,", "Expected a value in TOML"),
        ("recipe.batchs=4", r"Did you mean recipe.batch\?"),
        ("recipies.batch=4", r"Did you mean recipe\?"),
        ("recipe.batch=many", "recipe.batch: 'many', expected int"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(config, change, message):
    with pytest.raises(UsageError, match=message):
        config(MINIMAL, change)


def test_rates():
    step = Recipe(epochs=10, batch=10, learning_rate=1.0, learning_rate_batch=10, milestones=(5, 7, 9))
    assert [Schedule(step, 100).rate(s) for s in (0, 49, 50, 70, 90)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    cosine = Recipe(epochs=11, batch=10, learning_rate=2.0, learning_rate_batch=20, schedule="cosine", warmup_epochs=1)
    schedule = Schedule(cosine, 100)
    assert schedule.steps == 110 and schedule.rate(0) == pytest.approx(1 / 11) and schedule.rate(10) == pytest.approx(1)
    assert schedule.rate(60) == pytest.approx(0.5) and schedule.rate(110) == pytest.approx(0.0, abs=1e-12)
    assert Schedule(Recipe(epochs=0.1, batch=128), 30).steps == 1


def test_the_rate_scales_with_the_batch():
    assert Recipe(batch=32).scaled_rate == pytest.approx(0.0025)


def test_a_file_of_windows_and_one_that_is_none(config, tmp_path):
    assert config("\ufeff" + MINIMAL).network["network"] == "resnet50"
    with pytest.raises(UsageError, match="Is a directory. Expected a file in TOML"):
        read_configuration(tmp_path)
