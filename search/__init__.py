"""Choosing: multi-objective search over sub-networks."""
