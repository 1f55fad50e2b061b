"""`kshot evaluate`, run in this process on small patterns in Omniglot's place."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot.__main__ import main
from kshot.bundle import Manifest
from kshot.learner import Initialization
from kshot.local import pip_install
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.commands import evaluation_session
from kshot.trainer.datasets import registry as datasets
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.reader import PartRequest
from kshot.trainer.output import plotting
from kshot.trainer.recipe.recipe import Recipe

Evaluate = Callable[..., int]
Initializations = Callable[[Manifest], Initialization]
Recipes = Callable[..., Recipe]
CONTRACT = ["accuracy", "ci95", "ci_method", "ece", "tasks", "step_count", "ms_per_task"]


@pytest.fixture(autouse=True)
def patterns_for_omniglot(
    patterns: Callable[..., ImageDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test classes are eight patterns, validation classes others, in the input's size."""

    def read(request: PartRequest) -> ImageDataset:
        assert request.data.dataset == "omniglot"
        assert request.folder.is_dir()
        assert request.input_spec.shape == (1, 28, 28)
        return patterns(seed={"test": 0, "val": 1, "train": 2}[request.part])

    monkeypatch.setattr(datasets, "DATASETS", {**datasets.DATASETS, "omniglot": read})


@pytest.fixture
def pack(
    small_recipe: Recipes,
    make_initialization: Initializations,
    patterns: Callable[..., ImageDataset],
    small_bundle: None,  # noqa: ARG001 -- templates are names
    calibrated: Callable[[Manifest], Manifest],
    tmp_path: Path,
) -> Callable[..., str]:
    def make(name: str, *settings: str, calibrate: bool = False) -> str:
        recipe, dataset = small_recipe(*settings), patterns()
        manifest = draft_manifest(recipe, dataset)
        manifest = calibrated(manifest) if calibrate else manifest
        initialization = make_initialization(manifest)
        return str(pack_bundle(tmp_path / name, manifest, initialization, recipe, dataset))

    return make


@pytest.fixture
def bundle(pack: Callable[..., str]) -> str:
    return pack("bundles")


@pytest.fixture
def evaluate(bundle: str, tmp_path: Path) -> Evaluate:
    common = ["--data", str(tmp_path), "--device", "cpu", "--no-compile", "--tasks", "5"]
    return lambda *more: main(["evaluate", bundle, *common, "--step-count", "2", *more])


@pytest.fixture
def held(bundle: str, tmp_path: Path) -> Evaluate:
    """Evaluate without saying how many tasks."""
    common = ["--data", str(tmp_path), "--device", "cpu", "--no-compile", "--step-count", "1"]
    return lambda *more: main(["evaluate", bundle, *common, "--json", *more])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(capsys.readouterr().out)
    return parsed


def test_the_documents_first_keys_are_the_contract(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--json", "--per-task", "--queries", "3") == 0
    found = document(capsys)

    assert list(found)[:7] == CONTRACT
    assert (found["tasks"], found["step_count"]) == (5, 2)
    assert (found["way"], found["shot"], found["queries_per_task"]) == (3, 1, 9)
    counts = found["correct_counts"]
    assert isinstance(counts, list)
    assert sum(counts) / 45 == pytest.approx(found["accuracy"])
    assert evaluate("--json") == 0
    assert "correct_counts" not in document(capsys)


def test_an_episode_file_holds_the_tasks(
    held: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "episodes.safetensors"
    drawn = ["--way", "4", "--shot", "2", "--tasks", "6", "--seed", "3"]
    assert held(*drawn, "--episodes", str(path)) == 0
    first, content = document(capsys), path.read_bytes()

    assert held("--episodes", str(path)) == 0
    again = document(capsys)
    assert held(*drawn) == 0
    without = document(capsys)

    assert path.read_bytes() == content
    assert [found.pop("ms_per_task") for found in (first, again, without)]
    assert first == again == without
    assert held("--episodes", str(path), "--way", "3") == 2
    message = capsys.readouterr().err
    assert "holds 6 4-way 2-shot tasks with 1 queries per class from seed 3" in message
    assert held("--episodes", str(path), "--split", "val") == 1
    assert "belongs to other data" in capsys.readouterr().err
    path.write_bytes(content[:-1])
    assert held("--episodes", str(path)) == 1
    assert "is damaged" in capsys.readouterr().err


def test_a_protocol_names_tasks_and_queries(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--device", "cpu", "--no-compile"]
    assert (
        main([*arguments, "--baseline", "prototype", "--protocol", "10000x1", "--tasks", "5"]) == 2
    )
    assert "--tasks cannot be combined with --protocol" in capsys.readouterr().err
    assert main([*arguments, "--baseline", "prototype", "--protocol", "600x15"]) == 1
    assert "1 support and 15 query images per class: expected" in capsys.readouterr().err


def test_nil_takes_no_temperature(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--baseline", "nil"]
    assert main([*arguments, "--no-calibrated"]) == 2

    message = "--calibrated cannot be combined with --baseline nil"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--versus", "step-count=0"], "step-count=0"),
        (["--versus", "head=zero", "--versus", "learning-rate=0.1"], "head=zero learning-rate=0.1"),
        (["--versus", "baseline=nil"], "baseline=nil"),
        (["--versus", "wrong-labels=0.7"], "wrong-labels=0.7"),
    ],
)
def test_two_variants_are_compared_on_the_same_tasks(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str], options: list[str], name: str
) -> None:
    assert evaluate("--json", *options) == 0
    found = document(capsys)
    compared, difference = found["compared"], found["difference"]
    assert isinstance(compared, dict)
    assert isinstance(difference, dict)

    assert list(compared)[1:8] == CONTRACT
    assert compared["episodes_digest"] == found["episodes_digest"]
    assert list(difference) == ["mean", "ci95", "ci_method", "tasks"]
    wanted = float(str(found["accuracy"])) - compared["accuracy"]
    assert difference["mean"] == pytest.approx(wanted)
    assert evaluate(*options) == 0
    assert f"{name} on the same tasks (95% " in capsys.readouterr().out


def test_two_bundles_are_compared_on_the_same_tasks(
    evaluate: Evaluate,
    pack: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An equal bundle answers equally: no difference, and an interval that is not of width 0."""
    same, larger = pack("same"), pack("larger", "network.arguments.filters=6")

    assert evaluate("--json", "--compare", same) == 0
    found = document(capsys)
    difference = found["difference"]
    assert isinstance(difference, dict)
    assert difference["mean"] == 0
    assert difference["ci95"] > 0
    assert evaluate("--compare", larger) == 0
    assert f"{larger}: 3-way 1-shot, 2 steps" in capsys.readouterr().out


def test_temperatures_apply_unless_refused(
    pack: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A temperature changes no answer, only how sure it is."""
    arguments = ["evaluate", pack("calibrated", calibrate=True), "--data", str(tmp_path)]
    arguments += ["--device", "cpu", "--no-compile", "--tasks", "5", "--step-count", "2"]
    assert main([*arguments, "--json", "--versus", "calibrated=false"]) == 0
    found = document(capsys)
    own = found["compared"]
    assert isinstance(own, dict)

    assert (found["temperature"], own["temperature"]) == (1.5, 1.0)
    assert found["accuracy"] == own["accuracy"]
    assert found["ece"] != own["ece"]
    assert found["nll"] != own["nll"]
    assert main([*arguments, "--json", "--no-calibrated"]) == 0
    alone = document(capsys)
    assert (alone["ece"], alone["nll"]) == (own["ece"], own["nll"])
    assert main([*arguments, "--versus", "calibrated=false"]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert ", temperature 1.5, " in first
    assert ", temperature" not in second
    assert main([*arguments[:-2], "--baseline", "nil", "--json"]) == 0
    assert document(capsys)["temperature"] == 1


def test_a_sweep_says_the_temperature_of_each_row(
    pack: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = pack("calibrated", calibrate=True)
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--tasks", "2", "--device", "cpu"]
    lists = ["--step-counts", "0,2", "--preconditioners", "sgd", "--heads", "zero", "--shot", "2"]
    arguments += [*lists, "--no-compile", "--json", "--sweep", str(tmp_path / "sweep")]
    found = {}
    for own in ([], ["--no-calibrated"]):
        assert main([*arguments, *own]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        found[bool(own)] = [
            (row["baseline"], row["batch_norm_mode"], row["temperature"]) for row in rows
        ]

    part = math.log(2, 5)  # two examples per class lie between the one and the five of the rules
    by_mode = {"support": 1.5 * 2**part, "transductive": 0.5**part / 2, "support_and_query": 1.0}
    assert {mode for _, mode, _ in found[False]} == set(by_mode)
    assert all(
        temperature == pytest.approx(1 if baseline else by_mode[mode])
        for baseline, mode, temperature in found[False]
    )
    assert {temperature for *_, temperature in found[True]} == {1}


def test_baselines_unknown_classes_and_flaws_are_told(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    flaws = ["--shot", "2", "--wrong-labels", "0.5", "--imbalance"]
    assert evaluate("--unknown", *flaws) == 0
    text = capsys.readouterr().out
    assert "support flawed: 50% of the support labels wrong, uneven shots" in text
    assert "unknown classes by largest probability: AUROC 0." in text

    assert evaluate("--json", "--unknown", *flaws) == 0
    found = document(capsys)
    unknown = found["unknown"]
    assert isinstance(unknown, dict)
    assert (found["wrong_labels"], found["imbalance"]) == (0.5, True)
    assert (unknown["known_count"], unknown["unknown_count"]) == (15, 15)
    assert evaluate("--baseline", "anil", "--json") == 0
    assert document(capsys)["baseline"] == "anil"


def test_a_sweep_is_written_as_json_markdown_and_png(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "sweep"
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--tasks", "3", "--device", "cpu"]
    lists = ["--step-counts", "2, 0", "--preconditioners", "sgd", "--heads", "zero,trained"]
    lists += ["--batch-norm-modes", "support"]
    assert main([*arguments, *lists, "--no-compile", "--sweep", str(out)]) == 0
    captured = capsys.readouterr()

    assert sorted(path.name for path in out.iterdir()) == ["sweep.json", "sweep.md", "sweep.png"]
    assert captured.out == (out / "sweep.md").read_text()
    assert "| sgd, head zero |" in captured.out
    assert "sweeping: 9/9 tasks" in captured.err
    swept = json.loads((out / "sweep.json").read_text())
    measured = [(row["head"], row["step_count"]) for row in swept["rows"]]
    assert measured == [(None, 0), ("zero", 0), ("zero", 2), ("trained", 0), ("trained", 2)]
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, *lists, "--no-compile", "--sweep", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]


def test_digits_need_no_data_folder(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("KSHOT_DATA", "nowhere")
    arguments = ["evaluate", bundle, "--tasks", "5", "--device", "cpu", "--baseline", "nil"]
    other = ["--dataset", "digits", "--dataset-split", "all", "--shot", "5", "--queries", "5"]
    assert main([*arguments, *other, "--json"]) == 0
    found = document(capsys)

    assert float(str(found["accuracy"])) > 0.5  # chance is a third
    monkeypatch.delenv("KSHOT_DATA")
    assert main(["evaluate", bundle, "--tasks", "5", "--device", "cpu"]) == 2
    assert "no data folder is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline", "nil"], "--step-count cannot be combined with --baseline nil"),
        (["--versus", "calibrated=maybe"], "--versus calibrated=maybe: 'maybe' is not a valid b"),
        (["--sweep", "x"], "--step-count cannot be combined with --sweep"),
        (["--heads", "zero"], "--heads needs --sweep DIR"),
        (["--dataset", "digits"], "--dataset digits needs --dataset-split"),
        (["--dataset-split", "all"], "--dataset-split needs --dataset"),
        (["--per-task"], "--per-task needs --json"),
        (["--versus", "way=5"], "--versus: expected OPTION=VALUE with one of batch-norm-mo"),
        (["--versus", "head=none"], "--versus head=none: 'none' is not one of"),
        (["--wrong-labels", "1.5"], "--wrong-labels"),
        (["--wrong-labels", "nan"], "--wrong-labels: expected a finite number, got nan"),
        (["--versus", "learning-rate=inf"], "--learning-rate: expected a finite number, got inf"),
        (["--batch-size", "1000000000000"], "1000000000000 is not in the range 1<=x<=1000"),
        (["--step-count", "1000000000000"], "is not in the range 0<=x<=100000"),
        (["--tasks", "1000000000000"], "is not in the range 1<=x<=1000000"),
        (["--compare", "nothing"], "there is no folder nothing, and no built-in bundle"),
    ],
)
def test_contradicting_options_are_refused(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert evaluate(*options) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--step-counts", "1,x"],
            "'--step-counts': expected whole numbers separated by commas, got",
        ),
        (["--step-counts", "9" * 5000], "expected whole numbers separated by commas, got"),
        (["--step-counts", "0,100001"], "'--step-counts': 100001 is not in the range 0<=x<=100000"),
        (["--heads", "zero,none"], "'--heads': 'none' is not one of"),
        (["--preconditioners", ""], "'--preconditioners': '' is not one of"),
    ],
)
def test_lists_of_a_sweep_are_checked_first(
    bundle: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "sweep"
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--sweep", str(out)]
    assert main([*arguments, *options]) == 2

    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_unwritable_sweep_is_refused_first(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--sweep"]
    (tmp_path / "sweep" / "sweep.md").mkdir(parents=True)

    assert main([*arguments, str(tmp_path / "sweep")]) == 2
    assert "sweep.md: expected a file, got a directory" in capsys.readouterr().err
    assert main([*arguments, "/proc"]) == 2
    assert "--sweep: cannot write to /proc" in capsys.readouterr().err


def test_another_split_is_refused(
    evaluate: Evaluate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    patterns: Callable[..., ImageDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a class more, a seeded split moves others: test classes may have been trained on."""

    def read(*_: object, **__: object) -> ImageDataset:
        return patterns(class_count=9)

    monkeypatch.setattr(datasets, "DATASETS", {**datasets.DATASETS, "omniglot": read})
    episodes = tmp_path / "episodes"
    assert evaluate("--episodes", str(episodes)) == 1
    assert "was trained on another split of" in capsys.readouterr().err
    assert not episodes.exists()
    assert evaluate("--dataset", "omniglot", "--dataset-split", "reptile") == 0


def test_a_comparison_tells_another_split(
    evaluate: Evaluate,
    pack: Callable[..., str],
    patterns: Callable[..., ImageDataset],
    small_recipe: Recipes,
    make_initialization: Initializations,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, dataset = small_recipe(), patterns(class_count=9)
    manifest = draft_manifest(recipe, dataset)
    other = pack_bundle(
        tmp_path / "other", manifest, make_initialization(manifest), recipe, dataset
    )

    assert evaluate("--compare", str(other)) == 0
    assert f"{other} was trained on another split than " in capsys.readouterr().err
    assert evaluate("--compare", pack("same")) == 0
    assert "another split" not in capsys.readouterr().err


def test_a_sweep_needs_matplotlib(
    bundle: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda _name: None)
    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--sweep", str(tmp_path / "sweep")]
    assert main(arguments) == 1

    assert pip_install("train") in capsys.readouterr().err


def test_what_is_said_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    say = evaluation_session.say_once()
    for _ in range(3):
        say("compiling")

    assert capsys.readouterr().err == "compiling\n"


def test_the_command_uses_one_thread(evaluate: Evaluate) -> None:
    assert evaluate() == 0
    assert torch.get_num_threads() == 1


def test_a_disk_that_does_not_take_a_sweep_is_told(
    bundle: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "sweep"
    out.mkdir()
    (out / "sweep.json").write_text("an older one")

    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    arguments = ["evaluate", bundle, "--data", str(tmp_path), "--tasks", "1", "--device", "cpu"]
    lists = ["--step-counts", "0", "--preconditioners", "sgd", "--heads", "zero"]
    with monkeypatch.context() as patched:
        patched.setattr("kshot.local.durable.os.fsync", fill)
        assert main([*arguments, *lists, "--no-compile", "--sweep", str(out)]) == 1

    assert "sweep.json could not be written: No space left on device" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["sweep.json"]
    assert (out / "sweep.json").read_text() == "an older one"
