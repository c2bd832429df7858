"""The rooms of the package. Arrows run downwards: a room imports from those below it, never back.

    notebooks, studies    the pages; the long commands
    cscm77_helper.py      what the pages call; `train_vae` and `run_a_gan`
    vae.py, gan.py        the models, and their losses
    report                what a person looks at: figures, sliders, tables (uses measure)
    measure               numbers of a model: samples, bounds, latents (uses training.checkpoints)
    training              a training that can be stopped and taken up again
    data                  files -> tensors on the device -> batches
    utils grad            seeds, devices, bars, copies of networks; how far two tensors are apart
    checks files          every refusal and its words; a file written whole or not at all

`__main__.py` is the front door: `python -m cscm77` runs both notebooks, and has the report written.
"""
