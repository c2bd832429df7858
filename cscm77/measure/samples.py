"""Numbers that say how good a model's images are, made to stand beside what real images get.

Samples are compared with real images in the features of the judge (cscm77/measure/judge.py);
statistics are in float64. The Frechet and the kernel distance here are those of a classifier of
digits: they cannot be compared with an "FID" or "KID" in the features of Inception.
Axes: N samples, M real images, F features, Z latents, C classes.
"""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from cscm77.checks import check_square, check_whole
from cscm77.measure.latents import check_finite, measuring
from cscm77.utils import arithmetic, device_of, dtype_of, one_hot, seeded, unwrapped

NEIGHBOURS = 5  # k of precision, recall, density and coverage
SUBSETS, SUBSET_SIZE = 20, 1000  # of the kernel distance
CHUNK = 1000  # rows that are worked on at a time
CLASSES = 10


@contextmanager
def where_torchmetrics_is_installed():
    """A block that ends where torchmetrics is needed and missing, and says what to install."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name != "torchmetrics":
            raise
        print("torchmetrics is missing; the numbers of this cell need it: pip install torchmetrics")


def generate(network, latents, low=0.0):
    """Turn latents (N, Z) into images in [0, 1], (N, 1, 28, 28), in eval mode, without gradient.

    By a network (N, Z) -> (N, ...), square pictures from `low` to 1: 0 of a sigmoid, -1 of a tanh.
    """
    latents = latents.to(device_of(network), dtype_of(network))
    with measuring(network):
        images = torch.cat([network(part) for part in latents.split(CHUNK)])
    side = check_square("the network's images", images.shape[1:].numel())
    images = (images - low) / (1 - low)
    return images.clamp(0, 1).reshape(-1, 1, side, side)  # the clamp takes off rounding errors


class Quality(NamedTuple):
    """What is measured of N samples against M real images, as the functions below define it."""

    frechet: float
    kernel: float
    kernel_sd: float  # over the subsets
    score: float
    uniformity: float
    precision: float  # share of samples that lie in some real image's ball
    recall: float  # share of real images in some sample's ball
    density: float  # real balls that a sample lies in, / k; about 1 for real images, or above
    coverage: float  # share of real images whose ball holds a sample
    classes: list  # the number of samples of each, C

    def numbers(self):
        """What `QUALITY_COLUMNS` names, in its order."""
        return self[:-1]


QUALITY_COLUMNS = {
    "Frechet distance": ".2f", "kernel distance": ".1f", "its sd": ".1f", "score": ".2f",
    "off uniform": ".3f", "precision": ".3f", "recall": ".3f", "density": ".2f", "coverage": ".3f"}


def measure_samples(samples, real):
    """The `Quality` of samples beside real images that the generator never saw: two `Reading`s."""
    for reading in (samples, real):
        check_whole("images to compare", len(reading.labels), least=NEIGHBOURS + 1)
    classes = torch.bincount(samples.labels, minlength=CLASSES)
    return Quality(
        frechet_distance(real.features, samples.features),
        *kernel_distance(real.features, samples.features),
        classifier_score(samples.probabilities), distance_from_uniform(classes),
        *neighbourhoods(real.features, samples.features, real_radii=real.radii), classes.tolist())


def frechet_distance(real, fake):
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of features (M, F) and (N, F), M and N > 1.

    Heusel et al. (2017), equation 6. With the same number of samples throughout, since fewer give
    a larger value; two halves of one data set are not at 0, and what they give is the floor.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    at_hand = nn.Identity()  # in the place of a network: the features are there already
    at_hand.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=at_hand)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    distance = check_finite("Frechet distance", metric.compute().item())
    return max(distance, 0.0)  # rounding can lead below 0


def kernel_distance(real, fake):
    """Squared maximum mean discrepancy under the kernel (x.y / F + 1)^3, unbiased: mean, sd.

    Binkowski et al. (2018). Over random subsets of features (M, F) and (N, F), M and N > 1, of a
    fifth of fewer than 5,000 (of 100 at least); about 0, or below, where the two are alike.
    """
    from torchmetrics.image.kid import poly_mmd

    number = min(len(real), len(fake))
    size = min(SUBSET_SIZE, number, max(100, number // 5))  # few images: a quick look

    def some_of(features):
        return features[torch.randperm(len(features))[:size]].double()

    with seeded(torch.device("cpu")):
        distances = torch.stack([poly_mmd(some_of(real), some_of(fake)) for _ in range(SUBSETS)])
    mean = check_finite("kernel distance", distances.mean().item())
    return mean, distances.std(unbiased=False).item()


def classifier_score(probabilities):
    """Exp of the mean KL(p(y|x) || p(y)), from 1 to C: high for clear digits of all classes.

    Salimans et al. (2016), section 4, with the judge, (N, C), in the place of Inception.
    """
    marginal = probabilities.mean(dim=0, keepdim=True)
    marginal = marginal.clamp(min=torch.finfo(marginal.dtype).tiny)  # of a class that never comes
    kl = torch.special.xlogy(probabilities, probabilities / marginal).sum(dim=1)
    return check_finite("classifier score", kl.mean().exp().item())


def distance_from_uniform(counts):
    """Total variation between shares, of (C,) counts, and equal ones: from 0 to 1 - 1/C."""
    return 0.5 * (counts.double() / counts.sum() - 1 / len(counts)).abs().sum().item()


def neighbourhoods(real, fake, real_radii=None):
    """The precision, recall, density and coverage of a `Quality`.

    A ball reaches to the k-th neighbour of one's own kind: Kynkaanniemi et al. (2019), equation 2;
    Naeem et al. (2020), section 3. Of features (M, F) and (N, F), M and N > k.
    """
    real_radii, fake_radii = radii(real) if real_radii is None else real_radii, radii(fake)
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
    return precision, recall, density / NEIGHBOURS, coverage


def radii(features):
    """The distance of each row to its k-th nearest other row, (N,)."""
    return torch.cat([torch.cdist(part, features).kthvalue(NEIGHBOURS + 1, dim=1).values
                      for part in features.split(CHUNK)])


@torch.no_grad()
def nearest_images(samples, training):
    """How far, and which, is the nearest training image, (M, ...), to each sample: (N,) each."""
    samples, training = samples.to(training).flatten(1), training.flatten(1)
    with arithmetic("highest"):  # products are subtracted: an exact copy is to be at 0
        found = [torch.cdist(part, training).min(dim=1) for part in samples.split(CHUNK // 5)]
    return tuple(map(torch.cat, zip(*found, strict=True)))


def ask_for_digits(decoder, latent_size, each=1000, seed=0):
    """Images (C * each, 1, 28, 28) by a CVAE's decoder, digit by digit, and what was asked for.

    The latents (N, Z) come from the prior and the seed; others' random numbers stay as they were.
    """
    device, dtype = device_of(decoder), dtype_of(decoder)
    asked = torch.arange(CLASSES).repeat_interleave(check_whole("each", each))
    with seeded(device, seed):
        z = torch.randn(len(asked), latent_size, dtype=dtype, device=device)
    return generate(decoder, torch.cat((z, one_hot(asked, CLASSES, like=z)), dim=1)), asked


def conditional_accuracy(judge, model, each=1000):
    """The share of digits asked of a CVAE, each so often, that the judge recognises as such."""
    model = unwrapped(model)
    images, asked = ask_for_digits(model.decoder, model.latent_size, each)
    return (judge.read(images).labels == asked).double().mean().item()


def confusion_matrix(asked, recognised):
    """Counts (C, C) of digits, (N,) each: a row is asked for, a column is recognised."""
    return torch.bincount(CLASSES * asked + recognised, minlength=CLASSES**2).view(CLASSES, CLASSES)


def worst_pairs(matrix):
    """The three worst pairs of a `confusion_matrix` at most: [(asked, recognised, how often)]."""
    counts, places = matrix.clone().fill_diagonal_(0).flatten().topk(3)
    pairs = zip(places.tolist(), counts.tolist(), strict=True)
    return [(*divmod(place, len(matrix)), count) for place, count in pairs if count > 0]


def state_of_the_game(d_real, d_fake, classes, steps):
    """How the game between D and G stands, in a sentence with the numbers that say so.

    The last steps count, of D's mean probabilities for real and for generated images; classes are
    the numbers of samples of each, (C,). A training of no epochs has no steps, and is refused.
    """
    d_real, d_fake = d_real[-steps:], d_fake[-steps:]
    if not d_real:
        raise ValueError("d_real: expected at least one step, found none")
    real, fake = (sum(values) / len(values) for values in (d_real, d_fake))
    least, rarest = min((count, digit) for digit, count in enumerate(classes))
    share = least / sum(classes)
    numbers = f"D(x) = {real:.2f}, D(G(z)) = {fake:.2f}, rarest digit {rarest}: {share:.1%}"
    if share < 0.01:
        return f"collapsed: a digit is all but missing ({numbers})"
    if share < 0.5 / len(classes):
        return f"partial mode collapse: a digit comes less than half as often as due ({numbers})"
    if real - fake > 0.6:
        return f"D winning: it tells most images apart ({numbers})"
    return f"balanced: neither network has the other in hand ({numbers})"
