"""Tooling for developers and for the demo. The panel itself imports none of it."""
