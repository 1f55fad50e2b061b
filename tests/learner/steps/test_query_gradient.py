import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import BatchNormMode, Head, NetworkSpec
from kshot.learner import (
    Conv4,
    QuerySpec,
    build_query_gradient,
    compile_program,
    initial_parameters,
    layout_of,
    loss_gradients,
    query_logits,
)

WAY, SHOT, QUERIES, TASKS = 3, 2, 4, 2
SHAPE, EVEN_SHAPE = (1, 9, 9), (1, 8, 8)
NETWORK = Conv4(SHAPE, filters=4)
LAYOUT = layout_of(NETWORK, WAY)
CPU = torch.device("cpu")
MODES = [BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE]
HEADS = [Head.TRAINED, Head.PROTOTYPE]


def arguments(
    dtype: torch.dtype = torch.float64, tasks: int = TASKS, shape: tuple[int, int, int] = SHAPE
) -> tuple[Tensor, ...]:
    """Make a start, a displacement, a support set and queries of each task."""
    generator = torch.Generator().manual_seed(3)
    start = LAYOUT.join(initial_parameters(NETWORK, WAY, generator)).to(dtype)
    displacement = 0.05 * torch.randn(tasks, LAYOUT.size, generator=generator).to(dtype)

    def images(count: int) -> Tensor:
        return torch.rand(tasks, count, *shape, generator=generator).to(dtype)

    classes = torch.arange(WAY)
    return (
        start.repeat(tasks, 1),
        displacement,
        images(WAY * SHOT),
        classes.repeat(SHOT).expand(tasks, -1).contiguous(),
        images(WAY * QUERIES),
        classes.repeat_interleave(QUERIES).expand(tasks, -1).contiguous(),
    )


def loss_as_served(
    theta: Tensor, task: int, given: tuple[Tensor, ...], head: Head, mode: BatchNormMode
) -> float:
    """Start, displace and answer one task's queries by the functions that serve: their loss."""
    _, displacement, support, support_classes, queries, query_classes = given
    one = slice(task, task + 1)
    named = LAYOUT.split(theta[one])
    if head is Head.PROTOTYPE:
        features, _ = NETWORK.features(named, support[one], None)
        means = [features[0, support_classes[task] == c].mean(dim=0) for c in range(WAY)]
        prototypes = torch.stack(means)
        named["head.weight"] = 2 * prototypes[None]
        named["head.bias"] = -prototypes.square().sum(dim=1)[None]
    moved = LAYOUT.split(displacement[one])
    named = {name: value + moved[name] for name, value in named.items()}
    logits = query_logits(NETWORK, named, queries[one], support[one], mode)
    return float(functional.cross_entropy(logits[0], query_classes[task]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("displaced", [True, False])
def test_it_is_the_slope_of_the_loss_as_it_is_served(
    head: Head, mode: BatchNormMode, displaced: bool
) -> None:
    """By central differences in float64, along directions in the body and the head."""
    given = arguments()
    if not displaced:
        given = (given[0], torch.zeros_like(given[1]), *given[2:])
    gradient_of = build_query_gradient(NETWORK, LAYOUT, head, mode, displaced=displaced)

    gradient, losses = gradient_of(*given)

    generator = torch.Generator().manual_seed(4)
    for task in range(TASKS):
        assert float(losses[task]) == pytest.approx(
            loss_as_served(given[0], task, given, head, mode)
        )
        for _ in range(4):
            direction = torch.randn(LAYOUT.size, generator=generator, dtype=torch.float64)
            step = 1e-6 * direction
            ahead, behind = (
                loss_as_served(given[0] + sign * step, task, given, head, mode) for sign in (1, -1)
            )
            slope = (ahead - behind) / 2e-6
            assert float(gradient[task] @ direction) == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_with_the_trained_head_and_the_queries_statistics_it_is_fomamls_gradient() -> None:
    start, displacement, support, classes, queries, query_classes = arguments()
    gradient_of = build_query_gradient(
        NETWORK, LAYOUT, Head.TRAINED, BatchNormMode.TRANSDUCTIVE, displaced=True
    )

    gradient, losses = gradient_of(start, displacement, support, classes, queries, query_classes)

    mask = torch.ones(TASKS, WAY, dtype=torch.bool)
    wanted, wanted_losses = loss_gradients(
        NETWORK, LAYOUT, start + displacement, queries, query_classes, mask
    )
    torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(losses, wanted_losses)


def test_a_prototype_head_leaves_the_initializations_own_head_alone() -> None:
    given = arguments()
    gradient_of = build_query_gradient(
        NETWORK, LAYOUT, Head.PROTOTYPE, BatchNormMode.SUPPORT, displaced=True
    )

    gradient, _ = gradient_of(*given)

    body = LAYOUT.body_size
    assert not gradient[:, body:].any()
    assert gradient[:, :body].abs().amax(dim=1).gt(1e-4).all()


def test_one_tasks_gradient_knows_nothing_of_another() -> None:
    given = arguments()
    gradient_of = build_query_gradient(
        NETWORK, LAYOUT, Head.PROTOTYPE, BatchNormMode.SUPPORT, displaced=True
    )

    together, _ = gradient_of(*given)
    alone, _ = gradient_of(*(value[1:] for value in given))
    other = [value.clone() for value in given]
    other[4][0] = torch.nan
    beside_nan, _ = gradient_of(*other)

    torch.testing.assert_close(together[1:], alone)
    torch.testing.assert_close(beside_nan[1:], alone)
    assert beside_nan[0].isnan().any()


@pytest.mark.compiled
def test_compiled_it_is_the_same() -> None:
    """Float32 sums of another order: 1e-4 of gradients of up to about 1.

    A gradient of several tasks after inner steps is compiled in the trainer's test of query
    training. Sides that halve evenly compile sooner.
    """
    spec = QuerySpec(
        network=NetworkSpec("conv4", {"filters": 4}),
        input_shape=EVEN_SHAPE,
        batch_norm_epsilon=1e-3,
        way=WAY,
        support_count=WAY * SHOT,
        query_count=WAY * QUERIES,
        head=Head.PROTOTYPE,
        batch_norm_mode=BatchNormMode.SUPPORT,
        displaced=False,
    )
    given = arguments(torch.float32, 1, EVEN_SHAPE)
    assert [tuple(argument.shape) for argument in spec.example_arguments(CPU)] == [
        tuple(argument.shape) for argument in given
    ]

    compiled = compile_program(spec, CPU)

    for got, wanted in zip(compiled(*given), spec.build()(*given), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_specs_of_different_gradients_have_different_lines() -> None:
    spec = QuerySpec(
        NetworkSpec("conv4", {"filters": 4}),
        SHAPE,
        1e-3,
        WAY,
        WAY,
        WAY,
        Head.PROTOTYPE,
        BatchNormMode.SUPPORT,
        displaced=True,
    )

    assert spec.of_tasks(1).text == spec.text
    assert spec.of_tasks(2).text != spec.text


@pytest.mark.parametrize(
    ("head", "mode"),
    [(Head.ZERO, BatchNormMode.SUPPORT), (Head.TRAINED, BatchNormMode.SUPPORT_AND_QUERY)],
)
def test_heads_and_modes_without_such_a_gradient_are_refused(
    head: Head, mode: BatchNormMode
) -> None:
    with pytest.raises(ValueError, match=f"expected head trained .* got {head} and {mode}"):
        build_query_gradient(NETWORK, LAYOUT, head, mode, displaced=True)
