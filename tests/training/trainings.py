"""Small trainings in this process, which can be cut short or stopped at any step."""

import random
import signal
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from kills import SEED, digest_of, train_gan_to_the_end, train_vae_to_the_end
from torch import nn

import cscm77_helper as helper
from cscm77.training import replay

OTHER_SEED = 99  # of what resumes: all of its state is to come from the file
SMALL = (lambda: nn.Sequential(nn.Linear(784, 8), nn.LeakyReLU(), nn.Linear(8, 1)),
         lambda: nn.Sequential(nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 784),
                               nn.Tanh()))


def digest(train, path=None, seed=SEED, **options):
    torch.manual_seed(seed)
    random.seed(seed)
    return digest_of(train(path, **options))


def vae(path, **options):
    return train_vae_to_the_end(path, **options)  # 5 steps an epoch, 3 epochs


def small_gan(path, **options):
    return train_gan_to_the_end(path, SMALL, **options)  # 5 steps an epoch, 2 epochs


@cache
def plain(train, **options):
    """The digest of a training without a checkpoint and without a break: all are to end so."""
    return digest(train, **options)


both = pytest.mark.parametrize("train", [vae, small_gan])


class Cut(Exception):
    """What a test ends a training with."""


def cut():
    raise Cut


@contextmanager
def at_step(number, act=cut):
    """Let something happen in the middle of a step, counted over all epochs from 1."""
    steps, replayed = [0], replay.Replayed.__call__

    def counted(step, *inputs):
        if step.step.func is not helper.discriminator_step:  # of a GAN, the second half
            steps[0] += 1
            if steps[0] == number:
                act()
        return replayed(step, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay.Replayed, "__call__", counted)
        yield steps


def cut_training(train, path, step, **options):
    with at_step(step), pytest.raises(Cut):
        digest(train, path, **options)


def press():
    """Press Stop."""
    signal.raise_signal(signal.SIGINT)


@contextmanager
def handled_by(handler):
    """Let Stop have another handler for a while."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leaves(value):
    """What nested dictionaries, lists and tuples hold in the end, their keys too."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def said_by(capsys):
    """The lines that were printed since the last look, without empty ones."""
    return [line for line in capsys.readouterr().out.splitlines() if line]


def stopped(train, path, step, act=press, **options):
    """What is said when Stop is pressed in the middle of a step, and how many steps began."""
    with handled_by(signal.default_int_handler):  # "&" has it ignored
        with at_step(step, act) as steps, pytest.raises(KeyboardInterrupt) as stop:
            digest(train, path, **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return str(stop.value), steps[0]
