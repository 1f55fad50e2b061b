from pathlib import Path

import pytest
import torch

from kshot.bundle import Bundle
from studies.common.results import provenance
from studies.common.runner import Options
from studies.pictures import times
from studies.pictures.contenders import Contender, Kind
from studies.pictures.gathered import add_rows, read_rows
from studies.pictures.measure import SetRow, Trial, read_set_rows
from studies.pictures.sets import PictureSet
from studies.pictures.times import run_times, timed_rows


def test_every_contender_is_timed_through_its_whole_way(
    means_bundle: Bundle,
    pictures: PictureSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(times, "SECONDS", 0.2)
    monkeypatch.setattr(times, "CALLER_COUNT", 2)
    path = str(means_bundle.path)
    known = {
        one.name: one
        for one in (
            Contender("photos", "", Kind.SERVED, path),
            Contender("colour-lr", "", Kind.RIVAL, "colour-lr"),
            Contender("frozen", "", Kind.FROZEN, path),
            Contender("part", "", Kind.FROZEN, path, networks=(0,)),
        )
    }
    row = SetRow("colours", "colours", "", 3, (1,), 2, (5,), tuple(known))
    options = Options("", None, 1, torch.device("cpu"), None, False, tmp_path, False)

    run_times([Trial(row, 1, 5, pictures)], list(known.values()), options)

    found = read_rows("times", tmp_path)
    assert set(found) == {("colours-1shot", name) for name in ("photos", "colour-lr", "frozen")}
    assert all(row["adapt_ms"] > 0 < row["predict_ms"] for row in found.values())
    assert not list((tmp_path / "kshot").glob("features-*"))
    ((key, callers),) = read_rows("callers", tmp_path).items()
    assert key == ("2 callers", "photos")
    assert callers["to_one_model"] > 0 < callers["to_sessions"]


def test_rows_of_other_runs_stay(tmp_path: Path) -> None:
    made_with = provenance("study", [0], torch.device("cpu"))
    for trial, number in (("a", 1), ("b", 2), ("a", 3)):
        add_rows("numbers", made_with, [{"trial": trial, "contender": "x", "n": number}], tmp_path)

    found = read_rows("numbers", tmp_path)

    assert {key: row["n"] for key, row in found.items()} == {("a", "x"): 3, ("b", "x"): 2}
    assert read_rows("none", tmp_path) == {}
    assert set(timed_rows()) <= set(read_set_rows())
