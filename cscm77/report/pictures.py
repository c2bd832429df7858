"""Pictures of digits and of training: every grid of digits is drawn as one image.

Axes: N images, of any shape (N, ...) with a square number of pixels each.
"""

import math
import textwrap

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torchvision.utils import make_grid

INCHES_PER_DIGIT = 0.6
FRAME = 200  # milliseconds that a moment of an animation is seen
GAP = 2  # pixels between digits
THRESHOLD = 120  # nats per image: what the coursework asks a VAE to reach
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, for the colour-blind
LINES = ("-", "--", ":", "-.", "-", "--")  # so that print without colour tells them apart too


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
    height, width = (INCHES_PER_DIGIT * length / (28 + GAP) for length in grid.shape)
    title = _wrapped(title, width, fontsize=9) if title else ""
    room = 0.14 + 0.16 * len(title.splitlines()) if title else 0.0  # inches for the title
    height += room
    fig = plt.figure(figsize=(width, height))
    ax = fig.add_axes((0, 0, 1, 1 - room / height))
    ax.imshow(grid, cmap="gray", interpolation="nearest", aspect="auto")
    ax.axis("off")
    if title:
        ax.set_title(title, fontsize=9)
    return fig


def _wrapped(title, width, fontsize):
    """Break a title into lines that fit a width in inches; a letter is about half as wide as it is high."""
    return textwrap.fill(title, max(20, int(width * 72 / (0.53 * fontsize))))


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


# ---------------------------------------------------------------- curves and charts


def _panels(number, title, width, height=2.8):
    """Make a figure with a row of panels in the one style of this package."""
    fig, axes = plt.subplots(1, number, figsize=(width, height), layout="constrained", squeeze=False)
    fig.suptitle(_wrapped(title, width, fontsize=10), fontsize=10)
    for ax in axes[0]:
        ax.set_prop_cycle(color=COLOURS, linestyle=LINES)
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes[0]


def plot_vae_training(epochs, title):
    """Draw a VAE's loss by epoch, on training and validation images, and its two parts.

    Args:
        epochs: what `train_vae` returned, epoch by epoch.
        title: of the figure: model, data, number of images, seed.

    Returns:
        The matplotlib figure.
    """
    number = [e.epoch + 1 for e in epochs]
    fig, axes = _panels(3, title, 10)
    left, right, far_right = axes
    left.plot(number, [e.loss for e in epochs], marker="o", label="training")
    if all(e.val_loss is not None for e in epochs):
        left.plot(number, [e.val_loss for e in epochs], marker="s", label="validation")
    left.axhline(THRESHOLD, color="gray", linestyle=":", label=f"asked for: below {THRESHOLD}")
    left.set(title="loss (negative ELBO)", ylabel="nats per image")
    left.legend(fontsize=8)
    right.plot(number, [e.reconstruction for e in epochs], marker="o")
    right.set_title("reconstruction (training)")
    far_right.plot(number, [e.kl for e in epochs], marker="o")
    far_right.set_title("KL (training)")
    for ax in axes:
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
    return _by_step({name: {"D": history.d_loss, "G": history.g_loss} for name, history in histories.items()},
                    "loss", title, window)


def plot_probabilities(histories, title, window=100):
    """Draw D's mean probability of being real, for real and for generated images, a panel for each GAN.

    Args:
        histories: {name: what `run_a_gan` returned}.
        title: of the figure: data, number of images, seed.
        window: steps that one point averages.

    Returns:
        The matplotlib figure.
    """
    fig = _by_step({name: {"D(x)": history.d_real, "D(G(z))": history.d_fake} for name, history in histories.items()},
                   "probability of being real", title, window)
    for ax in fig.axes:
        ax.axhline(0.5, color="gray", linewidth=0.8)
        ax.set_ylim(0, 1)
    return fig


def _by_step(panels, unit, title, window):
    """Draw lines by step: {title of a panel: {name of a line: value of each step}}."""
    fig, axes = _panels(len(panels), title, 3.4 * len(panels))
    for ax, (name, lines) in zip(axes, panels.items(), strict=True):
        for label, values in lines.items():
            smooth = running_mean(values, min(window, len(values)))
            ax.plot(range(len(values) - len(smooth), len(values)), smooth, label=label)
        ax.set(title=name, xlabel="step", ylabel=unit)
        ax.legend(fontsize=8)
    return fig


def plot_choices(curves, title):
    """Draw the validation loss by epoch of trainings that differ in one choice, a panel for each choice.

    Args:
        curves: {choice: {what was chosen: loss of each epoch}}.
        title: of the figure: data, number of images, seed.

    Returns:
        The matplotlib figure.
    """
    fig, axes = _panels(len(curves), title, 3.4 * len(curves))
    for ax, (choice, lines) in zip(axes, curves.items(), strict=True):
        for label, losses in lines.items():
            ax.plot(range(1, len(losses) + 1), losses, label=label)
        ax.set(title=choice, xlabel="epoch", ylabel="validation loss, nats per image")
        ax.legend(fontsize=7)
    return fig


def plot_kl_of_latents(kl, title):
    """Draw the KL of each latent as bars, the largest first.

    Args:
        kl: (Z,), nats per image.
        title: of the figure.

    Returns:
        The matplotlib figure.
    """
    order = kl.argsort(descending=True)
    fig, (ax,) = _panels(1, title, 6, 2.3)
    ax.bar([str(i) for i in order.tolist()], kl[order].tolist(), color=COLOURS[0])
    ax.set(xlabel="latent", ylabel="KL, nats per image")
    return fig


def plot_class_counts(counts, title):
    """Draw how many samples of each digit there are, beside equal shares.

    Args:
        counts: {name: number of samples of each class, (C,)}.
        title: of the figure.

    Returns:
        The matplotlib figure.
    """
    fig, (ax,) = _panels(1, title, 8, 2.6)
    width = 0.8 / len(counts)
    for place, (name, numbers) in enumerate(counts.items()):
        left = [digit - 0.4 + (place + 0.5) * width for digit in range(len(numbers))]
        ax.bar(left, [100 * n / sum(numbers) for n in numbers], width, label=name, color=COLOURS[place % len(COLOURS)])
    ax.axhline(100 / len(numbers), color="black", linestyle=":", linewidth=1, label="equal shares")
    ax.set(xticks=range(len(numbers)), xlabel="digit, as the judge reads it", ylabel="% of the samples")
    ax.legend(fontsize=8, ncols=len(counts) + 1)
    return fig


def plot_confusion(matrix, title):
    """Draw a confusion matrix, with its numbers.

    Args:
        matrix: (C, C), a row for each digit asked for, a column for each digit recognised.
        title: of the figure.

    Returns:
        The matplotlib figure.
    """
    fig, (ax,) = _panels(1, title, 6, 5)
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    ax.imshow(shares.numpy(), cmap="gray_r", vmin=0, vmax=1)
    for asked, row in enumerate(matrix.tolist()):
        for recognised, count in enumerate(row):
            dark = shares[asked, recognised] > 0.5
            ax.text(recognised, asked, f"{count:,}" if count else "", ha="center", va="center", fontsize=8,
                    color="white" if dark else "black")
    digits = range(len(matrix))
    ax.set(xticks=digits, yticks=digits, xlabel="digit recognised", ylabel="digit asked for")
    return fig


def plot_latent_map(points, labels, title):
    """Draw images as points of a plane, coloured by digit, each digit's number at the middle of its points.

    Args:
        points: (N, 2).
        labels: (N,).
        title: of the figure.

    Returns:
        The matplotlib figure.
    """
    fig, (ax,) = _panels(1, title, 6, 5)
    ax.scatter(*points.cpu().T, c=labels.cpu(), cmap="tab10", vmin=0, vmax=9, s=4, linewidths=0)
    for digit in labels.unique().tolist():
        x, y = points[labels == digit].median(dim=0).values.tolist()
        ax.text(x, y, str(digit), fontsize=14, weight="bold", ha="center", va="center",
                bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0})
    ax.set(xticks=[], yticks=[])
    return fig


def draw_strip(strip, title, columns=12):
    """Draw what one noise became during the training: a row for each noise, time from left to right.

    Args:
        strip: (moments, samples, 784) of a `GANHistory`.
        title: of the figure.
        columns: how many moments to show at most, evenly spaced, the first and the last among them.

    Returns:
        The matplotlib figure.
    """
    moments = torch.linspace(0, len(strip) - 1, min(columns, len(strip))).round().long()
    return draw_digits(strip[moments].transpose(0, 1).flatten(0, 1), columns=len(moments), title=title)


def running_mean(values, window):
    """Average each run of `window` consecutive values: n values give n - window + 1 means."""
    total = torch.cat((torch.zeros(1, dtype=torch.float64), torch.tensor(values, dtype=torch.float64).cumsum(0)))
    return ((total[window:] - total[:-window]) / window).tolist()


def save_animation(strip, path, columns=5):
    """Save what fixed inputs became during a training as a moving GIF; where that fails, say why.

    Args:
        strip: (moments, samples, 784), in [0, 1] or [-1, 1].
        path: of the picture.
        columns: of its grid.
    """
    low = strip.min().item()
    frames = [tile((moment - low) / (strip.max().item() - low), columns) for moment in strip]
    first, *others = (Image.fromarray((255 * frame).astype("uint8")).resize((2 * frame.shape[1], 2 * frame.shape[0]))
                      for frame in frames)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(path, save_all=True, append_images=others, duration=FRAME, loop=0)
    except OSError as reason:
        print(f"The animation was not saved as {path.name}: {reason}")


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
