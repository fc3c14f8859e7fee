import pytest
import torch

from sdclr.products import product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "others", "width"), [(1, 1, 1), (7, 3, 5), (300, 10, 129), (0, 4, 3), (64, 100, 512)])
def test_a_product_is_that_of_torch(rows: int, others: int, width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, width, generator=generator, dtype=dtype) for count in (rows, others))
    bias = torch.randn(others, generator=generator, dtype=dtype)
    expected = a.double() @ b.double().T
    for left in (a, a.T.contiguous().T):
        for right in (b, b.T.contiguous().T, b.repeat(1, 2)[:, :width]):
            torch.testing.assert_close(product(left, right).double(), expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(product(left, right, bias).double(), expected + bias.double(), rtol=0, atol=1e-4)
            assert product(left, right).dtype == dtype
