"""cscm77/data/strokes.py: what the stand-in digits promise to whoever takes them for MNIST."""

import pytest
import torch

from cscm77.data import strokes

LABELS = torch.arange(10).repeat(500)


@pytest.fixture(scope="module")
def images():
    """5,000 digits, 500 of each."""
    return strokes.write_digits(LABELS, seed=3)


def test_form_and_no_two_pictures_equal(images):
    assert images.shape == (5000, 28, 28) and images.dtype == torch.uint8
    assert images.amin() == 0 and images.amax() == 255
    assert len({image.tobytes() for image in images.numpy()}) == len(images)


def test_the_seed_alone_decides_and_no_setting_is_changed(images, double_by_default):
    before = torch.get_rng_state()
    again = strokes.write_digits(LABELS, seed=3)
    other = strokes.write_digits(LABELS, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float64
    assert torch.equal(again, images)
    assert not (other == images).all((1, 2)).any()


def test_ink_lies_as_in_mnist(images):
    rows, columns = (images > 0).any(2), (images > 0).any(1)
    height, width = (28 - inked.int().argmax(1) - inked.flip(1).int().argmax(1)
                     for inked in (rows, columns))
    longer = torch.maximum(height, width)
    assert 19 <= longer.min() and longer.max() <= 20

    ink, pixel = images.double(), torch.arange(28.0, dtype=torch.float64)
    for along in (ink.sum(2), ink.sum(1)):
        centre = (along * pixel).sum(1) / along.sum(1)
        assert (centre - 13.5).abs().max() <= 0.5 + 1e-6  # whole pixels, as in MNIST


def test_pixels_are_as_bright_as_mnist(images):
    brightness = images.double() / 255
    assert brightness.mean().item() == pytest.approx(0.1307, rel=0.1)
    assert brightness.std().item() == pytest.approx(0.3081, rel=0.1)


def test_ink_matches_a_loop_over_pixels_and_points():
    generator = torch.Generator().manual_seed(0)
    line = 20 * torch.rand(2, 7, 2, generator=generator)
    radius, pressure = torch.tensor([[1.0], [1.7]]), 1 + 0.2 * torch.rand(2, 7, generator=generator)
    box = strokes.ink(line, radius, pressure)
    for n in range(2):
        for row in range(0, 20, 3):
            for column in range(20):
                from_pixel = torch.tensor([column + 0.5, row + 0.5]) - line[n]
                in_radii = (from_pixel.norm(dim=1) / (radius[n] * pressure[n])).min()
                grey = ((1 - in_radii) * radius[n, 0] / strokes.EDGE + 0.5).clamp(0, 1)
                assert abs(box[n, row, column].item() - 255 * grey.item()) <= 0.51


def test_the_pen_line_runs_through_the_points_in_small_steps():
    table = strokes.pen_table()
    lines = strokes.spline(table, torch.arange(len(table.digit)), table.control)
    for line, (_, _, written) in zip(lines, strokes._read_shapes(), strict=True):
        step = (line[1:] - line[:-1]).norm(dim=1)
        assert (step > 0.055).sum() <= len(written) - 1  # about a pixel, unless the pen is lifted
        points = torch.tensor(sum(written, [])) / 100 - 0.5
        assert torch.cdist(points, line).amin(1).max() < 0.03


@pytest.mark.parametrize("digit", range(10))
def test_several_ways_of_writing_and_all_of_them_drawn(digit):
    table = strokes.pen_table()
    ways = strokes.choose_ways(table, torch.full((2000,), digit), torch.Generator().manual_seed(0))
    assert (table.digit[ways] == digit).all()
    assert set(ways.tolist()) == set((table.digit == digit).nonzero()[:, 0].tolist())
    assert len(ways.unique()) >= 4


def test_bad_labels():
    with pytest.raises(ValueError, match="labels: expected 0 to 9, found 0 to 10"):
        strokes.write_digits([0, 10])


def test_stand_in_digits_have_mnists_balance(monkeypatch):
    assert (sum(strokes.TRAIN_COUNTS), sum(strokes.TEST_COUNTS)) == (60_000, 10_000)
    monkeypatch.setattr(strokes, "TRAIN_COUNTS", tuple(range(10, 20)))
    monkeypatch.setattr(strokes, "TEST_COUNTS", tuple(range(10, 20)))
    (train, train_labels), (test, test_labels) = strokes.stand_in_digits(seed=1)
    for labels in (train_labels, test_labels):
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == list(range(10, 20))
        assert not torch.equal(labels, labels.sort().values)
    assert train.shape == test.shape == (145, 28, 28)
    assert len({image.tobytes() for image in torch.cat([train, test]).numpy()}) == 290
