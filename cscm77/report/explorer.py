"""Sliders over what the models learned, drawn into one image that stays in its place.

Only the core of ipywidgets is used, which every notebook shows; a saved page does not, so a static
figure belongs beside it. Axes: N images, Z latents, C classes.
"""

import io
from functools import partial

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display

from cscm77.measure.latents import measuring, posterior
from cscm77.measure.samples import CLASSES, generate
from cscm77.report.pictures import tile
from cscm77.utils import device_of, dtype_of, one_hot, unwrapped

SLIDERS = 5  # over the latents with the largest KL
REACH = 3  # standard deviations of the prior
GRID = 16  # digits that a GAN's explorer shows
SIDE = "280px"  # of the page, of the image


class Explorer:
    """An image, the controls that change it, and a button that draws another one."""

    def __init__(self, seed):
        self.image = widgets.Image(layout={"width": SIDE, "height": SIDE})
        self.random = torch.Generator().manual_seed(seed)  # exploring changes no training
        self.resample = widgets.Button(description="resample")
        self.resample.on_click(lambda _: self._draw_new())
        self._busy = False

    def _lay_out(self, *controls):
        self.page = widgets.HBox([self.image, widgets.VBox(controls)])
        self._draw_new()

    def show(self):
        """Show the image and its controls."""
        display(self.page)

    def _observe(self, react, *controls):
        """Call `react` when the user, and not the explorer itself, changes a control."""
        for control in controls:
            control.observe(lambda _: None if self._busy else react(), names="value")

    def _set(self, control, value):
        self._busy = True
        control.value = value
        self._busy = False

    def _put(self, images):
        buffer = io.BytesIO()
        plt.imsave(buffer, tile(images), cmap="gray", vmin=0, vmax=1, format="png")
        self.image.value = buffer.getvalue()


class VAEExplorer(Explorer):
    """Sliders over the latents of largest `kl`, (Z,), a CVAE's digit, a morph between `digits`."""

    def __init__(self, model, digits, kl, seed=0):
        super().__init__(seed)
        self.model, self.digits = unwrapped(model), digits
        self.conditional = self.model.num_classes > 0
        self.latents = torch.as_tensor(kl).argsort(descending=True)[:SLIDERS].tolist()
        self.sliders = [widgets.FloatSlider(0, min=-REACH, max=REACH, step=0.1,
                                            description=f"latent {latent}")
                        for latent in self.latents]
        self.digit = widgets.ToggleButtons(options=range(self.model.num_classes or CLASSES),
                                           description="digit", style={"button_width": "30px"})
        last = len(digits) - 1
        self.first = widgets.BoundedIntText(0, max=last, description="from image")
        self.second = widgets.BoundedIntText(min(1, last), max=last, description="to image")
        self.morph = widgets.FloatSlider(max=1, step=0.02, description="morph")
        for latent, slider in zip(self.latents, self.sliders, strict=True):
            self._observe(partial(self._move, latent, slider), slider)
        self._observe(self._morph, self.first, self.second, self.morph)
        self._observe(self._ask, self.digit)
        self._lay_out(*self.sliders, *[self.digit] * self.conditional,
                      self.resample, self.first, self.second, self.morph)

    def _draw_new(self):
        z = torch.randn(1, self.model.latent_size, generator=self.random, dtype=torch.float32)
        self.z = z.to(device_of(self.model), dtype_of(self.model))
        self._follow()
        self._ask()  # anew: a morph may have left the label between two

    def _move(self, latent, slider):
        self.z[0, latent] = slider.value
        self._draw()

    def _ask(self):
        self.label = self._one_hot(self.digit.value)
        self._draw()

    def _morph(self):
        (start, label), (end, other) = map(self._encoded, (self.first.value, self.second.value))
        self.z = torch.lerp(start, end, self.morph.value)
        self.label = torch.lerp(label, other, self.morph.value)
        self._set(self.digit, self.label.argmax().item())
        self._follow()
        self._draw()

    def _encoded(self, index):
        image, digit = self.digits[index]
        with measuring(self.model):
            mu, _ = posterior(self.model, image[None], torch.tensor([digit]), self.conditional)
        return mu, self._one_hot(int(digit))

    def _one_hot(self, digit):
        return one_hot([digit], len(self.digit.options), like=self.z)  # (1, C)

    def _follow(self):
        for latent, slider in zip(self.latents, self.sliders, strict=True):
            self._set(slider, round(self.z[0, latent].item(), 1))  # a slider ends at its reach

    def _draw(self):
        latents = torch.cat((self.z, self.label), dim=1) if self.conditional else self.z
        self._put(generate(self.model.decoder, latents))


class GANExplorer(Explorer):
    """A walk between two noises for each of a grid of digits, by one of several generators.

    They are {name: G}, (N, Z) -> (N, 784) in [-1, 1]; `opens_on` may name another than the first.
    """

    def __init__(self, generators, noise_size=96, seed=0, *, opens_on=None):
        super().__init__(seed)
        self.generators, self.noise_size = generators, noise_size
        names = list(generators)
        if opens_on not in (None, *names):
            raise ValueError(f"opens_on: expected one of {', '.join(names)}, found {opens_on!r}")
        self.name = widgets.Dropdown(options=names, value=opens_on or names[0],
                                     description="drawn by")
        self.walk = widgets.FloatSlider(max=1, step=0.02, description="walk")
        self._observe(self._draw, self.name, self.walk)
        self._lay_out(self.name, self.walk, self.resample)

    def _draw_new(self):
        noise = torch.rand(2, GRID, self.noise_size, generator=self.random, dtype=torch.float32)
        self.ends = 2 * noise - 1  # (2, N, Z)
        self._draw()

    def _draw(self):
        noise = torch.lerp(*self.ends, self.walk.value)
        self._put(generate(self.generators[self.name.value], noise, low=-1))
