"""Generative adversarial networks, fully connected and convolutional.

Goodfellow et al. (2014); Radford et al. (2016).
Axes: N images in a batch, 784 pixels in [-1, 1], Z = 96 noise dimensions.
Discriminators end in logits (no sigmoid): (N, 1).
"""

import torch
from torch import nn
from torch.nn import functional as F

from cscm77.checks import CheckedSequential, check_scores, check_whole

NOISE_DIM = 96
IMAGE_SIZE = 28 * 28
LEAK = 0.01  # slope of a LeakyReLU below zero


def hello_gan():
    """Print a greeting: the notebook's sign that this file was found."""
    print("Hello from gan.py!")


def sample_noise(batch_size, noise_dim, dtype=torch.float, device="cpu"):
    """Draw uniform noise in [-1, 1), (N, Z); batch_size is N, noise_dim Z, at least 1 each."""
    batch_size = check_whole("batch_size", batch_size)
    noise_dim = check_whole("noise_dim", noise_dim)
    return 2 * torch.rand(batch_size, noise_dim, dtype=dtype, device=device) - 1


# ---------------------------------------------------------------- networks


def discriminator():
    """Score images with fully connected layers: (N, 784) -> logits (N, 1); 267,009 parameters.

    The leak is 0.01, as in the coursework's list of layers; a sentence below that says 0.001.
    """
    return CheckedSequential(
        nn.Linear(IMAGE_SIZE, 256),  # 256
        nn.LeakyReLU(LEAK),
        nn.Linear(256, 256),         # 256
        nn.LeakyReLU(LEAK),
        nn.Linear(256, 1),           # 1
        expects=("images", IMAGE_SIZE),
    )


def generator(noise_dim=NOISE_DIM):
    """Draw images with fully connected layers: noise (N, Z) -> (N, 784) in [-1, 1]."""
    noise_dim = check_whole("noise_dim", noise_dim)
    return CheckedSequential(
        nn.Linear(noise_dim, 1024),   # 1024
        nn.ReLU(),
        nn.Linear(1024, 1024),        # 1024
        nn.ReLU(),
        nn.Linear(1024, IMAGE_SIZE),  # 784
        nn.Tanh(),
        expects=("noise", noise_dim),
    )


def build_dc_classifier():
    """Score images with convolutions: (N, 784) -> logits (N, 1); 1,102,721 parameters."""
    return CheckedSequential(
        nn.Unflatten(1, (1, 28, 28)),       # 1, 28, 28
        nn.Conv2d(1, 32, kernel_size=5),    # 32, 24, 24
        nn.LeakyReLU(LEAK),
        nn.MaxPool2d(2, stride=2),          # 32, 12, 12
        nn.Conv2d(32, 64, kernel_size=5),   # 64, 8, 8
        nn.LeakyReLU(LEAK),
        nn.MaxPool2d(2, stride=2),          # 64, 4, 4
        nn.Flatten(),                       # 1024
        nn.Linear(4 * 4 * 64, 4 * 4 * 64),  # 1024
        nn.LeakyReLU(LEAK),
        nn.Linear(4 * 4 * 64, 1),           # 1
        expects=("images", IMAGE_SIZE),
    )


def build_dc_generator(noise_dim=NOISE_DIM):
    """Draw images with transposed convolutions: noise (N, Z) -> (N, 784) in [-1, 1].

    The network of InfoGAN (Chen et al., 2016, appendix C.1). It ends in a Tanh, since the images
    that D is shown lie in [-1, 1].
    """
    noise_dim = check_whole("noise_dim", noise_dim)
    return CheckedSequential(
        nn.Linear(noise_dim, 1024),     # 1024
        nn.ReLU(),
        nn.BatchNorm1d(1024),
        nn.Linear(1024, 7 * 7 * 128),   # 6272
        nn.ReLU(),
        nn.BatchNorm1d(7 * 7 * 128),
        nn.Unflatten(1, (128, 7, 7)),   # 128, 7, 7
        nn.ConvTranspose2d(128, 64, kernel_size=4, stride=2, padding=1),  # 64, 14, 14
        nn.ReLU(),
        nn.BatchNorm2d(64),
        nn.ConvTranspose2d(64, 1, kernel_size=4, stride=2, padding=1),    # 1, 28, 28
        nn.Tanh(),
        nn.Flatten(),                   # 784
        expects=("noise", noise_dim),
    )


# ---------------------------------------------------------------- losses


def discriminator_loss(logits_real, logits_fake):
    """Cross entropy of D, to be minimised: Goodfellow et al. (2014), equation 1, sign turned.

    A scalar: the mean over real images plus the mean over generated ones, from logits of (N, 1) or
    (N,).
    """
    check_scores(logits_real=logits_real, logits_fake=logits_fake)
    real = F.binary_cross_entropy_with_logits(logits_real, torch.ones_like(logits_real))
    fake = F.binary_cross_entropy_with_logits(logits_fake, torch.zeros_like(logits_fake))
    return real + fake


def generator_loss(logits_fake):
    """Cross entropy of G in its non-saturating form, -E[log D(G(z))], a mean over the batch.

    Goodfellow et al. (2014), section 3; `logits_fake` is D on generated images, (N, 1) or (N,).
    """
    check_scores(logits_fake=logits_fake)
    return F.binary_cross_entropy_with_logits(logits_fake, torch.ones_like(logits_fake))


def ls_discriminator_loss(scores_real, scores_fake):
    """Least-squares loss of D, real target 1 and fake target 0: Mao et al. (2017), equation 2.

    A scalar: half the mean square over real images plus half over generated ones, (N, 1) or (N,).
    """
    check_scores(scores_real=scores_real, scores_fake=scores_fake)
    real = F.mse_loss(scores_real, torch.ones_like(scores_real))
    fake = F.mse_loss(scores_fake, torch.zeros_like(scores_fake))
    return 0.5 * real + 0.5 * fake


def ls_generator_loss(scores_fake):
    """Least-squares loss of G, target 1: half a mean square; Mao et al. (2017), equation 2."""
    check_scores(scores_fake=scores_fake)
    return 0.5 * F.mse_loss(scores_fake, torch.ones_like(scores_fake))


def get_optimizer(model):
    """The Adam of Radford et al. (2016) at the coursework's rate: 1e-3, betas (0.5, 0.999)."""
    parameters = list(model.parameters())
    # one kernel updates all weights, where the device has it: the same formula, less time
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999), fused=fused)
