"""How a training begins: a look at what was handed in; a run is found, made, or taken up again."""

import torch

from cscm77.checks import (
    check_batch_norm,
    check_cond,
    check_loader,
    check_positive,
    check_solver,
    check_whole,
)
from cscm77.training import identity
from cscm77.training.journal import GANJournal, VAEJournal
from cscm77.training.run import EpochRun, Run
from cscm77.utils import channels_last, device_of


def begin_vae(epoch, model, loader, cond, val_loader, checkpoint, fresh, learning_rate, functions):
    """The run of an epoch: that kept for the model, or a new one, taken up from its file if any.

    The arguments are those of `train_vae`; functions: `loss_function` and `reparametrize`.
    """
    check_whole("epoch", epoch, 0)
    check_positive("learning_rate", learning_rate)
    check_cond(model, cond)
    check_loader("train_loader", loader)
    if val_loader is not None:
        check_loader("val_loader", val_loader)
    run, parameters = EpochRun.kept_for(model), list(model.parameters())
    goes_on = epoch > 0 and run is not None and run.can_go_on(checkpoint, parameters)
    if goes_on and run.parts["Adam"].defaults["lr"] != learning_rate:
        raise ValueError(f"learning_rate: expected {run.parts['Adam'].defaults['lr']}, "
                         f"as in the epochs before, found {learning_rate}")
    # one kernel updates all weights, where the device has it: the same formula, less time
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    optimizer = (run.parts["Adam"] if goes_on else
                 torch.optim.Adam(parameters, lr=learning_rate, fused=fused))
    fields = {} if checkpoint is None else identity.of_vae(
        model, cond, optimizer, functions, loader)
    if not goes_on:
        run = EpochRun(model, checkpoint, optimizer, VAEJournal(model), fields, loader,
                       device_of(model))
        run.restore(fresh=fresh and epoch == 0)
        run.keep_for(model)
    run.begin(epoch, loader, fields)
    return run


def show_restored_epoch(run, epoch):
    """Print the line of an epoch that is done again; its result."""
    result = run.journal.epochs[epoch]
    print(f"Train Epoch: {epoch} \tLoss: {result.loss:.6f} "
          f"\t(restored; the model is that after {run.epoch} epochs)")
    return result


def begin_gan(networks, solvers, losses, loader, batch_size, noise_size, num_epochs, checkpoint,
              fresh, noise, show_every, probability, score, show):
    """The run of a GAN, from its file if there is one, after a look at all that was handed in.

    The arguments are those of `run_a_gan`, pairs for D and G; noise: of the strip, (samples, Z);
    show: function of the journal, called every show_every steps.
    """
    for name, number, least in (("num_epochs", num_epochs, 0), ("show_every", show_every, 1),
                                ("batch_size", batch_size, 1), ("noise_size", noise_size, 1)):
        check_whole(name, number, least)
    check_loader("loader_train", loader)
    for name, network, solver in zip("DG", networks, solvers, strict=True):
        check_solver(f"{name}_solver", solver, network)
        check_batch_norm(batch_size, network)
        channels_last(network, solver)  # after its weights were drawn, which that would change
    journal = GANJournal(networks[1], noise, int(show_every), probability, score, show)
    parts = {**dict(zip("DG", networks, strict=True)), "D_solver": solvers[0],
             "G_solver": solvers[1], **journal.networks()}
    fields = {} if checkpoint is None else identity.of_gan(
        networks, solvers, losses, batch_size, noise_size, score is not None, loader)
    run = Run(checkpoint, parts, journal, fields, loader, device_of(networks[1]))
    if run.restore(fresh):
        _show_restored(run, num_epochs, show_every)
    return run


def _show_restored(run, num_epochs, show_every):
    """Print the lines of earlier steps again, and say when the run went further than was asked."""
    for step in range(0, len(run.journal.log), show_every):
        print(run.journal.line(step), "(restored)")
    if (run.epoch, run.step) > (num_epochs, 0):
        print(f"{run.path.name} is past the {num_epochs} epochs that were asked for: "
              "all of it is shown.")
