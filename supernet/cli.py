"""Commands of the network: train, evaluate, export."""
