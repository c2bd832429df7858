"""All five models by the same measures, over three seeds.

Every training is that of the notebooks: 10 epochs of MNIST in batches of 128, 5 for the DC-GAN.
Samples are compared with the test images, in the features of the judge.
"""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

import cscm77_helper as helper
import gan
from cscm77.measure.judge import judge_of
from cscm77.measure.latents import importance_weighted_loss
from cscm77.measure.samples import ask_for_digits, generate, measure_samples
from cscm77.report.evidence import Page, mean_and_sd
from cscm77.studies import results_file
from cscm77.studies.results_file import quietly
from cscm77.utils import reset_seed, seeded
from vae import CVAE, VAE

STUDY = results_file.Study(
    "python -m cscm77.studies.comparison", __doc__.partition("\n")[0], minutes=60,
    path=Path(__file__).resolve().with_name("comparison.json"), measures=lambda _: {"quality"},
    summary=lambda row: f"Frechet distance {row['quality']['frechet']:.2f}")
SEEDS = (0, 1, 2)
SAMPLES = 10_000
LATENTS = 15
REAL = "training images"  # the row of what real images get
ENDLESS = 10**9  # steps between two pictures: none is wanted


class GAN(NamedTuple):
    """What makes one GAN another."""

    networks: tuple  # functions that make D and G
    losses: tuple  # of D and of G
    fraction_of_epochs: float = 1
    first_weights: callable = nn.Identity()  # handed to `apply`

    def build(self, device, noise_dim=gan.NOISE_DIM):
        """D and G on a device; the global generator draws their weights."""
        make_d, make_g = self.networks
        return [make().to(device).apply(self.first_weights)
                for make in (make_d, partial(make_g, noise_dim))]  # G is made after D is drawn


VAES = {"VAE": VAE, "CVAE": CVAE}
GANS = {"FC-GAN": GAN((gan.discriminator, gan.generator),
                      (gan.discriminator_loss, gan.generator_loss)),
        "LS-GAN": GAN((gan.discriminator, gan.generator),
                      (gan.ls_discriminator_loss, gan.ls_generator_loss)),
        "DC-GAN": GAN((gan.build_dc_classifier, gan.build_dc_generator),
                      (gan.discriminator_loss, gan.generator_loss), 0.5, helper.initialize_weights)}
COLUMNS = {"frechet": ("Frechet", ".2f"), "kernel": ("kernel", ".1f"), "score": ("score", ".2f"),
           "uniformity": ("off uniform", ".3f"), "precision": ("precision", ".3f"),
           "recall": ("recall", ".3f"), "density": ("density", ".2f"),
           "coverage": ("coverage", ".3f"), "-ELBO": ("-ELBO", ".1f"),
           "bound": ("100 samples", ".1f"), "accuracy": ("as asked", ".3f")}
TITLES = [*(title for title, _ in COLUMNS.values()), "parameters"]
PANELS = slice(0, 6), slice(6, None)  # the columns that fit a page side by side
SAMPLED = 100  # latents an image, of the tighter bound


def training_name(model, seed):
    """Name a training by its model and its seed."""
    return f"{model}, seed {seed}"


def prepare(loaders, epochs):
    """What the results are made from, and the trainings, as `results_file.run_command` wants."""
    judge = judge_of(loaders, results_file.CHECKPOINTS)
    measured = measured_against(loaders.test, judge)

    def row_of_real_images():
        return {"quality": measured(loaders.train.dataset.images[-SAMPLES:])[0]}

    trainings = {REAL: (REAL, row_of_real_images)}
    for seed in SEEDS:
        for model in (*VAES, *GANS):
            row_of, name = _row_of_vae if model in VAES else _row_of_gan, training_name(model, seed)
            trainings[name] = name, partial(row_of, model, seed, loaders, epochs, measured)
    provenance = results_file.provenance_of(loaders, epochs)
    return {**provenance, "judge's accuracy": round(judge.accuracy, 4)}, trainings


def measured_against(loader, judge):
    """A function of samples: their quality beside a loader's images, as rows have it; labels."""
    real = judge.read(loader.dataset.images)

    def measured(samples):
        reading = judge.read(samples)
        quality = measure_samples(reading, real)._asdict()
        classes = quality.pop("classes")
        numbers = {name: round(value, 6) for name, value in quality.items()}
        return {**numbers, "classes": classes}, reading.labels

    return measured


def _row_of_vae(name, seed, loaders, epochs, measured):
    """A row of a VAE or CVAE: its last weights, and the averaged ones."""
    reset_seed(seed)
    device, cond = loaders.train.dataset.pixels.device, name == "CVAE"
    model = VAES[name](results_file.PIXELS).to(device)
    quietly(lambda: [helper.train_vae(epoch, model, loaders.train, cond=cond)
                     for epoch in range(epochs)])
    quality, averaged = (_measured_vae(network, cond, seed, loaders.test, measured)
                         for network in (model, helper.averaged_vae(model)))
    return {"quality": quality, "averaged": averaged, "parameters": helper.count_params(model)}


def _measured_vae(model, cond, seed, test, measured):
    if cond:
        samples, asked = ask_for_digits(model.decoder, LATENTS, each=SAMPLES // 10, seed=seed)
    else:
        device = test.dataset.pixels.device
        with seeded(device, seed):
            samples = generate(model.decoder, torch.randn(SAMPLES, LATENTS, device=device))
    quality, labels = measured(samples)
    quality["-ELBO"] = round(helper.evaluate_vae(model, test, cond).loss, 4)
    quality["bound"] = round(importance_weighted_loss(model, test, (SAMPLED,), cond)[SAMPLED], 4)
    if cond:
        quality["accuracy"] = round((labels == asked).double().mean().item(), 4)
    return quality


def _row_of_gan(name, seed, loaders, epochs, measured):
    reset_seed(seed)
    model = GANS[name]
    networks = model.build(loaders.train.dataset.pixels.device)
    return row_of_gan(networks, [gan.get_optimizer(network) for network in networks], model.losses,
                      loaders.train, epochs * model.fraction_of_epochs, seed, measured)


def row_of_gan(networks, solvers, losses, train, epochs, seed, measured, noise_dim=gan.NOISE_DIM):
    """Train a GAN; its row, by a `measured_against` and of the seed's noise, as others have it."""
    device = train.dataset.pixels.device
    with TemporaryDirectory() as folder:
        history = quietly(lambda: helper.run_a_gan(
            *networks, *solvers, *losses, Path(folder) / "gan.png", ENDLESS,
            results_file.BATCH_SIZE, noise_dim, max(1, int(epochs)), loader_train=train))
    with seeded(device, seed):
        noise = gan.sample_noise(SAMPLES, noise_dim, device=device)
    quality, averaged = (measured(generate(network, noise, low=-1))[0]
                         for network in (networks[1], history.G_average))
    return {"quality": quality, "averaged": averaged,
            "parameters": sum(map(helper.count_params, networks))}


# ---------------------------------------------------------------- the table


def comparison_table(path=STUDY.path):
    """The comparison as a `Page`; errors are those of `results_file.read_results`."""
    made = results_file.read_results(STUDY, path)
    lines, notes = _lines_and_notes(made["results"])
    accuracy = made["provenance"].get("judge's accuracy", 0)
    parts = [("", TITLES[part], {name: line[part] for name, line in lines.items()})
             for part in PANELS]
    return Page(
        f"{results_file.made_from(made, SEEDS)} (DC-GAN: half as many epochs); "
        "mean and sd over the seeds",
        f"{SAMPLES:,} samples against the test images, in the features of a judge that reads "
        f"{accuracy:.2%} of them",
        parts[0], "", parts[1], "", *notes)


def comparison_values(row, measure, path=STUDY.path):
    """A measure of samples in a row of the table, "FC-GAN" or "FC-GAN, averaged", by seed."""
    model, _, averaged = row.partition(", ")
    results = results_file.read_results(STUDY, path)["results"]
    rows = [results.get(training_name(model, seed), {}) for seed in SEEDS]
    kind = averaged or "quality"
    return [trained[kind][measure] for trained in rows if kind in trained]


def _lines_and_notes(results):
    """The lines of the table, {name: texts}, and what is said of trainings without numbers."""
    lines, notes = {}, []
    for model in (*VAES, *GANS):
        rows = {name: results.get(name, {"error": "not trained yet"})
                for name in (training_name(model, seed) for seed in SEEDS)}
        notes += [f"{name}: {row['error']}" for name, row in rows.items() if "error" in row]
        rows = [row for row in rows.values() if "error" not in row]
        for samples, ending in (("quality", ""), ("averaged", ", averaged")):
            if any(samples in row for row in rows):
                lines[model + ending] = _table_row(rows, samples)
    if REAL in results:
        lines[REAL] = _table_row([results[REAL]], "quality")
    return lines, notes


def _table_row(rows, samples):
    """A line of the table: what the trainings of one model have in common."""
    texts, parameters = [], rows[0].get("parameters")  # real images have none
    for name, (_, form) in COLUMNS.items():
        values = [row[samples][name] for row in rows if name in row[samples]]
        texts.append(mean_and_sd(values, form))
    return [*texts, f"{parameters:,}" if parameters else "-"]


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return results_file.run_command(STUDY, prepare, lambda path: [comparison_table(path)],
                                    arguments)


if __name__ == "__main__":
    sys.exit(main())
