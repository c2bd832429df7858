"""cscm77/studies/benchmark.py: like is compared with like, rounds and ratios, the command."""

# ruff: noqa: D103

import multiprocessing
from collections import defaultdict

import matplotlib.pyplot as plt
import pytest
import torch

from cscm77.studies import benchmark, reference
from cscm77.studies.benchmark import COLUMNS, NETWORKS, main, train
from cscm77.studies.reference import WatchedBatches

REFERENCE, STRICT, MEDIUM = COLUMNS

pytestmark = [  # the brief's two processes: newer Pythons warn of the fork, torch of a single core
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def weights(networks):
    return torch.cat([tensor.flatten().double() for network in networks
                      for tensor in network.state_dict().values()])


def first_weights(model):
    torch.manual_seed(benchmark.SEED)
    return weights([make() for make in NETWORKS[model]])


# ---------------------------------------------------------------- like with like


@pytest.mark.parametrize("model", ["vae", "cvae", "fc-gan"])
def test_both_loops_end_at_the_same_weights_and_say_nothing(model, loaders, capsys):
    ends = []
    for title in (REFERENCE, STRICT):
        loop, its_arithmetic = COLUMNS[title]
        with its_arithmetic():
            batches = WatchedBatches(loaders[loop], 4)
            ends.append(weights(train(model, loop, batches)[1]))
        assert len(benchmark.intervals(batches.asked)) == 4  # once a step
    of_brief, of_ours = ends
    moved = (of_brief - first_weights(model)).abs().mean()
    assert moved > 1e-4
    assert (of_ours - of_brief).abs().mean() < 1e-3 * moved
    # at most a step of Adam: where a gradient is nearly zero, so is its sign
    assert (of_ours - of_brief).abs().max() < 1e-3
    assert capsys.readouterr().out == ""


def test_both_loops_train_the_same_dc_gan_each_in_its_memory_format(loaders):
    of_brief, of_ours = (train("dc-gan", loop, WatchedBatches(loaders[loop], 1))[1]
                         for loop in ("reference", "ours"))
    for theirs, network in zip(of_brief, of_ours, strict=True):
        assert all(p.is_contiguous() for p in theirs.parameters())
        assert not all(p.is_contiguous() for p in network.parameters())
    moved = (weights(of_brief) - first_weights("dc-gan")).abs().mean()
    # Adam's first step has one size wherever it goes, and gradients near zero go either way
    assert (weights(of_ours) - weights(of_brief)).abs().mean() < 0.1 * moved


def test_processes_that_load_images_are_gone(loaders, monkeypatch):
    monkeypatch.setattr(reference, "WORKERS", 2)
    loader = reference.reference_loader(loaders["ours"].dataset)
    train("vae", "reference", WatchedBatches(loader, 2))
    assert loader.num_workers == 2
    assert multiprocessing.active_children() == []


# ---------------------------------------------------------------- rounds


def test_pictures_are_drawn_and_freed():
    times = benchmark.measure_pictures(torch.rand(4, 1, 28, 28), rounds=2)
    assert plt.get_fignums() == []
    assert {title: len(seconds) for title, seconds in times.items()} == {REFERENCE: 2, STRICT: 2}


def test_the_time_of_a_gan_is_a_step_and_that_of_a_vae_an_epoch(ticks, letters, monkeypatch):
    def loop(*arguments, cond=None):
        assert arguments[-1].dataset == "the data" and list(arguments[-1])

    monkeypatch.setattr(benchmark, "LOOPS", {"ours": (loop, loop)})
    # looks at the clock: the start, one at each request of a GAN and one more, the end
    assert benchmark.time_model("fc-gan", "ours", letters, 3) == 2**3  # of 2**2 to 2**4
    assert benchmark.time_model("vae", "ours", letters, 3) == 2**7


def arithmetic_now():
    flushes = (torch.tensor(1e-310, dtype=torch.float64) * 0.5).item() == 0
    return torch.get_float32_matmul_precision(), flushes


def test_columns_take_turns_with_their_products_each_in_its_own_arithmetic(capsys):
    seen = []

    def measure(name):
        seen.append((name, *arithmetic_now()))
        return len(seen)

    times = benchmark.measure_in_turns("vae", COLUMNS, 2, measure, lambda: measure("products"))
    assert seen == 2 * [("reference", "highest", False), ("ours", "highest", True),
                        ("products", "highest", True), ("ours", "medium", True),
                        ("products", "medium", True)]
    assert times == {REFERENCE: [1, 6], STRICT: [2, 7], (STRICT, "products"): [3, 8],
                     MEDIUM: [4, 9], (MEDIUM, "products"): [5, 10]}
    assert capsys.readouterr().out.splitlines()[4] == (
        "VAE epoch, round 2 of 2, ours, strict float32: 7.00 s")


@pytest.mark.parametrize("model, steps, number", [("vae", 4, 26), ("fc-gan", 1, 33)])
def test_the_products_are_those_of_as_many_steps_as_are_timed_at_once(model, steps, number, loaders,
                                                                      monkeypatch):
    timed = []

    def time_products(products, repeats):
        timed.append((len(products), repeats))
        return 0.5

    monkeypatch.setattr(reference, "time_products", time_products)
    times = benchmark.measure_model(model, loaders, rounds=2, steps=3)
    assert times[STRICT, "products"] == times[MEDIUM, "products"] == 2 * [steps / 2]
    assert {*timed} == {(number, 3)}


# ---------------------------------------------------------------- the command and its table


def cells_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line[:1] == "|"]


def test_the_command_ends_with_a_table(loaders, tiny_mnist, monkeypatch, capsys):
    before = arithmetic_now()
    options = ["--mnist", str(tiny_mnist), "--images", "384", "--rounds", "1", "--steps", "2"]
    assert main(["vae", "fc-gan", "vae", *options]) == 0
    out = capsys.readouterr().out
    assert f"cores used: 1, torch {torch.__version__};\nMNIST, 384 training images, " in out
    assert "the median of 2 (DC-GAN: 1) in a round" in out
    _, _, *rows = cells_of(out)
    assert [row[0] for row in rows] == ["VAE epoch", "FC-GAN step"]  # asked twice, timed once
    for row in rows:
        assert all(float(cell.split()[0]) > 0 for cell in row[1:4])
        assert all(float(cell) >= 0 for cell in row[4:6])
        assert len([float(ratio) for ratio in row[6].split(" / ")]) == 2
    assert arithmetic_now() == before


def test_everything_is_measured_when_nothing_is_named(loaders, tiny_mnist, monkeypatch, capsys):
    asked = []

    def measure_model(model, loaders, rounds, steps):
        asked.append((model, rounds, steps))
        return {REFERENCE: [8.0, 9.0, 30.0], STRICT: [2.0, 3.0, 3.0], MEDIUM: [1.0, 1.0, 1.0],
                (STRICT, "products"): [1.0, 2.0, 2.5], (MEDIUM, "products"): [0.8] * 3}

    monkeypatch.setattr(benchmark, "measure_model", measure_model)
    monkeypatch.setattr(benchmark, "measure_pictures",
                        lambda *_: defaultdict(list, {REFERENCE: [2.0], STRICT: [0.05]}))
    assert main(["--mnist", str(tiny_mnist)]) == 0
    assert asked == [("vae", 3, 100), ("cvae", 3, 100), ("fc-gan", 3, 100), ("dc-gan", 3, 20)]
    titles, rule, *rows = cells_of(capsys.readouterr().out)
    assert titles == ["", "reference", "ours, strict float32", "ours, medium", "ratio, strict",
                      "ratio, medium", "ours over its own products, strict / medium"]
    ratios = ["4.0", "9.0", "1.5 / 1.2"]  # medians of those of the rounds
    of_vae, of_gan = (["9.00 s", "3.00 s", "1.00 s", *ratios],
                      ["9000.0 ms", "3000.0 ms", "1000.0 ms", *ratios])
    assert len(rule) == len(titles) and rows == [
        ["VAE epoch", *of_vae], ["CVAE epoch", *of_vae],
        ["FC-GAN step", *of_gan], ["DC-GAN step", *of_gan],
        ["`show_images(128)`", "2000.0 ms", "50.0 ms", "-", "40.0", "-", "-"]]


@pytest.mark.parametrize("options, message", [
    (["gan"], "ROW: expected one of vae, cvae, fc-gan, dc-gan, pictures, found 'gan'"),
    (["--rounds", "0"], "--rounds: expected a whole number of at least 1, found 0"),
    (["--steps", "1.5"], "--steps: expected a whole number of at least 1, found '1.5'"),
])
def test_bad_options(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_status_130(loaders, tiny_mnist, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure_model", stop)
    assert main(["vae", "--mnist", str(tiny_mnist)]) == 130
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
