"""Hydra configuration tree of paretolm, installed as the package `supernet.conf`."""
