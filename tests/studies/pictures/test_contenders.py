from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kshot.bundle import Bundle, builtin_bundle, default_bundles, load_bundle, prepare
from kshot.trainer.errors import DataError
from kshot.trainer.rivals.rivals import RIVALS
from studies.pictures import contenders
from studies.pictures.contenders import (
    ENCODER_FILE,
    Contender,
    Encoder,
    Kind,
    encoded,
    opened,
    read_contenders,
    reduced,
    sent,
)
from studies.pictures.measure import read_set_rows
from studies.pictures.sets import PictureSet, draw_tasks


def test_rows_name_contenders_that_there_are() -> None:
    known = read_contenders()

    for row in read_set_rows().values():
        assert set(row.contenders) <= set(known)
    assert {of.of for of in known.values() if of.kind == Kind.RIVAL} == set(RIVALS)


def test_rival_solves_tasks(pictures: PictureSet) -> None:
    (task,) = draw_tasks(pictures, (3, 2, 2), 1, 0)

    with opened(Contender("colour", "", Kind.RIVAL, "colour-lr")) as make:
        solved = make(pictures).solve(task)

    assert solved.correct == 6
    assert solved.adapt_ms > 2 * solved.predict_ms > 0


def test_pictures_are_reduced_before_they_are_sent(pictures: PictureSet) -> None:
    plain = Contender("plain", "", Kind.RIVAL, "colour-lr")
    small = Contender("small", "", Kind.RIVAL, "colour-lr", reduced_to=4)

    assert sent(pictures, plain) is pictures.pictures
    assert sent(pictures, small)[0] == reduced(pictures.pictures[0], 4)


def test_frozen_features_are_the_encoders(tmp_path: Path, pictures: PictureSet) -> None:
    """Two encoders' features are joined, and logistic regression learns them."""
    manifest = load_bundle(builtin_bundle("cifar-fs")).manifest
    shape = ["n", *manifest.input.shape]
    mean = helper.make_node("GlobalAveragePool", ["images"], ["encoded"])
    graph = helper.make_graph(
        [mean],
        "encoder",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("encoded", TensorProto.FLOAT, ["n", shape[1], 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / ENCODER_FILE)
    bundle = cast(Bundle, SimpleNamespace(path=tmp_path, manifest=manifest))
    (task,) = draw_tasks(pictures, (3, 2, 2), 1, 0)

    encoder = Encoder.of_bundle(bundle)
    solver = encoded([encoder, encoder], pictures.pictures)

    expected = prepare(list(pictures.pictures), manifest.input).mean(axis=(2, 3))
    assert np.allclose(solver.features, np.tile(expected, 2), atol=1e-6)
    assert solver.solve(task).correct == 6


def test_a_model_left_out_is_the_servers_choice(
    monkeypatch: pytest.MonkeyPatch, pictures: PictureSet
) -> None:
    """Its server has the default bundles, and they decide its answers."""
    asked: list[object] = []

    @contextmanager
    def running(bundle: Path | None, _device: str) -> Iterator[SimpleNamespace]:
        asked.append(bundle)
        yield SimpleNamespace(address="127.0.0.1:1")

    monkeypatch.setattr(contenders, "running_server", running)
    auto = Contender("auto", "", Kind.SERVED, "")
    named = [Contender("named", "", Kind.SERVED, path.parent.name) for path in default_bundles()]

    with opened(auto) as make:
        solver = cast(contenders.Served, make(pictures))

    assert (asked, solver.model) == ([None], None)
    assert auto.deciding()["of"] == [of for one in named for of in one.deciding()["of"]]


def test_contenders_that_are_not_here_are_named() -> None:
    with pytest.raises(DataError, match="missing: there is no folder nowhere"):
        Contender("missing", "", Kind.SERVED, "nowhere").deciding()
    frozen = Contender("frozen", "", Kind.FROZEN, "omniglot")
    with pytest.raises(DataError, match="expected a bundle with an encoder"), opened(frozen):
        pass
