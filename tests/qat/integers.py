"""Random integers."""

import torch


def numbers(*shape, low=-127, high=127, seed=0):
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))
