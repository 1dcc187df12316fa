"""The network: search space, cost, weight-entangled supernet, training and extraction."""
