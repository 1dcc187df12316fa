"""Pruned tiny networks and text of their own for tests of recovery."""

import torch
from pruning_supernets import calm_supernet

from pruning.pruned import Pruned
from supernet.architecture import Architecture
from supernet.extract import extract


def pruned_network(family="llama-gqa6", *, supernet=None, tied=False):
    """Return a supernet and a pruned network of it whose layers differ."""
    supernet = supernet or calm_supernet(family, tied=tied)
    G, Q = supernet.config.n_query_groups, supernet.config.n_head // supernet.config.n_query_groups
    arch = Architecture(32, (Q, 0, G * Q), (1, 0, G), (20, 30, 11), (0, 1, 3), bias=supernet.config.bias)
    return supernet, Pruned(extract(supernet, arch), arch)


def patterned_blocks(n, *, length=13, vocab=61, seed=0):
    """Return (n, length) ids of a simple law, so that there is something to learn: steps of one out of three sizes."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(vocab, (n, 1), generator=generator)
    step = torch.randint(1, 4, (n, 1), generator=generator)
    return (start + step * torch.arange(length)) % vocab
