"""`benchmarks/reproduction.py` on small patterns in the place of all data sets."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bench import reproduction_asked, reproduction_command, reproduction_counts
from kshot.bench.reproduction_command import command
from kshot.bench.reproduction_file import KEYS
from kshot.bundle import load_bundle

PackSmall = Callable[..., Path]
Row = dict[str, object]
MODES = ["transductive", "support_and_query", "support"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "reproduction.json"


@pytest.fixture
def reproduce(out: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run the command on 3 tasks, into a file of its own."""

    def run(*arguments: str) -> Result:
        common = ["--data", str(tmp_path), "--device", "cpu", "--no-compile", "--out", str(out)]
        common += [] if "--tasks" in arguments else ["--tasks", "3"]
        return CliRunner().invoke(command, [*common, *arguments])

    return run


def measured(path: Path) -> list[Row]:
    return [row for row in json.loads(path.read_text()) if row["accuracy"] is not None]


def without(rows: Sequence[Row], *keys: str) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in keys} for row in rows]


def stop_at_the_fourth_task(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Interrupt where a fourth task is solved, of two at a time; return where numbers gather."""
    solve = reproduction_counts.Measurement.solve
    solved: list[int] = []

    def stop(self: object, some: object, first: int) -> None:
        solved.append(first)
        if len(solved) == 4:
            raise KeyboardInterrupt
        solve(self, some, first)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(reproduction_counts, "TASKS_AT_A_TIME", 2)
    monkeypatch.setattr(reproduction_counts.Measurement, "solve", stop)
    return solved


def test_a_bundle_answers_its_recipes_rows_in_every_mode_and_the_others_say_why_not(
    pack_small: PackSmall, reproduce: Callable[..., Result], out: Path
) -> None:
    bundle = pack_small()
    done = reproduce("--only", "o15", "--bundle", f"omniglot-5way={bundle}")
    rows = json.loads(out.read_text())

    assert done.exit_code == 0, done.output
    assert "o15: adapting: 3/3 tasks" in done.stderr
    assert len(rows) == 6 * 3 + 12 + 4 * 3 + 2 * 3
    assert all(set(KEYS) <= set(row) for row in rows)
    found = [row for row in rows if "not_measured" not in row]
    assert [(row["row"], row["algorithm"], row["batch_norm"]) for row in found] == [
        ("o15", "reptile", mode) for mode in MODES
    ]
    assert [row["paper"] for row in found] == [0.9768, 0.9539, None]
    assert len({row["episodes_digest"] for row in found}) == 1
    for row in found:
        assert (row["tasks"], row["step_count"], row["batch_size"]) == (3, 50, 5)
        assert (row["preconditioner"], row["head"], row["seed"]) == ("carried", "trained", 0)
        assert row["bundle_digest"] == load_bundle(bundle).digest
        assert "meta_iterations_wanted" not in row
    reasons = {(row["row"], row["algorithm"]): row.get("not_measured") for row in rows}
    assert "cannot be shipped" in reasons["m15", "reptile"]
    assert "omniglot-5way-maml was trained: about 4 hours" in reasons["o15", "maml"]
    assert all(row["accuracy"] is row["commit"] is None for row in rows if "not_measured" in row)
    assert list(out.parent.glob("*unfinished*")) == []


def test_a_rows_command_measures_it_again(
    pack_small: PackSmall,
    reproduce: Callable[..., Result],
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = pack_small("omniglot-5way", "outer.meta_iterations=7")
    reproduce("--only", "o55", "--bundle", f"omniglot-5way={bundle}")
    for row in measured(out):
        words = shlex.split(str(row["command"]))
        assert words[:3] == ["kshot", "evaluate", "BUNDLE"]
        arguments = ["evaluate", str(bundle), "--data", str(tmp_path), *words[3:]]
        assert main([*arguments, "--device", "cpu", "--no-compile", "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        for key in ("accuracy", "ci95", "ci_method", "tasks", "episodes_digest", "step_count"):
            assert again[key] == row[key]
        assert (row["meta_iterations"], row["meta_iterations_wanted"]) == (7, 100_000)


def test_maml_takes_its_own_few_steps_on_the_whole_support_set_in_transductive_mode_alone(
    pack_small: PackSmall, reproduce: Callable[..., Result], out: Path
) -> None:
    recipe = "omniglot-5way-5shot-fomaml"
    done = reproduce("--only", "o55-fomaml", "--bundle", f"{recipe}={pack_small(recipe)}")
    (row,) = measured(out)

    assert done.exit_code == 0, done.output
    assert (row["algorithm"], row["batch_norm"], row["paper"]) == ("fomaml", "transductive", 0.992)
    assert (row["step_count"], row["batch_size"], row["preconditioner"]) == (3, 25, "sgd")


def test_any_training_on_cifar_fs_answers_its_rows_by_its_own_algorithm(
    pack_small: PackSmall, reproduce: Callable[..., Result], out: Path
) -> None:
    """What ships as `cifar-fs` may come from another recipe than Reptile's."""
    settings = ("data.dataset=cifar-fs", "data.split=bertinetto", "data.rotations=false")
    bundle = pack_small("omniglot-5way-fomaml", *settings)
    done = reproduce("--only", "cifar15-fomaml", "--bundle", f"cifar-fs-best={bundle}")

    assert done.exit_code == 0, done.output
    assert [
        (row["algorithm"], row["recipe"], row["paper"], row["queries"]) for row in measured(out)
    ] == [("fomaml", "omniglot-5way-fomaml", None, 15)] * 3


def test_a_stopped_measurement_goes_on_and_ends_as_one_that_was_not(
    pack_small: PackSmall,
    reproduce: Callable[..., Result],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reproduction_counts, "TASKS_AT_A_TIME", 2)
    asked = ("--only", "o15", "--tasks", "5", "--bundle", f"omniglot-5way={pack_small()}")
    assert reproduce(*asked).exit_code == 0
    whole = measured(out)
    out.unlink()

    with monkeypatch.context() as patched:
        solved = stop_at_the_fourth_task(patched)
        assert reproduce(*asked).exit_code == 1
        kept = json.loads((out.parent / "reproduction.o15.unfinished.json").read_text())
        assert [len(counts) for counts in kept["correct"].values()] == [2, 2, 2]
        assert reproduce(*asked).exit_code == 0

    assert solved == [0, 1, 2, 3, 2, 3, 4]
    assert without(measured(out), "commit") == without(whole, "commit")
    assert list(out.parent.glob("*unfinished*")) == []


def test_counts_of_other_weights_or_damaged_ones_are_not_gone_on_from(
    pack_small: PackSmall,
    reproduce: Callable[..., Result],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = out.parent / "reproduction.o15.unfinished.json"
    asked = ("--only", "o15", "--bundle", f"omniglot-5way={pack_small()}", "--tasks", "4")
    with monkeypatch.context() as patched:
        stop_at_the_fourth_task(patched)
        reproduce(*asked)
    counted = json.loads(kept.read_text())
    assert [len(counts) for counts in counted["correct"].values()] == [2, 2, 2]
    for content in (
        "{",
        "[]",
        '{"identity": {"bundle_digest": "another"}, "correct": {}}',
        json.dumps({**counted, "correct": {}}),
        json.dumps({**counted, "correct": {mode: [1] * n for n, mode in enumerate(MODES)}}),
        json.dumps({**counted, "correct": {mode: ["many"] for mode in MODES}}),
        json.dumps({**counted, "diverged": None}),
    ):
        kept.write_text(content)

        done = reproduce(*asked, "--again")

        assert done.exit_code == 0, done.output
        assert "adapting: 0/4" in done.stderr
        assert [row["tasks"] for row in measured(out)] == [4, 4, 4]


def test_what_was_measured_is_not_measured_again_unless_asked(
    pack_small: PackSmall, reproduce: Callable[..., Result], out: Path
) -> None:
    asked = ("--only", "o15", "--bundle", f"omniglot-5way={pack_small()}")
    reproduce(*asked)
    first = out.read_bytes()

    again = reproduce(*asked, "--tasks", "2")
    assert "measured before" in again.stderr
    assert "adapting" not in again.stderr
    assert out.read_bytes() == first
    assert "adapting: 2/2" in reproduce(*asked, "--tasks", "2", "--again").stderr
    assert [row["tasks"] for row in measured(out)] == [2, 2, 2]
    assert "adapting: 3/3" in reproduce(*asked).stderr
    other = pack_small("omniglot-5way", "network.arguments.filters=6")
    assert "adapting" in reproduce("--only", "o15", "--bundle", f"omniglot-5way={other}").stderr
    assert [row["weights_digest"] for row in measured(out)] != [
        row["weights_digest"] for row in json.loads(first)[:3]
    ]


def test_a_bundle_that_is_calibrated_or_ships_later_keeps_its_accuracies(
    pack_small: PackSmall,
    reproduce: Callable[..., Result],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change of the manifest alone changes no answer, and no measurement takes hours twice."""
    before = pack_small()
    after = pack_small("omniglot-5way", "serving.step_count=9", version=2)
    reproduce("--only", "o15", "--bundle", f"omniglot-5way={before}")
    first = measured(out)
    monkeypatch.setattr(reproduction_asked, "find_builtin", lambda _name: load_bundle(after))
    done = reproduce("--only", "o15", "--tasks", "2")
    renewed = measured(out)

    assert "measured before" in done.stderr
    assert {row["bundle_digest"] for row in renewed} == {load_bundle(after).digest}
    assert {row["built_in"] for row in renewed} == {True}
    commands = [str(row["command"]).replace("BUNDLE", "omniglot") for row in first]
    assert [row["command"] for row in renewed] == commands
    changed = ("bundle_digest", "recipe_digest", "built_in", "command")
    assert without(renewed, *changed) == without(first, *changed)


def test_wrong_use_is_refused_in_one_line_before_anything_is_measured(
    pack_small: PackSmall,
    reproduce: Callable[..., Result],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reproduction_asked, "_ships", lambda _name: False)
    bundle, good = pack_small("omniglot-5way-fomaml"), pack_small()
    of_another_split = pack_small("omniglot-5way", "data.split=vinyals")
    of_another_algorithm = pack_small("omniglot-5way", "outer.algorithm=fomaml")
    recipe = "omniglot-20way-maml"
    for arguments, message in (
        (["--only", "o16"], "row is 'o16', wanted some of: o15, o15-fomaml"),
        (["--only", "o120"], "o120 has no built-in bundle, wanted --bundle omniglot-20way=PATH"),
        (["--bundle", "x=y"], "--bundle is 'x=y', wanted RECIPE=PATH with one of: omniglot-5way"),
        (
            ["--bundle", f"omniglot-5way={bundle}"],
            "bundle omniglot-fomaml does not answer o15: its recipe is omniglot-5way-fomaml, "
            "wanted omniglot-5way",
        ),
        (
            ["--bundle", f"omniglot-5way={of_another_split}"],
            "bundle omniglot does not answer o15: its split is vinyals, wanted reptile",
        ),
        (
            ["--bundle", f"omniglot-5way={of_another_algorithm}"],
            "bundle omniglot does not answer o15: its algorithm is fomaml, wanted reptile",
        ),
        (
            ["--bundle", f"cifar-fs-best={of_another_split}"],
            "bundle omniglot does not answer cifar15-fomaml: its dataset is omniglot, wanted cifar",
        ),
        (
            ["--only", "o15", "--bundle", f"omniglot-5way={good}", "--bundle", f"{recipe}={good}"],
            "--bundle names omniglot-20way-maml, of which no row is asked for",
        ),
    ):
        refused = reproduce(*arguments)

        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"Error: {message}")
        assert refused.stderr.count("\n") == 1
    assert not out.exists()
    out.write_text("{}")
    assert "are no list of rows" in reproduce().stderr


def test_the_page_is_written_from_the_file_and_measures_nothing(
    pack_small: PackSmall,
    reproduce: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = tmp_path / "page.md"
    names = ("omniglot", "best", "mini-imagenet", "cifar-fs", "not-measured")
    page.write_text("".join(f"<!-- {name}: x -->\nold\n<!-- end of {name} -->\n" for name in names))
    monkeypatch.setattr(reproduction_command, "PAGE", page)
    reproduce("--only", "o15", "--bundle", f"omniglot-5way={pack_small()}")
    done = reproduce("--page")

    assert done.exit_code == 0, done.output
    assert "adapting" not in done.stderr
    assert done.stderr.endswith(f"page.md is written from {tmp_path / 'reproduction.json'}\n")
    assert "| o15 | Reptile | `transductive` | 97.68 % | **" in page.read_text()
    assert "old" not in page.read_text()
