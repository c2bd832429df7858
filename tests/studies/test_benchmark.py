"""cscm77/studies/benchmark.py: like is compared with like, the clock and the arithmetic on hand-made times, the command."""

# ruff: noqa: D103

import itertools
import multiprocessing
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from cscm77.data import loaders as data
from cscm77.data import mnist as download
from cscm77.studies import benchmark
from cscm77.studies import timing as clock
from cscm77.studies.benchmark import (
    COLUMNS,
    MEDIUM,
    REFERENCE,
    ROWS,
    STRICT,
    Result,
    TimedBatches,
    arithmetic,
    main,
    train,
)

pytestmark = [  # the two loading processes of the brief: newer Pythons warn of the fork, torch of a single core
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """The first 512 images of each split: four steps an epoch. Set here, so that what main sets is put back too."""
    monkeypatch.setenv("CSCM77_IMAGES", "512")


@pytest.fixture
def in_this_process(monkeypatch):
    """The brief's loader without processes of its own, which take a while to start."""
    monkeypatch.setattr(benchmark, "WORKERS", 0)


@pytest.fixture
def loaders(tiny_mnist):
    ours = benchmark.load(tiny_mnist).train
    digits = ours.dataset
    return {"reference": benchmark.reference_loader(digits.pixels[:, 0], digits.labels),
            "ours": ours}


def weights(networks):
    return torch.cat([tensor.flatten().double() for net in networks for tensor in net.state_dict().values()])


def trained(model, column, loaders):
    with arithmetic(column.precision, flush=column.loop == "ours"):
        return weights(train(model, column.loop, TimedBatches(loaders[column.loop]))[1])


# ---------------------------------------------------------------- like with like


def test_the_briefs_data_are_torchvisions_and_ours(tiny_mnist, loaders, in_this_process):
    theirs, ours = MNIST(tiny_mnist, transform=ToTensor()), loaders["ours"].dataset
    for index in (0, 77, 511):
        image, label = loaders["reference"].dataset[index]
        assert torch.equal(image, theirs[index][0]) and label == theirs[index][1]
        assert torch.equal(image, ours[index][0]) and label == ours[index][1]
    assert len(loaders["reference"]) == len(loaders["ours"]) == 4


@pytest.mark.parametrize("model", ["vae", "cvae", "fc-gan"])
def test_both_loops_end_at_the_same_weights(model, loaders):
    start = weights(benchmark.build(model, "ours"))
    reference, ours = (trained(model, column, loaders) for column in (REFERENCE, STRICT))
    moved = (reference - start).abs().mean()
    assert moved > 1e-4
    assert (ours - reference).abs().mean() < 1e-3 * moved
    assert (ours - reference).abs().max() < 1e-3  # one step of Adam: where a gradient is nearly zero, so is its sign


def test_both_loops_train_the_same_dc_gan(loaders, in_this_process):
    reference, ours = (train("dc-gan", loop, TimedBatches(loaders[loop], 1))[1] for loop in ("reference", "ours"))
    for theirs, network in zip(reference, ours, strict=True):
        convolutions = [(a, b) for a, b in zip(theirs.parameters(), network.parameters(), strict=True) if a.ndim == 4]
        assert all(a.is_contiguous() for a, _ in convolutions)
        assert not all(b.is_contiguous() for _, b in convolutions)
    start = weights(benchmark.build("dc-gan", "ours"))
    moved = (weights(reference) - start).abs().mean()
    # Adam's first step has one size wherever it goes: gradients near zero go either way by the last digit
    assert (weights(ours) - weights(reference)).abs().mean() < 0.1 * moved


def test_processes_that_load_images_are_gone(loaders):
    train("vae", "reference", TimedBatches(loaders["reference"], 2))
    assert loaders["reference"].num_workers == 2
    assert multiprocessing.active_children() == []


def test_what_the_loops_print_is_swallowed(loaders, in_this_process, capsys):
    for model, loop in itertools.product(("vae", "fc-gan"), ("reference", "ours")):
        train(model, loop, TimedBatches(loaders[loop], 1))
    assert "Iter" not in capsys.readouterr().out


def test_the_brief_draws_an_axis_for_each_digit():
    benchmark.show_images_as_axes(torch.rand(5, 784))
    axes = plt.gcf().axes
    assert len(axes) == 5
    assert all(len(ax.images) == 1 and not ax.axison for ax in axes)


def test_pictures_are_drawn_and_freed():
    result = benchmark.measure_pictures(torch.rand(4, 1, 28, 28), rounds=2)
    assert plt.get_fignums() == []
    assert {column: len(times) for column, times in result.seconds.items()} == {REFERENCE: 2, STRICT: 2}
    assert all(seconds > 0 for times in result.seconds.values() for seconds in times)


# ---------------------------------------------------------------- the clock, and what is made of it


class Loader:
    """Five batches, and a clock that goes on by 1, 2, 4 ... seconds at each look."""

    dataset = "the data"

    def __len__(self):
        return 5

    def __iter__(self):
        return iter("abcde")


@pytest.mark.parametrize("steps, batches", [(None, "abcde"), (3, "abc"), (9, "abcde")])
def test_intervals_reach_from_request_to_request(steps, batches, monkeypatch):
    ticks = itertools.accumulate(2**n for n in itertools.count())  # 1, 3, 7, 15 ...
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    timed = TimedBatches(Loader(), steps)
    assert len(timed) == len(batches) and timed.dataset == "the data"
    assert "".join(timed) == batches
    assert timed.intervals() == [2, 4, 8, 16, 32][:len(batches)]


@pytest.mark.parametrize("loop", ["reference", "ours"])
def test_both_loops_ask_once_a_step(loop, loaders, in_this_process):
    batches = TimedBatches(loaders[loop], 3)
    train("fc-gan", loop, batches)
    assert len(batches.intervals()) == 3


def test_the_time_of_a_gan_is_a_step_and_that_of_a_vae_an_epoch(monkeypatch):
    def loop(model, networks, batches):
        list(batches)

    ticks = itertools.count()  # 0, 1, 2 ...: a look at it takes a second
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(benchmark, "LOOPS", {"ours": loop})
    assert benchmark.time_model("fc-gan", STRICT, Loader(), 3) == 1
    assert benchmark.time_model("vae", STRICT, Loader(), 3) == 7  # 5 batches, the request after them, the end


def test_columns_take_turns_each_in_its_own_arithmetic(monkeypatch, capsys):
    seen = []

    def measure(column):
        seen.append((column, torch.get_float32_matmul_precision(), flushes()))
        return len(seen)

    monkeypatch.setattr(benchmark, "matmul_rate", lambda: (torch.get_float32_matmul_precision(), flushes()))
    seconds, rates = benchmark.alternate(ROWS["vae"], COLUMNS, 2, measure)
    assert seen == 2 * [(REFERENCE, "highest", False), (STRICT, "highest", True), (MEDIUM, "medium", True)]
    assert seconds == {REFERENCE: [1, 4], STRICT: [2, 5], MEDIUM: [3, 6]}
    assert rates == {REFERENCE: [], STRICT: 2 * [("highest", True)], MEDIUM: 2 * [("medium", True)]}
    assert capsys.readouterr().out.splitlines()[4] == "VAE epoch, round 2 of 2, ours, strict float32: 5.00 s"


def flushes():
    return (torch.tensor(1e-310, dtype=torch.float64) * 0.5).item() == 0


def test_arithmetic_is_put_back_after_an_error():
    before = torch.get_float32_matmul_precision(), flushes()
    with pytest.raises(RuntimeError), arithmetic("medium", flush=True):
        assert (torch.get_float32_matmul_precision(), flushes()) == ("medium", True)
        with arithmetic("highest", flush=False):
            assert (torch.get_float32_matmul_precision(), flushes()) == ("highest", False)
        assert (torch.get_float32_matmul_precision(), flushes()) == ("medium", True)
        raise RuntimeError
    assert (torch.get_float32_matmul_precision(), flushes()) == before


def test_ratios_and_shares_are_medians_of_the_rounds():
    assert benchmark.ratio([8.0, 9.0, 30.0], [2.0, 3.0, 3.0]) == "4.0"  # 4, 3, 10; the medians' ratio would be 3
    assert benchmark.ratio([1.0], []) == "-"
    assert benchmark.share(100, [1.0, 2.0, 4.0], [200.0, 500.0, 31.25]) == "50 %"  # 50, 10, 80 %
    assert benchmark.share(0, [1.0], [1.0]) == benchmark.share(1, [], []) == "-"
    assert benchmark.told([0.5, 0.25, 3.0], "ms") == "500.0 ms"
    assert benchmark.told([9.614], "s") == "9.61 s"


def test_rate_of_a_matrix_product(monkeypatch):
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    assert benchmark.matmul_rate(size=10, repeats=3) == 2 * 1000 / 0.5


@pytest.mark.parametrize("model, classes", [("vae", 0), ("cvae", 10)])
def test_operations_of_a_step_are_those_of_its_layers(model, classes, loaders):
    N, D, H, Z, C = 128, 784, 400, 15, classes
    layers = [(D + C, H), (H, H), (H, H), (H, Z), (H, Z), (Z + C, H), (H, H), (H, H), (H, D)]
    forward = sum(2 * N * fan_in * fan_out for fan_in, fan_out in layers)
    into_images = 2 * N * (D + C) * H  # a gradient that nobody asks for
    counted = benchmark.count_operations(model, loaders["ours"])
    assert counted == pytest.approx(3 * forward - into_images, abs=100)  # averaging the losses takes a few more


# ---------------------------------------------------------------- peak memory


@pytest.fixture
def kept_strokes(tmp_path, monkeypatch, tiny_mnist):
    """Tiny data that our process for peak memory takes for the stand-in digits."""
    for want in download.FILES:
        path = tmp_path / data.STROKES_FOLDER / want.name
        path.parent.mkdir(exist_ok=True)
        download.keep(path, (tiny_mnist / "MNIST" / "raw" / want.name).read_bytes())
    home = f"from pathlib import Path; from cscm77 import data; data.MNIST_FOLDER = Path({str(tmp_path)!r}); "
    monkeypatch.setattr(benchmark, "CHILD", home + benchmark.CHILD)
    monkeypatch.setenv("CSCM77_SOURCE", "strokes")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_peak_memory_of_a_process_of_its_own(kept_strokes, loaders):
    digits = loaders["reference"].dataset
    peaks = benchmark.peaks_of("vae", None, (digits.data, digits.targets)).split(" / ")
    assert len(peaks) == 2
    assert all(0.05 < float(peak) < 8 for peak in peaks)


def test_a_process_that_fails_is_told_of(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "CHILD", "raise MemoryError('no more')")
    assert benchmark.peak_of("vae", "ours", None, "unused") == "-"
    assert capsys.readouterr().out == "VAE epoch, peak memory, ours: not measured (status 1: MemoryError: no more)\n"


def test_peak_memory_counts_what_is_held():
    held = torch.ones(25_000_000)  # 0.1 GiB
    by_file = benchmark.peak_memory()
    assert 0.1 < by_file < 64 and held.sum() > 0


def test_peak_memory_without_the_file_of_linux(monkeypatch):
    pytest.importorskip("resource")
    monkeypatch.setattr(Path, "read_text", no_file)
    assert 0.01 < benchmark.peak_memory() < 64
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert benchmark.peak_memory() is None


def no_file(path):
    raise FileNotFoundError(path)


def test_unknown_peak_memory_is_a_dash(loaders, tiny_mnist, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "peak_memory", lambda: None)
    benchmark.report_peak("vae", "ours", str(tiny_mnist), "")
    assert capsys.readouterr().out.split()[-1] == "-"


# ---------------------------------------------------------------- the table and the command


def cells_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_the_table_has_all_rows_and_columns():
    seconds = {REFERENCE: [8.0, 9.0, 30.0], STRICT: [2.0, 3.0, 3.0], MEDIUM: [1.0, 1.0, 1.0]}
    rates = {REFERENCE: [], STRICT: [10.0] * 3, MEDIUM: [50.0] * 3}
    results = [Result(row, seconds, rates, 15, "0.75 / 0.80") for row in list(ROWS.values())[:4]]
    results.append(Result(ROWS["pictures"], {REFERENCE: [2.0], STRICT: [0.05]}, {STRICT: [1.0]}, 0, "-"))
    titles, rule, *rows = cells_of(benchmark.table(results))
    assert titles == ["", "reference", "ours, strict float32", "ours, medium", "ratio, strict", "ratio, medium",
                      "share of matmul rate, strict / medium", "peak memory in GiB, reference / ours"]
    assert [len(row) for row in (rule, *rows)] == [8] * 6
    assert rows[0] == ["VAE epoch", "9.00 s", "3.00 s", "1.00 s", "4.0", "9.0", "50 % / 30 %", "0.75 / 0.80"]
    assert rows[2][:4] == ["FC-GAN step", "9000.0 ms", "3000.0 ms", "1000.0 ms"]
    assert [row[0] for row in rows] == ["VAE epoch", "CVAE epoch", "FC-GAN step", "DC-GAN step", "`show_images(128)`"]
    assert rows[4][1:] == ["2000.0 ms", "50.0 ms", "-", "40.0", "-", "-", "-"]


def test_the_command_ends_with_a_table(tiny_mnist, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "peaks_of", lambda *_: "0.5 / 0.6")
    before = torch.get_float32_matmul_precision(), flushes()
    options = ["--mnist", str(tiny_mnist), "--images", "384", "--rounds", "1", "--steps", "2"]
    assert main(["vae", "fc-gan", "vae", *options]) == 0
    out = capsys.readouterr().out
    assert f"cores used: 1, torch {torch.__version__}; MNIST, 384 training images, rounds: 1, seed 0" in out
    assert "the median of 2 (DC-GAN: 1) in a round" in out
    _, _, *rows = cells_of(out)
    assert [row[0] for row in rows] == ["VAE epoch", "FC-GAN step"]  # asked for twice, timed once
    for row in rows:
        assert all(float(cell.split()[0]) > 0 for cell in row[1:4])
        assert all(float(cell) >= 0 for cell in row[4:6])
        assert row[6].count("%") == 2 and row[7] == "0.5 / 0.6"
    assert (torch.get_float32_matmul_precision(), flushes()) == before


def test_everything_is_measured_when_nothing_is_named(tiny_mnist, monkeypatch, capsys):
    asked = []

    def measure(model, loaders, rounds, steps, memory):
        asked.append((model, rounds, steps))
        return Result(ROWS[model], {column: [1.0] for column in COLUMNS}, {}, 0, memory)

    monkeypatch.setattr(benchmark, "peaks_of", lambda *_: "-")
    monkeypatch.setattr(benchmark, "measure_model", measure)
    monkeypatch.setattr(benchmark, "measure_pictures", lambda images, rounds: measure("pictures", 0, rounds, 0, "-"))
    assert main(["--mnist", str(tiny_mnist)]) == 0
    assert asked == [("vae", 3, 100), ("cvae", 3, 100), ("fc-gan", 3, 100), ("dc-gan", 3, 20), ("pictures", 3, 0)]
    assert len(cells_of(capsys.readouterr().out)) == 7


@pytest.mark.parametrize(
    "options, message",
    [
        (["gan"], "expected one of vae, cvae, fc-gan, dc-gan, pictures, found 'gan'"),
        (["--images", "127"], "expected a whole number of at least 128, found '127'"),
        (["--rounds", "0"], "expected a whole number of at least 1, found '0'"),
        (["--steps", "1.5"], "expected a whole number of at least 1, found '1.5'"),
    ],
)
def test_bad_options(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("images, found", [("512", "t10k-labels-idx1-ubyte"), ("none", "CSCM77_IMAGES: expected")])
def test_without_data_there_is_one_message(images, found, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CSCM77_IMAGES", images)
    monkeypatch.setattr(download, "mirrors", list)
    assert main(["--mnist", str(tmp_path)]) == 1
    assert found in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_status_130(tiny_mnist, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    before = torch.get_float32_matmul_precision(), flushes()
    monkeypatch.setattr(benchmark, "peaks_of", stop)
    assert main(["vae", "--mnist", str(tiny_mnist)]) == 130
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert (torch.get_float32_matmul_precision(), flushes()) == before
