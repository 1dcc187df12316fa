"""Which network, overlays and text a number belongs to, as a hash: so that files of another run are not taken for ours.

A hash reads all weights once: about a second for each gigabyte.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor

from pruning.overlay import OverlayDatabase
from supernet.model import Supernet


def fingerprint(supernet: Supernet, database: OverlayDatabase | None, blocks: Tensor) -> str:
    """Return a hash of the weights in their order, of how overlays are made, and of the text."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in supernet.named_parameters():
        digest.update(name.encode())
        digest.update(_bytes(parameter))
    if database is not None:
        digest.update(json.dumps(asdict(database.settings), sort_keys=True).encode())
        for _, inputs in sorted(database.moments.inputs.items()):
            digest.update(_bytes(inputs.mean))
            digest.update(_bytes(inputs.second.diagonal()))
    digest.update(str(tuple(blocks.shape)).encode())
    digest.update(_bytes(blocks))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().view(torch.uint8).numpy()).cast("B")
