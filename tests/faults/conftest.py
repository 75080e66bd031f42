"""Fixtures of this directory."""

from tests.harness.stage import minion

__all__ = ["minion"]
