import pytest
import torch

from kshot.learner.networks import products
from kshot.learner.networks.products import times_transposed


@pytest.mark.parametrize("task_count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("leads", [True, False])
def test_products_of_any_strides_are_matrix_products(
    monkeypatch: pytest.MonkeyPatch, task_count: int, dtype: torch.dtype, leads: bool
) -> None:
    monkeypatch.setattr(products, "onednn_leads", lambda: leads)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(task_count, 7, 5, generator=generator, dtype=dtype)
    right = torch.randn(task_count, 4, 5, generator=generator, dtype=dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-14
    expected = torch.einsum("trk,tck->trc", left, right)

    straight = times_transposed(left, right)
    turned = times_transposed(
        left.transpose(1, 2).contiguous().transpose(1, 2),
        right.transpose(1, 2).contiguous().transpose(1, 2),
    )

    torch.testing.assert_close(straight, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(turned, expected, rtol=0, atol=tolerance)
