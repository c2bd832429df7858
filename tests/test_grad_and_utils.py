"""cscm77/grad.py and cscm77/utils.py."""

import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cscm77.grad import rel_error
from cscm77.utils import (
    default_device,
    device_of,
    in_notebook,
    matmul_precision,
    processor_name,
    progress_bar,
    reset_seed,
)

TOP = Path(__file__).resolve().parent.parent


def test_rel_error_equals_its_formula():
    x, y = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.5, -2.0, 2.0])
    assert rel_error(x, y) == 1.0 / 5.0
    assert rel_error(y, x) == 1.0 / 5.0
    assert isinstance(rel_error(x, y), float)


def test_rel_error_of_zeros_is_zero():
    assert rel_error(torch.zeros(2), torch.zeros(2)) == 0
    assert rel_error(torch.tensor(1e-12), torch.tensor(0.0), eps=1e-3) == pytest.approx(1e-9)


@pytest.mark.parametrize("x, y, message", [
    (torch.zeros(2), torch.zeros(3), r"\(2,\) and \(3,\)"),
    (torch.zeros(0), torch.zeros(0), "at least one value"),
])
def test_rel_error_refuses_what_cannot_be_compared(x, y, message):
    with pytest.raises(ValueError, match=message):
        rel_error(x, y)


def test_reset_seed_repeats_both_generators():
    reset_seed(3)
    first = torch.rand(3).tolist(), random.random()
    reset_seed(3)
    assert (torch.rand(3).tolist(), random.random()) == first
    reset_seed(4)
    assert (torch.rand(3).tolist(), random.random()) != first


def test_the_device_is_cuda_where_there_is_one():
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_of(torch.nn.Linear(2, 2)).type == "cpu"


def test_a_progress_bar_is_shown_in_a_terminal_and_erases_itself(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with progress_bar(3, "Epoch 0") as bar:
        bar.update()
        bar.refresh()
    shown = capsys.readouterr().out
    assert "Epoch 0" in shown and "1/3" in shown and shown.endswith("\r") and "\n" not in shown


def test_a_log_gets_no_progress_bar(capsys):
    assert not in_notebook()
    with progress_bar(3, "Epoch 0") as bar:
        bar.update(3)
    assert capsys.readouterr().out == ""


def test_a_progress_bar_can_be_turned_off(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with progress_bar(3, "Epoch 0") as bar:
        bar.update(3)
    assert capsys.readouterr().out == ""


def test_the_processor_has_a_name_without_the_file_of_linux_too(monkeypatch):
    def no_file(path, **_):
        raise FileNotFoundError(path)

    assert processor_name(torch.device("cpu"))
    monkeypatch.setattr(Path, "read_text", no_file)
    monkeypatch.setattr("platform.processor", lambda: "abacus")
    assert processor_name(torch.device("cpu")) == "abacus"


KEEPING = """
import resource, sys, torch
from cscm77.utils import keep_freed_memory, matmul_precision
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    kept = [torch.ones(2**20) for _ in range(5)]  # 4 MiB each
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is of Linux's C library")
def test_freed_memory_is_kept_for_the_next_tensor():
    """Told by the pages that the system had to give: each time the same 5120 of them, or only the first time."""
    faults = [int(subprocess.run([sys.executable, "-c", KEEPING, how], cwd=TOP, capture_output=True, text=True,
                                 env={**os.environ, "GLIBC_TUNABLES": ""}).stdout) for how in ("keep", "lose")]
    assert faults[0] < faults[1]


def test_the_precision_of_matrix_products_is_put_back_after_an_error_too():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
