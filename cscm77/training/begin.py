"""How a training begins: a look at what was handed in; a run is found, made, or taken up again."""

import weakref

import torch

from cscm77 import checks
from cscm77.training import identity
from cscm77.training.journal import GANJournal, LossLog, VAEJournal
from cscm77.training.run import Run, path_of
from cscm77.utils import channels_last, device_of

runs = weakref.WeakKeyDictionary()  # model -> the run of its epochs so far


def begin_vae(epoch, model, loader, cond, val_loader, checkpoint, fresh, learning_rate, functions):
    """The run of an epoch: that of the model's earlier ones, or a new one, from its file if any.

    The arguments are those of `train_vae`; functions: `loss_function` and `reparametrize`.
    """
    checks.check_whole("epoch", epoch, 0)
    checks.check_positive("learning_rate", learning_rate)
    checks.check_cond(model, cond)
    checks.check_loader("train_loader", loader)
    if val_loader is not None:
        checks.check_loader("val_loader", val_loader)
    run, parameters = runs.get(model), list(model.parameters())
    goes_on = epoch > 0 and run is not None and _can_go_on(run, checkpoint, parameters)
    if goes_on and run.parts["Adam"].defaults["lr"] != learning_rate:
        raise ValueError(f"learning_rate: expected {run.parts['Adam'].defaults['lr']}, "
                         f"as in the epochs before, found {learning_rate}")
    # one kernel updates all weights, where the device has it: the same formula, less time
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    adam = (run.parts["Adam"] if goes_on else
            torch.optim.Adam(parameters, lr=learning_rate, fused=fused))
    fields = {} if checkpoint is None else identity.of_vae(model, cond, adam, functions, loader)
    if not goes_on:  # a proxy, or the run that is kept for the model would keep the model
        run = Run(checkpoint, {"model": weakref.proxy(model), "Adam": adam},
                  VAEJournal(model), fields, loader, device_of(model))
        run.restore(fresh=fresh and epoch == 0)
        runs[model] = run
    _begin_epoch(run, epoch, loader, fields)
    return run


def _can_go_on(run, checkpoint, parameters):
    """Whether the next epoch can be of this run: the same file, the same weights, no break."""
    moved = [id(p) for p in run.parts["Adam"].param_groups[0]["params"]]
    # After an error it begins from its file: the model and the random numbers have gone on.
    return (run.path == path_of(checkpoint) and moved == [id(p) for p in parameters]
            and not (run.broken and run.path is not None))


def _begin_epoch(run, epoch, loader, fields):
    """Make a run ready for an epoch, or for what is left of it; one that is done is no error."""
    run.loader = loader
    if run.path is None:
        run.epoch, run.step = epoch, 0
    else:
        run.check_unchanged(fields)
    if epoch > run.epoch:
        raise ValueError(f"epoch: expected at most {run.epoch}, "
                         f"the next one of {run.path.name}, found {epoch}")
    if run.step == 0:
        run.journal.log = LossLog()


def show_restored_epoch(run, epoch):
    """Print the line of an epoch that is done again; its result."""
    result = run.journal.epochs[epoch]
    print(f"Train Epoch: {epoch} \tLoss: {result.loss:.6f} "
          f"\t(restored; the model is that after {run.epoch} epochs)")
    return result


def begin_gan(networks, solvers, losses, loader, batch_size, noise_size, num_epochs, checkpoint,
              fresh, noise, show_every, probability, score, show):
    """The run of a GAN, from its file if there is one, after a look at all that was handed in.

    The arguments are those of `run_a_gan`, pairs for D and G, and of `GANJournal`.
    """
    for name, number, least in (("num_epochs", num_epochs, 0), ("show_every", show_every, 1),
                                ("batch_size", batch_size, 1), ("noise_size", noise_size, 1)):
        checks.check_whole(name, number, least)
    checks.check_loader("loader_train", loader)
    for name, network, solver in zip("DG", networks, solvers, strict=True):
        checks.check_solver(f"{name}_solver", solver, network)
        checks.check_batch_norm(batch_size, network)
        channels_last(network, solver)  # after its weights were drawn, which that would change
    parts = dict(zip(("D", "G", "D_solver", "G_solver"), (*networks, *solvers), strict=True))
    journal = GANJournal(parts["G"], noise, int(show_every), probability, score, show)
    fields = {} if checkpoint is None else identity.of_gan(
        parts, losses, batch_size, noise_size, score is not None, loader)
    run = Run(checkpoint, parts, journal, fields, loader, device_of(parts["G"]))
    run.restore(fresh)
    for step in range(0, len(journal.log), show_every):
        print(journal.line(step), "(restored)")
    if (run.epoch, run.step) > (num_epochs, 0):
        print(f"{run.path.name} is past the {num_epochs} epochs that were asked for: "
              "all of it is shown.")
    return run
