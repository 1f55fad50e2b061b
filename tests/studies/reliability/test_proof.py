import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from studies.common.page import replace_blocks
from studies.common.results import Row, read_result, result_path
from studies.reliability.churn import command as churn
from studies.reliability.page import PAGE, PROOFS, blocks
from studies.reliability.proof import Place, Proof, run_proof
from studies.reliability.soak import slope_per_hour


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "work", tmp_path / "out", again=False)


def test_an_interrupted_proof_goes_on(place: Place) -> None:
    ran: list[str] = []

    def part(name: str) -> Row:
        ran.append(name)
        if ran == ["a", "b"]:
            raise KeyboardInterrupt
        return {"count": len(ran)}

    parts = {name: lambda faults, name=name: part(name) for name in "ab"}  # noqa: ARG005 -- a part takes the faults
    with pytest.raises(KeyboardInterrupt):
        run_proof(Proof("churn", {}, parts), place)

    result = run_proof(Proof("churn", {}, parts), place)

    assert ran == ["a", "b", "b"]
    assert [row["count"] for row in result.rows] == [1, 3]
    assert list(place.work.iterdir()) == []


def test_faults_are_written_and_end_the_command(place: Place) -> None:
    def part(faults: list[str]) -> Row:
        faults.append("lost")
        return {"count": 1}

    with pytest.raises(click.ClickException, match="only: lost"):
        run_proof(Proof("churn", {}, {"only": part}), place)

    result = read_result(result_path("reliability", "churn", place.out))
    assert result.rows[0]["faults"] == 1
    assert result.more["faults"] == ["only: lost"]


def test_a_trial_does_not_replace_results() -> None:
    done = CliRunner().invoke(churn, ["--requests", "5"])

    assert done.exit_code == 2
    assert "--requests: a trial must not replace results" in done.output


def test_the_page_shows_the_results() -> None:
    text = PAGE.read_text()

    assert replace_blocks(text, blocks()) == text


def test_the_page_names_every_proof() -> None:
    lines = blocks()["proofs"].splitlines()[2:]

    assert [line.split("`")[1] for line in lines] == list(PROOFS)


def test_a_slope_has_an_interval() -> None:
    points = [(float(at), 100 + at / 3600 + (at % 7) / 10) for at in range(0, 3600, 10)]

    slope, width = slope_per_hour(points)

    assert abs(slope - 1) < width < 0.3
    json.dumps([slope, width], allow_nan=False)
