"""What a request means; no sockets."""
