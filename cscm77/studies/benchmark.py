"""The training loops as the coursework's brief writes them, timed against this package's: python -m cscm77.studies.benchmark.

The two take turns in one process, on the same networks, images and seeds, and the times of a round make one ratio. They
run on a GPU where there is one.

Axes: N images in a batch, D = 784 pixels, Z noise dimensions.
"""

import argparse
import io
import multiprocessing
import os
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode

import gan
from cscm77.data.mnist import MNISTUnavailable
from cscm77.report.evidence import as_markdown
from cscm77.studies.reference import (
    BATCH_SIZE,
    PIXELS,
    WORKERS,
    reference_loader,
    show_images_as_axes,
    train_as_in_the_brief,
)
from cscm77.studies.timing import WARM_UP, TimedBatches, arithmetic, matmul_rate, now, peak_memory, seconds_between
from cscm77.utils import default_device, keep_freed_memory, processor_name, reset_seed
from cscm77_helper import mnist_loaders, run_a_gan, show_images, train_vae
from vae import CVAE, VAE

SEED = 0
DC_SHARE = 5  # a step of the DC-GAN takes longer: so many times fewer are timed
PEAK_STEPS = {"vae": 300, "cvae": 300, "fc-gan": 300, "dc-gan": 12}
UNITS = {"s": (1, 2), "ms": (1000, 1)}  # factor to seconds, decimals


class Column(NamedTuple):
    """A loop and the precision of its matrix products."""

    title: str
    loop: str  # "reference" or "ours"
    precision: str  # of torch.set_float32_matmul_precision; "highest" is float32 throughout


class Row(NamedTuple):
    """What is timed, and the unit it is told in."""

    title: str
    unit: str


class Result(NamedTuple):
    """The measurements of one row; seconds and rates are {column: [one a round]}."""

    row: Row
    seconds: dict
    rates: dict  # of a matrix product, in floating-point operations a second
    operations: int  # in what one entry of `seconds` took; 0 where none were counted
    memory: str  # peaks in GiB, "reference / ours"


REFERENCE = Column("reference", "reference", "highest")
STRICT = Column("ours, strict float32", "ours", "highest")
MEDIUM = Column("ours, medium", "ours", "medium")
COLUMNS = (REFERENCE, STRICT, MEDIUM)
ROWS = {"vae": Row("VAE epoch", "s"), "cvae": Row("CVAE epoch", "s"), "fc-gan": Row("FC-GAN step", "ms"),
        "dc-gan": Row("DC-GAN step", "ms"), "pictures": Row(f"`show_images({BATCH_SIZE})`", "ms")}


# ---------------------------------------------------------------- ours, and what the two share


def train_ours(model, networks, batches):
    """Train networks by `train_vae` or `run_a_gan`; the arguments are those of `train_as_in_the_brief`."""
    if model in ("vae", "cvae"):
        train_vae(0, *networks, batches, cond=model == "cvae")
        return
    solvers = [gan.get_optimizer(network) for network in networks]
    with TemporaryDirectory() as folder:
        run_a_gan(*networks, *solvers, gan.discriminator_loss, gan.generator_loss, Path(folder) / "gan.png",
                  show_every=len(batches) + 1, batch_size=BATCH_SIZE, num_epochs=1, loader_train=batches)


LOOPS = {"reference": train_as_in_the_brief, "ours": train_ours}


def build(model, loop):
    """Make a model's networks from the seed: [VAE], or [D, G].

    Args:
        model: "vae", "cvae", "fc-gan" or "dc-gan".
        loop: "reference", which keeps convolutions in torch's default order of axes, or "ours".
    """
    makers = {"vae": [partial(VAE, PIXELS)], "cvae": [partial(CVAE, PIXELS)],
              "fc-gan": [gan.discriminator, gan.generator],
              "dc-gan": [gan.build_dc_classifier, gan.build_dc_generator]}
    reset_seed(SEED)
    networks = [make().to(default_device()) for make in makers[model]]
    if loop == "reference":
        for network in networks:
            network.to(memory_format=torch.contiguous_format)
    return networks


# ---------------------------------------------------------------- measuring


def train(model, loop, batches):
    """Train a fresh model by one of the loops; gives the seconds that it took, and the trained networks.

    What the loop prints is swallowed. The processes that loaded images are gone when this returns.
    """
    networks = build(model, loop)
    start = now()
    with redirect_stdout(io.StringIO()):
        LOOPS[loop](model, networks, batches)
    seconds = seconds_between(start, now())
    for process in multiprocessing.active_children():
        process.join()
    return seconds, networks


def time_model(model, column, loader, steps):
    """Give the seconds of an epoch of a VAE, or the median of a GAN's first steps.

    Args:
        model: "vae", "cvae", "fc-gan" or "dc-gan".
        column: the loop; its precision is the caller's affair.
        loader: that suits the loop.
        steps: how many of a GAN are timed.
    """
    if model in ("vae", "cvae"):
        return train(model, column.loop, TimedBatches(loader))[0]
    batches = TimedBatches(loader, steps)
    train(model, column.loop, batches)
    return median(batches.intervals())


def time_picture(column, images):
    """Give the seconds from the call of `show_images` to the finished pixels."""
    draw = show_images if column.loop == "ours" else show_images_as_axes
    start = now()
    draw(images)
    plt.gcf().canvas.draw()  # matplotlib puts the work off until it must
    seconds = seconds_between(start, now())
    plt.close()
    return seconds


def count_operations(model, loader):
    """Count the floating-point operations of one step of our loop, forward and backward.

    Counted are matrix products and convolutions, a multiplication and an addition as two.
    """
    with FlopCounterMode(display=False) as counter:
        train(model, "ours", TimedBatches(loader, 1))
    return counter.get_total_flops()


def alternate(row, columns, rounds, measure):
    """Measure the columns one after another, round by round.

    Args:
        row: what is measured, for the lines of progress.
        columns: of `COLUMNS`; each is measured in its own arithmetic.
        rounds: at least 1.
        measure: function of a column that gives seconds.

    Returns:
        seconds, rates: {column: [one a round]}; no rates for the reference.
    """
    seconds, rates = ({column: [] for column in columns} for _ in range(2))
    for number in range(1, rounds + 1):
        for column in columns:
            with arithmetic(column.precision, flush=column.loop == "ours"):
                seconds[column].append(measure(column))
                if column.loop == "ours":
                    rates[column].append(matmul_rate())
            print(f"{row.title}, round {number} of {rounds}, {column.title}: {told(seconds[column][-1:], row.unit)}",
                  flush=True)
    return seconds, rates


def measure_model(model, loaders, rounds, steps, memory):
    """Give the `Result` of a model.

    Args:
        model: "vae", "cvae", "fc-gan" or "dc-gan".
        loaders: {"reference": loader, "ours": loader}.
        rounds: at least 1.
        steps: how many of a GAN are timed in a round.
        memory: the row's last cell.
    """
    for column in COLUMNS:
        with arithmetic(column.precision, flush=column.loop == "ours"):
            train(model, column.loop, TimedBatches(loaders[column.loop], WARM_UP))
    seconds, rates = alternate(ROWS[model], COLUMNS, rounds,
                               lambda column: time_model(model, column, loaders[column.loop], steps))
    operations = count_operations(model, loaders["ours"])
    if model in ("vae", "cvae"):
        operations *= len(loaders["ours"])
    return Result(ROWS[model], seconds, rates, operations, memory)


def measure_pictures(images, rounds):
    """Give the `Result` of drawing images (N, ...); matrix products have no part in it."""
    columns = (REFERENCE, STRICT)
    for column in columns:
        time_picture(column, images)
    seconds, rates = alternate(ROWS["pictures"], columns, rounds, lambda column: time_picture(column, images))
    return Result(ROWS["pictures"], seconds, rates, 0, "-")


# ---------------------------------------------------------------- peak memory

CHILD = "import sys; from cscm77.studies.benchmark import report_peak; report_peak(*sys.argv[1:])"


def peak_of(model, loop, folder, digits):
    """Train in a process of its own; gives its peak memory in GiB as text, "-" where the system does not tell.

    Args:
        model: "vae", "cvae", "fc-gan" or "dc-gan".
        loop: "reference" or "ours".
        folder: of MNIST's files, or None.
        digits: file of (images, labels), for the reference.
    """
    top = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (top, os.environ.get("PYTHONPATH"))))
    child = subprocess.run([sys.executable, "-c", CHILD, model, loop, folder or "", str(digits)],
                           env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    if child.returncode == 0:
        return child.stdout.split()[-1]
    why = child.stderr.strip().rpartition("\n")[2]
    print(f"{ROWS[model].title}, peak memory, {loop}: not measured (status {child.returncode}: {why})")
    return "-"


def report_peak(model, loop, folder, digits):
    """Train for some steps and print the peak memory of this process; what `peak_of` has its process do.

    The reference gets its bytes from a file, since loading them our way would count as its own.
    """
    ours = loop == "ours"
    loader = load(folder).train if ours else reference_loader(*torch.load(digits, weights_only=True))
    plt.switch_backend("agg")
    if ours:
        keep_freed_memory()
    with arithmetic("medium" if ours else "highest", flush=ours):
        train(model, loop, TimedBatches(loader, PEAK_STEPS[model]))
    peak = peak_memory()
    print("-" if peak is None else f"{peak:.2f}")


# ---------------------------------------------------------------- the table


def told(seconds, unit):
    """Give the median of some seconds as text in a unit, "s" or "ms"; "-" where there are none."""
    factor, decimals = UNITS[unit]
    return f"{factor * median(seconds):.{decimals}f} {unit}" if seconds else "-"


def ratio(reference, ours):
    """Give the median over rounds of reference / ours as text; "-" where ours was not measured."""
    return f"{median(a / b for a, b in zip(reference, ours, strict=True)):.1f}" if ours else "-"


def share(operations, seconds, rates):
    """Give the median over rounds of the share of the matrix product's rate as text; "-" where there is none."""
    if not operations or not seconds:
        return "-"
    return f"{100 * median(operations / s / rate for s, rate in zip(seconds, rates, strict=True)):.0f} %"


def table(results):
    """Give the `Result`s as a Markdown table."""
    titles = (*(column.title for column in COLUMNS), "ratio, strict", "ratio, medium",
              "share of matmul rate, strict / medium", "peak memory in GiB, reference / ours")
    return as_markdown("", titles, {result.row.title: _cells(result) for result in results})


def _cells(result):
    row, seconds, rates, operations, memory = result
    reference, *ours = (seconds.get(column, []) for column in COLUMNS)
    shares = [share(operations, seconds.get(column), rates.get(column)) for column in COLUMNS[1:]]
    return (*(told(times, row.unit) for times in (reference, *ours)),
            *(ratio(reference, times) for times in ours), " / ".join(shares) if operations else "-", memory)


def conditions(data, options):
    """Say what the table was made from.

    Args:
        data: the training `Digits`.
        options: of the command line.
    """
    most = len(data) // BATCH_SIZE
    fc, dc = (min(steps, most) for steps in (options.steps, dc_steps(options.steps)))
    return (f"{processor_name(data.pixels.device)}, cores used: {torch.get_num_threads()}, torch {torch.__version__}; "
            f"{data.name}, {len(data):,} training images, rounds: {options.rounds}, seed {SEED}.\n"
            f"A GAN's step is the median of {fc} (DC-GAN: {dc}) in a round. Times are medians over the rounds, ratios "
            "and shares medians of those within a round.\nPeak memory is that of a process that only trains, ours at "
            f"medium; the reference's {WORKERS} processes that load images are not in it. On a GPU it is the device's.")


# ---------------------------------------------------------------- the command


def main(arguments=None):
    """Run the command line; gives the exit status."""
    options = parse(arguments)
    plt.switch_backend("agg")
    try:
        with arithmetic("medium", flush=True):  # before torch starts its threads, which then flush too
            keep_freed_memory()
            return run(options)
    except KeyboardInterrupt:
        print("\nStopped; there is no table, since a part of the rounds would be no measurement.", file=sys.stderr)
        return 130


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m cscm77.studies.benchmark", description=__doc__.partition("\n\n")[0])
    parser.add_argument("what", nargs="*", type=what, metavar="WHAT", help=f"of {', '.join(ROWS)}; all when not given")
    parser.add_argument("--mnist", metavar="DIR", help="folder of MNIST's files; otherwise as for the notebooks")
    parser.add_argument("--images", type=at_least(BATCH_SIZE), metavar="N", help="use only the first N training images")
    parser.add_argument("--rounds", type=at_least(1), default=3, metavar="N", help="(3)")
    parser.add_argument("--steps", type=at_least(1), default=100, metavar="N",
                        help=f"of a GAN that are timed in a round (100); a DC-GAN takes 1/{DC_SHARE} of them")
    return parser.parse_args(arguments)


def what(text):
    """Read what is to be timed."""
    if text not in ROWS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(ROWS)}, found {text!r}")
    return text


def at_least(least):
    """Give a reader of whole numbers that are not below `least`."""
    def read(text):
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
        return int(text)

    return read


def dc_steps(steps):
    """Give the number of DC-GAN steps that are timed where an FC-GAN takes `steps`."""
    return max(1, steps // DC_SHARE)


def load(folder):
    """Give the package's loaders; `folder` is that of MNIST's files, empty for the usual places."""
    return mnist_loaders(BATCH_SIZE, root=folder or None, source="mnist" if folder else "auto")


def run(options):
    """Measure what the options ask for and print the table; gives the exit status."""
    if options.images:
        os.environ["CSCM77_IMAGES"] = str(options.images)  # the loaders' own way to be told; a child inherits it
    try:
        ours = load(options.mnist).train
    except (MNISTUnavailable, ValueError) as error:  # ValueError: a setting of the environment
        print(error, file=sys.stderr)
        return 1
    data = ours.dataset
    digits = data.pixels[:, 0].cpu(), data.labels.cpu()  # (N, 28, 28), (N,)
    loaders = {"reference": reference_loader(*digits), "ours": ours}
    results = [measure_pictures(data[:BATCH_SIZE][0], options.rounds) if model == "pictures" else
               measure_model(model, loaders, options.rounds,
                             dc_steps(options.steps) if model == "dc-gan" else options.steps,
                             peaks_of(model, options.mnist, digits))
               for model in dict.fromkeys(options.what or ROWS)]
    print(f"\n{conditions(data, options)}\n\n{table(results)}")
    return 0


def peaks_of(model, folder, digits):
    """Give the peak memory of both loops, in GiB: "reference / ours"."""
    print(f"{ROWS[model].title}: peak memory, in processes of their own", flush=True)
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "digits.pt"
        torch.save(digits, path)
        return " / ".join(peak_of(model, loop, folder, path) for loop in LOOPS)


if __name__ == "__main__":
    sys.exit(main())
