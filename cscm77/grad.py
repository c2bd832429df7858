"""How far apart two tensors are."""

import torch


def rel_error(x, y, eps=1e-10):
    """The largest difference over the largest magnitude: max|x - y| / max(clamp(|x| + |y|, eps)).

    A float, of two tensors of one shape; by `eps`, two zeros differ by 0. Shapes that cannot be
    compared, or nothing to compare, are a ValueError.
    """
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    try:
        torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError as error:
        raise ValueError(f"expected two tensors of one shape, found {shapes}") from error
    if x.numel() == 0 or y.numel() == 0:
        raise ValueError(f"expected at least one value, found shapes {shapes}")
    return (x - y).abs().max().item() / (x.abs() + y.abs()).clamp(min=eps).max().item()
