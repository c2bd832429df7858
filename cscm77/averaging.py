"""An exponential average of a generator's weights: the same network, drawn from where its training has been of late."""

import torch
from torch.optim.swa_utils import AveragedModel

DECAY = 0.999  # a step
AVERAGE_EVERY = 8  # steps: reading all weights at each step would cost more than it brings


def averaged(generator):
    """Make a copy of a generator that follows the average of its weights and of its batch-normalisation statistics.

    Call `update_parameters(generator)` on it every AVERAGE_EVERY steps. Polyak averages for GANs: Yazici et al. (2019).

    Args:
        generator: the network to be trained, on any device.

    Returns:
        A `torch.optim.swa_utils.AveragedModel`; its `module` is the averaged generator.
    """
    average = AveragedModel(generator, multi_avg_fn=_move_towards, use_buffers=True)
    return average.requires_grad_(False).eval()


@torch.no_grad()
def _move_towards(averages, values, updates):
    """Move averages towards values, in place."""
    weight = 1 - decay_after(updates)  # a tensor: a plain number would have to be fetched from the device
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, weight)
        else:
            average.copy_(value)  # a batch normalisation's count of batches


def decay_after(updates):
    """Give the share of the average that stays at an update, AVERAGE_EVERY steps after the last one.

    It begins at 2/11 and grows with the updates until it is DECAY a step: the first weights know nothing, and an
    average that remembered them for thousands of steps would be behind.

    Args:
        updates: how many there were before this one, a scalar tensor.
    """
    return ((1 + updates) / (10 + updates)).clamp(max=DECAY ** AVERAGE_EVERY)
