"""What the notebooks call: the loaders, pictures of digits, and the training loops of the VAEs and the GANs.

Axes: N images in a batch, D = 784 pixels, Z latents or noise dimensions, C classes.
"""

import copy
import weakref
from contextlib import contextmanager
from functools import partial
from operator import length_hint
from pathlib import Path

import torch
from cscm77.data.loaders import checked_batches, full_batches
from torch import nn

from cscm77.checks import check_cond, check_positive, check_solver, check_whole
from cscm77.data.loaders import mnist_loaders
from cscm77.measure.latents import log_likelihood
from cscm77.report.pictures import draw_digits, save_picture, show_and_close
from cscm77.training.journal import (
    AVERAGE_EVERY,
    GANHistory,
    LossLog,
    VAEEpoch,
    VAELosses,
    at,
    averaged,
    drawn_by,
    gan_history,
    score_of_epoch,
)
from cscm77.training.replay import Replayed
from cscm77.training.run import Run, about_data, about_optimizer, path_of
from cscm77.utils import device_of, eval_mode, frozen, progress_bar, seeded
from gan import sample_noise
from vae import kl_divergence, loss_function

__all__ = ["hello_helper", "mnist_loaders", "show_images", "count_params", "initialize_weights", "one_hot",
           "train_vae", "evaluate_vae", "run_a_gan", "VAEEpoch", "VAELosses", "GANHistory"]

NUM_CLASSES = 10
VAE_LEARNING_RATE = 1e-3
READ_EVERY = 50  # steps: reading a loss waits for the device, so it is not done at every step
SHOWN_SAMPLES, STRIP_SAMPLES = 16, 10


def hello_helper():
    """Print a greeting: the notebook's sign that this file was found."""
    print("Hello from cscm77_helper.py!")


def show_images(images):
    """Draw images as one square grid in a new figure, which stays the current one.

    Args:
        images: (N, ...) tensor of square pictures, any range, any device.

    Raises:
        ValueError: no images, or pictures that are not square.
    """
    draw_digits(images)


def count_params(model):
    """Count a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def initialize_weights(m):
    """Give a layer Glorot and Bengio's (2010) uniform weights; for `model.apply`. Other layers stay as they are."""
    if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(m.weight)


def one_hot(labels, class_size):
    """Turn labels into rows with a single 1.

    Args:
        labels: integers from 0 to class_size - 1, (N,).
        class_size: C.

    Returns:
        (N, C) float32 on the labels' device.

    Raises:
        ValueError: labels that are not a row of integers, or (on a CPU, where looking costs nothing) out of range.
    """
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected integers of shape (N,), N >= 1, found {labels.dtype} {tuple(labels.shape)}")
    if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < class_size):
        raise ValueError(f"labels: expected 0 to {class_size - 1}, found {labels.min()} to {labels.max()}")
    return (labels.unsqueeze(1) == torch.arange(class_size, device=labels.device)).float()


# ---------------------------------------------------------------- variational autoencoders


def train_vae(epoch, model, train_loader, cond=False, *, val_loader=None, checkpoint=None, fresh=False,
              learning_rate=VAE_LEARNING_RATE):
    """Train a VAE or CVAE for one epoch, and print the epoch's mean loss.

    Adam is kept with the model from its first epoch to its last; epoch 0 starts it afresh. With a checkpoint,
    the state of the training is saved after every epoch, at least twice a minute and at *Stop*; the same call then goes
    on where it stood, and an epoch that is done already prints its line again and puts the newest state into the model.

    Args:
        epoch: number of this epoch, from 0.
        model: a `VAE`, or a `CVAE` with `cond=True`.
        train_loader: batches of (images (N, 1, 28, 28) in [0, 1], labels (N,)).
        cond: whether the model is given the one-hot label.
        val_loader: batches to measure the loss on after the epoch, if any.
        checkpoint: path of the file to save to and to go on from, if any. The random numbers of the training then
            have a course of their own: drawing some between two epochs changes nothing.
        fresh: at epoch 0, whether to start over though there is a checkpoint; that one is kept under another name.
        learning_rate: of Adam, the same for all epochs of a training.

    Returns:
        `VAEEpoch`: what a curve needs.

    Raises:
        ValueError: an epoch that is negative or comes too early, a cond that does not fit the model, a loader without
            batches, images outside [0, 1], labels outside 0..9, a learning rate that is not positive or changes on the
            way; `CheckpointError`: the checkpoint of another run.
        FloatingPointError: the loss is no longer a finite number; says at which epoch and step.
        KeyboardInterrupt: Stop was pressed; says where the training stands.
    """
    check_whole("epoch", epoch, 0)
    check_positive("learning_rate", learning_rate)
    check_cond(model, cond)
    if val_loader is not None and length_hint(val_loader, 1) == 0:
        raise ValueError("val_loader: expected at least one batch, found none; with num_val=0 leave it out")
    run = _vae_run(epoch, model, train_loader, cond, checkpoint, fresh, learning_rate)
    if epoch < run.epoch:
        return _restored_epoch(run, epoch)
    optimizer, log = run.parts["Adam"], run.log
    take_step = Replayed(partial(vae_step, model, optimizer), [optimizer], run.device)
    model.train()
    with _forgotten_if_cut_short(model, run), run.stoppable():
        with progress_bar(length_hint(train_loader) or None, f"Epoch {epoch}", done=run.step) as bar:
            for step, (x, labels) in run.batches(checked_batches(train_loader)):
                with at(epoch, step, log):
                    losses = take_step(*vae_inputs(model, x, labels, cond))
                log.add(epoch, step, len(x), *losses)
                if (step + 1) % READ_EVERY == 0:
                    bar.set_postfix(loss=f"{log.read()[-1][0]:.1f}", refresh=False)
                bar.update()
        loss, *parts = log.means()
        val_loss = evaluate_vae(model, val_loader, cond).loss if val_loader is not None else None
        run.strip += [] if val_loader is None else [_reconstructed(model, val_loader, cond)]
        print(f"Train Epoch: {epoch} \tLoss: {loss:.6f}")
        result = VAEEpoch(epoch, loss, *parts, val_loss)
        run.finish_epoch(result)
    return result


def evaluate_vae(model, loader, cond=False):
    """Measure a VAE's or CVAE's negative ELBO, with the same posterior noise at every call.

    The loss is that of vae.py: with another one in its place, only the two parts are still what they are called. The
    global random state is left as it was, so that measuring does not change training.

    Args:
        model: a `VAE`, or a `CVAE` with `cond=True`.
        loader: batches of (images (N, 1, 28, 28) in [0, 1], labels (N,)).
        cond: whether the model is given the one-hot label.

    Returns:
        `VAELosses`: means over all images of the loader.

    Raises:
        ValueError: a cond that does not fit the model, a loader without batches, images outside [0, 1], labels
            outside 0..9.
        FloatingPointError: a loss that is not a finite number.
    """
    check_cond(model, cond)
    log = LossLog()
    with eval_mode(model), torch.no_grad(), seeded(device_of(model)):
        for step, (x, labels) in enumerate(checked_batches(loader)):
            log.add("of the evaluation", step, len(x), *negative_elbo(model, *vae_inputs(model, x, labels, cond)))
    return VAELosses(*log.means())


def vae_strip(model):
    """Give what a model made of the first validation images after each epoch of its training: (epochs, 10, 784).

    Raises:
        ValueError: the model was not trained by `train_vae` with a val_loader.
    """
    run = _runs.get(model)
    if run is None or not run.strip:
        raise ValueError("model: expected one that train_vae has trained with a val_loader")
    return torch.stack(run.strip)


def _reconstructed(model, loader, cond):
    with eval_mode(model), torch.no_grad(), seeded(device_of(model)):
        x, labels = next(iter(loader))
        return model(*vae_inputs(model, x[:STRIP_SAMPLES], labels[:STRIP_SAMPLES], cond))[0].flatten(1).cpu()


def vae_inputs(model, x, labels, cond):
    """Give what a VAE is called with, (x,), or a CVAE, (x, c) with the one-hot labels; on its device."""
    x = x.to(device_of(model))
    return (x, one_hot(labels, getattr(model, "num_classes", NUM_CLASSES)).to(x.device)) if cond else (x,)


def vae_step(model, optimizer, x, *c):
    """Take one step down the gradient of the negative ELBO; Kingma and Welling (2014), algorithm 1.

    Args:
        model: a VAE or CVAE.
        optimizer: of the model.
        x: images in [0, 1], (N, 1, 28, 28).
        c: one-hot labels, (N, C), for a CVAE alone.

    Returns:
        The loss before the step, its reconstruction and its KL: scalars without gradient, in nats per image.
    """
    loss, *parts = negative_elbo(model, x, *c)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), *parts


def negative_elbo(model, x, *c):
    """Give the loss with its gradient, and its two parts, reconstruction and KL, without."""
    x_hat, mu, logvar = model(x, *c)
    loss = loss_function(x_hat, x, mu, logvar)
    with torch.no_grad():  # both anew: a loss of the user's own may weigh them in another way
        return loss, _cross_entropy(x_hat, x), kl_divergence(mu, logvar)


def _cross_entropy(x_hat, x):
    return -log_likelihood(x_hat, x).sum() / len(x)


_runs = weakref.WeakKeyDictionary()  # model -> its Run, since `train_vae` is called once an epoch


def _vae_run(epoch, model, loader, cond, checkpoint, fresh, learning_rate):
    """Give the run that an epoch belongs to: the one kept for the model, or a new one, from the checkpoint if any."""
    run, parameters = _runs.get(model), list(model.parameters())
    if epoch == 0 or run is None or run.path != path_of(checkpoint) or not _moves(run.parts["Adam"], parameters):
        # one kernel updates all weights, where the device has it: the same formula, less time
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=fused)
        about = {} if checkpoint is None else _about_vae(model, loader, cond, optimizer)
        # a proxy, or the run that is kept for the model would keep the model
        run = Run(checkpoint, {"model": weakref.proxy(model), "Adam": optimizer}, about, loader, device_of(model))
        run.restore(fresh=fresh and epoch == 0)
        _runs[model] = run
    elif run.parts["Adam"].defaults["lr"] != learning_rate:
        raise ValueError(f"learning_rate: expected {run.parts['Adam'].defaults['lr']}, as in the epochs before, "
                         f"found {learning_rate}")
    run.begin(epoch, loader)
    return run


@contextmanager
def _forgotten_if_cut_short(model, run):
    """After an error within a step, let the next call begin from the file: model and random numbers have gone on."""
    try:
        yield
    except BaseException:
        if run.path is not None:
            _runs.pop(model, None)
        raise


def _moves(optimizer, parameters):
    return [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in parameters]


def _about_vae(model, loader, cond, optimizer):
    x_hat, x = torch.full((2, 1, 28, 28), 0.25), torch.full((2, 1, 28, 28), 0.75)
    mu, logvar = torch.full((2, 15), 0.5), torch.full((2, 15), -0.5)
    with seeded(x.device):  # a loss may draw random numbers
        loss = f"{loss_function(x_hat, x, mu, logvar):.5g}"
    return {"class": type(model).__name__, "network": str(model), "cond": bool(cond),
            "optimizer": about_optimizer(optimizer),
            "loss_function of a fixed example": loss, **about_data(loader)}


def _restored_epoch(run, epoch):
    result = VAEEpoch(*run.epochs[epoch])
    print(f"Train Epoch: {epoch} \tLoss: {result.loss:.6f} \t(restored; the model is that after {run.epoch} epochs)")
    return result


# ---------------------------------------------------------------- generative adversarial networks


def discriminator_step(D, G, D_solver, discriminator_loss, real, noise):
    """Take one step of D on real and generated images; G stays as it is.

    Goodfellow et al. (2014), algorithm 1.

    Args:
        D: discriminator, (N, 784) -> (N, 1).
        G: generator, (N, Z) -> (N, 784).
        D_solver: optimizer of D.
        discriminator_loss: of (scores of real images, scores of generated ones).
        real: images in [-1, 1], (N, 784).
        noise: (N, Z).

    Returns:
        The loss before the step, a scalar, and the scores that it was taken on, of real images and of generated ones,
        (N, 1) each; all without gradient.
    """
    with torch.no_grad():  # G is not trained here
        fake = G(noise)
    scores_real, scores_fake = D(real), D(fake)
    loss = discriminator_loss(scores_real, scores_fake)
    D_solver.zero_grad(set_to_none=True)
    loss.backward()
    D_solver.step()
    return loss.detach(), scores_real.detach(), scores_fake.detach()


def generator_step(D, G, G_solver, generator_loss, noise):
    """Take one step of G on D's scores of its images; D stays as it is.

    Goodfellow et al. (2014), algorithm 1.

    Args:
        D: discriminator, (N, 784) -> (N, 1).
        G: generator, (N, Z) -> (N, 784).
        G_solver: optimizer of G.
        generator_loss: of the scores of generated images.
        noise: (N, Z).

    Returns:
        The loss before the step, a scalar without gradient, and the images it was taken on, (N, 784).
    """
    with frozen(D):  # gradients pass through D to G, but none are made for D's weights
        fake = G(noise)
        loss = generator_loss(D(fake))
        G_solver.zero_grad(set_to_none=True)
        loss.backward()
    G_solver.step()
    return loss.detach(), fake.detach()


def run_a_gan(D, G, D_solver, G_solver, discriminator_loss, generator_loss, save_filename, show_every=250,
              batch_size=128, noise_size=96, num_epochs=10, *, loader_train=None, checkpoint=None, fresh=False,
              probability=torch.sigmoid, score=None):
    """Train a GAN: one step of D, one step of G, batch by batch.

    With a checkpoint, the state of the training is saved after every epoch, at least twice a minute and at *Stop*; the
    same call then goes on where it stood, or shows the finished result.

    Args:
        D: discriminator, (N, 784) in [-1, 1] -> (N, 1).
        G: generator, (N, noise_size) in [-1, 1] -> (N, 784) in [-1, 1].
        D_solver: optimizer of D.
        G_solver: optimizer of G.
        discriminator_loss: of (scores of real images, scores of generated ones).
        generator_loss: of the scores of generated images.
        save_filename: where the last picture is saved; its folder is made.
        show_every: steps between two lines of losses with 16 samples.
        batch_size: N; batches of another size are passed over.
        noise_size: Z.
        num_epochs: passes over the training images.
        loader_train: batches of (images in [0, 1], labels); the default MNIST ones when not given.
        checkpoint: path of the file to save to and to go on from, if any.
        fresh: whether to start over though there is a checkpoint; that one is kept under another name.
        probability: turns D's scores into probabilities of being real, for the curves alone; those of a least-squares
            GAN are near 0 and 1 as they are.
        score: function of G, called after each epoch in eval mode and without gradient; the weights with the highest
            score become `G_best`. It leaves G and the random numbers of the training as they are.

    Returns:
        `GANHistory`.

    Raises:
        ValueError: a negative number of epochs, an optimizer of another network, images outside [0, 1], or not one
            batch of batch_size images; `CheckpointError`: the checkpoint of another run.
        FloatingPointError: a loss or a score is no longer a finite number; says at which epoch and step.
        KeyboardInterrupt: Stop was pressed; says where the training stands.
    """
    for name, number, least in (("num_epochs", num_epochs, 0), ("show_every", show_every, 1),
                                ("batch_size", batch_size, 1), ("noise_size", noise_size, 1)):
        check_whole(name, number, least)
    check_solver("D_solver", D_solver, D)
    check_solver("G_solver", G_solver, G)
    path, device = Path(save_filename), device_of(G)
    loader = loader_train if loader_train is not None else mnist_loaders(batch_size, device=device).train
    parts = {"D": D, "G": G, "D_solver": D_solver, "G_solver": G_solver, "G_average": averaged(G)}
    run = _gan_run(parts, discriminator_loss, generator_loss, batch_size, noise_size, loader, checkpoint, score)
    with seeded(device):
        same_noise = sample_noise(STRIP_SAMPLES, noise_size, device=device)
    if run.restore(fresh):
        _show_restored(run, num_epochs, show_every)
    d_step = Replayed(partial(discriminator_step, D, G, D_solver, discriminator_loss), [D_solver], device)
    g_step = Replayed(partial(generator_step, D, G, G_solver, generator_loss), [G_solver], device)
    log, average = run.log, parts["G_average"]
    D.train()
    G.train()
    total = num_epochs * length_hint(loader) or None
    with run.stoppable(), progress_bar(total, f"{num_epochs} epochs", done=len(log)) as bar:
        for epoch in range(run.epoch, num_epochs):
            for _, (x, _) in run.batches(full_batches(loader, batch_size)):
                real = 2 * x.to(device).flatten(1) - 1  # (N, 784), [0, 1] -> [-1, 1]
                noise = sample_noise(batch_size, noise_size, dtype=real.dtype, device=device)
                d_loss, *scores = d_step(real, noise)
                noise = sample_noise(batch_size, noise_size, dtype=real.dtype, device=device)
                g_loss, fake = g_step(noise)

                iteration = len(log)
                log.add(epoch, iteration, batch_size, d_loss, g_loss, *(probability(s).mean() for s in scores))
                run.samples = fake[:SHOWN_SAMPLES]
                if iteration % AVERAGE_EVERY == 0:
                    average.update_parameters(G)
                if iteration % READ_EVERY == 0:
                    bar.set_postfix(epoch=epoch, **_named(log.read()[-1]), refresh=False)
                if iteration % show_every == 0:
                    run.strip.append(drawn_by(G, same_noise))
                    bar.clear()
                    _show_progress(iteration, log, run.samples)
                bar.update()
            run.finish_epoch(score_of_epoch(score, run))
    if len(run.samples):
        save_picture(draw_digits(run.samples, title=_learned_from(loader, num_epochs)), path)
    return gan_history(run)


def _gan_run(parts, discriminator_loss, generator_loss, batch_size, noise_size, loader, checkpoint, score):
    about = {} if checkpoint is None else _about_gan(parts, discriminator_loss, generator_loss, batch_size,
                                                     noise_size, loader, score)
    best = {} if score is None else {"G_best": copy.deepcopy(parts["G"])}
    return Run(checkpoint, {**parts, **best}, about, loader, device_of(parts["G"]))


def _named(losses):
    return {name: f"{loss:.3f}" for name, loss in zip("DG", losses, strict=False)}


def _show_progress(iteration, log, samples):
    print(_line(iteration, log))
    show_and_close(draw_digits(samples))
    print()


def _line(iteration, log):
    d_loss, g_loss, *_ = log.read()[iteration]
    return f"Iter: {iteration}, D: {d_loss:.4}, G:{g_loss:.4}"


def _show_restored(run, num_epochs, show_every):
    """Print the lines of a run's earlier steps again, and say when it has gone further than was asked."""
    for iteration in range(0, len(run.log), show_every):
        print(_line(iteration, run.log), "(restored)")
    if (run.epoch, run.step) > (num_epochs, 0):
        print(f"{run.path.name} is past the {num_epochs} epochs that were asked for: all of it is shown.")


def _about_gan(parts, discriminator_loss, generator_loss, batch_size, noise_size, loader, score):
    scores = torch.linspace(-2, 2, 8, device=device_of(parts["G"])).unsqueeze(1)  # (8, 1)
    with torch.no_grad(), seeded(scores.device):  # a loss may draw random numbers
        losses = f"{discriminator_loss(scores + 1, scores):.5g}, {generator_loss(scores):.5g}"
    return {**{name: str(parts[name]) for name in ("D", "G")},
            **{name: about_optimizer(parts[name]) for name in ("D_solver", "G_solver")},
            "losses of a fixed example": losses, "noise_size": noise_size, "scored": score is not None,
            **about_data(loader), "batch size": batch_size}


def _learned_from(loader, num_epochs):
    """Say what was learned, where the data set has a name: stand-in digits must never pass for MNIST."""
    dataset = getattr(loader, "dataset", None)
    name = getattr(dataset, "name", None)
    return f"{name}, {len(dataset):,} images, {num_epochs} epochs" if name else None
