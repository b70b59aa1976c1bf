import runpy
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

CONFIG = Path(__file__).parents[2] / "gunicorn.conf.py"


def test_who_stops_in_the_midst_of_a_request_holds_no_thread():
    config = runpy.run_path(str(CONFIG))
    config["when_ready"].__globals__["PATIENCE"] = 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config["when_ready"](
            SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)])
        )
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            accepted.setblocking(True)
            with accepted, pytest.raises(BlockingIOError):
                accepted.recv(1)
