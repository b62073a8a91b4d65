"""Makes an existing gRPC server a provider of its services at the node: `ipcctl expose`.

upstream      the server's address, and a grpcio channel to it
reflection    what it tells of its services
health        whether it serves them
forward       one call, from our wire into the channel and back
exposure      all of that together: registered while healthy, drained at the end
"""
