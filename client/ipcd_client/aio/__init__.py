"""grpc.aio's shapes: what runs and makes calls on an event loop."""
