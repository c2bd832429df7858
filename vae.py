"""The variational autoencoder and its conditional twin (Kingma and Welling, 2014; Sohn, Lee and Yan, 2015).

Axes: N images in a batch, D = 784 pixels, H hidden units, Z latents, C classes.
Pixels lie in [0, 1]; every loss is in nats per image.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional as F

ENCODER_LABEL_GAIN, DECODER_LABEL_GAIN = 16, 8  # found by trial: python -m cscm77.studies.choices


def hello_vae():
    """Print a greeting: the notebook's sign that this file was found."""
    print("Hello from vae.py!")


class VAE(nn.Module):
    """A fully connected variational autoencoder with a Gaussian posterior of diagonal covariance.

    Args:
        input_size: D, the pixels of a square image (784 for MNIST).
        latent_size: Z.
        hidden_dim: H, the width of every hidden layer.
        num_classes: C, the width of a one-hot label beside x and z; none here, the CVAE has one.

    Raises:
        ValueError: a size that is not a positive integer, or pixels that make no square.
    """

    def __init__(self, input_size, latent_size=15, hidden_dim=400, *, num_classes=0):
        super().__init__()
        _check_sizes(input_size=input_size, latent_size=latent_size, hidden_dim=hidden_dim)
        side = _side_of_square(input_size)
        self.input_size, self.latent_size = input_size, latent_size
        self.hidden_dim, self.num_classes = hidden_dim, num_classes

        self.encoder = nn.Sequential(
            nn.Flatten(),                                       # D (+ C)
            nn.Linear(input_size + num_classes, hidden_dim),    # H
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),                  # H
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),                  # H
            nn.ReLU(),
        )
        self.mu_layer = nn.Linear(hidden_dim, latent_size)      # Z
        self.logvar_layer = nn.Linear(hidden_dim, latent_size)  # Z
        self.decoder = nn.Sequential(                           # Z (+ C)
            nn.Linear(latent_size + num_classes, hidden_dim),   # H
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),                  # H
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),                  # H
            nn.ReLU(),
            nn.Linear(hidden_dim, input_size),                  # D
            nn.Sigmoid(),
            nn.Unflatten(1, (1, side, side)),                   # 1, 28, 28
        )
        what = "latent" if num_classes == 0 else f"latent ({latent_size}) and one-hot label ({num_classes})"
        _expect_width(self.decoder, what, latent_size + num_classes)
        self._initialize()

    def _initialize(self):
        """Keep the signal's size through the layers: this decides how good the model is after ten epochs.

        He et al. (2015) before a ReLU, Glorot and Bengio (2010) elsewhere; a log-variance of zero at the start is
        the prior's own, so that the KL term begins small.
        """
        for network in (self.encoder, self.decoder):
            for layer, activation in zip(network, network[1:], strict=False):
                if isinstance(layer, nn.Linear) and isinstance(activation, nn.ReLU):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                elif isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight)
        nn.init.xavier_normal_(self.mu_layer.weight)
        nn.init.zeros_(self.logvar_layer.weight)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def encode(self, x):
        """Give the posterior q(z|x) of each image.

        Args:
            x: images in [0, 1], (N, 1, 28, 28) or (N, D).

        Returns:
            mu, logvar: (N, Z) each.

        Raises:
            ValueError: an empty batch, or images of another size.
        """
        _check_image_size(x, self.input_size)
        hidden = self.encoder(x)  # (N, H)
        return self.mu_layer(hidden), self.logvar_layer(hidden)  # (N, Z)

    def forward(self, x):
        """Encode, draw a latent from the posterior, decode.

        Args:
            x: images in [0, 1], (N, 1, 28, 28) or (N, D).

        Returns:
            x_hat: reconstructions in [0, 1], (N, 1, 28, 28).
            mu, logvar: (N, Z) each.
        """
        mu, logvar = self.encode(x)
        z = reparametrize(mu, logvar)
        x_hat = self.decoder(z)  # (N, 1, 28, 28)
        return x_hat, mu, logvar


class CVAE(VAE):
    """The VAE with the label known on both sides: q(z|x, c) and p(x|z, c) (Sohn, Lee and Yan, 2015).

    Args:
        input_size: D, the pixels of a square image (784 for MNIST).
        num_classes: C, the width of the one-hot label.
        latent_size: Z.
        hidden_dim: H, the width of every hidden layer.
    """

    def __init__(self, input_size, num_classes=10, latent_size=15, hidden_dim=400):
        _check_sizes(num_classes=num_classes)
        super().__init__(input_size, latent_size, hidden_dim, num_classes=num_classes)
        # Begun like any other input, one label is drowned by 784 pixels and by Z latents; the latents then learn to
        # carry the digit themselves, and a digit that is asked for comes out as another one more often.
        with torch.no_grad():
            self.encoder[1].weight[:, input_size:] *= ENCODER_LABEL_GAIN
            self.decoder[0].weight[:, latent_size:] *= DECODER_LABEL_GAIN

    def encode(self, x, c):
        """Give the posterior q(z|x, c) of each image with its label.

        Args:
            x: images in [0, 1], (N, 1, 28, 28) or (N, D).
            c: one-hot labels, (N, C).

        Returns:
            mu, logvar: (N, Z) each.

        Raises:
            ValueError: an empty batch, images of another size, or one-hot labels of another shape.
        """
        _check_image_size(x, self.input_size)
        if c.shape != (len(x), self.num_classes):
            raise ValueError(f"one-hot labels: expected shape {(len(x), self.num_classes)}, found {tuple(c.shape)}")
        hidden = self.encoder(torch.cat((x.flatten(1), c), dim=1))  # (N, D + C) -> (N, H)
        return self.mu_layer(hidden), self.logvar_layer(hidden)  # (N, Z)

    def forward(self, x, c):
        """Encode with the label, draw a latent from the posterior, decode with the label.

        Args:
            x: images in [0, 1], (N, 1, 28, 28) or (N, D).
            c: one-hot labels, (N, C).

        Returns:
            x_hat: reconstructions in [0, 1], (N, 1, 28, 28).
            mu, logvar: (N, Z) each.
        """
        mu, logvar = self.encode(x, c)
        z = reparametrize(mu, logvar)
        x_hat = self.decoder(torch.cat((z, c), dim=1))  # (N, Z + C) -> (N, 1, 28, 28)
        return x_hat, mu, logvar


def reparametrize(mu, logvar):
    """Draw z = mu + sigma * epsilon, epsilon ~ N(0, 1), so that gradients reach mu and sigma.

    Kingma and Welling (2014), section 2.4.

    Args:
        mu: means, any shape (N, Z).
        logvar: log-variances, log(sigma^2), of the same shape.

    Returns:
        z, of the same shape.
    """
    _check_posterior(mu, logvar)
    sigma = torch.exp(0.5 * logvar)
    return mu + sigma * torch.randn_like(sigma)


def reconstruction(x_hat, x):
    """Cross entropy between images and their reconstructions: -E[log p(x|z)], in nats per image.

    Summed over pixels, since the pixels' log-likelihoods add up, and averaged over the batch.

    Args:
        x_hat: reconstructions in [0, 1], (N, ...).
        x: images in [0, 1], of the same shape.
    """
    return F.binary_cross_entropy(x_hat, x, reduction="sum") / len(x)


def kl_divergence(mu, logvar):
    """KL(q(z|x) || N(0, 1)), in nats per image: Kingma and Welling (2014), appendix B.

    Summed over latents, averaged over the batch.

    Args:
        mu: posterior means, (N, Z).
        logvar: posterior log-variances, (N, Z).
    """
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() / len(mu)


def loss_function(x_hat, x, mu, logvar):
    """Negative ELBO, in nats per image: Kingma and Welling (2014), equation 10.

    The first argument is the reconstruction; swapped, the cross entropy is another number.

    Args:
        x_hat: reconstructions in [0, 1], (N, 1, 28, 28).
        x: images in [0, 1], of the same shape.
        mu: posterior means, (N, Z).
        logvar: posterior log-variances, (N, Z).

    Returns:
        A scalar tensor, with gradient.

    Raises:
        ValueError: an empty batch, shapes that do not match, or (on a CPU, where looking costs nothing) pixels
            outside [0, 1].
        FloatingPointError: a reconstruction that is nan (likewise on a CPU).
    """
    if x_hat.shape != x.shape or len(x) == 0 or len(x) != len(mu):
        raise ValueError(
            "expected x_hat and x of one shape, with as many rows as mu and at least one; "
            f"found x_hat {tuple(x_hat.shape)}, x {tuple(x.shape)}, mu {tuple(mu.shape)}")
    _check_posterior(mu, logvar)
    if x.device.type == "cpu":
        if x_hat.isnan().any():
            raise FloatingPointError("x_hat: expected values in [0, 1], found nan; a smaller learning rate may help")
        _check_unit_range("x", x)
        _check_unit_range("x_hat", x_hat)
    return reconstruction(x_hat, x) + kl_divergence(mu, logvar)


# ---------------------------------------------------------------- what is refused, and in which words


def _check_sizes(**sizes):
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected a positive integer, found {size!r}")


def _side_of_square(input_size):
    side = math.isqrt(input_size)
    if side * side != input_size:
        raise ValueError(f"input_size: expected the pixels of a square image (784 = 28 x 28), found {input_size}")
    return side


def _check_image_size(x, input_size):
    if x.ndim < 2 or len(x) == 0 or x[0].numel() != input_size:
        raise ValueError(f"images: expected (N, ...) with N >= 1 and {input_size} pixels each, found {tuple(x.shape)}")


def _check_posterior(mu, logvar):
    if mu.shape != logvar.shape:
        raise ValueError(f"expected mu and logvar of one shape, found {tuple(mu.shape)} and {tuple(logvar.shape)}")


def _check_unit_range(name, images):
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # so put, nan is refused too
        raise ValueError(f"{name}: expected values in [0, 1], found {low:g} to {high:g}")


def _expect_width(network, what, width):
    """Let a network name the width it expected, before a matrix product fails inside torch."""
    network.register_forward_pre_hook(functools.partial(_check_width, what, width))
    return network


def _check_width(what, width, network, inputs):
    x = inputs[0]
    if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
        raise ValueError(f"{what}: expected shape (N, {width}) with N >= 1, found {tuple(x.shape)}")
