"""Pruning: a pretrained network made smaller for a budget, its weights reconstructed and not only ranked."""
