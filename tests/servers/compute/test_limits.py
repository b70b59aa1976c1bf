"""Nothing that a server waits for may keep the worker for ever."""

import os
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

import pytest

from servers.compute import disks, jobs, qmp
from servers.compute.base import ComputeError, ImageFile
from servers.compute.disks import create_overlay
from servers.compute.qmp import Monitor, MonitorError, MonitorGone


class FakeMonitor:
    """Has one block job, in the states that it is given, of which the last stays."""

    def __init__(self, *states):
        self.name = "snapshot"
        self.states = list(states)
        self.executed = []

    def execute(self, command, arguments=None, *, fd=None):
        self.executed.append(command)
        if command != "query-jobs":
            return {}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return [{"id": self.name, "total-progress": 1 << 30, **state}]

    def status(self):
        return "running"


class BlockJobTests(unittest.TestCase):
    def finish(self, *states):
        jobs._finish(FakeMonitor(*states), "snapshot", None)

    def test_one_that_stands_still_is_given_up(self):
        for status in ("running", "paused", "pending", "aborting"):
            with (
                self.subTest(status),
                mock.patch.object(jobs, "_STALL", 0),
                pytest.raises(MonitorError, match="no progress any more"),
            ):
                self.finish({"status": status, "current-progress": 5})

    def test_one_that_hardly_moves_is_given_up(self):
        crawling = [
            {"status": "running", "current-progress": done} for done in range(1000)
        ]
        with (
            mock.patch.object(jobs, "_LEAST_SECONDS", 0),
            mock.patch.object(jobs, "_SLOWEST", 1 << 40),
            pytest.raises(MonitorError, match="it took longer than 0 minutes"),
        ):
            self.finish(*crawling)

    def test_a_detachment_that_does_not_come_to_its_end_is_given_up(self):
        monitor = FakeMonitor({"status": "pending"})
        monitor.name = "detach"
        with (
            mock.patch.object(jobs, "_LAST_STEP", 0),
            pytest.raises(MonitorError, match="last step does not end"),
        ):
            jobs.detach(monitor, speed=0, patience=0)

    def test_one_that_moves_is_left_to_end(self):
        self.finish(
            {"status": "running", "current-progress": 1},
            {"status": "concluded", "current-progress": 1 << 30},
        )


class ProgramTests(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.image = self.folder / "image.raw"
        self.image.write_bytes(bytes(512))

    def put_in_the_place_of_qemu_img(self, script):
        fake = self.folder / "qemu-img"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        path = f"{self.folder}:{os.environ['PATH']}"
        self.enterContext(mock.patch.dict(os.environ, PATH=path))

    def test_a_qemu_img_that_hangs_is_ended_and_the_disk_is_not_there(self):
        self.put_in_the_place_of_qemu_img(f"echo $$ > {self.folder}/pid; exec sleep 60")
        disk = self.folder / "disk.qcow2"
        with (
            mock.patch.object(disks, "_SECONDS", 3),
            pytest.raises(ComputeError, match="took longer than 3 seconds"),
        ):
            create_overlay(disk, ImageFile(path=self.image, format="raw"), 1)

        assert not disk.exists()
        assert not Path("/proc", (self.folder / "pid").read_text().strip()).exists()

    def test_a_copy_that_crawls_is_given_up_and_leaves_nothing(self):
        target = self.folder / "target"
        with (
            mock.patch.object(disks, "_LEAST_SECONDS", 0),
            mock.patch.object(disks, "_SLOWEST", 1 << 40),
            pytest.raises(ComputeError, match="took longer than"),
        ):
            disks.copy_to(self.image, target)

        assert sorted(path.name for path in self.folder.iterdir()) == ["image.raw"]


class MuteMonitorTests(unittest.TestCase):
    def test_a_qemu_that_never_greets_is_given_up(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        listener = qmp.listen(folder)
        self.addCleanup(listener.close)
        clients = []
        accept = threading.Thread(
            target=lambda: clients.append(listener.accept()[0]), daemon=True
        )
        accept.start()
        began = time.monotonic()
        with pytest.raises(MonitorGone, match="no answer in time"):
            Monitor(folder, patience=0.3).__enter__()

        assert time.monotonic() - began < 10
        accept.join()
        clients[0].close()
