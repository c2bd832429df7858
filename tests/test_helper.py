"""cscm77_helper.py: its small functions; its trainings have files of their own."""

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
    code = """
import random, sys, torch
def settings():
    return (str(torch.get_rng_state().tolist()), random.getstate(), torch.get_num_threads(),
            torch.get_float32_matmul_precision(), torch.get_default_dtype())
before = settings()
import cscm77_helper, vae, gan, cscm77.report.pictures
assert settings() == before
assert not {'torchmetrics', 'ipywidgets', 'typst'} & set(sys.modules), 'loaded too much'
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_count_params_counts_every_tensor():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert helper.count_params(model) == 3 * 2 + 2 + 2 + 2


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28), (5, 28, 28), (1, 784)])
def test_show_images_leaves_one_new_figure_current(shape, tmp_path):
    before = plt.get_fignums()
    assert show_images(torch.rand(shape, requires_grad=True)) is None
    assert len(plt.get_fignums()) == len(before) + 1
    plt.savefig(tmp_path / "picture.jpg")
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    assert len(plt.gcf().axes) == 1  # one image, not one axes a digit
