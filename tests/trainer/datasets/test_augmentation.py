from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kshot.bundle import Grayscale, Ink, InputSpec, Rescale, Resize
from kshot.trainer.datasets.augmentation import (
    blurred,
    changed,
    draw_changes,
    draw_transforms,
    toned,
    warp,
    widened,
)
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import RecipeError
from kshot.trainer.loop.image_run import image_loop
from kshot.trainer.loop.run import first_state
from kshot.trainer.recipe.recipe import Augmentation, Recipe
from kshot.trainer.tasks.meta_batch import draw_meta_batch

NOTHING = Augmentation(flip=False, shift=0.0, rotation_degrees=0.0, scale=0.0)
SETTING = "augmentation={ flip = false, shift = 0.1, rotation_degrees = 10.0, scale = 0.1 }"


def drawn(augmentation: Augmentation, sides: tuple[int, int] = (28, 28)) -> Tensor:
    return draw_transforms(augmentation, (400,), sides, torch.Generator().manual_seed(1))


def test_nothing_leaves_images_as_they_are() -> None:
    images = torch.rand(2, 3, 1, 7, 9)
    transforms = draw_transforms(NOTHING, (2, 3), (7, 9), torch.Generator().manual_seed(1))

    torch.testing.assert_close(warp(images, transforms), images)


def test_every_second_image_is_turned_over() -> None:
    images = torch.rand(400, 3, 6, 6)
    turned = warp(images, drawn(replace(NOTHING, flip=True)))

    over, same = (
        (turned - wanted).abs().amax(dim=(1, 2, 3)) < 1e-5 for wanted in (images.flip(3), images)
    )
    assert bool((over ^ same).all())
    assert 150 < int(over.sum()) < 250


def test_images_move_by_up_to_the_share_of_their_sides() -> None:
    """A dot in the middle of 41 pixels, by up to 4.1 of them, and by as much as 3 in some."""
    images = torch.zeros(400, 1, 41, 41)
    images[:, :, 20, 20] = 1
    moved = warp(images, drawn(replace(NOTHING, shift=0.1)))

    places = moved.flatten(1).argmax(dim=1)
    for offset in (places // 41 - 20, places % 41 - 20):
        assert int(offset.abs().max()) == 4
        assert (int(offset.min()), int(offset.max())) == (-4, 4)


@pytest.mark.parametrize("sides", [(28, 28), (20, 60)])
def test_images_turn_by_up_to_the_degrees_and_are_not_sheared(sides: tuple[int, int]) -> None:
    """In pixels: places of -1..1 are half a side long."""
    half_sides = torch.tensor([sides[1] / 2, sides[0] / 2])  # x before y
    maps = drawn(replace(NOTHING, rotation_degrees=30.0), sides)[:, :, :2]
    turns = half_sides[:, None] * maps / half_sides
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))

    assert 28 < float(angles.max()) <= 30
    assert -30 <= float(angles.min()) < -28
    wanted = torch.eye(2).expand(400, 2, 2)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), wanted)


def test_moves_are_by_the_share_whatever_else_happens() -> None:
    """The old image's middle is shown at most a tenth of a side from the new one's."""
    maps = drawn(Augmentation(flip=True, shift=0.1, rotation_degrees=45.0, scale=0.5))
    shown = -torch.linalg.solve(maps[:, :, :2], maps[:, :, 2])

    assert 0.19 < float(shown.abs().max()) <= 0.2 + 1e-6


def test_images_grow_and_shrink_by_up_to_the_factor() -> None:
    sizes = 1 / drawn(replace(NOTHING, scale=0.25))[:, 0, 0]

    assert 1.2 < float(sizes.max()) <= 1.25
    assert 0.8 <= float(sizes.min()) < 0.83


def test_sides_are_stretched_by_factors_of_their_own() -> None:
    maps = drawn(replace(NOTHING, stretch=0.25))

    sides = 1 / maps[:, [0, 1], [0, 1]]
    assert not torch.allclose(sides[:, 0], sides[:, 1], atol=0.1)
    assert 1.2 < float(sides.max()) <= 1.25 + 1e-6
    assert 0.8 - 1e-6 <= float(sides.min()) < 0.83


def test_rows_are_moved_sideways_by_the_slant() -> None:
    """In an image twice as wide as high, half as much in its own -1..1."""
    maps = drawn(replace(NOTHING, slant=0.3), (20, 40))

    assert 0.14 < float(maps[:, 0, 1].abs().max()) <= 0.15
    maps[:, 0, 1] = 0
    assert torch.equal(maps[:, :, :2], torch.eye(2).expand(400, 2, 2))


def test_a_wider_view_shows_the_images_in_its_middle() -> None:
    images = torch.rand(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)

    seen = warp(images, torch.eye(2, 3).expand(2, 2, 3), view=2.0)

    torch.testing.assert_close(seen[:, :, 2:6, 2:6], images[:, :, ::2, ::2])


def test_strokes_widen_by_their_pixels_on_each_side() -> None:
    dots = torch.zeros(3, 1, 9, 9)
    dots[:, :, 4, 4] = 1

    assert widened(dots, torch.tensor([0, 2, 1])).sum(dim=(1, 2, 3)).tolist() == [1, 25, 9]


def test_a_blur_spreads_what_is_light_and_keeps_its_sum() -> None:
    dots = torch.zeros(2, 2, 9, 9)
    dots[:, :, 4, 4] = torch.tensor([1.0, 2.0])

    spread = blurred(dots, torch.tensor([0.0, 1.0]))

    torch.testing.assert_close(spread[0], dots[0])
    torch.testing.assert_close(spread[1].sum(dim=(1, 2)), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(spread[1, 0, 4, 5] / spread[1, 0, 4, 4], torch.tensor(-0.5).exp())


def test_tones_change_within_their_bounds() -> None:
    augmentation = replace(NOTHING, gamma=0.5, noise=0.1)
    generator = torch.Generator().manual_seed(0)
    changes = draw_changes(augmentation, (4, 50), (1, 6, 6), generator)

    images = toned(torch.full((4, 50, 1, 6, 6), 0.5), changes)

    assert changes.exponents is not None
    part = changes.part(slice(1, 3)).exponents
    assert part is not None
    assert torch.equal(part, changes.exponents[1:3])
    assert 1.4 < float(changes.exponents.max()) <= 1.5
    assert 1 / 1.5 <= float(changes.exponents.min()) < 0.7
    assert changes.noise is not None
    assert 0.05 < float(changes.noise.std(dim=(2, 3, 4)).max()) < 0.2
    assert 0 <= float(images.min()) < 0.5 < float(images.max()) <= 1


def test_larger_images_are_reduced_after_they_have_changed(
    small_recipe: Callable[..., Recipe],
) -> None:
    spec = small_recipe().input
    images = torch.rand(2, 3, 1, 56, 56)
    changes = draw_changes(NOTHING, (2, 3), (1, 28, 28), torch.Generator())

    reduced = changed(images, changes, spec)

    wanted = torch.nn.functional.avg_pool2d(images.flatten(0, 1), 2).reshape(2, 3, 1, 28, 28)
    torch.testing.assert_close(reduced, wanted)


def test_changed_drawings_are_fitted_to_their_ink_again() -> None:
    """However small and slanted they have become, they fill the square inside the margin."""
    steps = (Grayscale(), Ink(0.25), Resize(12, 12, "box"), Rescale(1 / 255))
    images = torch.zeros(1, 9, 1, 24, 24)
    images[..., 4:20, 8:14] = 1
    augmentation = replace(NOTHING, slant=0.3, scale=0.4)
    changes = draw_changes(augmentation, (1, 9), (1, 12, 12), torch.Generator())

    fitted = changed(images, changes, InputSpec((1, 12, 12), steps))

    rows = (fitted > 0.5).any(dim=-1)[0, :, 0]
    assert fitted.shape == (1, 9, 1, 12, 12)
    assert set(rows.sum(dim=1).tolist()) <= {7, 8, 9}
    assert not rows[:, [0, 1, 10, 11]].any()


def test_tasks_are_the_same_and_their_images_are_not(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    dataset = patterns()
    plain, augmented = (
        small_recipe(),
        replace(
            small_recipe(),
            augmentation=Augmentation(flip=True, shift=0.1, rotation_degrees=10.0, scale=0.1),
        ),
    )

    before, after, again, later = (
        draw_meta_batch(recipe, dataset, number)
        for recipe, number in ((plain, 3), (augmented, 3), (augmented, 3), (augmented, 4))
    )

    assert before.changes is None
    assert torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.indices, after.indices)
    assert after.changes is not None
    assert again.changes is not None
    assert later.changes is not None
    assert torch.equal(after.changes.transforms, again.changes.transforms)
    assert not torch.equal(after.changes.transforms, later.changes.transforms)
    assert len(after.changes.transforms.flatten(0, 1).unique(dim=0)) == after.inputs.numel()


def test_a_training_sees_augmented_images(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    augmentation = Augmentation(flip=True, shift=0.1, rotation_degrees=10.0, scale=0.1)
    loop = image_loop(
        replace(small_recipe(), augmentation=augmentation), patterns(), torch.device("cpu")
    )
    plain = image_loop(small_recipe(), patterns(), torch.device("cpu"))

    seen, unchanged = (made.tasks.load(made.tasks.draw(0), slice(1, 2)) for made in (loop, plain))

    changes = loop.tasks.draw(0).changes
    assert changes is not None
    torch.testing.assert_close(seen.inputs, warp(unchanged.inputs, changes.transforms[1:2]))
    state = first_state(loop, torch.device("cpu"))
    assert torch.isfinite(loop.advance(state)[0].parameters).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "shift = 0.1",
            "shift = 1.0",
            "augmentation.shift: expected a number from 0 to less than 1, got 1.0",
        ),
        (
            "10.0",
            "181.0",
            "rotation_degrees: expected a number from 0 to 180, got 181.0",
        ),
        ("flip = false", "flip = 1", "augmentation.flip: expected true or false, got 1"),
        (
            "flip = false",
            "flip = true",
            "augmentation.flip: expected false, got true; the validation",
        ),
        (", scale = 0.1", "", "augmentation.scale"),
        ("flip", "oversampling = 9, flip", "oversampling: expected an integer from 1 to 8, got 9"),
    ],
)
def test_nonsense_is_refused(
    small_recipe: Callable[..., Recipe], old: str, new: str, message: str
) -> None:
    assert small_recipe(SETTING).augmentation is not None

    with pytest.raises(RecipeError, match=message):
        small_recipe(SETTING.replace(old, new))


def test_an_optional_table_needs_all_its_keys(
    small_recipe: Callable[..., Recipe],
) -> None:
    with pytest.raises(RecipeError, match=r"augmentation\.shift: required key is missing"):
        small_recipe("augmentation.flip=true")
    assert small_recipe(SETTING, "augmentation.scale=0.2").augmentation is not None
