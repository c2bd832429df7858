"""cscm77/measure/judge.py: trained once and always the same, unmoved by settings, good on MNIST."""

import pytest
import torch

from cscm77.data.loaders import mnist_loaders
from cscm77.measure import judge as module
from cscm77.measure.judge import FEATURES, Judge, judge_of, train_judge
from cscm77.utils import arithmetic


@pytest.fixture
def loaders(tiny_mnist, monkeypatch):
    monkeypatch.setenv("CSCM77_IMAGES", "300")
    monkeypatch.setattr(module, "LEAST_STEPS", 12)
    return mnist_loaders(root=tiny_mnist, source="mnist", device="cpu", num_val=100)


def test_it_is_trained_once_and_then_read(loaders, tmp_path, capsys):
    first = judge_of(loaders, tmp_path)
    assert "Training the judge on 300 images of MNIST, once." in capsys.readouterr().out
    second = judge_of(loaders, tmp_path)
    assert "Training" not in capsys.readouterr().out
    images = loaders.test.dataset.images
    assert torch.equal(first.read(images).features, second.read(images).features)
    assert first.accuracy == second.accuracy > 0.2  # by chance: 0.1
    assert str(second) == ("judge: a CNN trained on 300 images of MNIST, "
                           f"{100 * first.accuracy:.2f} % right on the test images")
    assert not second.training and not any(p.requires_grad for p in second.parameters())
    assert [path.name for path in (tmp_path / "judge").iterdir()] == ["300 of MNIST.pt"]


@pytest.fixture
def untaught(monkeypatch):
    """Judges keep their first weights."""
    monkeypatch.setattr(module, "train_judge", lambda judge, digits: None)


def test_a_judge_whose_file_is_old_or_damaged_is_trained_again(
        untaught, loaders, tmp_path, capsys, monkeypatch):
    judge_of(loaders, tmp_path)
    (tmp_path / "judge" / "300 of MNIST.pt").write_bytes(b"no checkpoint")
    judge_of(loaders, tmp_path)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    judge_of(loaders, tmp_path)
    assert capsys.readouterr().out.count("Training the judge") == 3


def test_why_it_cannot_be_kept_is_said_in_words(untaught, loaders, tmp_path, capsys, full_disk):
    assert 0 <= judge_of(loaders, tmp_path).accuracy < 0.4
    assert ("The judge cannot be kept as 300 of MNIST.pt (No space left on device), "
            "and is trained again") in capsys.readouterr().out


def test_training_depends_on_nothing_but_the_data_and_leaves_the_random_numbers(loaders):
    states = []
    for seed, dtype in enumerate((torch.float32, torch.float64)):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=bool(seed)):
                judge = Judge()
                before = torch.get_rng_state()
                train_judge(judge, loaders.train.dataset)
                assert torch.equal(torch.get_rng_state(), before)
                features = judge.read(loaders.test.dataset.images.to(dtype)).features
        finally:
            torch.set_default_dtype(torch.float32)
        states.append([*judge.state_dict().values(), features])
    for one, other in zip(*states, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_a_reading_has_features_and_probabilities_and_no_setting_changes_it(loaders, monkeypatch):
    judge, images = Judge().train(), loaders.test.dataset.images[:101]
    reading = judge.read(images)
    assert reading.features.shape == (101, FEATURES) and reading.features.dtype == torch.float64
    torch.testing.assert_close(reading.probabilities.sum(1), torch.ones(101, dtype=torch.float64))
    assert torch.equal(reading.labels, reading.probabilities.argmax(1)) and judge.training
    monkeypatch.setattr(module, "CHUNK", 10)  # a ragged last batch of one
    with arithmetic("medium"):
        again = judge.read(images.flatten(1))
    torch.testing.assert_close(again.features, reading.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("images, message", [
    (torch.rand(0, 784), "784 pixels"), (torch.rand(3, 783), "784 pixels"),
    (torch.rand(784), "784 pixels"), (torch.rand(2, 784) - 1, r"values in \[0, 1\], found -"),
    (torch.full((2, 784), torch.nan), "found nan")])
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        Judge().read(images)


def test_on_real_mnist_it_reads_more_than_99_2_percent(real_mnist, tmp_path, two_threads):
    loaders = mnist_loaders(root=real_mnist, source="mnist", device="cpu")
    assert judge_of(loaders, tmp_path).accuracy > 0.992
