"""The variational autoencoder and its conditional twin.

Kingma and Welling (2014); Sohn, Lee and Yan (2015).
Axes: N images in a batch, D = 784 pixels, H hidden units, Z latents, C classes.
Pixels lie in [0, 1]; every loss is in nats per image.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cscm77 import checks

ENCODER_LABEL_GAIN, DECODER_LABEL_GAIN = 16, 8  # found by trial: python -m cscm77.studies.choices


class VAE(nn.Module):
    """A fully connected variational autoencoder with a Gaussian posterior of diagonal covariance.

    Args:
        input_size: D, the pixels of a square image (784 for MNIST).
        latent_size: Z.
        hidden_dim: H, the width of every hidden layer.
        num_classes: C, the width of a one-hot label beside x and z; none here, the CVAE has one.

    Raises:
        ValueError: a size that is no positive whole number, or pixels that make no square.
    """

    def __init__(self, input_size, latent_size=15, hidden_dim=400, *, num_classes=0):
        super().__init__()
        side = checks.check_square("input_size", input_size)
        self.input_size = D = side * side
        self.latent_size = Z = checks.check_whole("latent_size", latent_size)
        self.hidden_dim = H = checks.check_whole("hidden_dim", hidden_dim)
        self.num_classes = C = checks.check_whole("num_classes", num_classes, least=0)

        self.encoder = nn.Sequential(
            nn.Flatten(),                      # D (+ C)
            nn.Linear(D + C, H),               # H
            nn.ReLU(),
            nn.Linear(H, H),                   # H
            nn.ReLU(),
            nn.Linear(H, H),                   # H
            nn.ReLU(),
        )
        self.mu_layer = nn.Linear(H, Z)        # Z
        self.logvar_layer = nn.Linear(H, Z)    # Z
        self.decoder = checks.CheckedSequential(  # Z (+ C)
            nn.Linear(Z + C, H),               # H
            nn.ReLU(),
            nn.Linear(H, H),                   # H
            nn.ReLU(),
            nn.Linear(H, H),                   # H
            nn.ReLU(),
            nn.Linear(H, D),                   # D
            nn.Sigmoid(),
            nn.Unflatten(1, (1, side, side)),  # 1, 28, 28
            expects=(f"latent ({Z}) and one-hot label ({C})" if C else "latent", Z + C),
        )
        self._initialize()

    def _initialize(self):
        """Keep the signal's size through the layers: how good ten epochs are hangs on that.

        He et al. (2015) before a ReLU, Glorot and Bengio (2010) elsewhere; a log-variance of zero
        at the start is the prior's own, so that the KL term begins small.
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
        """The posterior q(z|x) of each image: mu and logvar, (N, Z) each; x as in `forward`."""
        checks.check_image_size(x, self.input_size)
        hidden = self.encoder(x)  # (N, H)
        return self.mu_layer(hidden), self.logvar_layer(hidden)  # (N, Z)

    def forward(self, x):
        """Encode, draw a latent from the posterior, decode: (x_hat, mu, logvar).

        From images in [0, 1], (N, 1, 28, 28) or (N, D), to reconstructions in [0, 1], (N, 1, 28,
        28); mu and logvar are (N, Z).
        """
        mu, logvar = self.encode(x)
        z = reparametrize(mu, logvar)
        x_hat = self.decoder(z)  # (N, 1, 28, 28)
        return x_hat, mu, logvar


class CVAE(VAE):
    """The VAE with the label on both sides: q(z|x, c) and p(x|z, c); Sohn, Lee and Yan (2015).

    Its num_classes is C, the width of the one-hot label; the other arguments are the VAE's.
    """

    def __init__(self, input_size, num_classes=10, latent_size=15, hidden_dim=400):
        checks.check_whole("num_classes", num_classes)
        super().__init__(input_size, latent_size, hidden_dim, num_classes=num_classes)
        # Begun like any other input, one label is drowned by 784 pixels and by Z latents; these
        # then learn to carry the digit, and the digit that is asked for comes out less often.
        with torch.no_grad():
            self.encoder[1].weight[:, self.input_size:] *= ENCODER_LABEL_GAIN
            self.decoder[0].weight[:, self.latent_size:] *= DECODER_LABEL_GAIN

    def encode(self, x, c):
        """The posterior q(z|x, c) of each image with its one-hot label, (N, C); as in the VAE."""
        checks.check_image_size(x, self.input_size)
        checks.check_one_hot(c, len(x), self.num_classes)
        hidden = self.encoder(torch.cat((x.flatten(1), c), dim=1))  # (N, D + C) -> (N, H)
        return self.mu_layer(hidden), self.logvar_layer(hidden)  # (N, Z)

    def forward(self, x, c):
        """Encode with the label, draw a latent, decode with the label; shapes as in the VAE."""
        mu, logvar = self.encode(x, c)
        z = reparametrize(mu, logvar)
        x_hat = self.decoder(torch.cat((z, c), dim=1))  # (N, Z + C) -> (N, 1, 28, 28)
        return x_hat, mu, logvar


def reparametrize(mu, logvar):
    """Draw z = mu + sigma * epsilon, epsilon ~ N(0, 1), so that gradients reach mu and sigma.

    Kingma and Welling (2014), section 2.4; mu and logvar = log(sigma^2) are (N, Z).
    """
    checks.check_posterior(mu, logvar)
    sigma = torch.exp(0.5 * logvar)
    return mu + sigma * torch.randn_like(sigma)


def reconstruction(x_hat, x):
    """Cross entropy between images and their reconstructions: -E[log p(x|z)], in nats per image.

    Summed over pixels, since the pixels' log-likelihoods add up, and averaged over the batch; both
    are (N, ...), in [0, 1].
    """
    x_hat, x = _float32_or_better(x_hat, x)
    with torch.autocast(x.device.type, enabled=False):
        return F.binary_cross_entropy(x_hat, x, reduction="sum") / len(x)


def kl_divergence(mu, logvar):
    """KL(q(z|x) || N(0, 1)), in nats per image: Kingma and Welling (2014), appendix B.

    Summed over latents, averaged over the batch; mu and logvar are (N, Z).
    """
    mu, logvar = _float32_or_better(mu, logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() / len(mu)


def loss_function(x_hat, x, mu, logvar):
    """Negative ELBO, in nats per image: Kingma and Welling (2014), equation 10.

    The first argument is the reconstruction; swapped, the cross entropy is another number. It and
    the images are (N, 1, 28, 28), in [0, 1]; mu and logvar (N, Z). Other shapes are a ValueError;
    on a CPU, where looking costs nothing, other pixels too, and nan is a FloatingPointError.
    """
    checks.check_reconstruction(x_hat, x, mu, logvar)
    return reconstruction(x_hat, x) + kl_divergence(mu, logvar)


def _float32_or_better(a, b):
    """Sums over 784 pixels need more digits than `torch.autocast` leaves them."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype)


def hello_vae():
    """Print a greeting: the notebook's sign that this file was found."""
    print("Hello from vae.py!")
