"""A small classifier of digits that judges what the models draw: its features, labels, doubts.

It is trained once for a data set, on the training split alone, from one seed and in float32, and
kept on disk. Every number that rests on it should be read beside its accuracy on the test images.
Axes: N images, F = 128 features, C = 10 classes.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from cscm77.checks import check_image_size, check_images
from cscm77.files import reason_of
from cscm77.measure.latents import measuring
from cscm77.measure.samples import radii
from cscm77.training.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from cscm77.utils import arithmetic, device_of, progress_bar, seeded

FEATURES = 128
EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 128, 3e-3
LEAST_STEPS = 150  # where there are so few images that the epochs have fewer
SHIFT = 2  # pixels: training images are moved by so much at most, in either direction
VERSION = 2  # count up when a judge trained now would be another one
CHUNK = 1000  # images that are judged at a time


@dataclass(frozen=True)
class Reading:
    """What the judge makes of N images."""

    features: torch.Tensor  # (N, F) float64, on the CPU
    probabilities: torch.Tensor  # (N, C) float64, on the CPU

    @property
    def labels(self):
        """The digit that each image is taken for, (N,)."""
        return self.probabilities.argmax(dim=1)

    @cached_property
    def radii(self):
        """The `radii` of the images' neighbourhoods, (N,), found once for all comparisons."""
        return radii(self.features)


class Judge(nn.Module):
    """A convolutional network that reads digits: (N, 1, 28, 28) in [0, 1] -> logits (N, C)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),  # 32, 14, 14
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),           # 64, 14, 14
            nn.MaxPool2d(2),                                                          # 64, 7, 7
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),           # 64, 7, 7
            nn.Flatten(), nn.Linear(64 * 7 * 7, FEATURES), nn.ReLU())                 # F
        self.head = nn.Linear(FEATURES, 10)                                           # C
        self.to(torch.float32, memory_format=torch.channels_last)
        self.accuracy, self.made_from = None, None  # on the test images; what it was trained on

    def forward(self, x):
        """The logits of images."""
        return self.head(self.body(x))

    def __str__(self):
        return (f"judge: a CNN trained on {self.made_from}, "
                f"{100 * self.accuracy:.2f} % right on the test images")

    def read(self, images):
        """The `Reading` of images (N, ...) of 784 pixels in [0, 1] each; others: a ValueError."""
        check_image_size(images, 784)
        check_images(images)
        with measuring(self), arithmetic("highest"):
            parts = images.reshape(-1, 1, 28, 28).split(CHUNK)
            features = torch.cat([self.body(part.to(device_of(self)).float()) for part in parts])
            probabilities = self.head(features).double().softmax(dim=1)
        return Reading(features.double().cpu(), probabilities.cpu())


def judge_of(loaders, folder):
    """The judge of a data set, in eval mode and frozen: the one in a folder, or a new one, kept."""
    train, test = loaders.train.dataset, loaders.test.dataset
    path = Path(folder).expanduser() / "judge" / f"{len(train)} of {train.name}.pt"
    about = {"version": VERSION, "data": train.name, "images": len(train), "test images": len(test)}
    judge = Judge().to(train.pixels.device)
    judge.made_from = f"{len(train):,} images of {train.name}"
    kept = None
    with suppress(CheckpointError):  # a judge can always be trained again
        kept = read_checkpoint(path)
    if kept is None or kept.get("about") != about:
        print(f"Training the judge on {judge.made_from}, once.")
        train_judge(judge, train)
        accuracy = (judge.read(test.images).labels == test.labels.cpu()).double().mean().item()
        kept = {"about": about, "weights": judge.state_dict(), "accuracy": accuracy}
        try:
            write_checkpoint(path, kept)
        except (OSError, RuntimeError) as error:
            print(f"The judge cannot be kept as {path.name} ({reason_of(error)}), "
                  "and is trained again at the next start.")
    judge.load_state_dict(kept["weights"])
    judge.accuracy = kept["accuracy"]
    return judge.requires_grad_(False).eval()


def train_judge(judge, digits):
    """Draw a `Judge` anew from seed 0 and train it on `Digits`; others' random numbers stay."""
    device = digits.pixels.device
    own_precision = torch.autocast(device.type, enabled=False)
    with seeded(device), arithmetic("highest"), own_precision, torch.enable_grad():
        for layer in judge.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        judge.train()
        steps = max(len(digits) // BATCH_SIZE, 1)
        epochs = max(EPOCHS, math.ceil(LEAST_STEPS / steps))
        optimizer = torch.optim.Adam(judge.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE,
                                                       total_steps=epochs * steps + 1)
        with progress_bar(epochs * steps, "judge") as bar:
            for _ in range(epochs):
                for batch in torch.randperm(len(digits))[:steps * BATCH_SIZE].chunk(steps):
                    x, labels = digits[batch.to(device)]
                    loss = F.cross_entropy(judge(_shifted(x.float())), labels)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()


def _shifted(x):
    """Move a batch by a random number of pixels in each direction."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
    return F.pad(x, (SHIFT,) * 4)[:, :, SHIFT - down:, SHIFT - right:][:, :, :28, :28]
