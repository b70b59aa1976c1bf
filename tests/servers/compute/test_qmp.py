import json
import socket
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

import pytest

from servers.compute import qmp
from servers.compute.qmp import Monitor, MonitorError, MonitorGone


class MonitorTests(unittest.TestCase):
    """Against a program that says what QEMU would, and what it should not."""

    def setUp(self):
        top = Path(self.enterContext(tempfile.TemporaryDirectory()))
        # Far longer than the 107 bytes that a socket's path may have.
        self.folder = top / ("x" * 120)
        self.folder.mkdir()

    def answer_with(self, *answers):
        """Greet, then answer each command: a function of its id, or bytes."""
        listener = qmp.listen(self.folder)

        def serve():
            with listener, listener.accept()[0] as client:
                client.sendall(b'{"QMP": {}}\r\n')
                lines = client.makefile("rb")
                for answer in (lambda name: {"return": {}, "id": name}, *answers):
                    name = json.loads(lines.readline())["id"]
                    data = answer
                    if callable(answer):
                        data = json.dumps(answer(name)).encode() + b"\n"
                    client.sendall(data)
                lines.read()
                lines.close()

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)

    def hear_the_second_client(self, *, what_the_first_gets):
        listener = qmp.listen(self.folder)

        def serve():
            with listener:
                with listener.accept()[0] as client:
                    client.sendall(b'{"QMP": {}}\r\n' + what_the_first_gets)
                    while client.recv(1000):
                        pass
                with listener.accept()[0] as client:
                    client.sendall(b'{"QMP": {}}\r\n')
                    name = json.loads(client.recv(1000))["id"]
                    client.sendall(
                        json.dumps({"return": {}, "id": name}).encode() + b"\n"
                    )
                    client.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)

    def test_who_is_greeted_and_not_heard_comes_again(self):
        self.enterContext(mock.patch.object(qmp, "_UNHEARD", 1))
        for what in (b"", b'{"QMP": {}}\r\n'):
            with self.subTest(what):
                self.hear_the_second_client(what_the_first_gets=what)
                with Monitor(self.folder):
                    pass

    def test_an_answer_is_returned(self):
        self.answer_with(lambda name: {"return": {"status": "running"}, "id": name})

        with Monitor(self.folder) as monitor:
            assert monitor.status() == "running"

    def test_a_refusal_is_an_error_in_qemus_words(self):
        self.answer_with(lambda name: {"error": {"desc": "no such job"}, "id": name})

        with (
            Monitor(self.folder) as monitor,
            pytest.raises(MonitorError, match="no such job"),
        ):
            monitor.execute("job-cancel", {"id": "snapshot"})

    def test_events_and_answers_to_a_dead_client_are_passed_over(self):
        self.answer_with(
            b'{"event": "STOP"}\n{"return": 1, "id": "old"}\n{"return": 1}\n'
        )
        with Monitor(self.folder) as monitor:
            monitor._patience = 0.2
            with pytest.raises(MonitorGone, match="no answer in time"):
                monitor.execute("query-jobs")

    def test_nonsense_is_not_trusted(self):
        self.answer_with(b"{nonsense\n")

        with (
            Monitor(self.folder) as monitor,
            pytest.raises(MonitorGone, match="cannot be read"),
        ):
            monitor.execute("query-jobs")

    def test_an_endless_answer_does_not_fill_the_memory(self):
        self.answer_with(b"x" * (qmp.MAX_LINE + 1))

        with Monitor(self.folder) as monitor, pytest.raises(MonitorGone):
            monitor.execute("query-jobs")

    def test_a_second_client_is_not_kept_waiting_for_ever(self):
        with (
            qmp.listen(self.folder),
            pytest.raises(MonitorGone, match="in time"),
            Monitor(self.folder, patience=0.1),
        ):
            pass

    def test_nobody_listens(self):
        qmp.listen(self.folder).close()

        with pytest.raises(MonitorGone), Monitor(self.folder):
            pass

    def test_a_client_that_hangs_up_is_noticed(self):
        listener = qmp.listen(self.folder)

        def hang_up():
            with listener:
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        self.addCleanup(thread.join)

        with pytest.raises(MonitorGone, match="closed"), Monitor(self.folder):
            pass

    def test_a_folder_that_cannot_be_used_leaves_no_socket_open(self):
        # Warnings are errors, also that of a socket which nobody closed.
        with pytest.raises(OSError, match="No such file"):
            qmp.listen(self.folder / "none")
        with pytest.raises(MonitorGone), Monitor(self.folder / "none"):
            pass

    def test_an_open_file_goes_along(self):
        received = []
        listener = qmp.listen(self.folder)

        def serve():
            with listener, listener.accept()[0] as client:
                client.sendall(b'{"QMP": {}}\n')
                name = json.loads(client.recv(4096))["id"]
                client.sendall(json.dumps({"return": {}, "id": name}).encode() + b"\n")
                data, files, _, _ = socket.recv_fds(client, 4096, 1)
                received.extend(files)
                answer = {"return": {"fdset-id": 7}, "id": json.loads(data)["id"]}
                client.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with (self.folder / "file").open("wb") as file, Monitor(self.folder) as monitor:
            answer = monitor.execute("add-fd", fd=file.fileno())
        thread.join()

        assert answer == {"fdset-id": 7}
        with open(received[0], "wb") as copy:  # noqa: PTH123 - not a path
            copy.write(b"through")
        assert (self.folder / "file").read_bytes() == b"through"
