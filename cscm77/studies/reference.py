"""The training loops and the picture as the coursework's brief and its public solutions write them.

`python -m cscm77.studies.benchmark` times the package's own against them. Axes: N images, D = 784 pixels.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.gridspec import GridSpec
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import gan
from cscm77.utils import device_of
from cscm77_helper import one_hot

BATCH_SIZE, PIXELS = 128, 784
WORKERS = 2  # processes that load images for the brief's loop
SHOW_EVERY = 250  # steps, the brief's default


class PILDigits(MNIST):
    """torchvision's MNIST of bytes that are at hand already; every image goes through PIL and `ToTensor`.

    Args:
        images: (N, 28, 28) uint8.
        labels: (N,).
    """

    def __init__(self, images, labels):
        super(MNIST, self).__init__("", transform=ToTensor())  # MNIST's own __init__ would look for files
        self.train, self.data, self.targets = True, images, labels


def reference_loader(images, labels):
    """Give the brief's training loader of images (N, 28, 28) uint8 and labels (N,)."""
    return DataLoader(PILDigits(images, labels), BATCH_SIZE, shuffle=True, drop_last=True, num_workers=WORKERS)


def train_as_in_the_brief(model, networks, batches):
    """Train networks by the loop that the brief and its public solutions write.

    Args:
        model: "vae", "cvae", "fc-gan" or "dc-gan".
        networks: of `build`.
        batches: of (images (N, 1, 28, 28) in [0, 1], labels (N,)).
    """
    if model in ("vae", "cvae"):
        _brief_vae_epoch(*networks, batches, cond=model == "cvae")
    else:
        _brief_gan_epoch(*networks, batches)


def _brief_vae_epoch(model, batches, cond):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    device = device_of(model)
    for x, labels in batches:
        x, labels = x.to(device), labels.to(device)
        x_hat, mu, logvar = model(x, one_hot(labels, 10)) if cond else model(x)
        cross_entropy = F.binary_cross_entropy(x_hat, x, reduction="sum")
        divergence = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = (cross_entropy + divergence) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
    print(f"Train Epoch: 0 \tLoss: {last:.6f}")


def _brief_gan_epoch(D, G, batches):
    D_solver, G_solver = (torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.999)) for net in (D, G))
    device = device_of(D)
    for step, (x, _) in enumerate(batches):
        x = x.to(device)
        D_solver.zero_grad()
        logits_real = D(2 * (x.view(-1, PIXELS) - 0.5))
        fake = G(gan.sample_noise(len(x), gan.NOISE_DIM, device=device)).detach()  # G's graph is thrown away
        d_loss = gan.discriminator_loss(logits_real, D(fake))
        d_loss.backward()
        D_solver.step()

        G_solver.zero_grad()
        fake = G(gan.sample_noise(len(x), gan.NOISE_DIM, device=device))
        g_loss = gan.generator_loss(D(fake))
        g_loss.backward()  # reaches D's weights too, for nothing
        G_solver.step()
        if step % SHOW_EVERY == 0:
            print(f"Iter: {step}, D: {d_loss.item():.4}, G:{g_loss.item():.4}")


def show_images_as_axes(images):
    """Draw images as the brief does: one pair of axes for each, in a new figure.

    Args:
        images: (N, ...) tensor of square pictures.
    """
    images = images.reshape(len(images), -1).numpy()
    columns, side = (math.ceil(math.sqrt(length)) for length in images.shape)
    plt.figure(figsize=(columns, columns))
    grid = GridSpec(columns, columns)
    grid.update(wspace=0.05, hspace=0.05)
    for place, image in zip(grid, images, strict=False):
        ax = plt.subplot(place)
        plt.axis("off")
        ax.set_xticklabels([])
        ax.set_yticklabels([])
        ax.set_aspect("equal")
        plt.imshow(image.reshape(side, side))
