"""Thin driver of connections, for programs with an event loop: see `connection.py`."""
