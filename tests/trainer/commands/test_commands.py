"""The commands, run in this process by the program's own entry point, on a small Omniglot."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.__main__ import main
from kshot.trainer.bundling import packaging
from kshot.trainer.datasets import omniglot
from kshot.trainer.datasets.dataset import names_digest
from kshot.trainer.datasets.omniglot import reptile_split
from kshot.trainer.recipe.files import list_recipes

CHARACTERS = {
    "images_background": [f"Latin/character{number:02d}" for number in range(1, 7)],
    "images_evaluation": [f"Greek/character{number:02d}" for number in range(1, 6)],
}
DRAWING_COUNT = 6
QUICK = (
    "network.arguments.filters=4",
    "task.way=3",
    "task.shot=2",
    "inner.batch_size=3",
    "inner.step_count=2",
    "outer.meta_iterations=4",
    "outer.meta_batch_size=2",
    "evaluation.table.task_count=2",
    "evaluation.table.step_count=3",
    "evaluation.way=3",
    "evaluation.task_count=2",
    "evaluation.step_count=2",
    "evaluation.interval=2",
    "evaluation.checkpoint_interval=1",
    "serving.step_count=4",
)
# A setting of the recipe, the option that overrides it, a choice that is refused, the only one.
ONLY_CHOICES = (
    ("batch_norm.allowed", "--batch-norm-mode", "transductive", "support"),
    ("serving.preconditioners", "--preconditioner", "sgd", "carried"),
    ("serving.head.allowed", "--head", "zero", "trained"),
    ("serving.scope.allowed", "--scope", "head", "all"),
)


def drawing(generator: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(generator.random((105, 105)) < 0.8).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, characters in CHARACTERS.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for character in characters:
                for number in range(DRAWING_COUNT):
                    path = f"{name}/{character}/0001_{number:02d}.png"
                    archive.writestr(path, drawing(generator))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_omniglot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    listed = [f"{folder}/{name}" for folder, names in CHARACTERS.items() for name in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("KSHOT_DATA", raising=False)
        patch.setattr(omniglot, "FOLDERS", {name: len(of) for name, of in CHARACTERS.items()})
        patch.setattr(omniglot, "DRAWING_COUNT", DRAWING_COUNT)
        patch.setattr(omniglot, "TRAIN_CHARACTER_COUNT", 6)
        split = reptile_split(listed)
        digest = names_digest(split["train"] + split["test"])
        patch.setattr(omniglot, "SPLIT_DIGESTS", {"reptile": digest})
        torch.set_num_threads(1)
        yield


def settings(*more: str) -> list[str]:
    return [word for setting in (*QUICK, *more) for word in ("--set", setting)]


def train(out: Path, data_folder: Path, *more: str) -> int:
    return main(
        [
            *("train", "omniglot-5way", "--out", str(out), "--data", str(data_folder)),
            *("--no-compile", "--device", "cpu", *settings(), *more),
        ]
    )


def test_a_trained_bundle_is_evaluated(
    tmp_path: Path,
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    small_bundle: None,  # noqa: ARG001 -- an evaluation needs no templates
) -> None:
    assert train(tmp_path / "run", data_folder) == 0
    trained = capsys.readouterr()
    bundle = trained.out.strip()
    assert Path(bundle, "manifest.json").is_file()
    assert "training: 4/4 meta-iterations" in trained.err

    monkeypatch.setenv("KSHOT_DATA", str(data_folder))
    arguments = ["evaluate", bundle, "--way", "4", "--tasks", "3", "--device", "cpu"]
    options = ["--step-count", "2", "--batch-norm-mode", "transductive", "--head", "zero"]
    assert main([*arguments, *options, "--json"]) == 0
    evaluated = capsys.readouterr()
    document = json.loads(evaluated.out)
    assert list(document)[:7] == [
        *("accuracy", "ci95", "ci_method", "ece", "tasks", "step_count", "ms_per_task")
    ]
    assert 0 <= document["accuracy"] <= 1
    assert (document["tasks"], document["step_count"]) == (3, 2)
    assert "evaluating: 3/3 tasks" in evaluated.err

    assert main([*arguments, *options]) == 0
    assert "4-way 1-shot, 2 steps, transductive: accuracy" in capsys.readouterr().out

    assert main([*arguments, "--way", "6"]) == 1
    message = "kshot: way: expected at most the 5 classes of omniglot reptile test, got 6\n"
    assert capsys.readouterr().err.endswith(message)
    assert main([*arguments, "--shot", "6"]) == 1
    assert "6 support and 1 query images per class: expected" in capsys.readouterr().err


@pytest.fixture(scope="module")
def strict_run(
    data_folder: Path,
    small_omniglot: None,  # noqa: ARG001 -- asked for its effect
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Train a bundle that allows only one choice of each kind; return the training's folder."""
    out = tmp_path_factory.mktemp("strict") / "run"
    only = [
        word
        for setting, _, _, allowed in ONLY_CHOICES
        for word in ("--set", f"{setting}=['{allowed}']")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packaging, "build_template", lambda _network, mode: mode.value.encode())
        assert train(out, data_folder, *only) == 0
    return out


@pytest.mark.parametrize(("option", "refused", "allowed"), [choice[1:] for choice in ONLY_CHOICES])
def test_a_forbidden_choice_is_refused(
    strict_run: Path,
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    refused: str,
    allowed: str,
) -> None:
    bundle = strict_run / "omniglot" / "1"

    assert main(["evaluate", str(bundle), "--data", str(data_folder), option, refused]) == 2

    wanted = f"kshot: {option}: {refused} is not allowed by {bundle}; expected one of: {allowed}\n"
    assert capsys.readouterr().err == wanted


def test_a_training_is_resumed_only_when_asked(
    strict_run: Path, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = strict_run

    assert train(out, data_folder) == 2
    assert "run is not empty; to continue" in capsys.readouterr().err
    assert train(out, data_folder, "--set", "outer.seed=1", "--resume") == 1
    assert "cannot be resumed: its recipe_digest is" in capsys.readouterr().err
    assert train(tmp_path / "none", data_folder, "--resume") == 1
    assert "to resume from" in capsys.readouterr().err


def file_in_the_way(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["--out", str(folder / "file")]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(
            lambda _: ["train", "omniglot-6way", "--out", "x"],
            2,
            "recipe: expected one of",
            id="unknown recipe",
        ),
        pytest.param(
            lambda _: ["train", "omniglot-5way", "--out", "x", "--set", "inner.steps=3"],
            2,
            "inner.steps: unknown key; expected one of",
            id="unknown key",
        ),
        pytest.param(
            lambda _: ["train", "omniglot-5way", "--out", "x"],
            2,
            "no data folder is named: give --data DIR or set KSHOT_DATA",
            id="no data",
        ),
        pytest.param(
            lambda folder: ["train", "omniglot-5way", "--out", "x", "--data", str(folder / "no")],
            2,
            "no does not exist; expected",
            id="missing data folder",
        ),
        pytest.param(
            lambda folder: [
                *("train", "omniglot-5way", "--out", str(folder / "x"), "--data", str(folder))
            ],
            1,
            "has neither omniglot_images_background.zip nor images_background.zip nor a folder",
            id="no archives",
        ),
        pytest.param(
            lambda folder: [
                *("train", "omniglot-5way", "--data", str(folder), *file_in_the_way(folder))
            ],
            2,
            "is a file",
            id="out is a file",
        ),
        pytest.param(
            lambda folder: ["evaluate", str(folder / "no")], 1, "not a directory", id="no bundle"
        ),
        pytest.param(
            lambda _: ["evaluate", "unknown-name"],
            2,
            "there is no folder unknown-name, and no built-in bundle",
            id="unknown bundle",
        ),
        pytest.param(
            lambda folder: ["evaluate", str(folder), "--way", "1"], 2, "--way", id="one class"
        ),
        pytest.param(
            lambda folder: ["evaluate", str(folder), "--head", "none"], 2, "--head", id="head"
        ),
        pytest.param(lambda _folder: ["recipes", "none"], 2, "expected one of cifar", id="recipe"),
    ],
)
def test_nonsense_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Callable[[Path], list[str]],
    code: int,
    message: str,
) -> None:
    assert main(arguments(tmp_path)) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("kshot: ")
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", data_folder, "--device", "cuda") == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_a_truncated_archive_is_refused(
    tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in data_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-100])

    assert train(tmp_path / "run", tmp_path) == 1
    assert "images_background.zip: truncated, or not a ZIP a" in capsys.readouterr().err


def test_recipes_are_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [recipe["name"] for recipe in listed] == list(list_recipes())
    assert all(recipe["reproduces"] and recipe["cost"] for recipe in listed)

    assert main(["recipes"]) == 0
    assert "95.39 %" in capsys.readouterr().out
