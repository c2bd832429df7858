"""cscm77/utils.py: seeds and settings, and what it does to labels and to networks."""

import copy
import io
import os
import platform
import random
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import gan
from cscm77 import utils

TOP = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("seed", [3, np.int64(3), -5, 2**64 - 1])
def test_reset_seed_repeats_both_generators(seed):
    draws = []
    for number in (seed, seed, 4):
        utils.reset_seed(number)
        draws.append((torch.rand(3).tolist(), random.random()))
    assert draws[0] == draws[1] != draws[2]
    for wrong in (True, 0.5, None, 2**64):
        with pytest.raises(ValueError, match="number: expected a whole number from -.*found"):
            utils.reset_seed(wrong)


def test_the_device_is_cuda_where_there_is_one():
    assert utils.default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.DataParallel(nn.Linear(2, 2).double())
    assert utils.device_of(model).type == "cpu" and utils.dtype_of(model) == torch.float64


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_without_a_letter_for_it_goes_on(encoding, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    utils.printable_output()
    for stream in (sys.stdout, sys.stderr):
        stream.write("1 \N{GREEK SMALL LETTER SIGMA}")
        stream.flush()
        assert stream.buffer.getvalue() == b"1 \\u03c3"
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # no files: they are left alone
    monkeypatch.setattr(sys, "stderr", None)
    utils.printable_output()


@pytest.mark.parametrize("terminal, disabled, shown", [
    (True, "0", True), (False, "0", False), (True, "1", False)])
def test_a_progress_bar_is_shown_in_a_terminal_and_erases_itself(terminal, disabled, shown, capsys,
                                                                 monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    assert not utils.in_notebook()
    with utils.progress_bar(3, "Epoch 0") as bar:
        bar.update()
        bar.refresh()
    text = capsys.readouterr().out
    assert ("Epoch 0" in text and "1/3" in text and text.endswith("\r")) if shown else text == ""
    assert "\n" not in text


def test_the_processor_has_a_name_without_the_file_of_linux_too(monkeypatch):
    def no_file(path, **_):
        raise FileNotFoundError(path)

    assert utils.processor_name(torch.device("cpu"))
    monkeypatch.setattr(Path, "read_text", no_file)
    monkeypatch.setattr("platform.processor", lambda: "abacus")
    assert utils.processor_name(torch.device("cpu")) == "abacus"


KEEPING = """
import ctypes, sys, torch
from cscm77.utils import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [("values", ctypes.c_int * 10)]

mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Mallinfo
if sys.argv[1] == "keep":
    keep_freed_memory()
before = mallinfo().values[3]  # blocks that came from the system by themselves
kept = torch.ones(31 * 2**18)  # 31 MiB
print(mallinfo().values[3] - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is of Linux's C library")
def test_freed_memory_is_kept_for_the_next_tensor():
    """A large tensor then lies among the others, where its place is used again."""
    environment = {**os.environ, "GLIBC_TUNABLES": ""}
    blocks = [subprocess.run([sys.executable, "-c", KEEPING, how], cwd=TOP, capture_output=True,
                             text=True, check=True, env=environment).stdout
              for how in ("keep", "lose")]
    assert blocks == ["0\n", "1\n"]


def settings():
    return (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
            sys.float_info.min / 2 == 0)


def test_the_arithmetic_is_put_back_after_an_error_too():
    before = settings()
    with pytest.raises(KeyError), utils.arithmetic("medium", flush=True):
        assert settings() == ("medium", True, True)
        with utils.arithmetic("highest"):
            assert settings() == ("highest", False, True)  # the other setting is left as it is
        with utils.arithmetic("high", flush=False):
            assert settings() == ("high", True, False)
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("classes", [102, 128, 256, 300])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_one_hot_of_every_kind_of_integer_and_more_classes_than_it_counts(dtype, classes):
    labels = torch.tensor([0, 101, 26], dtype=dtype)
    expected = torch.eye(classes)[labels.long()]
    for given in (labels, labels.tolist(), labels.numpy()):
        rows = utils.one_hot(given, classes)
        assert rows.dtype == torch.float32 and torch.equal(rows, expected)


def test_one_hot_takes_the_type_of_another_tensor():
    for dtype in (torch.float64, torch.bfloat16):
        rows = utils.one_hot([1, 2], 3, like=torch.zeros(1, dtype=dtype))
        assert rows.dtype == dtype and rows.tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("labels, classes, message", [
    ([12], 10, "labels: expected 0 to 9, found 12 to 12"),
    ([-1, 2], 10, "labels: expected 0 to 9, found -1 to 2"),
    ([0.5], 10, r"labels: expected integers of shape \(N,\), N >= 1, found torch.float32 \(1,\)"),
    ([True], 10, r"found torch.bool \(1,\)"),
    ([[1]], 10, r"found torch.int64 \(1, 1\)"),
    ([], 10, r"found torch.float32 \(0,\)"),
    ([1], 0, "class_size: expected a whole number of at least 1, found 0"),
])
def test_one_hot_names_what_it_cannot_use(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        utils.one_hot(labels, classes)


def quietly(wrap, layer):
    """An old-style normalisation, which newer versions of torch call deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return wrap(layer)


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": lambda layer: quietly(nn.utils.weight_norm, layer),
    "old weight_norm of all": lambda layer: quietly(partial(nn.utils.weight_norm, dim=None), layer),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 1),
}
LAYERS = {"Linear": (lambda: nn.Linear(6, 4), (5, 6)),
          "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 2), (5, 4, 3, 3))}


@pytest.mark.parametrize("build, shape", LAYERS.values(), ids=LAYERS)
def test_weights_are_drawn_as_glorots_whatever_their_order_in_memory(build, shape):
    layer, other = build(), build()
    utils.channels_last(other)
    torch.manual_seed(1)
    expected = nn.init.xavier_uniform_(torch.empty(layer.weight.shape))
    for m in (layer, other):
        bias, weight = m.bias.clone(), m.weight
        torch.manual_seed(1)
        m.apply(utils.initialize_weights)
        assert torch.equal(m.weight, expected) and m.weight is weight and torch.equal(m.bias, bias)


@pytest.mark.parametrize("build, shape", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_drawn_too(name, build, shape):
    x, layer = torch.rand(shape), COMPUTED[name](build())
    before = layer(x)
    torch.manual_seed(1)
    layer.apply(utils.initialize_weights)
    torch.manual_seed(1)
    expected = nn.init.xavier_uniform_(torch.empty(layer.weight.shape))
    assert not torch.allclose(layer(x), before)
    drawn = layer.weight.detach()
    if "spectral" in name:  # all of them divided by the largest singular value
        drawn = drawn * (expected.norm() / drawn.norm())
    if name == "pruned":
        expected[layer.weight_mask == 0] = 0
    if name != "orthogonal":  # that one is the nearest orthogonal matrix
        torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 2, 3), nn.BatchNorm1d(4), nn.Conv1d(1, 2, 3)])
def test_other_layers_keep_pytorchs_weights(layer):
    before = copy.deepcopy(layer.state_dict())
    utils.initialize_weights(layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


class Doubled(nn.Module):
    """A parametrization that does not say how it is turned round."""

    def forward(self, weight):
        return 2 * weight


def with_weight_from_a_hook():
    """A layer that finds its weight where something of the user's own put it."""
    layer = nn.Linear(2, 2)
    weight = layer._parameters.pop("weight")
    layer.weight = 2 * weight
    return layer


@pytest.mark.parametrize("build, message", [
    (lambda: parametrize.register_parametrization(nn.Linear(2, 2), "weight", Doubled()),
     r"ParametrizedLinear \(.*Doubled"),
    (lambda: parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="cayley",
                                         use_trivialization=False), "ParametrizedLinear .*Cayley"),
    (with_weight_from_a_hook, "Linear .*weight. is not an nn.Parameter"),
])
def test_weights_that_cannot_be_drawn_are_refused(build, message):
    with pytest.raises(ValueError, match=f"initialize_weights: .* a computed one in {message}"):
        utils.initialize_weights(build())


def trained(build, inputs, switch=None):
    """All weights after six steps in float64, with a switch in the middle."""
    torch.manual_seed(0)
    network = build().double()
    solver = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    parameters = [id(p) for p in network.parameters()]
    for step in range(6):
        if step == 3 and switch:
            switch(network, solver)
        solver.zero_grad(set_to_none=False)  # gradients of the old order stay
        (network(2 * torch.rand(4, inputs).double() - 1) - 0.3).square().mean().backward()
        solver.step()
    assert parameters == [id(p) for p in network.parameters()]
    return torch.cat([p.detach().flatten() for p in network.parameters()])


NETWORKS = {"D": (gan.build_dc_classifier, 784), "G": (lambda: gan.build_dc_generator(8), 8)}


@pytest.mark.parametrize("build, inputs", NETWORKS.values(), ids=NETWORKS)
def test_turning_weights_to_channels_last_changes_no_training(build, inputs):
    plain, turned = trained(build, inputs), trained(build, inputs, utils.channels_last)
    torch.testing.assert_close(turned, plain, rtol=0, atol=1e-6)


def test_only_4_dimensional_weights_are_turned():
    layers = nn.Sequential(nn.Conv1d(4, 2, 3), nn.Conv2d(4, 2, 3), nn.Conv3d(4, 2, 3))
    utils.channels_last(layers)
    assert [layer.weight.is_contiguous() for layer in layers] == [True, False, True]
    assert layers[1].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wrap", COMPUTED.values(), ids=COMPUTED)
def test_networks_that_were_called_can_be_copied(wrap):
    network, x = nn.Sequential(wrap(nn.Linear(6, 4))), torch.rand(5, 6)
    network(x)
    copied = utils.copy_of(network)
    averaged = AveragedModel(copied)
    network.eval(), copied.eval(), averaged.eval()
    assert torch.equal(copied(x), network(x)) and torch.equal(averaged(x), network(x))
    own = {id(p) for p in network.parameters()}
    assert not any(id(p) in own for p in copied.parameters())
    copied(x).sum().backward()
    assert all(p.grad is None for p in network.parameters())
