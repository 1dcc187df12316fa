"""Predicting hardware metrics and perplexity from an architecture."""
