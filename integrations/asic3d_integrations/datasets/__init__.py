"""Readers of published data sets, each of its layout on disk, and one evaluation for all of them."""
