"""Search algorithms, one a file, each with ask and tell."""
