"""Numbers that say how good a model's images are, made to stand beside what real images get.

Samples are compared with real images in the features of the judge (cscm77/measure/judge.py);
statistics are in float64. The Frechet and the kernel distance here are those of a classifier of
digits: they cannot be compared with an "FID" or "KID" in the features of Inception.

Axes: N samples, M real images, F features, Z latents, C classes.
"""

from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import nn

from cscm77.checks import check_square, check_whole
from cscm77.measure.latents import check_finite, measuring
from cscm77.utils import device_of, dtype_of, matmul_precision, one_hot, seeded, unwrapped

NEIGHBOURS = 5  # k of precision, recall, density and coverage
SUBSETS, SUBSET_SIZE = 20, 1000  # of the kernel distance
CHUNK = 1000  # rows that are worked on at a time
CLASSES = 10
WHAT_TO_INSTALL = ("torchmetrics is missing; the numbers of this cell need it: "
                   "pip install torchmetrics")


class TorchmetricsMissing(ImportError):
    """What was asked for needs torchmetrics, which is not installed."""


def _need_torchmetrics():
    if find_spec("torchmetrics") is None:
        raise TorchmetricsMissing(WHAT_TO_INSTALL)


@contextmanager
def where_torchmetrics_is_installed():
    """A block that ends where torchmetrics is needed and missing, and says what to install."""
    try:
        yield
    except TorchmetricsMissing as missing:
        print(missing)


# ---------------------------------------------------------------- samples


def generate(network, latents, low=0.0):
    """Turn latents into images in [0, 1], in eval mode.

    Args:
        network: a generator, or the decoder of a VAE: (N, Z) -> (N, ...), square pictures.
        latents: (N, Z); drawn beforehand, so that neither batches nor the model change them.
        low: the least value that the network gives: 0 for a sigmoid, -1 for a tanh.

    Returns:
        (N, 1, 28, 28), without gradient.
    """
    latents = latents.to(device_of(network), dtype_of(network))
    with measuring(network):
        images = torch.cat([network(part) for part in latents.split(CHUNK)])
    side = check_square("the network's images", images.shape[1:].numel())
    images = (images - low) / (1 - low)
    return images.clamp(0, 1).reshape(-1, 1, side, side)  # the clamp takes off rounding errors


class Quality(NamedTuple):
    """What is measured of N samples against M real images; `measure_samples` says how."""

    frechet: float
    kernel: float
    kernel_sd: float
    score: float
    uniformity: float
    precision: float
    recall: float
    density: float
    coverage: float
    classes: list

    def numbers(self):
        """What `QUALITY_COLUMNS` names, in its order."""
        return self[:-1]


QUALITY_COLUMNS = {
    "Frechet distance": ".2f", "kernel distance": ".1f", "its sd": ".1f", "score": ".2f",
    "off uniform": ".3f", "precision": ".3f", "recall": ".3f", "density": ".2f", "coverage": ".3f"}


def measure_samples(samples, real):
    """Compare samples with real images, both as the judge read them.

    Args:
        samples: `Reading` of N samples.
        real: `Reading` of M real images, which the generator never saw.

    Returns:
        `Quality`: frechet and kernel distance (and its sd over subsets), classifier score, distance
        of the classes from uniform, precision, recall, density, coverage, and the number of samples
        of each class.

    Raises:
        ValueError: too few samples, or values that are not finite.
        ImportError: torchmetrics is missing.
    """
    classes = class_counts(samples.labels)
    kernel, kernel_sd = kernel_distance(real.features, samples.features)
    return Quality(
        frechet_distance(real.features, samples.features), kernel, kernel_sd,
        classifier_score(samples.probabilities), distance_from_uniform(classes),
        *neighbourhoods(real.features, samples.features, real_radii=real.radii), classes.tolist())


def frechet_distance(real, fake):
    """Distance of two Gaussians that have the means and covariances of the features.

    Heusel et al. (2017), equation 6. With the same number of samples throughout, since fewer
    samples give a larger value; two halves of one data set are not at 0, and what they give is the
    floor.

    Args:
        real: (M, F), M > 1.
        fake: (N, F), N > 1.

    Returns:
        |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), at least 0; a singular covariance is allowed.
    """
    _check_features(real, fake, least=2)
    _need_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Features(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    distance = check_finite("Frechet distance", metric.compute().item())
    return max(distance, 0.0)  # rounding can lead below 0


class _Features(nn.Identity):
    """What torchmetrics calls the network, where the features are at hand already."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features


def kernel_distance(real, fake, subsets=SUBSETS, subset_size=SUBSET_SIZE):
    """Squared maximum mean discrepancy under the kernel (x.y / F + 1)^3, unbiased.

    Binkowski et al. (2018).

    Args:
        real: (M, F), M > 1.
        fake: (N, F), N > 1.
        subsets: how many random subsets of both are compared.
        subset_size: of each; all of the smaller set where it has fewer.

    Returns:
        mean, sd: over the subsets; the mean is about 0, and may be below, where the two are alike.
    """
    _check_features(real, fake, least=2)
    _need_torchmetrics()
    from torchmetrics.image.kid import poly_mmd

    size = min(subset_size, len(real), len(fake))
    with seeded(torch.device("cpu")):
        distances = torch.stack([poly_mmd(_subset(real, size), _subset(fake, size))
                                 for _ in range(subsets)])
    mean = check_finite("kernel distance", distances.mean().item())
    return mean, distances.std(unbiased=False).item()


def _subset(features, size):
    return features[torch.randperm(len(features))[:size]].double()


def classifier_score(probabilities):
    """Exponential of the mean KL(p(y|x) || p(y)): high for clear digits of all classes.

    Salimans et al. (2016), section 4, with the judge in the place of Inception.

    Args:
        probabilities: of the judge, (N, C).

    Returns:
        From 1 to C.
    """
    if len(probabilities) == 0:
        raise ValueError("probabilities: expected at least one row, found none")
    marginal = probabilities.mean(dim=0, keepdim=True)
    marginal = marginal.clamp(min=torch.finfo(marginal.dtype).tiny)  # of a class that never comes
    kl = torch.special.xlogy(probabilities, probabilities / marginal).sum(dim=1)
    return check_finite("classifier score", kl.mean().exp().item())


def class_counts(labels):
    """Count the labels of each class: (N,) -> (C,)."""
    return torch.bincount(labels, minlength=CLASSES)


def distance_from_uniform(counts):
    """Total variation between the shares of the classes and equal shares.

    Args:
        counts: (C,), not all 0.

    Returns:
        From 0 to 1 - 1/C, where one class has all.
    """
    total = counts.sum().item()
    if total == 0:
        raise ValueError("counts: expected at least one sample, found none")
    return 0.5 * (counts.double() / total - 1 / len(counts)).abs().sum().item()


class Neighbourhoods(NamedTuple):
    """Kynkaanniemi et al. (2019), equation 2; Naeem et al. (2020), section 3."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real, fake, k=NEIGHBOURS, real_radii=None):
    """How samples lie among real images: a ball reaches to the k-th neighbour of one's own kind.

    precision: share of samples that lie in some real image's ball. recall: share of real images in
    some sample's ball. density: how many real balls a sample lies in, divided by k; about 1 for
    real images, and may be above. coverage: share of real images whose ball holds a sample.

    Args:
        real: features (M, F), M > k.
        fake: features (N, F), N > k.
        k: which neighbour.
        real_radii: `radii(real, k)`, where they are known already.

    Returns:
        `Neighbourhoods`.
    """
    _check_features(real, fake, least=k + 1)
    real_radii, fake_radii = radii(real, k) if real_radii is None else real_radii, radii(fake, k)
    balls = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)  # that a sample lies in
    recalled, covered = [], []
    for some, radius in zip(real.split(CHUNK), real_radii.split(CHUNK), strict=True):
        distance = torch.cdist(some, fake)  # (rows, N)
        inside = distance <= radius[:, None]
        balls += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((distance <= fake_radii[None]).any(dim=1))
    shares = balls > 0, torch.cat(recalled), balls, torch.cat(covered)
    precision, recall, density, coverage = (share.double().mean().item() for share in shares)
    return Neighbourhoods(precision, recall, density / k, coverage)


def radii(features, k=NEIGHBOURS):
    """The distance of each row to its k-th nearest other row, (N,)."""
    return torch.cat([torch.cdist(part, features).kthvalue(k + 1, dim=1).values
                      for part in features.split(CHUNK)])


@torch.no_grad()
def nearest_images(samples, training):
    """The training image that is nearest to each sample, by the distance of pixels.

    Args:
        samples: (N, ...), of as many pixels as the others.
        training: (M, ...).

    Returns:
        distance, index: (N,) each.
    """
    samples, training = samples.to(training).flatten(1), training.flatten(1)
    with matmul_precision("highest"):  # products are subtracted: an exact copy is to be at 0
        found = [torch.cdist(part, training).min(dim=1) for part in samples.split(CHUNK // 5)]
    return torch.cat([near.values for near in found]), torch.cat([near.indices for near in found])


# ---------------------------------------------------------------- asking for digits


def ask_for_digits(decoder, latent_size, each=1000, seed=0, *, num_classes=CLASSES):
    """Ask the decoder of a CVAE for every digit, with latents from the prior.

    Args:
        decoder: (N, Z + C) -> (N, 1, 28, 28).
        latent_size: Z.
        each: samples of a digit.
        seed: of the latents; the random numbers of others are left as they were.
        num_classes: C.

    Returns:
        images (C * each, 1, 28, 28), asked (C * each,): digit by digit.
    """
    device, dtype = device_of(decoder), dtype_of(decoder)
    asked = torch.arange(num_classes).repeat_interleave(check_whole("each", each))
    with seeded(device, seed):
        z = torch.randn(len(asked), latent_size, dtype=dtype, device=device)
    return generate(decoder, torch.cat((z, one_hot(asked, num_classes, like=z)), dim=1)), asked


def conditional_accuracy(judge, model, each=1000):
    """The share of digits asked of a CVAE, each so often, that the judge recognises as such."""
    model = unwrapped(model)
    images, asked = ask_for_digits(model.decoder, model.latent_size, each,
                                   num_classes=model.num_classes)
    return (judge.read(images).labels == asked).double().mean().item()


def confusion_matrix(asked, recognised):
    """Count what was recognised where a digit was asked for.

    Args:
        asked: digits, (N,), N > 0.
        recognised: digits, (N,).

    Returns:
        (C, C) integers: a row for each digit asked for, a column for each digit recognised.
    """
    if len(asked) == 0 or asked.shape != recognised.shape:
        raise ValueError("expected as many digits recognised as asked for, and at least one, "
                         f"found {tuple(recognised.shape)} and {tuple(asked.shape)}")
    _need_torchmetrics()
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(recognised, asked, num_classes=CLASSES)


def worst_pairs(matrix, number=3):
    """The pairs of digits that are confused most, the worst first.

    Args:
        matrix: of `confusion_matrix`.
        number: of pairs, at most.

    Returns:
        [(asked, recognised, how often)].
    """
    counts, places = matrix.clone().fill_diagonal_(0).flatten().topk(number)
    pairs = zip(places.tolist(), counts.tolist(), strict=True)
    return [(*divmod(place, len(matrix)), count) for place, count in pairs if count > 0]


# ---------------------------------------------------------------- the game


def state_of_the_game(d_real, d_fake, classes, steps):
    """How the game between D and G stands, in a sentence.

    Args:
        d_real: D's mean probability for real images, step by step.
        d_fake: the same for generated ones.
        classes: number of samples of each class, as the judge reads them, (C,).
        steps: how many of the last steps count.

    Returns:
        "balanced", "D winning" or "collapsed", and the numbers that say so.

    Raises:
        ValueError: no steps, as a training of no epochs has them.
    """
    d_real, d_fake = d_real[-steps:], d_fake[-steps:]
    if not d_real or not d_fake:
        raise ValueError("d_real and d_fake: expected at least one step, found none")
    real, fake = (sum(values) / len(values) for values in (d_real, d_fake))
    least, rarest = min((count, digit) for digit, count in enumerate(classes))
    share = least / max(sum(classes), 1)
    numbers = f"D(x) = {real:.2f}, D(G(z)) = {fake:.2f}, rarest digit {rarest}: {share:.1%}"
    if share < 0.01:
        return f"collapsed: a digit is all but missing ({numbers})"
    if real - fake > 0.6:
        return f"D winning: it tells most images apart ({numbers})"
    return f"balanced: neither network has the other in hand ({numbers})"


# ---------------------------------------------------------------- what is refused


def _check_features(real, fake, least):
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or features.shape[1:] != real.shape[1:]:
            raise ValueError(f"{name}: expected features of one shape (N, F), "
                             f"found {tuple(features.shape)}")
        if len(features) < least:
            raise ValueError(f"{name}: expected at least {least} samples, found {len(features)}")
        if not features.isfinite().all():
            raise ValueError(f"{name}: expected finite features, found nan or infinity")
