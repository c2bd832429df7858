"""Trainings that run to the end, here or in child processes killed with SIGKILL and resumed.

A server process imports torch once and forks a child for each training, so that a child costs
milliseconds. A child saves after every step, takes every warning for an error, and leaves a digest
of its final state if it gets that far.
"""

import hashlib
import io
import itertools
import multiprocessing
import operator
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from functools import partial, reduce
from pathlib import Path

import torch
from tiny import blobs
from torch.utils.data import DataLoader, TensorDataset

import cscm77_helper as helper
import gan
from cscm77 import files
from cscm77.training import begin, checkpoints
from cscm77.training import run as resume
from vae import CVAE, VAE

SEED = 7  # of every training; one that resumes has another, and all of its state from the file
LATENTS, HIDDEN = 4, 24  # of a small VAE

# ---------------------------------------------------------------- trainings


def digits(n):
    images, labels = blobs(n, seed=3)
    return images.float().div(255).unsqueeze(1), labels


def batches(n=80, batch_size=16, change=lambda x, y: (x, y), **options):
    """A stock loader, of images and labels that may be changed."""
    return DataLoader(TensorDataset(*change(*digits(n))), batch_size, **options)


# in an order of torch's global random numbers, or of a generator's own
shuffled = partial(batches, shuffle=True)


def own_generator(n=80, batch_size=16):
    """One with a generator of its own, which begins as the child's seed says."""
    return shuffled(n, batch_size, generator=torch.Generator().manual_seed(torch.initial_seed()))


class PythonShuffled(list):
    """Batches in an order that Python's random numbers decide."""

    def __iter__(self):
        return iter(random.sample(list(super().__iter__()), len(self)))


def python_shuffled():
    return PythonShuffled(batches())


def everything(*state):
    """All that must be equal in the end: a training's own state, and the random numbers'."""
    return state, torch.get_rng_state(), random.getstate()


def train_vae_to_the_end(checkpoint, loader=shuffled, cond=False, epochs=3, validate=False,
                         between=lambda: None, model=None, **options):
    """All of the final state of a small VAE or CVAE; `between` is called after each epoch."""
    model = model or (CVAE if cond else VAE)(784, latent_size=LATENTS, hidden_dim=HIDDEN)
    train_loader, history = loader(), []
    val_loader = list(batches(40)) if validate else None  # this draws a random number
    for epoch in range(epochs):
        history.append(helper.train_vae(epoch, model, train_loader, cond, checkpoint=checkpoint,
                                        val_loader=val_loader, **options))
        between()
    run = begin.runs[model]
    generator = getattr(train_loader, "generator", None)
    return everything(model.state_dict(), run.parts["Adam"].state_dict(), history,
                      helper.averaged_vae(model).state_dict(),
                      None if generator is None else generator.get_state())


def train_gan(D, G, **options):
    """The history of a GAN, with the brief's solvers and losses where no others are given."""
    return helper.run_a_gan(D, G, **{
        "D_solver": gan.get_optimizer(D), "G_solver": gan.get_optimizer(G),
        "discriminator_loss": gan.discriminator_loss, "generator_loss": gan.generator_loss,
        "save_filename": "no.jpg", "batch_size": 16, "num_epochs": 1, **options})


def train_gan_to_the_end(checkpoint, networks, loader=shuffled, batch_size=16, epochs=2, **options):
    """All of the final state of a GAN."""
    D, G = (build() for build in networks)
    solvers = gan.get_optimizer(D), gan.get_optimizer(G)
    history = train_gan(D, G, D_solver=solvers[0], G_solver=solvers[1], show_every=3,
                        batch_size=batch_size, num_epochs=epochs, loader_train=loader(),
                        checkpoint=checkpoint, **options)
    return everything(D.state_dict(), G.state_dict(), *(solver.state_dict() for solver in solvers),
                      history.d_loss, history.g_loss, history.d_real, history.d_fake,
                      history.strip, history.G_average.state_dict(), history.G_best)


FC = gan.discriminator, gan.generator
DC = gan.build_dc_classifier, gan.build_dc_generator
TRAININGS = {
    "VAE": lambda path: train_vae_to_the_end(path, validate=True),  # 15 steps
    "CVAE": lambda path: train_vae_to_the_end(path, own_generator, cond=True),  # 15 steps
    "FC": lambda path: train_gan_to_the_end(path, FC, python_shuffled),  # 10 steps
    "DC": lambda path: train_gan_to_the_end(path, DC, lambda: shuffled(8, 4), 4),  # 4 steps
}


def draw_nothing(patch=setattr):
    """Let a GAN draw no pictures: they take longer than its steps."""
    for name in ("save_picture", "draw_digits"):
        patch(helper, name, lambda *_, **__: None)


def digest_of(value):
    """SHA-256 of nested containers, numbers and tensors: one changed bit is another digest."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()


def _feed(sha, value):
    if isinstance(value, torch.Tensor):
        sha.update(f"{value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.detach().contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        _feed(sha, list(value.items()))
    elif isinstance(value, (list, tuple)):
        sha.update(f"{len(value)} of".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(f"{value!r};".encode())


# ---------------------------------------------------------------- states with one part lost

FORGET = {  # of a VAE's checkpoint: the place of a part, and what is read there in its stead
    "torch's random numbers": (("random", "cpu"),
                               lambda _: torch.Generator().manual_seed(1).get_state()),
    "Python's random numbers": (("random", "python"), lambda _: list(random.Random(1).getstate())),
    "the order of the epoch": (("random at the start of the epoch",), lambda s: s["random"]),
    "the moments": (("parts", "Adam", "state"), lambda _: {}),
    "the losses so far": (("journal", "log", "losses"),
                          lambda s: s["journal"]["log"]["losses"] + 1e-9),
    "the epochs so far": (("journal", "epochs"),
                          lambda s: [[*e[:1], 0.0, *e[2:]] for e in s["journal"]["epochs"]]),
    "the step": (("step",), lambda s: s["step"] - 1),
    "a weight": (("parts", "model", "mu_layer.bias"), lambda _: torch.zeros(LATENTS)),
}


def forgetful(part):
    """Make a `read_checkpoint` that loses one part of the state."""
    ((*outer, last), instead), real = FORGET[part], checkpoints.read_checkpoint

    def read(path):
        state = real(path)
        if state is not None:
            reduce(operator.getitem, outer, state)[last] = instead(state)
        return state
    return read


# ---------------------------------------------------------------- in the middle of a save


def act_at(operation, call, act, patch=setattr):
    """Let something happen half-way through the n-th write of a checkpoint, and at each later one.

    Or before the n-th fsync or replace of the system, or write_checkpoint of a run.
    """
    calls = itertools.count(1)

    def act_in_time():
        if next(calls) >= call:
            act()

    class File(io.FileIO):
        def write(self, data):
            half = super().write(data[:len(data) // 2])
            act_in_time()
            return half + super().write(data[half:])

    if operation == "write":
        patch(files, "open", File)
        return
    where = checkpoints if operation == "write_checkpoint" else os
    real = getattr(where, operation)
    patch(where, operation, lambda *arguments: (act_in_time(), real(*arguments))[1])


# ---------------------------------------------------------------- children


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def child(training, path, at, forget, seed, log, digest):
    """Train, and leave the digest; this is all that the process does."""
    warnings.simplefilter("error")
    with open(log, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    resume.SAVE_AFTER = 0
    draw_nothing()
    if at:
        act_at(*at, die)
    if forget:
        checkpoints.read_checkpoint = forgetful(forget)
    seed = seed if path and checkpoints.exists(path) else SEED
    torch.manual_seed(seed)
    random.seed(seed)
    digest.write_text(digest_of(TRAININGS[training](path)))


class Children:
    """Trainings in processes of their own, with a folder for their files."""

    def __init__(self, folder):
        self.folder, self.seeds = Path(folder), itertools.count(100)
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["__main__", __name__])

    def run(self, training, path=None, after=None, at=None, forget=None):
        """Train in a child until it ends or is killed, after some seconds or at a call.

        Returns the digest of the final state, or None if it was killed, and the seconds it took;
        another end is an error with what the child said.
        """
        seed, start = next(self.seeds), time.monotonic()
        log, digest = (self.folder / f"{seed}.{kind}" for kind in ("log", "digest"))
        process = self.processes.Process(target=child,
                                         args=(training, path, at, forget, seed, log, digest))
        process.start()
        process.join(after)
        if after is not None:
            process.kill()
            process.join()
        seconds, killed = time.monotonic() - start, process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0, log.read_text()
        return None if killed else digest.read_text(), seconds


# ---------------------------------------------------------------- series of kills

IN_A_SAVE = [("write", 2), ("fsync", 2), ("replace", 2), ("replace", 3), ("write", 1),
             ("replace", 1), ("fsync", 1)]


def killed_and_resumed(children, training, kills, rng):
    """Kill so many children, run after run, at chosen calls, then at moments of `rng`; resume each.

    Every end is compared with that of the same training, uninterrupted and without a checkpoint.

    Returns:
        The number of kills in a save, and that of the ends that were other ones.
    """
    expected, _ = children.run(training)
    path = _new_path(children)
    digest, seconds = children.run(training, path)
    planned, killed, in_a_save, wrong = list(IN_A_SAVE), 0, 0, int(digest != expected)
    while killed < kills or digest is None:
        if digest is not None:
            shutil.rmtree(path.parent)
            path = _new_path(children)
        at = planned.pop(0) if planned and killed < kills else None
        after = None if at or killed == kills else rng.uniform(0, seconds / 2)
        left = _unfinished(path)  # by an earlier kill: so old that the next start removes it
        for file in left:
            os.utime(file, (0, 0))
        digest, _ = children.run(training, path, after=after, at=at)
        if digest is None:
            killed += 1
            in_a_save += at is not None or bool(_unfinished(path) - left)
        else:
            wrong += digest != expected
            assert not _unfinished(path), "a finished training leaves no half-written file"
    return in_a_save, wrong


def _new_path(children):
    return Path(tempfile.mkdtemp(dir=children.folder)) / "run.pt"


def _unfinished(path):
    return set(path.parent.glob(f".{path.name}.*{files.UNFINISHED}"))
