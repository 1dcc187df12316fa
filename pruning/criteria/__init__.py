"""Importance criteria, one family a file; `pruning.importance` knows them by name."""
