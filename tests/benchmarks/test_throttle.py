from __future__ import annotations

import socket
import threading
import time

from benchmarks.throttle import Throttle


def test_what_is_sent_arrives_whole_no_quicker_than_allowed_and_answers_come_at_once() -> None:
    taken: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            server, _ = listener.accept()
            with server:
                while data := server.recv(65536):
                    taken.append(data)
                server.sendall(b"x" * 1_000_000)

        thread = threading.Thread(target=serve)
        thread.start()
        data = bytes(range(256)) * 4000
        with Throttle(listener.getsockname()[1], 2_000_000) as slow:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", slow.port)) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            seconds = time.monotonic() - began
        thread.join()
    assert b"".join(taken) == data
    assert len(answer) == 1_000_000
    assert seconds > 0.3, "a megabyte at two a second, some of it at once"
