"""HTTP/1 as bytes: heads, bodies and forwarding fields. No sockets and no clock."""
