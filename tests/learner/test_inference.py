import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.bundle import COMPUTED_MODES, BatchNormMode
from kshot.learner import Conv4, inference, initial_parameters, query_logits

NETWORK = Conv4((1, 12, 12), filters=6)
INDEPENDENT = [BatchNormMode.SUPPORT, BatchNormMode.SUPPORT_AND_QUERY]


def _parameters(task_count: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    tasks = [initial_parameters(NETWORK, 5, generator) for _ in range(task_count)]
    return {name: torch.stack([task[name].double() for task in tasks]) for name in tasks[0]}


def _images(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(*shape, 1, 12, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("mode", INDEPENDENT)
@settings(max_examples=20, deadline=None)
@given(others=st.integers(0, 6), place=st.integers(0, 6), seed=st.integers(0, 1000))
def test_an_answer_does_not_depend_on_the_other_queries(
    mode: BatchNormMode, others: int, place: int, seed: int
) -> None:
    support, query = _images(1, 8), _images(1, 9)[:, 8:]
    generator = torch.Generator().manual_seed(seed)
    company = 100 * torch.rand(1, others, 1, 12, 12, generator=generator, dtype=torch.float64)
    place = min(place, others)
    queries = torch.cat([company[:, :place], query, company[:, place:]], dim=1)

    answers = query_logits(NETWORK, _parameters(), queries, support, mode)

    alone = query_logits(NETWORK, _parameters(), query, support, mode)
    torch.testing.assert_close(answers[:, place], alone[:, 0], rtol=0, atol=1e-10)


def test_a_transductive_answer_depends_on_the_other_queries() -> None:
    queries, support = _images(1, 4), _images(1, 8)
    mode = BatchNormMode.TRANSDUCTIVE

    together = query_logits(NETWORK, _parameters(), queries, support, mode)

    alone = query_logits(NETWORK, _parameters(), queries[:, :1], support, mode)
    assert (together[:, 0] - alone[:, 0]).abs().max() > 1e-3


def test_support_and_query_is_one_forward_of_both() -> None:
    """The paper's mode, as its code does it: the last row of a batch of support set and query."""
    queries, support = _images(1, 3), _images(1, 8)
    mode = BatchNormMode.SUPPORT_AND_QUERY

    answers = query_logits(NETWORK, _parameters(), queries, support, mode)

    for query in range(3):
        batch = torch.cat([support, queries[:, query : query + 1]], dim=1)
        reference = query_logits(NETWORK, _parameters(), batch, support, BatchNormMode.TRANSDUCTIVE)
        torch.testing.assert_close(answers[:, query], reference[:, -1], rtol=0, atol=1e-10)


def test_many_queries_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, support = _images(1, 7), _images(1, 8)
    mode = BatchNormMode.SUPPORT_AND_QUERY
    whole = query_logits(NETWORK, _parameters(), queries, support, mode)
    monkeypatch.setattr(inference, "IMAGES_AT_ONCE", 20)  # two queries

    parts = query_logits(NETWORK, _parameters(), queries, support, mode)

    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)


def test_support_mode_on_the_support_set_is_the_transductive_answer() -> None:
    support = _images(1, 8)

    frozen = query_logits(NETWORK, _parameters(), support, support, BatchNormMode.SUPPORT)

    own = query_logits(NETWORK, _parameters(), support, support, BatchNormMode.TRANSDUCTIVE)
    torch.testing.assert_close(frozen, own, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_stacked_tasks_answer_as_alone(mode: BatchNormMode) -> None:
    parameters, queries, support = _parameters(3), _images(3, 4), _images(3, 8).flip(1)

    together = query_logits(NETWORK, parameters, queries, support, mode)

    for task in range(3):
        one = slice(task, task + 1)
        alone = query_logits(
            NETWORK, {n: v[one] for n, v in parameters.items()}, queries[one], support[one], mode
        )
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-10)
