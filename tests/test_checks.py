"""cscm77/checks.py: what is accepted, and in which words the rest is refused."""

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cscm77 import checks

WEIGHT = nn.Parameter(torch.ones(3))


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def adam(*networks):
    return torch.optim.Adam([p for n in networks for p in n.parameters()])


def conditional():
    """A model that only says how many classes it has, as a CVAE of the user's own may."""
    model = network()
    model.num_classes = 26
    return model


def test_numbers_of_every_kind_come_back_as_pythons():
    for kind in (int, np.int64, np.uint8, np.int32):
        number = checks.check_whole("N", kind(3), least=3, most=3)
        assert number == 3 and type(number) is int
    for kind in (float, np.float32, np.float64):
        number = checks.check_positive("rate", kind(0.5))
        assert number == 0.5 and type(number) is float
    assert checks.check_positive("rate", 2) == 2
    assert checks.check_square("input_size", np.int64(784)) == 28


def test_a_solver_may_leave_out_what_is_frozen():
    frozen, trained = nn.Linear(3, 4), nn.Linear(4, 1)
    frozen.requires_grad_(False)
    checks.check_solver("D_solver", adam(trained), nn.Sequential(frozen, trained))
    checks.check_solver("D_solver", adam(frozen, trained), nn.Sequential(frozen, trained))


def test_a_loss_comes_back_as_a_scalar_with_its_gradient():
    scalar = WEIGHT.sum()
    assert checks.check_scalar_loss("loss", scalar) is scalar
    reshaped = checks.check_scalar_loss("loss", WEIGHT.sum().reshape(1))
    gradient, = torch.autograd.grad(reshaped, WEIGHT)
    assert reshaped.shape == () and torch.equal(gradient, torch.ones(3))


def test_a_wrapped_model_is_asked_itself():
    model = conditional()
    for wrapped in (model, nn.DataParallel(model), nn.DataParallel(AveragedModel(model))):
        assert checks.unwrapped(wrapped).num_classes == 26
        checks.check_cond(wrapped, True)
    checks.check_cond(network(), True)  # it does not say, so it may be anything


def test_batches_of_one_image_go_where_nothing_is_normalised():
    checks.check_batch_norm(1, network())
    checks.check_batch_norm(2, nn.Sequential(network(), nn.BatchNorm1d(1)))


D = network()
BAD_CALLS = {
    "True": (lambda: checks.check_whole("N", True), "N: expected a whole number of at least 1"),
    "numpy's True": (lambda: checks.check_whole("N", np.True_), "at least 1, found .*True"),
    "half": (lambda: checks.check_whole("N", 8.0), "found 8.0"),
    "too few": (lambda: checks.check_whole("N", np.int64(-1), least=0), "least 0, found .*-1"),
    "too many": (lambda: checks.check_whole("N", 8, most=7), "N: expected .* number from 1 to 7"),
    **{f"a rate of {rate}": (
        partial(checks.check_positive, "rate", rate), "rate: expected a positive number, found")
       for rate in (0, -1e-3, float("inf"), float("nan"), True, "1", None, np.float32("nan"))},
    "no square": (lambda: checks.check_square("input_size", 783), "input_size.*square.*found 783"),
    "a nan pixel": (lambda: checks.check_range("x", torch.tensor([0.5, torch.nan])),
                    r"x: expected values in \[0, 1\]"),
    "bytes beyond the classes": (
        lambda: checks.check_labels(torch.tensor([200], dtype=torch.uint8), 200),
        "labels: expected 0 to 199, found 200 to 200"),
    "loss of images without a row": (
        lambda: checks.check_reconstruction(*[torch.tensor(0.5)] * 4), r"found x_hat \(\)"),
    "a CVAE without cond": (
        lambda: checks.check_cond(nn.DataParallel(conditional()), False),
        "cond.*found False for Sequ"),
    "another network's solver": (
        lambda: checks.check_solver("D_solver", adam(network()), D),
        "D_solver: expected an optimizer of D's parameters, found one that misses 4 of 4"),
    "a solver of one layer": (
        lambda: checks.check_solver("G_solver", adam(D[2]), D),
        r"of G's parameters, found one that misses 2 of 4 \(0.weight first\)"),
    "a solver of both networks": (
        lambda: checks.check_solver("D_solver", adam(D, network()), D),
        "found one of 4 other tensors beside: it would move them too"),
    "no solver": (
        lambda: checks.check_solver("D_solver", None, D), "D_solver.*optimizer.*found None"),
    **{f"a loss that is {found}": (
        partial(checks.check_scalar_loss, "d_loss", loss),
        f"d_loss: expected a scalar tensor with a gradient, found {found}")
       for loss, found in ((0.5, "float$"), (np.float32(0.5), "float32$"), (None, "None"),
                           ((WEIGHT.sum(), 1), "tuple$"),
                           (WEIGHT * 2, r"torch.float32 \(3,\)"),
                           (torch.tensor(0.5), "a tensor without a gradient"))},
    "one image, normalised": (
        lambda: checks.check_batch_norm(1, nn.Sequential(nn.BatchNorm1d(4))),
        "batch_size: expected at least 2.*BatchNorm1d.*found 1"),
}


@pytest.mark.parametrize("call, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def checked():
    return checks.CheckedSequential(*network(), expects=("noise", 3))


@pytest.mark.parametrize("shape", [(2, 4), (0, 3), (3,), (2, 1, 3)])
def test_another_width_is_refused_before_torch_does(shape):
    for layers in (checked(), copy.deepcopy(checked()), pickle.loads(pickle.dumps(checked()))):
        with pytest.raises(ValueError) as error:
            layers(torch.rand(shape))
        assert str(error.value) == f"noise: expected shape (N, 3) with N >= 1, found {shape}"


def test_checked_layers_are_a_sequential_in_all_else():
    layers, plain = checked(), network()
    plain.load_state_dict(layers.state_dict())
    assert isinstance(layers, nn.Sequential) and str(layers) == str(plain)
    x, hidden = torch.rand(2, 3), torch.rand(2, 4)
    assert torch.equal(layers(x), plain(x)) and torch.equal(layers[1:](hidden), plain[1:](hidden))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch may call scripts deprecated
        assert torch.equal(torch.jit.script(layers)(x), plain(x))
