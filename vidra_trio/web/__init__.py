"""The HTTP and WebSocket face of the server: an ASGI application, and nothing else."""
