"""Digits drawn from pen strokes: what stands in for MNIST on a machine that cannot get it.

A picture is drawn as a hand would: choose one of the digit's shapes (shapes.txt), shake its points,
run a spline through each stroke, slant and turn the line, fit it to MNIST's 20x20 box, ink each
pixel by its distance to the line, put the ink's centre of mass in the middle of 28x28.
`python -m cscm77.studies.stand_ins --mnist DIR` measures how near they come to MNIST.

Axes: N digits, W ways of writing, C control points of a way, P points along the pen line, B = 20,
the box's side. The last axis of a point is (x, y): x grows to the right and y downwards.
"""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cscm77.checks import check_labels

SHAPES = Path(__file__).with_name("shapes.txt")

# The hand. Each number is the standard deviation of a uniform draw, so nothing strays beyond 1.73
# times it. The first four are in unit squares: larger ones teach a CNN more of MNIST, until the
# digits begin to look like one another.
SHAKE = 0.033  # of each control point by itself
SHAKE_END = 0.06  # of a stroke's free end
STRETCH = 0.25  # of one half of the digit against the other
WARP = 0.06  # of the plane under the digit, in waves: points that lie together move together
FREEDOM = (1.0, 0.6, 1.0, 1.0, 0.9, 1.0, 0.9, 0.9, 1.0, 0.9)  # by digit: a loose 1 looks like a 7
WIDTH = 0.2  # of log(width / height)
SLANT, MEAN_SLANT = 0.25, 0.12  # steps to the right for one step up
TURN = 0.1  # radians

# The pen, in pixels. With these the mean and standard deviation of all pixels come out as MNIST's.
RADIUS, RADIUS_SPREAD = 1.25, 0.25  # half the line's width: median, and sd of its logarithm
THINNEST, THICKEST = 0.7, 2.4
PRESSURE = 0.12  # share by which the line swells and thins on its way
EDGE = 1.2  # from black to white across the edge of the line

SIDE, BOX = 28, 20  # MNIST's picture, and the box that the ink fills before it is centred
LINE_POINTS = 80  # seldom more than 0.8 pixels apart, so that a row of round dots looks like a line
CHUNK = 128  # digits inked at once, in blocks of (CHUNK, 20, 20, LINE_POINTS) floats: 16 MB each
TRAIN_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)  # as in MNIST
TEST_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def write_digits(labels, seed=0, device="cpu"):
    """Draw labels (N,), integers of 0 to 9, white (255) on black (0): (N, 28, 28) uint8 on device.

    Random numbers come from a generator of this call's own, on the CPU: the global one is left
    alone, and the same labels and seed give the same pictures. Other labels are a ValueError.
    """
    labels = torch.as_tensor(labels).cpu()
    check_labels(labels, 10)
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(len(labels), SIDE, SIDE, dtype=torch.uint8, device=device)
    with _one_thread_of_float32():
        table = pen_table()
        ways = choose_ways(table, labels, generator)
        for way, image in zip(ways.split(CHUNK), images.split(CHUNK), strict=True):
            line = spline(table, way, move_points(table, way, generator))
            line = lean(line, generator)
            radius, pressure = press(line, generator)
            line = fit_to_box(line, radius)
            image.copy_(centre(ink(line.to(device), radius.to(device), pressure.to(device))))
    return images


@contextmanager
def _one_thread_of_float32():
    """Blocks so small lose by a second thread; a default of float64 would draw other digits."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def stand_in_digits(seed=0, device="cpu"):
    """60,000 training and 10,000 test digits, each as often as in MNIST, in random order.

    Returns (images, labels) twice, (N, 28, 28) uint8 and (N,) int64; seeds 2 * seed, 2 * seed + 1.
    """
    sets = []
    for part, counts in enumerate((TRAIN_COUNTS, TEST_COUNTS), 2 * seed):
        labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(part))
        sets.append((write_digits(labels[order], part, device), labels[order].to(device)))
    return tuple(sets)


class PenTable(NamedTuple):
    """Ways of writing; a line point is the mean, so weighted, of the control points it taps."""

    digit: Tensor  # (W,) int64
    share: Tensor  # (W,)
    control: Tensor  # (W, C, 2), the unit square's middle at 0; where a way has fewer points, zeros
    shake: Tensor  # (W, C, 1)
    taps: Tensor  # (W, P, 4) int64
    weights: Tensor  # (W, P, 4)


def pen_table():
    """The `PenTable` of the file `SHAPES`."""
    digits, shares, strokes = zip(*_read_shapes(), strict=True)
    columns = zip(*map(_way, strokes), strict=True)
    return PenTable(torch.tensor(digits), torch.tensor(shares),
                    *(pad_sequence(column, batch_first=True) for column in columns))


def _read_shapes():
    """Yield digit, share and strokes of each way of writing; a stroke is a list of points."""
    for line in SHAPES.read_text(encoding="utf-8").splitlines():
        way, *strokes = line.partition("#")[0].split("|")
        if strokes:
            points = ([tuple(map(int, p.split(","))) for p in stroke.split()] for stroke in strokes)
            yield (*map(int, way.split()), list(points))


def _way(strokes):
    """A way's control points, how far they shake, the taps and weights of evenly spaced points."""
    written = [point for stroke in strokes for point in stroke]
    points = list(dict.fromkeys(written))
    ends = {end for stroke in strokes for end in (stroke[0], stroke[-1]) if written.count(end) == 1}
    shake = torch.tensor([[SHAKE_END if point in ends else SHAKE] for point in points])
    control = torch.tensor(points) / 100 - 0.5
    spread = _catmull_rom()
    taps, weights, steps = [], [], []
    for stroke in strokes:
        numbers = [points.index(point) for point in (stroke[0], *stroke, stroke[-1])]
        pieces = torch.tensor(numbers).unfold(0, 4, 1)
        taps.append(pieces.repeat_interleave(len(spread), 0))
        weights.append(spread.repeat(len(pieces), 1))
        line = (weights[-1][..., None] * control[taps[-1]]).sum(1)
        steps.append(F.pad(line.diff(dim=0).norm(dim=1), (1, 0)))  # 0 first: the pen is lifted
    distance = torch.cat(steps).cumsum(0)
    even = torch.searchsorted(distance, distance[-1] * torch.linspace(0, 1, LINE_POINTS))
    return control, shake, torch.cat(taps)[even], torch.cat(weights)[even]


def _catmull_rom(steps=33):
    """Weights of four neighbours, (steps, 4), on the way from the second to the third."""
    t = torch.linspace(0, 1, steps)
    four = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2
    return torch.stack(four, 1) / 2


def _vary(generator, *shape):
    """Uniform numbers with mean 0 and standard deviation 1."""
    return math.sqrt(3) * (2 * torch.rand(*shape, generator=generator) - 1)


def choose_ways(table, labels, generator):
    """A way of writing for each label, by their shares: (N,) row numbers of the table."""
    odds = torch.where(table.digit == torch.arange(10)[:, None], table.share, 0).float()  # (10, W)
    return torch.multinomial(odds[labels], 1, generator=generator)[:, 0]


def move_points(table, way, generator):
    """The control points of each digit, shaken, stretched and warped: (N, C, 2)."""
    points = table.control[way]
    n = len(points)
    freedom = torch.tensor(FREEDOM)[table.digit[way], None, None]
    points = points + freedom * table.shake[way] * _vary(generator, *points.shape)
    stretched = points**2 - 0.15  # 0.15: their middle stays
    points = points + freedom * STRETCH * _vary(generator, n, 1, 2) * stretched
    for size in (1.0, 0.5):  # a long wave and one half as long and half as high
        waves = 2.5 / size * torch.randn(n, 2, 2, generator=generator)  # radians a unit
        phase = 2 * math.pi * torch.rand(n, 1, 2, generator=generator)
        height = freedom * WARP * size * _vary(generator, n, 1, 2)
        along = (points[:, :, None] * waves[:, None]).sum(-1)
        points = points + height * torch.sin(along + phase)
    return points


def spline(table, way, points):
    """The pen line through the control points: (N, C, 2) -> (N, P, 2)."""
    row = torch.arange(len(way))[:, None, None]
    return (table.weights[way, ..., None] * points[row, table.taps[way]]).sum(2)


def lean(line, generator):
    """Make each digit wider or narrower, slant it and turn it."""
    x, y = line.unbind(-1)  # (N, P) each
    width, slant, turn = _vary(generator, 3, len(line), 1)
    x = x * torch.exp(WIDTH * width) - (MEAN_SLANT + SLANT * slant) * y
    cos, sin = torch.cos(TURN * turn), torch.sin(TURN * turn)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1)


def press(line, generator):
    """The pen's radius in pixels, (N, 1), and the factor by which it swells on its way, (N, P)."""
    n, p, _ = line.shape
    radius = RADIUS * torch.exp(RADIUS_SPREAD * torch.randn(n, 1, generator=generator))
    waves, phase = torch.rand(2, n, 1, generator=generator)
    swell = torch.sin(4 * waves * torch.linspace(0, 1, p) + 2 * math.pi * phase)
    return radius.clamp(THINNEST, THICKEST), 1 + PRESSURE * _vary(generator, n, 1) * swell


def fit_to_box(line, radius):
    """Scale each line until its ink is as long as the box, in pixels from the box's corner."""
    low, high = line.aminmax(dim=1, keepdim=True)
    scale = (BOX - 2 * radius[..., None]) / (high - low).amax(-1, keepdim=True)
    return (line - (low + high) / 2) * scale + BOX / 2


def ink(line, radius, pressure):
    """Ink each pixel by its distance to the line, in radii of the pen: (N, P, 2) -> (N, B, B)."""
    pixel = torch.arange(BOX, device=line.device) + 0.5
    reach = (radius * pressure)[:, None]
    dx, dy = (((pixel[:, None] - along[:, None]) / reach) ** 2 for along in line.unbind(-1))
    distance = (dy[:, :, None] + dx[:, None]).amin(-1).sqrt()  # (N, B, P) each -> (N, B, B)
    grey = (1 - distance) * radius[..., None] / EDGE + 0.5
    return (255 * grey.clamp(0, 1)).round().to(torch.uint8)


def centre(box):
    """Lay each box into a picture, its mass in the middle: (N, B, B) -> (N, 28, 28)."""
    room = SIDE - BOX
    pixel = torch.arange(BOX, device=box.device)
    # Sums of whole numbers are exact, so no device places a picture elsewhere.
    middle = [(box.sum(other) * pixel).sum(1) / box.sum((1, 2)) for other in (2, 1)]
    row, col = (((SIDE - 1) / 2 - mass).round().clamp(0, room).long() for mass in middle)  # corner
    wide = F.pad(box, (room, room, room, room))
    picture = torch.arange(SIDE, device=box.device) + room
    n = torch.arange(len(box), device=box.device)[:, None, None]
    return wide[n, (picture - row[:, None])[:, :, None], (picture - col[:, None])[:, None]]
