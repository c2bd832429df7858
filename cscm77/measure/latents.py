"""How well a VAE or CVAE explains images, and what its latents have to do with it.

Axes: N images, Z latents, C classes, K importance samples; every bound is in nats per image.
"""

import math

import torch
from torch.nn import functional as F

from cscm77.utils import device_of, eval_mode, seeded

IN_USE = 0.01  # nats: a latent with less KL than this on average tells the decoder nothing
CLASSES = 10
AT_ONCE = 500  # images


@torch.no_grad()
def kl_of_latents(model, loader, cond=False):
    """Give the KL of each latent, averaged over the loader's images.

    Args:
        model: a VAE, or a CVAE with `cond=True`.
        loader: batches of (images in [0, 1], labels).
        cond: whether the model is given the one-hot label.

    Returns:
        (Z,) float64, in nats per image; a latent below `IN_USE` carries nothing.
    """
    kl, device = [], device_of(model)
    with eval_mode(model), seeded(device):  # a loader may draw random numbers
        for x, labels in zip(*_parts_of(loader), strict=True):
            mu, logvar = _encode(model, x, labels, cond)
            kl.append(0.5 * (mu.square() + logvar.exp() - 1 - logvar).double())  # (N, Z)
    kl = torch.cat(kl).mean(dim=0).cpu()
    finite("KL of the latents", kl.sum().item())
    return kl


@torch.no_grad()
def importance_weighted_loss(model, loader, sizes=(1, 10, 100), cond=False):
    """Bound -log p(x) from above with K samples of z an image; Burda, Grosse and Salakhutdinov (2016), equation 8.

    K = 1 is the negative ELBO by sampling; the bound falls towards -log p(x) as K grows.

    Args:
        model: a VAE, or a CVAE with `cond=True`.
        loader: batches of (images in [0, 1], labels).
        sizes: the numbers K of samples; the samples of a small K are among those of a larger one.
        cond: whether the model is given the one-hot label.

    Returns:
        {K: nats per image}.
    """
    total, number, device = dict.fromkeys(sizes, 0.0), 0, device_of(model)
    with eval_mode(model), seeded(device):
        for x, labels in zip(*_parts_of(loader), strict=True):
            x, number = x.to(device), number + len(x)
            mu, logvar = _encode(model, x, labels, cond)
            weights = torch.stack([_log_weight(model, x, labels, mu, logvar, cond) for _ in range(max(sizes))])
            for k in sizes:  # weights: (K, N)
                total[k] -= (weights[:k].logsumexp(dim=0) - math.log(k)).sum().item()
    return {k: finite(f"bound with {k} samples", total[k] / number) for k in sizes}


def _parts_of(loader):
    """Give all images and labels in parts of one size: the noise of each is the same however they were batched."""
    batches = list(loader)
    if not batches:
        raise ValueError("loader: expected at least one image, found none")
    return [torch.cat(parts).split(AT_ONCE) for parts in zip(*batches, strict=True)]


def _log_weight(model, x, labels, mu, logvar, cond):
    """Draw z from q(z|x) and give log p(x|z) + log p(z) - log q(z|x), (N,) float64."""
    noise = torch.randn_like(mu)
    z = mu + torch.exp(0.5 * logvar) * noise
    x_hat = model.decoder(torch.cat((z, one_hot_like(labels, z, model.num_classes)), dim=1) if cond else z)
    likelihood = log_likelihood(x_hat, x).flatten(1).sum(dim=1, dtype=torch.float64)
    latent = 0.5 * (noise.square() + logvar - z.square()).sum(dim=1, dtype=torch.float64)  # the log(2 pi) cancel
    return likelihood + latent


def log_likelihood(x_hat, x):
    """Give log p(x|z) of each pixel; the sum is that of `vae.reconstruction`, in a fifth of the time of torch's own.

    Args:
        x_hat: reconstructions in [0, 1], (N, ...).
        x: images in [0, 1], of the same shape.
    """
    black, white = (p.log().clamp(min=-100) for p in (1 - x_hat, x_hat))  # torch's own bound
    return torch.lerp(black, white, x)


def _encode(model, x, labels, cond):
    x = x.to(device_of(model))
    return model.encode(x, one_hot_like(labels, x, model.num_classes)) if cond else model.encode(x)


def one_hot_like(labels, like, classes=CLASSES):
    """Turn labels (N,) into one-hot rows (N, C) of the type and on the device of another tensor."""
    return F.one_hot(labels.to(like.device), classes).to(like.dtype)


def plane_of_digits(points, labels):
    """Project points on the two directions in which the means of the classes differ most.

    Args:
        points: (N, Z), Z > 1.
        labels: (N,), of at least two classes.

    Returns:
        (N, 2), and the share that the plane holds of the variance of the means.
    """
    centred = points.double() - points.double().mean(dim=0)
    means = torch.stack([centred[labels == label].mean(dim=0) for label in labels.unique()])  # (C, Z)
    variances, directions = torch.linalg.eigh(means.T.cov(correction=0))  # ascending
    share = finite("share of the variance", (variances[-2:].sum() / variances.sum()).item())
    return (centred @ directions[:, [-1, -2]]).float(), share


def finite(name, value):
    """Give a number back, or refuse it where it is nan or infinite."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{name}: expected a finite number, found {value}")
    return value
