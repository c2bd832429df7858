"""What the notebooks call: loaders, pictures of digits, and the training loops of VAEs and GANs.

Axes: N images in a batch, D = 784 pixels, Z latents or noise dimensions, C classes.
"""

import copy
from functools import partial
from operator import length_hint
from pathlib import Path

import torch
from tqdm import tqdm

import vae
from cscm77.checks import check_cond, check_loader, check_scalar_loss, unwrapped
from cscm77.data.loaders import checked_batches, full_batches, mnist_loaders
from cscm77.measure.latents import log_likelihood
from cscm77.report.pictures import GrowingRows, draw_digits, save_picture
from cscm77.training.begin import begin_gan, begin_vae, runs, show_restored_epoch
from cscm77.training.journal import GANHistory, LossLog, VAEEpoch, VAELosses
from cscm77.training.replay import Replayed
from cscm77.utils import device_of, dtype_of, eval_mode, frozen, initialize_weights, one_hot, seeded
from gan import sample_noise
from vae import kl_divergence, loss_function

__all__ = ["hello_helper", "mnist_loaders", "show_images", "count_params", "initialize_weights",
           "one_hot", "train_vae", "averaged_vae", "vae_step", "negative_elbo", "evaluate_vae",
           "run_a_gan", "discriminator_step", "generator_step", "VAEEpoch", "VAELosses",
           "GANHistory"]

NUM_CLASSES = 10
VAE_LEARNING_RATE = 1e-3
STRIP_SAMPLES = 10  # images or noises that are looked at again and again while a model is trained


def hello_helper():
    """Print a greeting: the notebook's sign that this file was found."""
    print("Hello from cscm77_helper.py!")


def show_images(images):
    """Draw images as one square grid in a new figure, which stays the current one.

    They are an (N, ...) tensor of square pictures, any range, any device; else it is a ValueError.
    """
    draw_digits(images)


def count_params(model):
    """The number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------- variational autoencoders


def train_vae(epoch, model, train_loader, cond=False, *, val_loader=None, checkpoint=None,
              fresh=False, learning_rate=VAE_LEARNING_RATE):
    """Train a VAE or CVAE for one epoch, and print its mean loss; returns the epoch's `VAEEpoch`.

    Kingma and Welling (2014), algorithm 1, by Adam, which stays with the model from its first epoch
    to its last; epoch 0 starts it afresh.

    Args:
        epoch: number of this epoch, from 0.
        model: a `VAE`, or a `CVAE` with `cond=True`.
        train_loader: batches of (images (N, 1, 28, 28) in [0, 1], labels (N,)).
        cond: whether the model is given the one-hot label.
        val_loader: batches to measure the loss on after the epoch, if any.
        checkpoint: path of the file to save to (after every epoch, every half minute and at *Stop*)
            and to go on from; an epoch that is done prints its line again.
        fresh: at epoch 0, whether to start over though there is a checkpoint; that one is kept.
        learning_rate: of Adam, the same for all epochs of a training.

    Raises:
        ValueError: an argument, image or label that does not fit, or another run's checkpoint.
        FloatingPointError: the loss is no longer a finite number; says at which epoch and step.
        KeyboardInterrupt: Stop was pressed; says where the training stands.
    """
    run = begin_vae(epoch, model, train_loader, cond, val_loader, checkpoint, fresh, learning_rate,
                    (loss_function, vae.reparametrize))
    if epoch < run.epoch:
        return show_restored_epoch(run, epoch)
    optimizer = run.parts["Adam"]
    take_step = Replayed(partial(vae_step, model, optimizer), optimizer)
    model.train()
    with run.under_way(f"Epoch {epoch}", length_hint(train_loader)):
        for x, labels in run.steps(checked_batches(train_loader)):
            losses = take_step(*vae_inputs(model, x, labels, cond))
            run.note(len(x), *losses)
        result = VAEEpoch(epoch, *run.journal.log.means(), *_validation(model, val_loader, cond))
        print(f"Train Epoch: {epoch} \tLoss: {result.loss:.6f}")
        run.finish_epoch(result)
    return result


def vae_step(model, optimizer, x, *c):
    """One step down the gradient of the negative ELBO; Kingma and Welling (2014), algorithm 1.

    On images x in [0, 1], (N, 1, 28, 28), and for a CVAE one-hot labels c, (N, C). Returns the loss
    before the step, its reconstruction and its KL, scalars without gradient.
    """
    loss, *parts = negative_elbo(model, x, *c)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), *parts


def negative_elbo(model, x, *c):
    """The loss with its gradient, and its two parts, reconstruction and KL, without."""
    x_hat, mu, logvar = model(x, *c)
    loss = check_scalar_loss("loss_function", loss_function(x_hat, x, mu, logvar))
    with torch.no_grad():  # both anew: a loss of the user's own may weigh them in another way
        cross_entropy = -log_likelihood(x_hat.to(x.dtype), x).sum() / len(x)
        return loss, cross_entropy, kl_divergence(mu, logvar)


def averaged_vae(model):
    """The exponential average of a model's weights over its training: a model of its own, in eval.

    `train_vae` keeps it beside the model (decay 0.995 a step); others than its are a ValueError.
    """
    if model not in runs:
        raise ValueError("model: expected one that train_vae has trained, found another")
    return copy.deepcopy(runs[model].journal.average.module)


def vae_inputs(model, x, labels, cond):
    """What a VAE is called with, (x,), or a CVAE, (x, c) with the one-hot labels; on its device."""
    x = x.to(device_of(model), dtype_of(model))
    classes = getattr(unwrapped(model), "num_classes", None) or NUM_CLASSES
    return (x, one_hot(labels, classes).to(x)) if cond else (x,)


def evaluate_vae(model, loader, cond=False):
    """The negative ELBO of a VAE or CVAE and its two parts, with the same noise at every call.

    Returns `VAELosses`, means over the loader's images in nats per image; arguments and errors are
    those of `train_vae`. The loss is that of vae.py, whatever that is now.
    """
    check_cond(model, cond)
    check_loader("loader", loader)
    log = LossLog()
    with eval_mode(model), torch.no_grad(), seeded(device_of(model)):
        for x, labels in checked_batches(loader):
            losses = negative_elbo(model, *vae_inputs(model, x, labels, cond))
            log.add("of the evaluation", len(x), *losses)
    return VAELosses(*log.means())


def _validation(model, loader, cond):
    """The validation loss, and what became of the first images; nothing without a loader."""
    if loader is None:
        return ()
    val_loss = evaluate_vae(model, loader, cond).loss
    with eval_mode(model), torch.no_grad(), seeded(device_of(model)):
        x, labels = next(iter(loader))
        few = vae_inputs(model, x[:STRIP_SAMPLES], labels[:STRIP_SAMPLES], cond)
        return val_loss, model(*few)[0].flatten(1).cpu()


# ---------------------------------------------------------------- generative adversarial networks


def discriminator_step(D, G, D_solver, discriminator_loss, real, noise):
    """One step of D on real and generated images; G stays as it is.

    On real images in [-1, 1], (N, 784), and noise (N, Z). Returns the loss before the step, and the
    scores that it was taken on, of real and of generated images, (N, 1) each, without gradient.
    """
    with torch.no_grad():  # G is not trained here
        fake = G(noise)
    scores_real, scores_fake = D(real), D(fake)
    loss = check_scalar_loss("discriminator_loss", discriminator_loss(scores_real, scores_fake))
    D_solver.zero_grad(set_to_none=True)
    loss.backward()
    D_solver.step()
    return loss.detach(), scores_real.detach(), scores_fake.detach()


def generator_step(D, G, G_solver, generator_loss, noise):
    """One step of G on D's scores of its images; D stays as it is.

    Returns the loss before the step and the images (N, 784) that it was taken on, without gradient.
    """
    with frozen(D):  # gradients pass through D to G, but none are made for D's weights
        fake = G(noise)
        loss = check_scalar_loss("generator_loss", generator_loss(D(fake)))
        G_solver.zero_grad(set_to_none=True)
        loss.backward()
    G_solver.step()
    return loss.detach(), fake.detach()


def run_a_gan(D, G, D_solver, G_solver, discriminator_loss, generator_loss, save_filename,
              show_every=250, batch_size=128, noise_size=96, num_epochs=10, *, loader_train=None,
              checkpoint=None, fresh=False, probability=torch.sigmoid, score=None):
    """Train a GAN, batch by batch: Goodfellow et al. (2014), algorithm 1; returns a `GANHistory`.

    Args:
        D: discriminator, (N, 784) in [-1, 1] -> (N, 1).
        G: generator, (N, noise_size) in [-1, 1] -> (N, 784) in [-1, 1].
        D_solver: optimizer of D.
        G_solver: optimizer of G.
        discriminator_loss: of (scores of real images, scores of generated ones).
        generator_loss: of the scores of generated images.
        save_filename: where the last picture is saved; its folder is made.
        show_every: steps between two lines of losses; 16 samples are a row of a figure that grows.
        batch_size: N; of a pass, only a last, shorter batch is left out.
        noise_size: Z.
        num_epochs: passes over the training images.
        loader_train: batches of (images in [0, 1], labels); the default MNIST ones when not given.
        checkpoint: path of a file, as in `train_vae`; a finished training shows its result again.
        fresh: whether to start over though there is a checkpoint; that one is kept.
        probability: turns D's scores into probabilities of being real, for the curves alone; those
            of a least-squares GAN are near 0 and 1 as they are.
        score: function of G, called after each epoch in eval mode and without gradient; the weights
            with the highest score become `G_best`. It leaves G and the random numbers as they are.

    Raises:
        ValueError: an argument, a loader or images that do not fit, or another run's checkpoint.
        FloatingPointError: a loss or a score is no longer a finite number; says where.
        KeyboardInterrupt: Stop was pressed; says where the training stands.
    """
    path, device, dtype = Path(save_filename), device_of(G), dtype_of(G)
    if loader_train is None:
        loader_train = mnist_loaders(batch_size, device=device).train
    run = begin_gan((D, G), (D_solver, G_solver), (discriminator_loss, generator_loss),
                    loader_train, batch_size, noise_size, num_epochs, checkpoint, fresh,
                    _same_noise(G, noise_size), show_every, probability, score, _progress())
    d_step = Replayed(partial(discriminator_step, D, G, D_solver, discriminator_loss), D_solver)
    g_step = Replayed(partial(generator_step, D, G, G_solver, generator_loss), G_solver)
    D.train()
    G.train()
    with run.under_way(f"{num_epochs} epochs", int(num_epochs) * length_hint(loader_train)):
        for epoch in run.epochs(num_epochs):
            for x, _ in run.steps(full_batches(loader_train, batch_size)):
                real = 2 * x.to(device, dtype).flatten(1) - 1  # (N, 784), [0, 1] -> [-1, 1]
                noise = sample_noise(batch_size, noise_size, dtype, device)
                d_loss, *scores = d_step(real, noise)
                noise = sample_noise(batch_size, noise_size, dtype, device)
                g_loss, fake = g_step(noise)
                run.note(d_loss, g_loss, scores, fake)
            run.journal.score_epoch(epoch)
    _save_samples(run, path)
    return run.journal.history()


def _same_noise(G, noise_size):
    """The noises of the strip, whatever the training has drawn."""
    with seeded(device_of(G)):
        return sample_noise(STRIP_SAMPLES, noise_size, dtype_of(G), device_of(G))


def _progress():
    """A function of the journal that shows the step's samples, and prints its losses."""
    rows = GrowingRows()

    def show(journal):
        with tqdm.external_write_mode():  # the bar makes room
            rows.add(journal.samples)
            print(journal.line(len(journal.log) - 1))

    return show


def _save_samples(run, path):
    """Save the samples of the last step, under what G learned, where the data set has a name."""
    dataset = getattr(run.loader, "dataset", None)
    name = getattr(dataset, "name", None)  # stand-in digits must never pass for MNIST
    title = f"{name}, {len(dataset):,} images, {run.epoch} epochs" if name else None
    if len(run.journal.samples):
        save_picture(draw_digits(run.journal.samples, title=title), path)
