import pytest

from kshot.bundle import default_bundles
from kshot.trainer.errors import DataError
from kshot.trainer.rivals.rivals import RIVALS
from studies.pictures.contenders import Contender, Kind, read_contenders
from studies.pictures.measure import read_set_rows


def test_rows_name_contenders_that_there_are() -> None:
    known = read_contenders()

    for row in read_set_rows().values():
        assert set(row.contenders) <= set(known)
        assert len(row.shots) == len(row.task_counts)
    assert {of.of for of in known.values() if of.kind == Kind.RIVAL} == set(RIVALS)


def test_a_model_left_out_is_decided_by_the_default_bundles() -> None:
    auto = Contender("auto", "", Kind.SERVED, "")
    named = [Contender("named", "", Kind.SERVED, path.parent.name) for path in default_bundles()]

    assert auto.deciding()["of"] == [of for one in named for of in one.deciding()["of"]]
    assert not auto.steps()


def test_only_a_server_takes_steps() -> None:
    drawings = Contender("drawings", "", Kind.SERVED, "drawings")

    assert not drawings.steps()
    assert not Contender("head", "", Kind.SERVED, "drawings", {"scope": "head"}).steps()
    assert Contender("more", "", Kind.SERVED, "drawings", {"step_count": 1}).steps()
    assert read_contenders()["omniglot"].steps()


def test_contenders_that_are_not_here_are_named() -> None:
    with pytest.raises(DataError, match="missing: there is no folder nowhere"):
        Contender("missing", "", Kind.SERVED, "nowhere").deciding()
