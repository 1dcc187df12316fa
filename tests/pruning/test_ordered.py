"""Putting a network in order: the same function, and moments that belong to the new order."""

import pytest
import torch
from pruning_supernets import blocks_for, calm_supernet

from pruning.collection import collect_moments
from pruning.ordered import put_in_order
from pruning.prepared import prepare


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia"])
def test_a_network_in_order_computes_the_same(family):
    supernet = calm_supernet(family).eval()
    blocks = blocks_for(supernet, n=4)
    ordered = put_in_order(prepare(supernet, blocks), criterion="obs", channels=True)
    assert ordered.order.channels is not None
    with torch.no_grad():
        torch.testing.assert_close(ordered.supernet(blocks), supernet(blocks), atol=1e-5, rtol=1e-4)
    collected = collect_moments(ordered.supernet, blocks)
    for key, inputs in collected.inputs.items():
        torch.testing.assert_close(inputs.second, ordered.moments.inputs[key].second, atol=1e-5, rtol=1e-3)


def test_taylor_needs_gradients():
    supernet = calm_supernet("llama-gqa6")
    blocks = blocks_for(supernet)
    with pytest.raises(ValueError, match="needs gradients"):
        put_in_order(prepare(supernet, blocks), criterion="taylor-first")
    assert put_in_order(prepare(supernet, blocks, gradients=True), criterion="taylor-first").order.channels is None
