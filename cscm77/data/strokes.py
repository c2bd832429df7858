"""Digits drawn from pen strokes: what stands in for MNIST on a machine that cannot get it.

A picture is drawn as a hand would: choose one of the digit's `SHAPES`, shake its points, run a
spline through each stroke, slant and turn the line, fit it to MNIST's 20x20 box, ink each pixel by
its distance to the line, put the ink's centre of mass in the middle of 28x28.

    python -m cscm77.studies.stand_ins --mnist DIR     measures how near they come to MNIST

Axes: N digits, W ways of writing, C control points of a way, P points along the pen line, B = 20,
the box's side. The last axis of a point is (x, y): x grows to the right and y downwards, like the
columns and rows of a picture.
"""

import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cscm77.checks import check_labels

# One way of writing a line: digit, how common it is, its strokes. A stroke runs through points x,y
# in hundredths of the unit square. A point written twice is one point and moves as one: that keeps
# loops closed and strokes joined, and twice in a row it makes a sharp corner.
SHAPES = (
    (0, 3, "52,5 25,15 12,50 22,85 50,96 78,85 88,50 76,15 52,5"),
    (0, 3, "62,8 35,8 12,45 20,86 48,96 80,78 88,40 70,12 45,10"),  # the ends overlap
    (0, 2, "68,14 40,5 14,40 18,84 48,96 82,76 86,34 66,6 46,20"),  # the end turns inwards
    (0, 1, "36,10 14,45 22,86 50,96 80,84 88,45 68,8 46,8"),  # open at the top
    (0, 2, "50,5 78,15 88,50 78,85 50,96 24,86 12,50 24,16 50,5 66,16"),  # the other way round
    (0, 3, "66,5 38,16 15,54 22,90 46,96 70,78 87,42 82,14 66,5"),  # an egg, leaning
    (1, 10, "57,4 53,35 48,65 44,96"),
    (1, 2, "57,4 50,30 46,65 48,96"),
    (1, 2, "42,17 56,4 56,4 52,50 49,96"),  # with a flag
    (1, 1, "38,16 54,4 54,4 52,50 51,96", "24,95 51,96 78,95"),
    (2, 3, "14,26 30,7 62,6 76,28 56,60 16,94 16,94 50,92 92,90"),  # sharp lower left
    (2, 1, "10,12 50,9 80,12 60,45 14,92 14,92 50,92 92,92"),  # like a z
    (2, 3, "18,22 42,5 70,16 68,44 44,76 22,94 10,84 24,72 50,84 92,90"),  # with a loop
    (2, 2, "14,20 44,5 74,20 66,52 36,88 12,92 10,78 36,74 62,88 98,82"),  # with a wide loop
    (2, 2, "20,22 44,5 68,18 62,48 34,82 14,92 34,84 60,92 96,80"),  # wavy foot
    (2, 2, "22,40 14,24 34,6 64,8 72,30 56,58 20,90 20,90 54,88 94,94"),  # the head curls in
    (2, 2, "12,30 30,10 58,8 66,30 46,60 14,82 14,82 40,78 96,96"),  # the foot slopes
    (2, 2, "16,24 44,5 76,16 76,50 52,82 24,95 8,84 20,66 44,70 66,84 92,92"),  # with a large loop
    (2, 1, "16,34 34,10 62,8 74,30 62,62 34,90 12,84 18,68 44,72 60,90 78,94"),  # low loop
    (2, 1, "36,14 52,6 58,28 44,60 16,88 16,88 56,84 100,80"),  # small head, long foot
    (3, 3, "20,14 48,4 72,18 60,40 38,46 38,46 68,54 76,74 52,95 14,86"),
    (3, 2, "20,8 50,6 76,8 48,40 48,40 72,54 74,78 48,96 16,88"),  # flat top
    (3, 3, "22,18 46,4 68,16 60,38 40,46 64,54 72,72 54,94 18,90"),  # no corner in the middle
    (3, 2, "24,16 50,5 72,18 58,40 38,48 46,44 70,56 70,80 46,96 16,82"),  # small loop
    (3, 2, "22,18 40,6 66,8 70,28 42,46 66,54 74,78 48,96 20,90 15,80"),  # both ends curl in
    (3, 2, "34,12 54,4 66,18 58,38 42,46 42,46 62,56 66,76 50,94 26,90"),  # narrow
    (3, 2, "30,12 50,4 64,16 54,32 40,38 40,38 72,48 80,72 54,95 12,88"),  # small head
    (3, 1, "24,20 46,4 70,16 60,36 42,46 62,52 76,70 62,92 36,94 22,84"),  # curled foot
    (3, 1, "30,14 60,4 76,16 50,40 36,46 66,52 68,74 30,94 2,90"),  # long tail
    (4, 3, "30,10 24,34 20,54 20,54 48,56 80,52", "70,8 68,40 66,68 65,96"),  # open at the top
    (4, 3, "30,8 24,32 26,50 48,54 72,44", "74,6 70,35 68,65 64,96"),  # open and round
    (4, 2, "56,4 36,28 14,60 14,60 48,60 86,58", "60,30 60,50 58,72 57,96"),  # slanting arm
    (4, 1, "62,4 40,30 16,62 16,62 48,62 84,60", "62,4 62,35 61,65 60,96"),  # closed at the top
    (4, 2, "24,10 20,36 32,50 54,48 70,34 76,8 76,8 70,50 65,96"),  # in one stroke
    (4, 2, "32,10 22,32 14,54 40,58 82,50", "68,24 62,45 58,70 55,96"),  # short stem
    (4, 1, "16,14 12,44 12,44 48,50 84,46", "80,10 78,50 76,96"),  # wide
    (4, 1, "24,14 24,36 40,48 66,40", "80,8 64,50 48,96"),  # like a y
    (5, 3, "84,7 54,8 32,8 32,8 26,42 26,42 52,38 78,54 74,80 46,96 14,86"),
    (5, 3, "32,10 28,28 24,44 24,44 54,40 78,56 72,82 44,96 14,88", "32,10 58,9 88,4"),  # roof last
    (5, 2, "82,5 50,10 36,14 30,36 50,48 70,64 62,88 36,97 12,88"),  # like an s
    (5, 2, "94,8 62,12 42,12 42,12 32,44 58,46 72,62 56,86 30,96 8,90"),
    (5, 1, "38,14 32,44 32,44 56,46 64,66 48,90 14,94", "38,14 66,12 98,5"),  # long roof
    (5, 2, "36,18 32,42 32,42 54,40 74,56 68,82 44,96 16,88", "40,12 64,10 92,6"),  # loose roof
    (5, 2, "78,8 44,10 44,10 34,42 34,42 60,42 74,66 56,92 30,94 18,80"),  # the end curls in
    (5, 1, "30,8 26,44 26,44 52,40 74,58 70,84 46,96 14,88", "30,8 62,7"),  # short roof
    (5, 1, "70,8 48,6 36,16 42,40 62,64 52,92 18,86"),  # like a j
    (6, 3, "58,4 40,26 26,56 30,86 52,96 72,80 66,62 48,58 28,76"),
    (6, 3, "56,4 34,34 22,68 36,94 62,90 76,68 58,56 38,66 28,86"),
    (6, 2, "68,4 44,34 24,70 30,92 52,95 70,78 62,62 44,66 28,84"),  # straight neck
    (6, 1, "60,4 32,36 16,72 32,94 62,94 90,76 76,60 46,70 36,92"),  # wide ring
    (6, 1, "60,6 32,30 16,64 32,94 66,94 80,74 64,58 38,66 20,82"),  # large ring
    (6, 2, "30,6 14,46 20,84 48,96 80,82 78,58 60,54 42,74"),  # wide, ring at the right
    (6, 1, "68,10 48,8 28,26 18,60 34,92 64,92 76,70 56,60 32,72"),
    (7, 4, "18,12 46,10 76,8 76,8 60,40 50,66 44,96"),
    (7, 2, "16,34 20,12 20,12 48,10 74,8 74,8 62,40 52,66 46,96"),  # with a serif
    (7, 2, "14,26 22,10 48,10 74,10 64,40 54,66 50,96"),  # with a hook
    (7, 2, "20,14 50,8 72,12 72,34 62,64 54,96"),  # round shoulder
    (7, 2, "18,12 46,10 76,8 76,8 60,40 50,66 44,96", "36,54 56,52 80,50"),  # crossed
    (7, 1, "20,12 48,10 74,8 74,8 52,38 44,64 42,96", "24,50 46,49 70,46"),
    (7, 2, "12,20 42,14 74,6 74,6 60,40 48,70 40,96"),  # rising roof
    (7, 2, "8,16 46,12 88,10 88,10 62,44 48,70 40,96"),  # wide roof
    (7, 1, "16,12 48,12 80,8 80,8 54,34 44,62 44,96"),  # curved stem
    (7, 2, "12,46 22,14 46,6 72,10 70,34 56,66 48,96"),  # long hook
    (8, 3, "70,14 46,5 28,20 42,42 66,62 70,82 48,96 26,82 34,62 60,40 72,22 70,14"),
    (8, 2, "84,8 52,5 28,20 40,42 64,62 66,84 44,96 24,82 40,58 66,30 90,4"),  # open at the top
    (8, 2, "50,46 32,28 40,8 62,6 70,26 50,46 28,68 32,92 60,95 72,72 50,46"),  # from the middle
    (8, 2, "62,16 48,5 36,20 44,42 58,62 62,82 48,96 34,82 40,62 56,40 64,22 62,16"),  # narrow
    (8, 2, "74,20 50,4 24,22 36,46 54,64 60,84 46,96 34,84 42,64 66,42 74,20"),  # large head
    (8, 2, "80,16 62,5 42,16 42,36 58,54 54,80 34,96 18,86 26,66 52,46 76,30 80,16"),  # leaning
    (8, 1, "32,8 36,32 58,62 60,86 44,96 32,80 44,56 72,8"),  # a ribbon
    (8, 1, "50,44 22,30 30,8 66,6 78,28 50,44 20,66 30,94 70,94 80,68 50,44"),  # wide
    (8, 1, "60,46 34,34 36,10 64,6 72,26 50,48 24,70 38,95 66,92 74,70 60,46"),
    (9, 3, "70,22 52,6 32,22 34,44 52,46 70,22 70,22 67,60 64,96"),
    (9, 3, "72,18 52,6 32,24 36,44 54,44 72,18 68,56 60,80 46,96"),  # slanting tail
    (9, 1, "70,14 46,8 32,32 46,48 64,34 70,14 70,14 70,60 58,90 34,94"),  # curved tail
    (9, 1, "68,20 50,6 32,18 32,40 50,46 66,36 68,20", "68,8 67,50 66,96"),  # ring and stem
    (9, 1, "78,30 56,6 24,20 20,46 44,58 70,44 78,30 78,30 74,70 70,96"),  # large ring
    (9, 1, "68,16 50,5 34,16 36,36 50,40 68,16 68,16 65,56 61,96"),  # small ring
    (9, 2, "72,10 48,10 32,28 40,46 62,40 74,20 70,60 62,96"),  # open ring
    (9, 1, "66,14 42,10 26,30 36,48 60,40 76,12 76,12 66,60 60,96"),  # ring open at the top
    (9, 1, "70,14 48,6 28,22 34,44 58,42 72,18 72,18 72,66 62,90 42,94"),  # hooked tail
    (9, 2, "78,16 48,6 20,28 22,52 50,54 76,20 76,20 74,60 72,96"),  # large ring
    (9, 1, "76,10 48,10 30,24 40,40 70,36 70,36 63,66 54,96"),  # hardly a ring
)

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

    Returns (images, labels) twice, (N, 28, 28) uint8 and (N,) int64 on `device`, drawn from the
    seeds 2 * seed and 2 * seed + 1.
    """
    sets = []
    for part, counts in enumerate((TRAIN_COUNTS, TEST_COUNTS), 2 * seed):
        labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(part))
        sets.append((write_digits(labels[order], part, device), labels[order].to(device)))
    return tuple(sets)


class PenTable(NamedTuple):
    """`SHAPES` as tensors; a line point is the mean, so weighted, of the control points it taps."""

    digit: Tensor  # (W,) int64
    share: Tensor  # (W,)
    control: Tensor  # (W, C, 2), the unit square's middle at 0; where a way has fewer points, zeros
    shake: Tensor  # (W, C, 1)
    taps: Tensor  # (W, P, 4) int64
    weights: Tensor  # (W, P, 4)


def pen_table():
    """Read `SHAPES` into a `PenTable`."""
    digit, share = torch.tensor([row[:2] for row in SHAPES]).T
    columns = zip(*(_way(*strokes) for _, _, *strokes in SHAPES), strict=True)
    return PenTable(digit, share, *(pad_sequence(column, batch_first=True) for column in columns))


def _way(*strokes):
    """A way's control points, how far they shake, the taps and weights of evenly spaced points."""
    strokes = [[tuple(map(int, point.split(","))) for point in way.split()] for way in strokes]
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
        moved = (line[1:] - line[:-1]).norm(dim=1)
        steps.append(F.pad(moved, (1, 0)))  # 0 first: the lifted pen covers no distance
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
