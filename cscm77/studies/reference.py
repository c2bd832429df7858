"""What this package's loops are timed against, and the clock.

The reference: the training loops and the picture as the coursework's brief and its public solutions
write them. The floor: the matrix products and convolutions of one of our steps, without the rest.
"""

import math
import time
from contextlib import nullcontext
from functools import partial
from itertools import chain, pairwise, repeat
from statistics import median

import matplotlib.pyplot as plt
import torch
from matplotlib.gridspec import GridSpec
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import gan
from cscm77.studies.results_file import BATCH_SIZE, PIXELS
from cscm77.utils import default_device, device_of
from cscm77_helper import one_hot

WORKERS = 2  # processes that load images for the brief's loop
WARM_UP = 3  # steps that are not timed
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}  # of aten


class PILDigits(MNIST):
    """torchvision's MNIST of our `Digits`; each image goes through PIL and `ToTensor`."""

    def __init__(self, digits):
        super(MNIST, self).__init__("", transform=ToTensor())  # MNIST's own would look for files
        self.train, self.data, self.targets = True, digits.pixels[:, 0].cpu(), digits.labels.cpu()


def reference_loader(digits):
    """The brief's training loader of the same images as our `Digits`."""
    return DataLoader(PILDigits(digits), BATCH_SIZE, shuffle=True, drop_last=True,
                      num_workers=WORKERS)


def vae_epoch(model, batches, cond):
    """Train a VAE or CVAE on batches of (images (N, 1, 28, 28) in [0, 1], labels (N,))."""
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
        last = loss.item()  # at each step
    print(f"Train Epoch: 0 \tLoss: {last:.6f}")


def gan_epoch(D, G, batches):
    """Train a GAN on batches of (images (N, 1, 28, 28) in [0, 1], labels (N,))."""
    D_solver, G_solver = (torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999))
                          for network in (D, G))
    device = device_of(D)
    for step, (x, _) in enumerate(batches):
        x = x.to(device)
        D_solver.zero_grad()
        logits_real = D(2 * (x.view(-1, PIXELS) - 0.5))
        fake = G(gan.sample_noise(len(x), gan.NOISE_DIM, device=device)).detach()  # for nothing
        d_loss = gan.discriminator_loss(logits_real, D(fake))
        d_loss.backward()
        D_solver.step()

        G_solver.zero_grad()
        fake = G(gan.sample_noise(len(x), gan.NOISE_DIM, device=device))
        g_loss = gan.generator_loss(D(fake))
        g_loss.backward()  # reaches D's weights too, for nothing
        G_solver.step()
        if step % 250 == 0:  # the brief's default
            print(f"Iter: {step}, D: {d_loss.item():.4}, G:{g_loss.item():.4}")


def show_images_as_axes(images):
    """Draw images (N, ...) as the brief does: one pair of axes for each, in a new figure."""
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


class ProductRecorder(TorchDispatchMode):
    """Keeps the products made in a `with` block, backward ones too, each a `partial` of aten's."""

    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Make any call of torch as it is; keep it if it is a product."""
        if function.overloadpacket.__name__ in PRODUCTS:
            operands = tree_map_only(torch.Tensor, torch.Tensor.detach, args)  # strides stay
            self.products.append(partial(function, *operands, **(kwargs or {})))
        return function(*args, **(kwargs or {}))


def now():
    """Note a moment; on a GPU the moment when it has done all that it was told so far."""
    if default_device().type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def intervals(moments):
    """The seconds between each `now()` and the next."""
    if default_device().type == "cpu":
        return [end - start for start, end in pairwise(moments)]
    moments[-1].synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in pairwise(moments)]


class WatchedBatches:
    """So many batches of a loader, which is begun again where it ends."""

    def __init__(self, loader, steps, record=False):
        self.loader, self.dataset, self.steps = loader, loader.dataset, steps
        self.asked = []  # when each was, and one moment more
        self.record, self.recorder = record, ProductRecorder()

    def __len__(self):
        return self.steps

    def __iter__(self):
        batches = chain.from_iterable(repeat(self.loader))
        for step in range(self.steps):
            self.asked.append(now())
            batch = next(batches)
            # earlier, samples are drawn too, and a loop may look one batch ahead
            with self.recorder if self.record and step == 2 else nullcontext():
                yield batch
        self.asked.append(now())


def recorded(step):
    """A step as one CUDA graph, as our loops replay theirs; on a CPU the step as it is."""
    if default_device().type == "cpu":
        return step
    for _ in range(WARM_UP):
        step()  # libraries set themselves up
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def time_products(products, repeats):
    """The median seconds of a step's products alone, made so often; results are thrown away."""
    @torch.no_grad()
    def multiply():
        for product in products:
            product()

    again, moments = recorded(multiply), []
    for _ in range(WARM_UP + repeats):
        again()
        moments.append(now())
    return median(intervals(moments[WARM_UP - 1:]))
