"""A TCP proxy on loopback that misbehaves on demand."""

import socket
import struct
import threading
import time

from dev.server import free_port

PIECE = 4096
UP, DOWN = "up", "down"


class Proxy:
    """Passes connections on to `target`, a port of loopback. A context manager.

    `bytes_per_second` and `delay_seconds` hold for either direction of each connection.
    """

    def __init__(self, target: int, bytes_per_second: float = 0.0, delay_seconds: float = 0.0) -> None:
        self.target, self.port = target, free_port()
        self.bytes_per_second, self.delay_seconds = bytes_per_second, delay_seconds
        self.stopped = threading.Event()  # a connection has met `stop_at`
        self.connections = 0
        self.wanted: tuple[bytes, str, int] | None = None
        self._open: set[socket.socket] = set()
        self.lock = threading.Lock()  # of what is open, and of each connection's count
        self._listener: socket.socket | None = None

    def __enter__(self) -> "Proxy":
        self.restore()
        return self

    def __exit__(self, *error: object) -> None:
        self.refuse()

    @property
    def url(self) -> str:
        """The address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def stop_at(self, request: bytes, direction: str, after: int) -> None:
        """Once: the first connection that passes `after` bytes in the direction, from one that holds `request` on,
        stands still."""
        self.stopped.clear()
        self.wanted = (request, direction, after)

    def cut(self) -> None:
        """Reset every connection; new ones are passed on."""
        with self.lock:
            for one in self._open:
                try:
                    # With a linger of zero seconds, closing sends a reset.
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                one.close()
            self._open.clear()

    def refuse(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._listener is not None:
            try:
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            except OSError:
                pass
            self._listener.close()
        self._listener = None
        self.cut()

    def restore(self) -> None:
        """Pass connections on (again)."""
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def forget(self, *ends: socket.socket) -> None:
        """Close a connection that nothing passes any more."""
        with self.lock:
            self._open.difference_update(ends)
        for one in ends:
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                far.settimeout(None)
            except OSError:
                if self._listener is not listener:
                    return
                near.close()
                continue
            with self.lock:
                self._open |= {near, far}
                self.connections += 1
            link = _Connection(self, near, far)
            for direction in (UP, DOWN):
                threading.Thread(target=link.pump, args=(direction,), daemon=True).start()


class _Connection:
    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self.proxy, self.near, self.far = proxy, near, far
        self.passed = {UP: 0, DOWN: 0}  # bytes since the request that the proxy waits for
        self.found: tuple[bytes, str, int] | None = None
        self.ended = 0  # directions in which nothing passes any more

    def pump(self, direction: str) -> None:
        """Pass bytes on in one direction until either end closes."""
        self._pass_on(direction)
        with self.proxy.lock:
            self.ended += 1
        if self.ended == 2:
            self.proxy.forget(self.near, self.far)

    def _pass_on(self, direction: str) -> None:
        source, sink = (self.near, self.far) if direction == UP else (self.far, self.near)
        try:
            while data := source.recv(PIECE):
                self._slow_down(len(data))
                if direction == UP:
                    self._look(data)
                if self._stops(direction, len(data)):
                    return  # nothing is closed: the connection stands still
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _slow_down(self, size: int) -> None:
        seconds = self.proxy.delay_seconds
        if self.proxy.bytes_per_second:
            seconds += size / self.proxy.bytes_per_second
        if seconds:
            time.sleep(seconds)

    def _look(self, data: bytes) -> None:
        wanted = self.proxy.wanted
        if wanted is not None and wanted[0] in data:
            self.found, self.passed = wanted, {UP: 0, DOWN: 0}

    def _stops(self, direction: str, size: int) -> bool:
        if self.found is None or self.found is not self.proxy.wanted or self.found[1] != direction:
            return False
        self.passed[direction] += size
        if self.passed[direction] < self.found[2]:
            return False
        self.proxy.wanted = None
        self.proxy.stopped.set()
        return True
