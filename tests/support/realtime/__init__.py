"""Socket.IO clients, a browser, and programs that the real-time tests run."""
