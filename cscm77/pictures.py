"""Pictures of digits and of training: every grid of digits is drawn as one image.

Axes: N images, of any shape (N, ...) with a square number of pixels each.
"""

import math

import matplotlib.pyplot as plt
import torch
from torchvision.utils import make_grid

INCHES_PER_DIGIT = 0.6
GAP = 2  # pixels between digits
THRESHOLD = 120  # nats per image: what the coursework asks a VAE to reach


def tile(images, columns=None):
    """Lay images out in a grid, row by row.

    Args:
        images: (N, ...) tensor on any device, square pictures of any range.
        columns: of the grid; as square a grid as possible when not given.

    Returns:
        One image, a float32 array (height, width); the gaps have the lowest value of the images.

    Raises:
        ValueError: no images, or pictures that are not square.
    """
    images = torch.as_tensor(images).detach().cpu().float()
    pixels = images[0].numel() if images.ndim > 1 and len(images) else 0
    side = math.isqrt(pixels)
    if pixels == 0 or side * side != pixels:
        raise ValueError(f"images: expected (N, ...) with N >= 1 and square pictures, found {tuple(images.shape)}")
    columns = columns or math.ceil(math.sqrt(len(images)))
    images = images.reshape(-1, 1, side, side)
    return make_grid(images, nrow=columns, padding=GAP, pad_value=images.min().item())[0].numpy()


def draw_digits(images, columns=None, title=None):
    """Draw images as a grid in a new figure, which stays the current one.

    Args:
        images: (N, ...) tensor on any device.
        columns: of the grid; as square a grid as possible when not given.
        title: above the grid, if any.

    Returns:
        The matplotlib figure.
    """
    grid = tile(images, columns)
    rows, cols = (length / (28 + GAP) for length in grid.shape)
    room = 0.3 if title else 0.0  # inches for the title
    height = rows * INCHES_PER_DIGIT + room
    fig = plt.figure(figsize=(cols * INCHES_PER_DIGIT, height))
    ax = fig.add_axes((0, 0, 1, 1 - room / height))
    ax.imshow(grid, cmap="gray", interpolation="nearest", aspect="auto")
    ax.axis("off")
    if title:
        ax.set_title(title, fontsize=9)
    return fig


def interpolate(start, end, steps):
    """Give points on the straight lines between pairs of latents, ends included.

    Args:
        start: (S, Z), where each line begins.
        end: (S, Z), where it ends.
        steps: points on each line, at least 2.

    Returns:
        (S * steps, Z), line by line.
    """
    if start.shape != end.shape or steps < 2:
        raise ValueError("expected start and end of one shape and at least 2 steps, "
                         f"found {tuple(start.shape)}, {tuple(end.shape)} and {steps} steps")
    w = torch.linspace(0, 1, steps, device=start.device).view(1, steps, 1)
    points = torch.lerp(start.unsqueeze(1), end.unsqueeze(1), w)  # (S, steps, Z)
    return points.flatten(0, 1)


def plot_vae_training(epochs, title):
    """Draw a VAE's loss by epoch, on training and validation images, and its two parts.

    Args:
        epochs: what `train_vae` returned, epoch by epoch.
        title: of the figure: model, data, number of images, seed.

    Returns:
        The matplotlib figure.
    """
    number = [e.epoch + 1 for e in epochs]
    fig, (left, right, far_right) = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    fig.suptitle(title, fontsize=10)
    left.plot(number, [e.loss for e in epochs], "o-", label="training")
    if all(e.val_loss is not None for e in epochs):
        left.plot(number, [e.val_loss for e in epochs], "s--", label="validation")
    left.axhline(THRESHOLD, color="gray", linestyle=":", label=f"asked for: below {THRESHOLD}")
    left.set(title="loss (negative ELBO)", ylabel="nats per image")
    left.legend(fontsize=8)
    right.plot(number, [e.reconstruction for e in epochs], "o-")
    right.set_title("reconstruction (training)")
    far_right.plot(number, [e.kl for e in epochs], "o-")
    far_right.set_title("KL (training)")
    for ax in (left, right, far_right):
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


def plot_gan_training(histories, title, window=100):
    """Draw the losses of D and G by step, averaged over the last `window` steps, a panel for each GAN.

    Args:
        histories: {name: what `run_a_gan` returned}.
        title: of the figure: data, number of images, seed.
        window: steps that one point averages.

    Returns:
        The matplotlib figure.
    """
    fig, axes = plt.subplots(1, len(histories), figsize=(3.4 * len(histories), 2.8), layout="constrained",
                             squeeze=False)
    fig.suptitle(title, fontsize=10)
    for ax, (name, history) in zip(axes[0], histories.items(), strict=True):
        for label, losses, line in (("D", history.d_loss, "-"), ("G", history.g_loss, "--")):
            smooth = running_mean(losses, min(window, len(losses)))
            ax.plot(range(len(losses) - len(smooth), len(losses)), smooth, line, label=label)
        ax.set(title=name, xlabel="step", ylabel="loss")
        ax.legend(fontsize=8)
    return fig


def running_mean(values, window):
    """Average each run of `window` consecutive values: n values give n - window + 1 means."""
    total = torch.cat((torch.zeros(1, dtype=torch.float64), torch.tensor(values, dtype=torch.float64).cumsum(0)))
    return ((total[window:] - total[:-window]) / window).tolist()


def show_and_close(fig):
    """Show a figure now, where there is something to show it on, and free it."""
    if plt.get_backend().lower() != "agg":
        plt.show()
    plt.close(fig)


def save_picture(fig, path):
    """Save a figure, making its folder; where that fails, say why instead of losing what was trained.

    Args:
        fig: a matplotlib figure.
        path: of the picture; its ending names the format.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path)
    except (OSError, ValueError) as reason:
        print(f"The picture was not saved as {path.name}: {reason}")
