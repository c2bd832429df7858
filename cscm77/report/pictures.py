"""Pictures of digits and of training: every grid of digits is drawn as one image.

Every draw_ and plot_ function returns a new figure, and takes tensors on any device, with or
without gradient, arrays and lists. A dollar sign in a title begins no formula.
Axes: N images, of any shape (N, ...) with a square number of pixels each.
"""

import io
import math
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.utils import make_grid

from cscm77.checks import check_whole
from cscm77.files import reason_of, write_whole
from cscm77.measure.latents import measuring
from cscm77.utils import device_of, dtype_of, in_notebook

INCHES_PER_DIGIT, SMALL = 0.6, 0.3  # of a row of digits, and of a square of many: whole pixels
GAP = 2  # pixels between digits
THRESHOLD = 120  # nats per image: what the coursework asks a VAE to reach
# Okabe and Ito's, for the colour-blind; lines tell them apart in print without colour, too
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
LINES = "-", "--", ":", "-.", "-", "--"
text_as_given = plt.rc_context({"text.parse_math": False})  # a decorator of what makes texts


def _numbers(values):
    """A tensor on the CPU without gradient; of a tensor, an array, or a list of such or numbers."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    if isinstance(values, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in values):
        return torch.stack([_numbers(value) for value in values])
    return torch.tensor(np.asarray(values))  # numpy keeps Python's floats in double precision


def tile(images, columns=None):
    """Images in a grid, row by row: a float32 array (height, width), the gaps as low as the lowest.

    They are (N, ...), N > 0, square pictures of any range; without columns the grid is square too.
    """
    images = _numbers(images).float()
    pixels = images[0].numel() if images.ndim > 1 and len(images) else 0
    side = math.isqrt(pixels)
    if pixels == 0 or side * side != pixels:
        raise ValueError("images: expected (N, ...) with N >= 1 and square pictures, "
                         f"found {tuple(images.shape)}")
    images, columns = images.reshape(-1, 1, side, side), columns or math.ceil(len(images) ** 0.5)
    return make_grid(images, nrow=columns, padding=GAP, pad_value=images.min().item())[0].numpy()


@text_as_given
def draw_digits(images, columns=None, title=None, labels=(), inches=None):
    """Draw images as a grid, as `tile` takes them, in a new figure, which stays the current one.

    Labels name the rows, to their left; `inches` is the size of a digit.
    """
    grid, inches = tile(images, columns), inches or (INCHES_PER_DIGIT if columns else SMALL)
    height, width = (inches * length / (28 + GAP) for length in grid.shape)
    left = 0.085 * max(map(len, labels), default=0)  # inches for the labels
    title = _wrapped(title or "", left + width, fontsize=9)
    room = 0.14 + 0.16 * len(title.splitlines()) if title else 0.0  # inches for the title
    fig = plt.figure(figsize=(left + width, height + room))
    ax = fig.add_axes((left / (left + width), 0, width / (left + width), height / (height + room)))
    ax.imshow(grid, cmap="gray", interpolation="nearest", aspect="auto")
    for row, label in enumerate(labels):
        ax.text(-4, (row + 0.5) * (28 + GAP), label, fontsize=9, ha="right", va="center")
    ax.axis("off")
    ax.set_title(title, fontsize=9)
    return fig


def _wrapped(title, width, fontsize):
    """A title in lines that fit a width in inches; a letter is about half as wide as it is high."""
    return textwrap.fill(title, max(20, int(width * 72 / (0.53 * fontsize))))


def interpolate(start, end, steps):
    """Points between pairs of latents, (S, Z) each, ends included: (S * steps, Z), line by line."""
    if start.shape != end.shape:
        raise ValueError("expected start and end of one shape, "
                         f"found {tuple(start.shape)} and {tuple(end.shape)}")
    check_whole("steps", steps, 2)
    w = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device).view(1, steps, 1)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), w).flatten(0, 1)


@text_as_given
def _panels(names, title, width, height=2.8):
    """A figure with a row of panels in the one style of this package."""
    fig, (axes,) = plt.subplots(1, len(names), figsize=(width, height), layout="constrained",
                                squeeze=False)
    fig.suptitle(_wrapped(title, width, fontsize=10), fontsize=10)
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name, fontsize=10)
        ax.set_prop_cycle(color=COLOURS, linestyle=LINES)
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


@text_as_given
def _legend(ax, columns, fontsize=8):
    """A legend below the name of the x axis, where it covers nothing."""
    ax.legend(fontsize=fontsize, ncols=columns, frameon=False, borderaxespad=4.5,
              loc="upper center", bbox_to_anchor=(0.5, 0))


def _curves(panels, title, xlabel, ylabel, first=0, window=1, fontsize=8):
    """Lines, {title of a panel: {label: values}}: at x the mean of the window that ends there."""
    fig, axes = _panels(panels, title, 3.4 * len(panels))
    for ax, lines in zip(axes, panels.values(), strict=True):
        for label, values in lines.items():
            values = _numbers(values).double()
            means = values.unfold(0, min(window, len(values)), 1).mean(dim=1)
            x = range(first, first + len(values))
            ax.plot(x[-len(means):], means.tolist(), label=label)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        _legend(ax, 3, fontsize)
    return fig


def plot_vae_training(epochs, title):
    """Draw a VAE's loss and its two parts by epoch, of what `train_vae` returned for each."""
    parts = {"loss (negative ELBO)": "loss", "reconstruction (training)": "reconstruction",
             "KL (training)": "kl"}
    fig, axes = _panels(parts, title, 10)
    lines = [(ax, part, "o", "training") for ax, part in zip(axes, parts.values(), strict=True)]
    if all(e.val_loss is not None for e in epochs):
        lines.append((axes[0], "val_loss", "s", "validation"))
    for ax, part, marker, label in lines:
        values = _numbers([getattr(e, part) for e in epochs]).tolist()
        ax.plot([e.epoch + 1 for e in epochs], values, marker=marker, label=label)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].axhline(THRESHOLD, color="gray", linestyle=":", label=f"asked for: below {THRESHOLD}")
    axes[0].set_ylabel("nats per image")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8,
               frameon=False)
    return fig


def plot_gan_training(histories, title, window=100):
    """Draw the losses of D and G by step, means of `window`: {name: what `run_a_gan` returned}."""
    panels = {name: {"D": h.d_loss, "G": h.g_loss} for name, h in histories.items()}
    return _curves(panels, title, "step", "loss", window=window)


def plot_probabilities(histories, title, window=100):
    """Draw D's mean probability for real and for generated images, as `plot_gan_training` does."""
    panels = {name: {"D(x)": h.d_real, "D(G(z))": h.d_fake} for name, h in histories.items()}
    fig = _curves(panels, title, "step", "probability of being real", window=window)
    for ax in fig.axes:
        ax.axhline(0.5, color="gray", linewidth=0.8)
        ax.set_ylim(0, 1)
    return fig


def plot_choices(curves, title):
    """Draw validation losses, {choice: {what was chosen: loss of each epoch}}: a panel a choice."""
    return _curves(curves, title, "epoch", "validation loss, nats per image", first=1, fontsize=7)


def plot_trials(distances, title):
    """Draw Frechet distances, {model: {choice: [by seed]}}: bars are means, dots the seeds."""
    fig, axes = _panels(distances, title, 10, 0.9 + 0.2 * max(map(len, distances.values())))
    for ax, trials in zip(axes, distances.values(), strict=True):
        values = [_numbers(seeds) for seeds in trials.values()]
        means = [seeds.mean().item() for seeds in values]
        bars = ax.barh(list(trials), means, color=COLOURS[0])
        ax.bar_label(bars, fmt="%.0f", fontsize=8, label_type="center", color="white")
        for row, seeds in enumerate(values):
            ax.plot(seeds, [row] * len(seeds), ".", color="black", alpha=len(seeds) > 1)
        ax.set(xscale="log", xlim=(min(means) / 4, None), xticks=[],
               xlabel="Frechet distance, on a logarithmic scale")
        ax.minorticks_off()
        ax.invert_yaxis()  # the first above
    return fig


def plot_kl_of_latents(kl, title):
    """Draw the KL of each latent, (Z,) in nats per image, as bars, the largest first."""
    heights, order = _numbers(kl).sort(descending=True)
    fig, (ax,) = _panels([""], title, 6, 2.3)
    ax.bar([str(latent) for latent in order.tolist()], heights.tolist(), color=COLOURS[0])
    ax.set(xlabel="latent", ylabel="KL, nats per image")
    return fig


def layers_of(network, inputs):
    """The stages of a network of layers, from so many numbers on: [(names, shape, parameters)]."""
    x = torch.zeros(1, inputs, device=device_of(network), dtype=dtype_of(network))
    stages = [("input", (inputs,), 0)]
    with measuring(network):
        for layer in network:
            x, name, weights = layer(x), type(layer).__name__, list(layer.parameters())
            shape, number = tuple(x.shape[1:]), sum(p.numel() for p in weights)
            if shape == stages[-1][1] and not any(p.ndim > 1 for p in weights):  # is no new stage
                names, _, before = stages.pop()
                name, number = f"{names}, {name}", before + number
            stages.append((name, shape, number))
    return stages


def plot_networks(parts, title):
    """Draw networks from their layers, {name: (network, inputs)}: a bar as long as log(outputs)."""
    stages = {name: layers_of(*part) for name, part in parts.items()}
    rows = max(map(len, stages.values()))
    fig, axes = _panels(parts, title, 10, 0.8 + 0.24 * rows)
    for ax, (name, layers) in zip(axes, stages.items(), strict=True):
        names, shapes, numbers = zip(*layers, strict=True)
        ax.title.set_text(f"{name}: {sum(numbers):,} parameters")
        ax.barh(range(len(layers)), np.log1p([*map(math.prod, shapes)]), color=COLOURS[5])
        for row, (shape, number) in enumerate(zip(shapes, numbers, strict=True)):
            parameters = f"   {number:,} parameters" * (number > 0)
            ax.text(0.1, row, " x ".join(map(str, shape)) + parameters, fontsize=7, va="center")
        ax.set(xticks=[], ylim=(rows - 0.4, -0.6))
        ax.set_yticks(range(len(layers)), names, fontsize=7)
        ax.spines["bottom"].set_visible(False)
    return fig


def plot_class_counts(counts, title):
    """Draw how many samples of each digit there are, {name: (C,)}, beside equal shares."""
    fig, (ax,) = _panels([""], title, 8, 2.6)
    width = 0.8 / len(counts)
    for place, (name, numbers) in enumerate(counts.items()):
        numbers = _numbers(numbers).double().numpy()
        digits = np.arange(len(numbers))
        ax.bar(digits - 0.4 + (place + 0.5) * width, 100 * numbers / max(1, numbers.sum()),
               width, label=name, color=COLOURS[place % len(COLOURS)])
    ax.axhline(100 / len(digits), color="black", linestyle=":", linewidth=1, label="equal shares")
    ax.set(xticks=digits, xlabel="digit, as the judge reads it", ylabel="% of the samples")
    _legend(ax, len(counts) + 1)
    return fig


def plot_confusion(matrix, title):
    """Draw a confusion matrix (C, C) with its numbers: rows asked for, columns recognised."""
    fig, (ax,) = _panels([""], title, 4.4, 3.7)
    matrix = _numbers(matrix)
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    ax.imshow(shares.numpy(), cmap="gray_r", vmin=0, vmax=1)
    for (asked, recognised), count in np.ndenumerate(matrix.numpy()):
        ax.text(recognised, asked, f"{count:,}" if count else "", ha="center", va="center",
                fontsize=8, color="white" if shares[asked, recognised] > 0.5 else "black")
    digits = range(len(matrix))
    ax.set(xticks=digits, yticks=digits, xlabel="digit recognised", ylabel="digit asked for")
    return fig


def plot_latent_map(points, labels, title):
    """Draw points (N, 2), coloured by their digit (N,), its number at the middle of its points."""
    points, labels = _numbers(points).double(), _numbers(labels)
    fig, (ax,) = _panels([""], title, 6, 3.4)
    ax.scatter(*points.T.numpy(), c=labels.numpy(), cmap="tab10", vmin=0, vmax=9, s=4, linewidths=0)
    for digit in labels.unique().tolist():
        x, y = points[labels == digit].median(dim=0).values.tolist()
        ax.text(x, y, str(digit), fontsize=14, weight="bold", ha="center", va="center",
                bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "alpha": 0.8, "lw": 0})
    ax.set(xticks=[], yticks=[], xlabel="first direction", ylabel="second direction")
    return fig


class GrowingRows:
    """Rows of digits in one figure; a notebook's page shows it in one place while it grows."""

    def __init__(self):
        self._rows, self._shown = [], None

    def add(self, images):
        """Add a row of images, (N, ...), as many as in the rows before."""
        if not in_notebook():
            return
        from IPython.display import display  # it is loaded there already

        self._rows.append(_numbers(images).flatten(1))
        fig = draw_digits(torch.cat(self._rows), columns=len(images), inches=SMALL)
        if self._shown is None:
            self._shown = display(fig, display_id=True)
        else:
            self._shown.update(fig)
        plt.close(fig)


def show_and_close(fig, shown=True):
    """Show a figure now, where there is something to show it on, and free it."""
    if shown and plt.get_backend().lower() != "agg":
        plt.show()
    plt.close(fig)


def figure_bytes(fig, ending, dpi=None):
    """What a file of a figure holds; its ending ("png", "pdf", ...) names the format."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format=ending, dpi=dpi)
    return buffer.getvalue()


def save_picture(fig, path):
    """Save a figure in the format of the path's ending, else as PNG; where that fails, say why."""
    path = Path(path) if Path(path).suffix else Path(f"{path}.png")
    _save("picture", path, lambda: figure_bytes(fig, path.suffix[1:]))


def save_animation(strip, path, columns=5):
    """Save a strip, (moments, samples, 784), as a moving GIF; where that fails, say why."""
    if strip is None or len(strip) == 0:
        raise ValueError("strip: expected (moments, samples, 784) of one epoch or more, found none")
    strip = _numbers(strip).float()
    low, high = strip.min(), strip.max()
    grids = [255 * tile((moment - low) / (high - low or 1), columns) for moment in strip]
    first, *others = (ImageOps.scale(Image.fromarray(grid.astype("uint8")), 2) for grid in grids)
    gif = io.BytesIO()
    first.save(gif, format="GIF", save_all=True, append_images=others, duration=200, loop=0)  # ms
    _save("animation", Path(path), gif.getvalue)


def _save(kind, path, encode):
    try:
        write_whole(path, encode())
    except (OSError, ValueError) as error:
        print(f"The {kind} was not saved as {path.name}: {reason_of(error)}")
