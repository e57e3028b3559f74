"""Hydra finds the configuration here (pkg://assay.conf)."""
