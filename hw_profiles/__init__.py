"""Measuring sub-networks on real devices."""
