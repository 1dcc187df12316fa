"""Proxies of quality that need no training, and the published tables that they are checked against."""
