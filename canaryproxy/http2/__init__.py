"""HTTP/2 as bytes: HPACK, frames, streams and messages. No sockets and no clock."""
