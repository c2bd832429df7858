"""How well a VAE or CVAE explains images, and what its latents have to do with it.

Axes: N images, Z latents, C classes, K importance samples; every bound is in nats per image.
"""

import math
from contextlib import contextmanager

import torch

from cscm77.checks import check_batch, check_cond, check_loader, check_whole
from cscm77.utils import device_of, dtype_of, eval_mode, one_hot, seeded, unwrapped

IN_USE = 0.01  # nats: a latent with less KL than this on average tells the decoder nothing
BATCH_SIZE = 500  # images


def kl_of_latents(model, loader, cond=False):
    """The KL of each latent in nats, averaged over the loader's images: (Z,) float64.

    Of a VAE, or a CVAE with `cond=True`, on batches of (images in [0, 1], labels). A cond or a
    loader that does not fit is a ValueError, a number that is not finite a FloatingPointError.
    """
    kl = []
    with measuring(model), seeded(device_of(model)):  # a loader may draw random numbers
        for x, labels in _batches(loader):
            mu, logvar = posterior(model, x, labels, cond)
            kl.append(0.5 * (mu.square() + logvar.exp() - 1 - logvar).double())  # (N, Z)
    kl = torch.cat(kl).mean(dim=0).cpu()
    check_finite("KL of the latents", kl.sum().item())
    return kl


def importance_weighted_loss(model, loader, sizes=(1, 10, 100), cond=False):
    """An upper bound of -log p(x) from K samples of z an image, {K: nats per image}.

    Burda et al. (2016), equation 8: K = 1 is the negative ELBO by sampling; the bound falls towards
    -log p(x) as K grows; a small K's samples are among a larger one's. Else as in `kl_of_latents`.
    """
    total, number = dict.fromkeys(sizes, 0.0), 0
    with measuring(model), seeded(device_of(model)):
        for x, labels in _batches(loader):
            number += len(x)
            mu, logvar = posterior(model, x, labels, cond)
            x = x.to(mu)
            weights = torch.stack([_log_weight(model, x, labels, mu, logvar, cond)
                                   for _ in range(max(sizes))])  # (K, N)
            for k in sizes:
                total[k] -= (weights[:k].logsumexp(dim=0) - math.log(k)).sum().item()
    return {k: check_finite(f"bound with {k} samples", total[k] / number) for k in sizes}


@contextmanager
def measuring(network):
    """A network in eval mode and in its own precision, without gradients, for a while."""
    own_precision = torch.autocast(device_of(network).type, enabled=False)
    with eval_mode(network), torch.no_grad(), own_precision:
        yield


def _batches(loader):
    """Images and labels in batches of one size: then the loader's own size changes no noise."""
    check_loader("loader", loader)
    batches = list(loader)
    for batch in batches:
        check_batch(batch)
    images, labels = (torch.cat([torch.as_tensor(part) for part in parts]).split(BATCH_SIZE)
                      for parts in zip(*batches, strict=True))
    return zip(images, labels, strict=True)


def posterior(model, x, labels, cond):
    """The mean and log-variance, (N, Z) each, of q(z|x), or of q(z|x, c) with `cond=True`."""
    check_cond(model, cond)
    x, model = x.to(device_of(model), dtype_of(model)), unwrapped(model)
    return model.encode(x, one_hot(labels, model.num_classes, like=x)) if cond else model.encode(x)


def _log_weight(model, x, labels, mu, logvar, cond):
    """Log p(x|z) + log p(z) - log q(z|x) of a z drawn from q(z|x), (N,) float64."""
    model, noise = unwrapped(model), torch.randn_like(mu)
    z = mu + torch.exp(0.5 * logvar) * noise
    label = [one_hot(labels, model.num_classes, like=z)] if cond else []
    x_hat = model.decoder(torch.cat([z, *label], dim=1))
    likelihood = log_likelihood(x_hat, x).flatten(1).sum(dim=1, dtype=torch.float64)
    latent = 0.5 * (noise.square() + logvar - z.square())  # the log(2 pi) cancel
    return likelihood + latent.sum(dim=1, dtype=torch.float64)


def log_likelihood(x_hat, x):
    """Log p(x|z) pixel by pixel, all in [0, 1]; `vae.reconstruction` in a fifth of its time."""
    black, white = (p.log().clamp(min=-100) for p in (1 - x_hat, x_hat))  # torch's own bound
    return torch.lerp(black, white, x)


def plane_of_digits(points, labels):
    """Points (N, Z) seen along the two directions in which the means of their classes differ most.

    Returns (N, 2), and the share of the means' variance that this plane holds. A single latent is a
    ValueError; where all labels (N,) are alike, there is no variance: a FloatingPointError.
    """
    check_whole("latents of a point", points.shape[1], least=2)
    points, labels = points.detach().double(), labels.to(points.device)
    centred = points - points.mean(dim=0)
    means = torch.stack([centred[labels == label].mean(dim=0) for label in labels.unique()])
    variances, directions = torch.linalg.eigh(means.T.cov(correction=0))  # ascending
    share = check_finite("share of the variance", (variances[-2:].sum() / variances.sum()).item())
    return (centred @ directions[:, [-1, -2]]).float(), share


def check_finite(name, value):
    """The number itself; refuses nan and infinity."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{name}: expected a finite number, found {value}")
    return value
