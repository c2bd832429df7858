"""A data set of soft spots in the place of MNIST: small, quick to learn, and in MNIST's file format."""

import struct

import torch

TINY_TRAIN, TINY_TEST = 6000, 500


def blobs(number, seed):
    """Draw pictures that a network can tell apart: digit d is a soft spot at the d-th of ten places."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 10
    angle = labels * 0.628 + 0.1 * torch.randn(number, generator=rng)
    centre = 13.5 + 7 * torch.stack((angle.sin(), angle.cos()), dim=1)  # (N, 2)
    axis = torch.arange(28.0)
    squared = (axis.view(1, 28, 1) - centre[:, :1, None]) ** 2 + (axis.view(1, 1, 28) - centre[:, 1:, None]) ** 2
    return (255 * torch.exp(-squared / 12)).to(torch.uint8), labels


def write_idx(path, tensor):
    """Write bytes in MNIST's format: type 8, number of axes, size of each, values."""
    header = struct.pack(">HBB", 0, 8, tensor.ndim) + struct.pack(f">{tensor.ndim}I", *tensor.shape)
    path.write_bytes(header + tensor.to(torch.uint8).numpy().tobytes())
