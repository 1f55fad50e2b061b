import hashlib
from collections.abc import Callable

import pytest
import torch

from kshot.learner import cycling_indices, derive_seed
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import sample_episodes
from kshot.trainer.tasks.meta_batch import draw_meta_batch
from kshot.trainer.tasks.seeds import TASKS


@pytest.fixture(scope="module")
def blanks() -> ImageDataset:
    """As many classes and images as Omniglot's training characters with rotations."""
    images = torch.zeros(4800 * 20, 1, 1, 1, dtype=torch.uint8)
    return make_dataset("blanks", images, torch.arange(4801) * 20, tuple(map(str, range(4800))))


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("meta_iteration", "rows", "indices", "first_images", "first_batch"),
    [
        (
            0,
            "6012b38ec23408cd",
            "43a8a6ecf42c735e",
            [13976, 13970, 13977, 13968, 13974],
            [29, 49, 22, 20, 25],
        ),
        (
            1,
            "a0782aab0e67c68f",
            "db08c177d0b0190f",
            [87839, 87822, 87833, 87825, 87837],
            [20, 0, 30, 34, 18],
        ),
        (
            29_999,
            "d67bd31b86fd443c",
            "2d5e938b87ce9b3d",
            [78666, 78674, 78678, 78671, 78660],
            [17, 40, 8, 2, 49],
        ),
    ],
)
def test_seed_0_of_omniglot_5way_draws_these(
    blanks: ImageDataset,
    meta_iteration: int,
    rows: str,
    indices: str,
    first_images: list[int],
    first_batch: list[int],
) -> None:
    """Whoever changes the draws makes trained bundles irreproducible."""
    drawn = draw_meta_batch(load_image_recipe("omniglot-5way"), blanks, meta_iteration)

    assert drawn.inputs[0, :5].tolist() == first_images
    assert drawn.indices[1, 0, :5].tolist() == first_batch
    assert (digest(drawn.inputs), digest(drawn.indices)) == (rows, indices)


def test_a_meta_batch_is_its_tasks_and_the_batches_of_each(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    recipe, dataset = small_recipe("outer.meta_batch_size=3", "outer.seed=9"), patterns()

    drawn = draw_meta_batch(recipe, dataset, 4)

    seed = derive_seed(9, TASKS, 4)
    tasks = sample_episodes(dataset, 3, 3, 2, 0, torch.Generator().manual_seed(seed))
    assert len(drawn) == 3
    assert torch.equal(drawn.inputs, tasks.support)
    assert torch.equal(drawn.targets, tasks.support_classes)
    for number in range(3):
        assert torch.equal(
            drawn.indices[number], cycling_indices(6, 3, 2, derive_seed(seed, number))
        )


def test_a_draw_is_a_function_of_seed_and_number_alone(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    dataset = patterns()
    torch.manual_seed(1)
    first = draw_meta_batch(small_recipe(), dataset, 3)
    torch.manual_seed(2)
    again = draw_meta_batch(small_recipe(), dataset, 3)
    others = [
        draw_meta_batch(small_recipe(), dataset, 4),
        draw_meta_batch(small_recipe("outer.seed=1"), dataset, 3),
    ]

    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.indices, again.indices)
    for other in others:
        assert not torch.equal(first.inputs, other.inputs)
        assert not torch.equal(first.indices, other.indices)
