"""What one may choose in the VAEs and the GANs, tried: one choice changed, a training each.

Every row of `TRIALS` is 10 epochs of MNIST (2 for the DC-GAN) in batches of 128 by Adam. Losses are
in nats per image; a GAN's samples are compared with the validation images.
"""

import sys
from contextlib import contextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import gan
import vae
from cscm77.measure.judge import judge_of
from cscm77.measure.latents import IN_USE, kl_of_latents
from cscm77.measure.samples import conditional_accuracy
from cscm77.report.evidence import Page, mean_and_sd
from cscm77.studies import results_file
from cscm77.studies.comparison import GANS, SAMPLES, measured_against, row_of_gan
from cscm77.studies.results_file import made_from, quietly, read_results
from cscm77.training.journal import averaged
from cscm77.utils import arithmetic, seeded
from cscm77_helper import averaged_vae, count_params, evaluate_vae, initialize_weights, train_vae


class Trial(NamedTuple):
    """A row of a table, and the settings of its training; the notebook's by default."""

    group: str  # the table
    name: str  # the row
    model: str = "VAE"  # or "CVAE", "FC-GAN", "DC-GAN"
    hidden_dim: int = 400
    latent_size: int = 15
    learning_rate: float = 1e-3
    init: str = "ours"  # or another that `initialise`, or of a GAN `GAN_INITS`, knows
    label_gains: tuple | None = None  # of a CVAE's encoder and decoder
    precision: str = "medium"  # of matrix products; "highest" is float32 throughout
    beta1: float = 0.5  # of a GAN's Adam; what follows is of GANs, too, but the seed
    leak: float = gan.LEAK
    noise_size: int = gan.NOISE_DIM
    batch_norm: bool = True  # in the DC-GAN's G
    real_target: float = 1.0  # of D's cross entropy; below 1, one-sided label smoothing
    d_steps: int = 1  # for each one of G
    seed: int = 0


BRIEF = " (the brief's)"
GAINS = vae.ENCODER_LABEL_GAIN, vae.DECODER_LABEL_GAIN
GAN_TRIALS = {  # what is changed, over how many seeds: three where it ends near ours, or below
    "FC-GAN": {
        "ours": ({}, 3), "rate 0.0003": ({"learning_rate": 3e-4}, 1),
        "rate 0.003": ({"learning_rate": 3e-3}, 1), "beta1 0": ({"beta1": 0.0}, 3),
        "beta1 0.9": ({"beta1": 0.9}, 1), "leak 0.2": ({"leak": 0.2}, 1),
        "32 noises": ({"noise_size": 32}, 3), "288 noises": ({"noise_size": 288}, 3),
        "Glorot uniform": ({"init": "glorot"}, 1), "real target 0.9": ({"real_target": 0.9}, 3),
        "two steps of D": ({"d_steps": 2}, 1)},
    "DC-GAN": {
        "ours": ({}, 3), "beta1 0": ({"beta1": 0.0}, 3),
        "no batch normalisation": ({"batch_norm": False}, 1),
        "PyTorch's weights": ({"init": "pytorch"}, 1),
        "real target 0.9": ({"real_target": 0.9}, 3), "two steps of D": ({"d_steps": 2}, 1)}}
DC_EPOCHS = 0.2  # of the other models'
TRIALS = (
    *(Trial("initialisation", f"{name}, seed {seed}", init=init, seed=seed)
      for init, name in (("ours", "He normal before ReLU (ours)"), ("he_uniform", "He uniform"),
                         ("orthogonal", "orthogonal")) for seed in (0, 1, 2)),
    Trial("initialisation", "Glorot normal everywhere", init="glorot"),
    Trial("initialisation", "PyTorch's default", init="pytorch"),
    Trial("initialisation", "He, output layer at zero", init="zero_output"),
    Trial("initialisation", "He, log-variance bias -2", init="narrow_posterior"),
    *(Trial("hidden size", f"{size}{' (ours)' * (size == 400)}", hidden_dim=size)
      for size in (128, 256, 400, 512, 800)),
    *(Trial("latent size", f"{size}{BRIEF * (size == 15)}", latent_size=size)
      for size in (2, 5, 10, 15, 30)),
    *(Trial("learning rate", f"{rate}{BRIEF * (rate == 1e-3)}", learning_rate=rate)
      for rate in (3e-4, 1e-3, 3e-3)),
    *(Trial("precision", f"{precision}, seed {seed}", precision=precision, seed=seed)
      for precision in ("medium", "highest") for seed in (0, 1, 2)),
    *(Trial("label gain", f"{gains[0]}, {gains[1]}{' (ours)' * (gains == GAINS)}, seed {seed}",
            model="CVAE", label_gains=gains, seed=seed)
      for gains, seeds in (((1, 1), 1), ((4, 4), 1), ((16, 4), 1), ((16, 8), 3), ((16, 16), 3),
                           ((32, 16), 3)) for seed in range(seeds)),
    Trial("averaging", "VAE"),
    Trial("averaging", "CVAE", model="CVAE", label_gains=GAINS),
    *(Trial(model, f"{name}, seed {seed}" if seeds > 1 else name, model, seed=seed, **changes)
      for model, trials in GAN_TRIALS.items() for name, (changes, seeds) in trials.items()
      for seed in range(seeds)),
)
GROUPS = list(dict.fromkeys(trial.group for trial in TRIALS))  # the tables, in their order
AVERAGES = {f"{decay}, every {f'{every} steps' if every > 1 else 'step'}": (decay, every)
            for every in (1, 8) for decay in (0.98, 0.99, 0.995, 0.998)}
# Test images are for final numbers alone; of precisions it is to be shown that they change none.
TESTED, AVERAGING = "precision", "averaging"
STUDY = results_file.Study(
    "python -m cscm77.studies.choices", __doc__.partition("\n")[0], minutes=240,
    path=Path(__file__).resolve().with_name("study.json"),
    measures=lambda name: {"averaged", "parameters"} | (
        {"quality"} if "GAN" in name else {"train_loss", "val_losses", "latents_in_use"}),
    summary=lambda row: (f"Frechet distance, averaged {row['averaged']['frechet']:.2f}"
                         if "quality" in row else f"validation loss {row['val_losses'][-1]:.2f}, "
                         f"averaged {row['averaged']:.2f}"))


def training_name(trial):
    """Name a training by its model and what differs from the defaults: old names stay valid."""
    defaults = Trial._field_defaults
    changed = [f"{field}={value}" for field, value in trial._asdict().items()
               if field not in ("group", "name", "model") and value != defaults[field]]
    return " ".join([trial.model, *changed])


# ---------------------------------------------------------------- the model of a trial


def build(trial):
    """Make a trial's model from its seed, on the CPU.

    Whatever `initialise` draws, the global generator is left where vae.py leaves it: trials of one
    size then see the same batches and the same noise, and "ours" is the notebook's own run.
    """
    torch.manual_seed(trial.seed)
    model = getattr(vae, trial.model)(results_file.PIXELS, hidden_dim=trial.hidden_dim,
                                      latent_size=trial.latent_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        initialise(model, trial.init)
        if trial.label_gains is not None:
            encoder, decoder = trial.label_gains
            model.encoder[1].weight[:, model.input_size:] *= encoder / vae.ENCODER_LABEL_GAIN
            model.decoder[0].weight[:, model.latent_size:] *= decoder / vae.DECODER_LABEL_GAIN
    return model


def initialise(model, init):
    """Begin a VAE with other weights than vae.py's; "ours" changes nothing.

    Glorot's and PyTorch's own are for every layer, the log-variance's too. The orthogonal one (Saxe
    et al., 2014) has the gain sqrt(2) before a ReLU, and log-variances at zero as in ours.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hidden = [layer for network in (model.encoder, model.decoder)
              for layer, after in zip(network, network[1:], strict=False)
              if isinstance(after, nn.ReLU)]
    output = layers[-1]
    if init == "he_uniform":
        for layer in hidden:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    elif init == "orthogonal":
        for layer in (*hidden, model.mu_layer, output):
            nn.init.orthogonal_(layer.weight, gain=2**0.5 if layer in hidden else 1)
    elif init == "glorot":
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
    elif init == "pytorch":
        for layer in layers:
            layer.reset_parameters()
    elif init == "zero_output":
        nn.init.zeros_(output.weight)  # every pixel begins at 0.5
    elif init == "narrow_posterior":
        nn.init.constant_(model.logvar_layer.bias, -2)


def build_gan(trial, device):
    """Make a trial's networks, their optimizers, and the losses, from its seed."""
    torch.manual_seed(trial.seed)
    model = GANS[trial.model]
    first_weights = GAN_INITS.get(trial.init, model.first_weights)
    D, G = model._replace(first_weights=first_weights).build(device, trial.noise_size)
    for layer in D:
        if isinstance(layer, nn.LeakyReLU):
            layer.negative_slope = trial.leak
    for place, layer in enumerate(G):
        if hasattr(layer, "running_mean") and not trial.batch_norm:
            G[place] = nn.Identity()
    solvers = [gan.get_optimizer(network) for network in (D, G)]
    for solver in solvers:
        solver.param_groups[0].update(lr=trial.learning_rate, betas=(trial.beta1, 0.999))
    if trial.d_steps > 1:
        solvers[1].param_groups[0]["fused"] = False  # a recorded step would not count its calls
        solvers[1].step = _every(trial.d_steps, solvers[1].step)
    d_loss = (partial(smoothed_loss, trial.real_target) if trial.real_target < 1 else
              gan.discriminator_loss)
    return (D, G), solvers, (d_loss, gan.generator_loss)


GAN_INITS = {"pytorch": nn.Identity(), "glorot": initialize_weights}


def smoothed_loss(target, logits_real, logits_fake):
    """D's cross entropy with a target below 1 for real images: Salimans et al. (2016), 3.4."""
    real = F.binary_cross_entropy_with_logits(logits_real, torch.full_like(logits_real, target))
    fake = F.binary_cross_entropy_with_logits(logits_fake, torch.zeros_like(logits_fake))
    return real + fake


def _every(number, step):
    calls = count(1)
    return lambda *_: step() if next(calls) % number == 0 else None


# ---------------------------------------------------------------- training


def prepare(loaders, epochs):
    """What the results are made from, and the trainings, as `results_file.run_command` wants."""
    trainings, groups_of = {}, {}
    judge = cache(lambda: judge_of(loaders, results_file.CHECKPOINTS))  # when first asked for
    for trial in TRIALS:  # the same settings in two tables are one training
        name = training_name(trial)
        groups_of.setdefault(name, set()).add(trial.group)
        train = train_gan_trial if trial.model in GANS else train_trial
        trainings.setdefault(name, (f"{trial.group}: {trial.name}", partial(
            train, trial, loaders, epochs, judge, groups_of[name])))
    return results_file.provenance_of(loaders, epochs), trainings


def train_trial(trial, loaders, epochs, judge, groups=()):
    """Train one trial, and return its row; the process's precision and random numbers are put back.

    `judge` makes a `Judge`, for a CVAE alone; of 10,000 digits that were asked for, it says how
    many it recognises, of the last weights and of the averaged ones. The test loss, and the losses
    of `AVERAGES`, are measured for the groups that show them.
    """
    device, cond = loaders.train.dataset.pixels.device, trial.model == "CVAE"
    with seeded(device), arithmetic(trial.precision):
        model = build(trial).to(device)
        with averages_of(model, AVERAGES if AVERAGING in groups else {}) as others:
            history = quietly(lambda: [
                train_vae(epoch, model, loaders.train, cond=cond, val_loader=loaders.val,
                          learning_rate=trial.learning_rate) for epoch in range(epochs)])
        average = averaged_vae(model)
        row = {"train_loss": round(history[-1].loss, 6),
               "val_losses": [round(epoch.val_loss, 3) for epoch in history],
               "averaged": round(evaluate_vae(average, loaders.val, cond).loss, 3),
               "latents_in_use": int((kl_of_latents(model, loaders.val, cond) > IN_USE).sum()),
               "parameters": count_params(model)}
        if cond:
            row["accuracy"] = [round(conditional_accuracy(judge(), network), 4)
                               for network in (model, average)]
            row["judge's accuracy"] = round(judge().accuracy, 4)
        if TESTED in groups:
            losses = evaluate_vae(model, loaders.test, cond)
            row["test"] = {name: round(value, 6) for name, value in losses._asdict().items()}
        if others:
            row["averages"] = {name: round(evaluate_vae(other.module, loaders.val, cond).loss, 3)
                               for name, other in others.items()}
    return row


def train_gan_trial(trial, loaders, epochs, judge, _=()):
    """Train a GAN's trial, and return its row, as `train_trial` does a VAE's."""
    device = loaders.train.dataset.pixels.device
    epochs *= DC_EPOCHS if trial.model == "DC-GAN" else 1
    with seeded(device), arithmetic(trial.precision):
        return row_of_gan(*build_gan(trial, device), loaders.train, epochs, trial.seed,
                          measured_against(loaders.val, judge()), trial.noise_size)


@contextmanager
def averages_of(model, settings):
    """Averages that follow a model while it is trained: {name: (decay a step, every n steps)}."""
    averages, steps = {}, count()
    for name, (decay, every) in settings.items():
        averages[name] = averaged(model, decay, every)

    def follow(*_):
        step = next(steps)
        for name, average in averages.items():
            if step % settings[name][1] == 0:
                average.update_parameters(model)

    hook = register_optimizer_step_post_hook(follow)
    try:
        yield averages
    finally:
        hook.remove()


# ---------------------------------------------------------------- tables


VALIDATION = "validation -ELBO in nats per image"
LOSSES = {"last weights": (".2f", lambda row: row["val_losses"][-1]),  # a column: format, number
          "averaged": (".2f", lambda row: row["averaged"]),
          "training": (".2f", lambda row: row["train_loss"]),
          "latents in use": (".1f", lambda row: row["latents_in_use"]),
          "parameters": (",", lambda row: row["parameters"])}
ASKED = {title: (".2%", lambda row, place=place: row["accuracy"][place])
         for place, title in enumerate(("as asked for", "averaged, as asked"))}
OF_AVERAGES = {"last weights": LOSSES["last weights"]} | {
    name: (".2f", lambda row, name=name: row["averages"][name]) for name in AVERAGES}
OF_GANS = {"Frechet, last weights": (".1f", lambda row: row["quality"]["frechet"])} | {
    title: (form, lambda row, name=name: row["averaged"][name])
    for title, form, name in (("Frechet", ".1f", "frechet"), ("coverage", ".3f", "coverage"),
                              ("off uniform", ".3f", "uniformity"))} | {
    "rarest digit": (".1%", lambda row: min(row["averaged"]["classes"]) / SAMPLES)}
MEASURED = {  # group: what, and the columns; of others validation losses
    "label gain": (VALIDATION, LOSSES | ASKED), AVERAGING: (VALIDATION, OF_AVERAGES),
    TESTED: ("in nats per image", {"test -ELBO": (".2f", lambda row: row["test"]["loss"])}),
    **dict.fromkeys(GAN_TRIALS, ("averaged G against validation images (DC-GAN: a fifth of the "
                                 "epochs)", OF_GANS))}


def study_table(group, path=STUDY.path):
    """One of the `GROUPS` of trials as a `Page`; errors are those of `read_results`."""
    made, rows = _made_and_rows(group, path)
    measured, columns = MEASURED.get(group, (VALIDATION, LOSSES))
    lines = {choice: [mean_and_sd(list(map(measure, seeds)), form)
                      for form, measure in columns.values()]
             for choice, seeds in _rows_by_choice(rows).items()}
    if group == AVERAGING:  # which has many columns and two lines: turned round
        columns, lines = lines, dict(zip(columns, zip(*lines.values(), strict=True), strict=True))
    seeds = [trial.seed for trial in rows]
    first = made_from(made, seeds) + " (mean and sd of several)" * (len(set(seeds)) > 1)
    notes = [f"{trial.name}: {row['error']}" for trial, row in rows.items() if "error" in row]
    judged = {row["judge's accuracy"] for row in rows.values() if "judge's accuracy" in row}
    notes += [f"digits as asked for: of 10,000, read by a judge that reads {accuracy:.2%} of the "
              "test images right" for accuracy in sorted(judged)]
    return Page(f"{first}; {measured}", (group, list(columns), lines), *notes)


def study_curves(group, path=STUDY.path):
    """Validation losses of one group of trials, epoch by epoch: {name: [nats per image]}."""
    _, rows = _made_and_rows(group, path)
    return {trial.name: row["val_losses"] for trial, row in rows.items() if "val_losses" in row}


def study_values(group, measure, path=STUDY.path):
    """A measure of the averaged G's samples in a group of a GAN's trials: {choice: [by seed]}."""
    rows = _rows_by_choice(_made_and_rows(group, path)[1])
    return {choice: [row["averaged"][measure] for row in rows]
            for choice, rows in rows.items() if rows}


def _made_and_rows(group, path):
    """The file's content, and the rows of one group: {trial: row}; of none, why there is none."""
    made = read_results(STUDY, path)
    return made, {trial: made["results"].get(training_name(trial), {"error": "not trained yet"})
                  for trial in TRIALS if trial.group == group}


def _rows_by_choice(rows):
    """The rows of a group, {trial: row}, as {what was chosen: [row of each seed that has one]}."""
    choices = {}
    for trial, row in rows.items():
        choice = choices.setdefault(trial.name.partition(", seed")[0], [])
        choice += [row] * ("error" not in row)
    return choices


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return results_file.run_command(
        STUDY, prepare, lambda path: [study_table(group, path) for group in GROUPS], arguments)


if __name__ == "__main__":
    sys.exit(main())
