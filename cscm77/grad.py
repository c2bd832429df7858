"""How far apart two tensors are."""

import torch


def rel_error(x, y, eps=1e-10):
    """The largest difference over the largest magnitude: max|x - y| / max(clamp(|x| + |y|, eps)).

    Args:
        x: tensor of any shape.
        y: tensor of the same shape.
        eps: lower bound of the denominator, so that two zeros differ by 0.

    Returns:
        A float.

    Raises:
        ValueError: shapes that cannot be compared, or nothing to compare.
    """
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    try:
        torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError as error:
        raise ValueError(f"expected two tensors of one shape, found {shapes}") from error
    if x.numel() == 0 or y.numel() == 0:
        raise ValueError(f"expected at least one value, found shapes {shapes}")
    top = (x - y).abs().max().item()
    bottom = (x.abs() + y.abs()).clamp(min=eps).max().item()
    return top / bottom
