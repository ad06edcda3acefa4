"""HTTP/1 as bytes: heads, bodies, forwarding fields. No sockets, no clock."""
