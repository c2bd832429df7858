"""The cells of the coursework run against these modules, in their order, as students have them.

What differs from the page: the device is chosen once (the page writes 'cuda'), what PyTorch has
removed (`loader.__iter__().next()`) is written as today, there are fewer epochs and images, and
printed checks are asserted.
"""

import pytest
import torchvision.transforms as T
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST

SETUP = """
import os, time
import torch
from torch import nn
import matplotlib.pyplot as plt
import matplotlib.gridspec as gridspec
from cscm77.grad import rel_error
from cscm77.utils import reset_seed
from cscm77_helper import (hello_helper, show_images, count_params, initialize_weights, one_hot,
                           train_vae, run_a_gan)
hello_helper()
device, dtype, answers = 'cpu', torch.float, {}
"""

VAE_CELLS = ["""
from vae import hello_vae
hello_vae()
""", """
imgs = next(iter(loader_train))[0].view(batch_size, 784)
show_images(imgs)
""", """
reset_seed(0)
from vae import reparametrize
latent_size = 15
size = (1, latent_size)
mu = torch.zeros(size)
logvar = torch.ones(size)
z = reparametrize(mu, logvar)
expected_mean = torch.FloatTensor([-0.4363])
expected_std = torch.FloatTensor([1.6860])
z_mean = torch.mean(z, dim=-1)
z_std = torch.std(z, dim=-1)
assert z.size() == size
print('Mean Error', rel_error(z_mean, expected_mean))
print('Std Error', rel_error(z_std, expected_std))
""", """
from vae import loss_function
size = (1,15)
image = torch.sigmoid(torch.FloatTensor([[2,5], [6,7]]).unsqueeze(0).unsqueeze(0))
image_hat = torch.sigmoid(torch.FloatTensor([[1,10], [9,3]]).unsqueeze(0).unsqueeze(0))
expected_out = torch.tensor(8.5079)
mu, logvar = torch.ones(size), torch.zeros(size)
out = loss_function(image, image_hat, mu, logvar)
print('Loss error', rel_error(expected_out,out))
""", """
num_epochs = 2
latent_size = 15
from vae import VAE
input_size = 28*28
vae_model = VAE(input_size, latent_size=latent_size)
vae_model.to(device)
for epoch in range(0, num_epochs):
    train_vae(epoch, vae_model, loader_train)
""", """
z = torch.randn(10, latent_size).to(device=device)
vae_model.eval()
samples = vae_model.decoder(z).data.cpu().numpy()
fig = plt.figure(figsize=(10, 1))
gspec = gridspec.GridSpec(1, 10)
gspec.update(wspace=0.05, hspace=0.05)
for i, sample in enumerate(samples):
    ax = plt.subplot(gspec[i])
    plt.axis('off')
    ax.set_xticklabels([])
    ax.set_yticklabels([])
    ax.set_aspect('equal')
    plt.imshow(sample.reshape(28,28), cmap='Greys_r')
plt.savefig(os.path.join(GOOGLE_DRIVE_PATH,'vae_generation.jpg'))
""", """
S = 12
z0 = torch.randn(S,latent_size , device=device)
z1 = torch.randn(S, latent_size, device=device)
w = torch.linspace(0, 1, S, device=device).view(S, 1, 1)
z = (w * z0 + (1 - w) * z1).transpose(0, 1).reshape(S * S, latent_size)
x = vae_model.decoder(z)
show_images(x.data.cpu())
""", """
from vae import CVAE
cvae = CVAE(input_size, latent_size=latent_size)
cvae.to(device)
for epoch in range(0, num_epochs):
    train_vae(epoch, cvae, loader_train, cond=True)
""", """
z = torch.randn(10, latent_size)
c = torch.eye(10, 10) # [one hot labels for 0-9]
z = torch.cat((z,c), dim=-1).to(device=device)
cvae.eval()
samples = cvae.decoder(z).data.cpu().numpy()
fig = plt.figure(figsize=(10, 1))
plt.imshow(samples[3].reshape(28, 28), cmap='Greys_r')
plt.savefig(os.path.join(GOOGLE_DRIVE_PATH,'conditional_vae_generation.jpg'))
"""]

GAN_CELLS = ["""
from gan import hello_gan, NOISE_DIM
hello_gan()
""", """
from gan import sample_noise
reset_seed(0)
noise_dim = 4
z = sample_noise(3, noise_dim)
assert z.shape == (3, noise_dim)
assert torch.is_tensor(z)
assert torch.all(z >= -1.0) and torch.all(z <= 1.0)
assert torch.any(z < 0.0) and torch.any(z > 0.0)
print('All tests passed!')
""", """
from gan import discriminator, generator
assert count_params(discriminator()) == 267009
assert count_params(generator(4)) == 1858320
""", """
from gan import discriminator_loss, generator_loss
answers['logits_fake'] = torch.tensor(
  [-1.80865868, 0.09030055, -0.4428902, -0.07879368, -0.37655044,
    0.32084742, -0.28590837, 1.01376281, 0.99241439, 0.39394346],
  dtype=dtype, device=device)
answers['d_loss_true'] = torch.tensor(1.8423983904443109, dtype=dtype, device=device)
answers['logits_real'] = torch.tensor(
  [0.93487311, -1.01698916, -0.57304769, -0.88162704, -1.40129389,
   -1.45395693, -1.54239755, -0.57273325, 0.98584429, 0.13312152],
  dtype=dtype, device=device)
def test_discriminator_loss(logits_real, logits_fake, d_loss_true):
  d_loss = discriminator_loss(logits_real, logits_fake)
  assert rel_error(d_loss_true, d_loss) < 1e-7
test_discriminator_loss(answers['logits_real'], answers['logits_fake'], answers['d_loss_true'])
answers['g_loss_true'] = torch.tensor(0.771286196423346, dtype=dtype, device=device)
def test_generator_loss(logits_fake, g_loss_true):
  g_loss = generator_loss(logits_fake)
  assert rel_error(g_loss_true, g_loss) < 1e-7
test_generator_loss(answers['logits_fake'], answers['g_loss_true'])
""", """
from gan import get_optimizer
reset_seed(0)
D = discriminator().to(device)
G = generator().to(device)
D_solver = get_optimizer(D)
G_solver = get_optimizer(G)
run_a_gan(D, G, D_solver, G_solver, discriminator_loss, generator_loss,
          os.path.join(GOOGLE_DRIVE_PATH, 'fc_gan_results.jpg'), num_epochs=1)
""", """
from gan import ls_discriminator_loss, ls_generator_loss
D_LS = discriminator().to(device)
G_LS = generator().to(device)
D_LS_solver = get_optimizer(D_LS)
G_LS_solver = get_optimizer(G_LS)
run_a_gan(D_LS, G_LS, D_LS_solver, G_LS_solver, ls_discriminator_loss, ls_generator_loss,
          os.path.join(GOOGLE_DRIVE_PATH, 'ls_gan_results.jpg'), num_epochs=1)
""", """
from gan import build_dc_classifier
data = next(enumerate(loader_train))[-1][0].to(dtype=dtype, device=device)
batch_size = data.size(0)
b = build_dc_classifier().to(device)
data = data.view(-1, 784)
out = b(data)
assert out.size() == torch.Size([128, 1])
""", """
from gan import build_dc_generator
test_g_gan = build_dc_generator().to(device)
test_g_gan.apply(initialize_weights)
fake_seed = torch.randn(batch_size, NOISE_DIM, dtype=dtype, device=device)
fake_images = test_g_gan.forward(fake_seed)
assert fake_images.size() == torch.Size([128, 784])
""", """
reset_seed(0)
D_DC = build_dc_classifier().to(device)
D_DC.apply(initialize_weights)
G_DC = build_dc_generator().to(device)
G_DC.apply(initialize_weights)
D_DC_solver = get_optimizer(D_DC)
G_DC_solver = get_optimizer(G_DC)
run_a_gan(D_DC, G_DC, D_DC_solver, G_DC_solver, discriminator_loss, generator_loss,
          os.path.join(GOOGLE_DRIVE_PATH, 'dc_gan_results.jpg'), num_epochs=1)
""", """
S = 12
z0 = torch.rand(S, NOISE_DIM, device=device) * 2 - 1
z1 = torch.rand(S, NOISE_DIM, device=device) * 2 - 1
w = torch.linspace(0, 1, S, device=device).view(S, 1, 1)
z = (w * z0 + (1 - w) * z1).transpose(0, 1).reshape(S * S, NOISE_DIM)
show_images(G_DC(z).data.cpu())
"""]


@pytest.fixture
def page(capsys, tmp_path, tiny_mnist, monkeypatch):
    """The names that a page has after its set-up, with 300 images in a stock loader."""
    monkeypatch.setenv("MNIST_DIR", str(tiny_mnist))
    monkeypatch.setenv("CSCM77_IMAGES", "300")
    dataset = Subset(MNIST(tiny_mnist, train=True, transform=T.ToTensor()), range(300))
    names = {"GOOGLE_DRIVE_PATH": str(tmp_path), "batch_size": 128,
             "loader_train": DataLoader(dataset, batch_size=128, shuffle=True, drop_last=True)}
    exec(SETUP, names)
    return names


def test_the_cells_of_the_vae_page(page, tmp_path, capsys):
    for cell in VAE_CELLS:
        exec(cell, page)
    said = capsys.readouterr().out
    assert said.startswith(
        "Hello from cscm77_helper.py!\nHello from vae.py!\nMean Error 5.639056398351415e-05\n"
        "Std Error 7.1412955526273885e-06\nLoss error 2.1297676389877955e-06\n")
    assert said.count("Train Epoch: 1 \tLoss: ") == 2
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"vae_generation.jpg",
                                                              "conditional_vae_generation.jpg"}


def test_the_cells_of_the_gan_page(page, tmp_path, capsys):
    for cell in GAN_CELLS:
        exec(cell, page)
    said = capsys.readouterr().out
    greetings = "Hello from cscm77_helper.py!\nHello from gan.py!\n"
    assert said.startswith(f"{greetings}All tests passed!\n")
    assert said.count("Iter: 0, D: ") == 3
    assert {path.name for path in tmp_path.glob("*.jpg")} == {
        f"{kind}_gan_results.jpg" for kind in ("fc", "ls", "dc")}
