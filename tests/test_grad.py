"""cscm77/grad.py against its formula."""

import pytest
import torch

from cscm77.grad import rel_error


def test_rel_error_equals_its_formula_and_is_0_of_zeros():
    x, y = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.5, -2.0, 2.0])
    assert rel_error(x, y) == rel_error(y, x) == 1.0 / 5.0
    assert isinstance(rel_error(x, y), float)
    assert rel_error(torch.zeros(2), torch.zeros(2)) == 0
    assert rel_error(torch.tensor(1e-12), torch.tensor(0.0), eps=1e-3) == pytest.approx(1e-9)


@pytest.mark.parametrize("x, y, message", [
    (torch.zeros(2), torch.zeros(3), r"of one shape, found \(2,\) and \(3,\)"),
    (torch.zeros(0), torch.zeros(0), "at least one value"),
])
def test_rel_error_refuses_what_cannot_be_compared(x, y, message):
    with pytest.raises(ValueError, match=message):
        rel_error(x, y)
