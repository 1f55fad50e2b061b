import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.learner import cycling_indices, derive_seed


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 20), st.integers(0, 2**63 - 1))
def test_batches_deal_out_whole_passes(
    example_count: int, batch_size: int, step_count: int, seed: int
) -> None:
    """Cut into passes of the support set's size, the stream of examples has each exactly once."""
    indices = cycling_indices(example_count, batch_size, step_count, seed)

    assert indices.shape == (step_count, batch_size)
    stream = indices.flatten().tolist()
    for start in range(0, len(stream), example_count):
        dealt = stream[start : start + example_count]
        assert len(set(dealt)) == len(dealt)
        assert set(dealt) <= set(range(example_count))
        if len(dealt) == example_count:
            assert sorted(dealt) == list(range(example_count))


def test_the_seed_decides() -> None:
    first = cycling_indices(25, 5, 50, seed=3)

    assert first.equal(cycling_indices(25, 5, 50, seed=3))
    assert not first.equal(cycling_indices(25, 5, 50, seed=4))


def test_a_shorter_loop_sees_the_same_first_batches() -> None:
    assert cycling_indices(25, 5, 50, seed=3)[:10].equal(cycling_indices(25, 5, 10, seed=3))


@pytest.mark.parametrize(("example_count", "batch_size"), [(0, 5), (5, 0)])
def test_nothing_cannot_be_drawn(example_count: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="wanted 1 or more"):
        cycling_indices(example_count, batch_size, 1, 0)


def test_derived_seeds_are_pinned() -> None:
    """Trainings and evaluations are reproducible across machines only while these stay."""
    assert derive_seed(0) == 7896617691693857887
    assert derive_seed(0, 1) != derive_seed(1, 0) != derive_seed(0) == derive_seed(0, 0)
