"""The training loops as the coursework's brief writes them, timed against this package's.

The two take turns in one process, on the same networks, images and seeds, and the times of a round
make one ratio; so do those of our step and of its products. Models and loops: `ROWS`, `LOOPS`.
"""

import sys
from collections import defaultdict
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch

import gan
from cscm77.report.evidence import as_markdown
from cscm77.studies import reference, results_file
from cscm77.studies.reference import WatchedBatches, intervals, now
from cscm77.studies.results_file import BATCH_SIZE, PIXELS
from cscm77.utils import arithmetic, default_device, keep_freed_memory, processor_name, reset_seed
from cscm77_helper import run_a_gan, show_images, train_vae
from vae import CVAE, VAE

SEED = 0
DC_FRACTION = 5  # a DC-GAN's step takes longer: so many times fewer are timed
ROWS = {"vae": "VAE epoch", "cvae": "CVAE epoch", "fc-gan": "FC-GAN step", "dc-gan": "DC-GAN step",
        "pictures": f"`show_images({BATCH_SIZE})`"}
VAES = ("vae", "cvae")  # their times are seconds, those of the others milliseconds
NETWORKS = {"vae": [partial(VAE, PIXELS)], "cvae": [partial(CVAE, PIXELS)],
            "fc-gan": [gan.discriminator, gan.generator],
            "dc-gan": [gan.build_dc_classifier, gan.build_dc_generator]}
COLUMNS = {  # title: the loop, and the arithmetic that it is measured in
    "reference": ("reference", partial(arithmetic, "highest", flush=False)),
    "ours, strict float32": ("ours", partial(arithmetic, "highest", flush=True)),
    "ours, medium": ("ours", partial(arithmetic, "medium", flush=True))}
TITLES = (*COLUMNS, "ratio, strict", "ratio, medium", "ours over its own products, strict / medium")


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
    """Train a fresh model by one of the loops; returns the seconds, and [VAE] or [D, G]."""
    reset_seed(SEED)
    networks = [make().to(default_device()) for make in NETWORKS[model]]
    vae_loop, gan_loop = LOOPS[loop]
    train_all = partial(vae_loop, cond=model == "cvae") if model in VAES else gan_loop
    start = now()
    results_file.quietly(lambda: train_all(*networks, batches))
    [seconds] = intervals([start, now()])
    return seconds, networks


def time_model(model, loop, loader, steps):
    """The seconds of an epoch of a VAE, or the median of so many first steps of a GAN."""
    if model in VAES:
        return train(model, loop, loader)[0]
    batches = WatchedBatches(loader, steps)
    train(model, loop, batches)
    return median(intervals(batches.asked))


def measure_in_turns(row, columns, rounds, measure, measure_products=None):
    """Measure some of the columns one after another, round by round, each in its own arithmetic.

    `measure`, of a loop's name, returns seconds, `measure_products` those of our products alone.
    They come back as {title or (title, "products"): [seconds, one a round]}.
    """
    times = defaultdict(list)
    for number in range(1, rounds + 1):
        for title in columns:
            loop, its_arithmetic = COLUMNS[title]
            with its_arithmetic():
                times[title].append(measure(loop))
                if measure_products and loop == "ours":
                    times[title, "products"].append(measure_products())
            print(f"{ROWS[row]}, round {number} of {rounds}, {title}: "
                  f"{median_text(row, times[title][-1:])}", flush=True)
    return times


def measure_model(model, loaders, rounds, steps):
    """Measure a model by its loops' loaders; steps: of a GAN and of the products, in a round."""
    for loop, its_arithmetic in COLUMNS.values():  # to warm up; our last one's products are timed
        with its_arithmetic():
            batches = WatchedBatches(loaders[loop], 4, record=True)
            train(model, loop, batches)
    at_once = len(loaders["ours"]) if model in VAES else 1  # steps that are timed as one
    return measure_in_turns(
        model, COLUMNS, rounds, lambda loop: time_model(model, loop, loaders[loop], steps),
        lambda: at_once * reference.time_products(batches.recorder.products, steps))


def measure_pictures(images, rounds):
    """Measure the drawing of images (N, ...), to the finished pixels; it multiplies nothing."""
    def measure(loop):
        start = now()
        (show_images if loop == "ours" else reference.show_images_as_axes)(images)
        plt.gcf().canvas.draw()  # matplotlib puts the work off until it must
        [seconds] = intervals([start, now()])
        plt.close()
        return seconds

    for loop in LOOPS:
        measure(loop)  # to warm up
    return measure_in_turns("pictures", list(COLUMNS)[:2], rounds, measure)


def median_text(row, seconds):
    """The median of some seconds as text in the unit of a row; "-" where there are none."""
    if not seconds:
        return "-"
    return f"{median(seconds):.2f} s" if row in VAES else f"{1000 * median(seconds):.1f} ms"


def median_ratio(seconds, others):
    """The median over rounds of seconds / others as text; "-" where these were not measured."""
    return f"{median(map(truediv, seconds, others)):.1f}" if others else "-"


def cells(row, times):
    """The texts under `TITLES` of what `measure_in_turns` returned."""
    of_brief, *ours = COLUMNS
    ratios = [median_ratio(times[of_brief], times[title]) for title in ours]
    floors = [median_ratio(times[title], times[title, "products"]) for title in ours]
    return (*(median_text(row, times[title]) for title in COLUMNS), *ratios,
            "-" if row == "pictures" else " / ".join(floors))


def main(arguments=None):
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    plt.switch_backend("agg")
    with arithmetic("medium", flush=True):  # before torch starts its threads, which then flush too
        keep_freed_memory()
        return results_file.exit_status(
            partial(run, options),
            "there is no table: a part of the rounds would be no measurement")


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
    """Measure what the options ask for; print the table under what it is made from."""
    ours = results_file.load_images(options).train
    data = ours.dataset
    loaders = {"reference": reference.reference_loader(data), "ours": ours}
    steps = dict.fromkeys(ROWS, options.steps) | {"dc-gan": max(1, options.steps // DC_FRACTION)}
    lines = {}
    for row in dict.fromkeys(options.rows or ROWS):
        times = (measure_pictures(data[:BATCH_SIZE][0], options.rounds) if row == "pictures" else
                 measure_model(row, loaders, options.rounds, steps[row]))
        lines[ROWS[row]] = cells(row, times)
    processor, cores = processor_name(data.pixels.device), torch.get_num_threads()
    print(f"""
{processor}, cores used: {cores}, torch {torch.__version__};
{data.name}, {len(data):,} training images, rounds: {options.rounds}, seed {SEED}.
A GAN's step is the median of {steps['fc-gan']} (DC-GAN: {steps['dc-gan']}) in a round.
Times are medians over the rounds, ratios medians of those within a round.
Last column: our step over its matrix products and convolutions alone, at their own shapes and
the same precision; 1 would mean that nothing else takes time.

{as_markdown('', TITLES, lines)}""")


if __name__ == "__main__":
    sys.exit(main())
