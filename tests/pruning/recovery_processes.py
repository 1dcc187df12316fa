"""A small recovery that a test runs in one process, or in two that train together (torchrun)."""

import sys
from dataclasses import replace

import torch
from recovery_networks import patterned_blocks, pruned_network

from pruning.recovery import recover
from pruning.recovery_settings import RecoverySettings

SETTINGS = RecoverySettings(
    max_steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2, check_every=3, precision="32", accelerator="cpu"
)


def run(folder, *, devices=1):
    supernet, pruned = pruned_network("qwen2")
    settings = replace(SETTINGS, devices=devices, batch_size=SETTINGS.batch_size // devices)
    return recover(pruned, supernet, patterned_blocks(24), patterned_blocks(8, seed=1), settings, folder=folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], devices=int(sys.argv[2]))
