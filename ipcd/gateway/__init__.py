"""Real gRPC at the node's door: what any gRPC client calls here goes to whoever serves it. See `server.py`."""
