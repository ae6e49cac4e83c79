"""Poisoning checks: pure functions from a table to findings, one module a family."""
