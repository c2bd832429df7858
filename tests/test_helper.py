"""cscm77_helper.py: its small functions, and what importing it does; its trainings: test_train_vae.py,
test_run_a_gan.py.
"""

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import cscm77_helper as helper
from cscm77_helper import show_images

TOP = Path(helper.__file__).parent


def test_hello_prints_the_line_of_the_brief(capsys):
    helper.hello_helper()
    assert capsys.readouterr().out == "Hello from cscm77_helper.py!\n"


def test_import_changes_no_setting_and_loads_no_extra_library():
    code = ("import sys, torch, random; before = torch.get_rng_state(), random.getstate(), "
            "torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.get_default_dtype()\n"
            "import cscm77_helper, vae, gan, cscm77.report.pictures\n"
            "after = torch.get_rng_state(), random.getstate(), torch.get_float32_matmul_precision(), "
            "torch.get_num_threads(), torch.get_default_dtype()\n"
            "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]\n"
            "assert not {'torchmetrics', 'ipywidgets'} & set(sys.modules), 'loaded too much'")
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_one_hot_equals_a_loop():
    labels = torch.tensor([3, 0, 9, 3])
    rows = one_hot(labels, 10)
    assert rows.dtype == torch.float32 and rows.shape == (4, 10)
    for i, label in enumerate(labels.tolist()):
        assert rows[i].tolist() == [float(c == label) for c in range(10)]


@pytest.mark.parametrize("labels, message", [
    (torch.tensor([1, 12]), "expected 0 to 9, found 1 to 12"),
    (torch.tensor([-1, 2]), "expected 0 to 9, found -1 to 2"),
    (torch.tensor([1.0]), "integers.*found torch.float32"),
    (torch.tensor([], dtype=torch.int64), r"N >= 1.*\(0,\)"),
    (torch.tensor([[1]]), r"shape \(N,\).*\(1, 1\)"),
])
def test_one_hot_refuses_other_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        one_hot(labels, 10)


def test_count_params_counts_every_tensor():
    assert helper.count_params(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))) == 3 * 2 + 2 + 2 + 2


def test_initialize_weights_is_glorot_uniform_and_leaves_other_layers():
    model = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200), nn.Unflatten(1, (2, 10, 10)),
                          nn.ConvTranspose2d(2, 3, 4), nn.Conv2d(3, 4, 3))
    model.apply(helper.initialize_weights)
    bound = (6 / (300 + 200)) ** 0.5
    assert 0.98 * bound < model[0].weight.abs().max() <= bound
    assert model[3].weight.abs().max() <= (6 / ((2 + 3) * 16)) ** 0.5
    assert model[4].weight.abs().max() <= (6 / ((3 + 4) * 9)) ** 0.5
    assert torch.equal(model[1].weight, torch.ones(200))


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28), (5, 28, 28), (1, 784)])
def test_show_images_leaves_one_new_figure_current(shape, tmp_path):
    before = plt.get_fignums()
    assert show_images(torch.rand(shape, requires_grad=True)) is None
    assert len(plt.get_fignums()) == len(before) + 1
    plt.savefig(tmp_path / "picture.jpg")
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    assert len(plt.gcf().axes) == 1  # one image, not one axes a digit
