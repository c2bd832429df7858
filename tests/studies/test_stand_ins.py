"""cscm77/studies/stand_ins.py: how near the stand-in digits come to MNIST, and the command."""

import pytest
import torch
from tiny import TINY_TEST, TINY_TRAIN, blobs, noise

from cscm77.data import loaders, mnist
from cscm77.data.loaders import Digits, mnist_loaders
from cscm77.data.strokes import stand_in_digits
from cscm77.studies import stand_ins


def test_the_shares_are_those_of_a_judge(monkeypatch):
    def reads_fives(judge, digits):
        torch.nn.init.zeros_(judge.head.weight)
        judge.head.bias.data = torch.eye(10)[5]

    monkeypatch.setattr(stand_ins, "train_judge", reads_fives)
    digits = Digits(*blobs(50, seed=0), "blobs", "cpu")
    *each, total = stand_ins.shares_read(digits, digits)
    assert each == [0.0] * 5 + [1.0] + [0.0] * 4 and total == pytest.approx(0.1)


def test_the_command_measures_both_ways(tiny_mnist, monkeypatch, capsys):
    drawn = noise(TINY_TRAIN, 2), noise(TINY_TEST, 3)
    values = drawn[0][0].numpy() / 255
    drawn[1][0][:3] = drawn[0][0][7]  # three twins
    monkeypatch.setattr(stand_ins, "stand_in_digits", lambda device: drawn)
    asked = []

    def shares_read(learnt_from, tested_on):
        asked.append((learnt_from.name, len(learnt_from), tested_on.name, len(tested_on)))
        return [0.5] * 10 + [0.25]

    monkeypatch.setattr(stand_ins, "shares_read", shares_read)
    assert stand_ins.main(["--mnist", str(tiny_mnist)]) == 0
    assert asked == [("stand-in digits", TINY_TRAIN, "MNIST", TINY_TEST),
                     ("MNIST", TINY_TRAIN, "stand-in digits", TINY_TEST)]
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("drawn: 6,500 digits, seed 0, ")
    assert said[2] == "equal to another: 3"
    assert said[3] == (f"pixel mean, sd: {values.mean():.4f}, {values.std():.4f} "
                       "(MNIST 0.1307, 0.3081)")
    assert said[-2] == "stand-ins, MNIST      " + "  50.0%" * 10 + " 25.00%"
    assert said[-1].startswith("MNIST, stand-ins ") and len(set(map(len, said[-3:]))) == 1


@pytest.mark.parametrize("folder", [True, False])
def test_missing_mnist_ends_the_command_with_the_reason(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(loaders, "MNIST_FOLDER", tmp_path)
    assert stand_ins.main(["--mnist", str(tmp_path)] * folder) == 1
    assert "t10k-labels-idx1-ubyte" in capsys.readouterr().err


def test_what_is_learnt_from_one_can_be_read_in_the_other(real_mnist, two_threads):
    made = mnist_loaders(num_val=0, root=real_mnist, source="mnist", device="cpu")
    drawn = stand_in_digits()
    pixels = torch.cat([pixels for pixels, _ in drawn])
    assert len(pixels.unique(dim=0)) == len(pixels)
    training, test = (Digits(*part, "stand-in digits", "cpu") for part in drawn)
    assert stand_ins.shares_read(training, made.test.dataset)[-1] >= 0.97
    assert stand_ins.shares_read(made.train.dataset, test)[-1] >= 0.985
