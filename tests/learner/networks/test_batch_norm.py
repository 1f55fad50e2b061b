import torch
from torch.nn import functional

from kshot.learner.networks.batch_norm import freeze, normalize


def test_statistics_are_each_tasks_own() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 2, 5, 5, generator=generator, dtype=torch.float64)
    scale, shift = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)

    outputs, _ = normalize(inputs, scale, shift, None, 1e-3)

    for task in range(3):
        reference = functional.batch_norm(
            inputs[task], None, None, scale[task], shift[task], training=True, eps=1e-3
        )
        torch.testing.assert_close(outputs[task], reference, rtol=0, atol=1e-12)


def test_given_statistics_are_used_and_returned() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    ones, zeros = torch.ones(2, 3).double(), torch.zeros(2, 3).double()
    _, statistics = normalize(inputs, ones, zeros, None, 1e-3)

    outputs, used = normalize(inputs[:, :1], ones, zeros, statistics, 1e-3)

    whole, _ = normalize(inputs, ones, zeros, None, 1e-3)
    torch.testing.assert_close(outputs, whole[:, :1], rtol=0, atol=1e-12)
    assert used is statistics


def test_frozen_batch_norm_is_one_factor_and_one_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    scale, shift, mean, variance = torch.rand(4, 2, 3, generator=generator, dtype=torch.float64)

    outputs, _ = normalize(inputs, scale, shift, (mean, variance), 1e-3)

    factor, offset = freeze(scale, shift, (mean, variance), 1e-3)
    for task in range(2):
        reference = functional.batch_norm(
            inputs[task], mean[task], variance[task], scale[task], shift[task], eps=1e-3
        )
        torch.testing.assert_close(outputs[task], reference, rtol=0, atol=1e-12)
        plain = (
            inputs[task] * factor[task][:, None, None] + offset[task][:, None, None]
        )  # (n, channels, height, width)
        torch.testing.assert_close(plain, reference, rtol=0, atol=1e-12)


def test_a_bias_before_it_has_no_effect_and_no_gradient() -> None:
    """That is why the convolutions have none; float64, 1e-12."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    scale, shift, bias = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    mixing = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    bias.requires_grad_()

    biased, _ = normalize(inputs + bias[:, None, :, None, None], scale, shift, None, 1e-3)
    (gradient,) = torch.autograd.grad((biased * mixing).sum(), bias)

    plain, _ = normalize(inputs, scale, shift, None, 1e-3)
    torch.testing.assert_close(biased, plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
