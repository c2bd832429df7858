"""The training loops as the coursework's brief writes them, timed against this package's.

The command is python -m cscm77.studies.benchmark. The two take turns in one process, on the same
networks, images and seeds, and the times of a round make one ratio; so do the times of our step
and of its matrix products alone. They run on a GPU where there is one.

A model is named as in `ROWS`, a loop as in `LOOPS`.
"""

import io
import multiprocessing
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

import gan
from cscm77.report.evidence import as_markdown
from cscm77.studies import reference, results_file
from cscm77.studies.reference import TimedBatches, intervals, now
from cscm77.studies.results_file import BATCH_SIZE, PIXELS
from cscm77.utils import arithmetic, default_device, keep_freed_memory, processor_name, reset_seed
from cscm77_helper import run_a_gan, show_images, train_vae
from vae import CVAE, VAE

SEED = 0
DC_FRACTION = 5  # a DC-GAN's step takes longer: so many times fewer are timed
PEAK_STEPS = {"vae": 300, "cvae": 300, "fc-gan": 300, "dc-gan": 12}
UNITS = {"s": (1, 2), "ms": (1000, 1)}  # factor to seconds, decimals
TOP = Path(__file__).resolve().parents[2]
CHILD = ("import sys; sys.path.append(sys.argv[1]); from cscm77.studies import benchmark; "
         "benchmark.report_peak_memory(*sys.argv[2:])")


class Column(NamedTuple):
    """A loop and the precision of its matrix products."""

    title: str
    loop: str  # "reference" or "ours"
    precision: str  # of torch.set_float32_matmul_precision; "highest" is float32 throughout

    def arithmetic(self):
        """The context in which the column is measured."""
        return arithmetic(self.precision, flush=self.loop == "ours")


class Row(NamedTuple):
    """What is timed, and the unit that it is shown in."""

    title: str
    unit: str
    networks: tuple = ()  # functions that make them: of a VAE, or of D and G


REFERENCE = Column("reference", "reference", "highest")
STRICT = Column("ours, strict float32", "ours", "highest")
MEDIUM = Column("ours, medium", "ours", "medium")
COLUMNS = (REFERENCE, STRICT, MEDIUM)
ROWS = {"vae": Row("VAE epoch", "s", (partial(VAE, PIXELS),)),
        "cvae": Row("CVAE epoch", "s", (partial(CVAE, PIXELS),)),
        "fc-gan": Row("FC-GAN step", "ms", (gan.discriminator, gan.generator)),
        "dc-gan": Row("DC-GAN step", "ms", (gan.build_dc_classifier, gan.build_dc_generator)),
        "pictures": Row(f"`show_images({BATCH_SIZE})`", "ms")}
VAES = ("vae", "cvae")
TITLES = (*(column.title for column in COLUMNS), "ratio, strict", "ratio, medium",
          "peak memory in GiB, reference / ours", "ours over its own products, strict / medium")


def gan_epoch(D, G, batches):
    """Train a GAN by our loop; the arguments are those of `reference.gan_epoch`."""
    solvers = [gan.get_optimizer(network) for network in (D, G)]
    with TemporaryDirectory() as folder:
        run_a_gan(D, G, *solvers, gan.discriminator_loss, gan.generator_loss,
                  Path(folder) / "gan.png", show_every=len(batches) + 1, batch_size=BATCH_SIZE,
                  num_epochs=1, loader_train=batches)


LOOPS = {"reference": (reference.vae_epoch, reference.gan_epoch),
         "ours": (partial(train_vae, 0), gan_epoch)}


def train(model, loop, batches):
    """Train a fresh model by one of the loops; returns the seconds, and [VAE] or [D, G].

    What the loop prints is swallowed. The processes that loaded images are gone when this returns.
    """
    reset_seed(SEED)
    networks = [make().to(default_device()) for make in ROWS[model].networks]
    vae_loop, gan_loop = LOOPS[loop]
    start = now()
    with redirect_stdout(io.StringIO()):
        if model in VAES:
            vae_loop(*networks, batches, cond=model == "cvae")
        else:
            gan_loop(*networks, batches)
    [seconds] = intervals([start, now()])
    for process in multiprocessing.active_children():
        process.join()
    return seconds, networks


# ---------------------------------------------------------------- time and peak memory


def time_model(model, loop, loader, steps):
    """The seconds of an epoch of a VAE, or the median of so many first steps of a GAN."""
    if model in VAES:
        return train(model, loop, TimedBatches(loader))[0]
    batches = TimedBatches(loader, steps)
    train(model, loop, batches)
    return median(intervals(batches.asked))


def time_picture(loop, images):
    """The seconds from the call of `show_images` to the finished pixels."""
    draw = show_images if loop == "ours" else reference.show_images_as_axes
    start = now()
    draw(images)
    plt.gcf().canvas.draw()  # matplotlib puts the work off until it must
    [seconds] = intervals([start, now()])
    plt.close()
    return seconds


def measure_in_turns(row, columns, rounds, measure, measure_products=None):
    """Measure the columns one after another, round by round, each in its own arithmetic.

    `measure`, of a loop's name, returns seconds, `measure_products` those of our products alone.
    Both come back as {column: [seconds, one a round]}, the products for columns of our loop.
    """
    of_steps, of_products = {}, {}
    for number in range(1, rounds + 1):
        for column in columns:
            with column.arithmetic():
                seconds = measure(column.loop)
                of_steps.setdefault(column, []).append(seconds)
                if measure_products and column.loop == "ours":
                    of_products.setdefault(column, []).append(measure_products())
            print(f"{row.title}, round {number} of {rounds}, {column.title}: "
                  f"{median_text([seconds], row.unit)}", flush=True)
    return of_steps, of_products


def measure_model(model, loaders, rounds, steps):
    """Measure a model by its loops' loaders; steps: of a GAN and of the products, in a round."""
    for column in COLUMNS:  # to warm up; the last is ours, whose products are timed
        batches = reference.RecordedBatches(loaders[column.loop])
        with column.arithmetic():
            train(model, column.loop, batches)
    at_once = len(loaders["ours"]) if model in VAES else 1  # steps that are timed as one
    return measure_in_turns(
        ROWS[model], COLUMNS, rounds, lambda loop: time_model(model, loop, loaders[loop], steps),
        lambda: at_once * reference.time_products(batches.products, steps))


def measure_pictures(images, rounds):
    """Measure the drawing of images (N, ...); matrix products have no part in it."""
    for column in (REFERENCE, STRICT):
        time_picture(column.loop, images)
    return measure_in_turns(ROWS["pictures"], (REFERENCE, STRICT), rounds,
                            lambda loop: time_picture(loop, images))


def peak_memories(model, folder, digits):
    """The peak memory of both loops as text, in GiB, from MNIST's folder and (images, labels).

    A "-" stands where a training failed, or the system does not tell.
    """
    title, peaks = ROWS[model].title, []
    print(f"{title}: peak memory, in processes of their own", flush=True)
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "digits.pt"
        torch.save(digits, path)
        for loop in LOOPS:
            child = subprocess.run(
                [sys.executable, "-c", CHILD, TOP, model, loop, folder or "", path],
                capture_output=True, text=True)
            peaks.append("-" if child.returncode else child.stdout.split()[-1])
            if child.returncode:
                reason = child.stderr.strip().rpartition("\n")[2]
                print(f"{title}, peak memory, {loop}: not measured "
                      f"(status {child.returncode}: {reason})")
    return " / ".join(peaks)


def report_peak_memory(model, loop, folder, digits):
    """Train for some steps and print the peak memory of this process, the child's.

    The reference reads its bytes from a file: loading them our way would count as its own.
    """
    plt.switch_backend("agg")
    if loop == "ours":
        column = MEDIUM
        loader = results_file.load_images(parse(["--mnist", folder] * bool(folder))).train
        keep_freed_memory()
    else:
        column = REFERENCE
        loader = reference.reference_loader(*torch.load(digits, weights_only=True))
    with column.arithmetic():
        train(model, loop, TimedBatches(loader, PEAK_STEPS[model]))
    peak = reference.peak_memory()
    print("-" if peak is None else f"{peak:.2f}")


# ---------------------------------------------------------------- the table


def median_text(seconds, unit):
    """The median of some seconds as text in a unit, "s" or "ms"; "-" where there are none."""
    factor, decimals = UNITS[unit]
    return f"{factor * median(seconds):.{decimals}f} {unit}" if seconds else "-"


def median_ratio(seconds, others):
    """The median over rounds of seconds / others as text; "-" where either was not measured."""
    ratios = [a / b for a, b in zip(seconds, others, strict=False)]  # none where one is empty
    return f"{median(ratios):.1f}" if ratios else "-"


def cells(unit, of_steps, of_products, memory):
    """The texts under `TITLES` of what `measure_in_turns` returned, and of the peak memories."""
    of_brief, *of_ours = (of_steps.get(column, []) for column in COLUMNS)
    over_products = [median_ratio(of_steps[column], of_products[column]) for column in of_products]
    return (*(median_text(seconds, unit) for seconds in (of_brief, *of_ours)),
            *(median_ratio(of_brief, seconds) for seconds in of_ours), memory,
            " / ".join(over_products) or "-")


def conditions(data, rounds, steps):
    """What the table was made from, the training `Digits` and {row: steps}, and how to read it."""
    fc, dc = (min(steps[model], len(data) // BATCH_SIZE) for model in ("fc-gan", "dc-gan"))
    device, workers = data.pixels.device, reference.WORKERS
    return f"""\
{processor_name(device)}, cores used: {torch.get_num_threads()}, torch {torch.__version__};
{data.name}, {len(data):,} training images, rounds: {rounds}, seed {SEED}.
A GAN's step is the median of {fc} (DC-GAN: {dc}) in a round.
Times are medians over the rounds, ratios medians of those within a round.
Peak memory is that of a process that only trains, ours at medium; the reference's {workers}
processes that load images are not in it. On a GPU it is the device's.
Last column: our step over its matrix products and convolutions alone, at their own shapes and
the same precision; 1 would mean that nothing else takes time."""


# ---------------------------------------------------------------- the command


def main(arguments=None):
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    plt.switch_backend("agg")
    stopped = "there is no table: a part of the rounds would be no measurement"
    with MEDIUM.arithmetic():  # before torch starts its threads, which then flush too
        keep_freed_memory()
        return results_file.exit_status(lambda: run(options), stopped)


def parse(arguments):
    """Read the command line."""
    parser = results_file.image_parser("python -m cscm77.studies.benchmark",
                                       __doc__.partition("\n\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW",
                        help=f"of {', '.join(ROWS)}; all when not given")
    results_file.add_number(parser, "--rounds", 3, 1, "(3)")
    results_file.add_number(parser, "--steps", 100, 1,
                            "of a GAN, and of the products alone, that are timed in a round (100); "
                            f"with a DC-GAN 1/{DC_FRACTION} of them")
    options = parser.parse_args(arguments)
    for row in options.rows:
        if row not in ROWS:
            parser.error(f"ROW: expected one of {', '.join(ROWS)}, found {row!r}")
    return options


def run(options):
    """Measure what the options ask for, and print the table."""
    ours = results_file.load_images(options).train
    data = ours.dataset
    digits = data.pixels[:, 0].cpu(), data.labels.cpu()  # (N, 28, 28), (N,)
    loaders = {"reference": reference.reference_loader(*digits), "ours": ours}
    steps = dict.fromkeys(ROWS, options.steps) | {"dc-gan": max(1, options.steps // DC_FRACTION)}
    lines = {}
    for row in dict.fromkeys(options.rows or ROWS):
        if row == "pictures":
            memory, measured = "-", measure_pictures(data[:BATCH_SIZE][0], options.rounds)
        else:
            memory = peak_memories(row, options.mnist, digits)
            measured = measure_model(row, loaders, options.rounds, steps[row])
        lines[ROWS[row].title] = cells(ROWS[row].unit, *measured, memory)
    print(f"\n{conditions(data, options.rounds, steps)}\n\n{as_markdown('', TITLES, lines)}")


if __name__ == "__main__":
    sys.exit(main())
