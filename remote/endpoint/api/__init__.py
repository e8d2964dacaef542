"""The HTTP side of docs/protocol.md: routes, keys, bodies and error answers."""
