"""Seed, console, command line, disk headers and ports: no QEMU is needed."""

import errno
import io
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import tarfile
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock
from uuid import UUID, uuid4

import pytest
from django.test import override_settings

from servers.compute import console, disks, ports
from servers.compute.backends import compute_for
from servers.compute.base import (
    ComputeError,
    ImageFile,
    ImageGone,
    NoCapacity,
    ServerSpec,
)
from servers.compute.command import OpenFiles, idle_command, server_command
from servers.compute.launch import QemuSettings
from servers.compute.qemu import QemuCompute
from servers.compute.seed import seed_archive, user_data

SERVER_ID = UUID("0b8f9a1e-6f0c-4c58-9d2d-1f3f7d1f8a55")
HASH = "$6$saltsalt$" + "a/." * 28 + "xy"
SPEC = ServerSpec(
    id=SERVER_ID,
    hostname="web-1",
    memory_mb=128,
    vcpus=2,
    disk_gb=1,
    image=None,
    password_hash=HASH,
    public_keys=('ssh-ed25519 AAAAC3Nz alice\'s "laptop" $(reboot)',),
)


class SeedTests(unittest.TestCase):
    def setUp(self):
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("etc/dropbear", "etc/ssh", "root", "bin"):
            (self.root / name).mkdir(parents=True)
        (self.root / "etc/shadow").write_text("root:!:19000:0:::::\ndaemon:*:1:::::\n")
        (self.root / "etc/shadow").chmod(0o640)
        (self.root / "etc/dropbear/dropbear_rsa_host_key").write_text("old")

    def boot(self, spec=SPEC):
        """Run the script as an image would, in a folder of its own."""
        script = user_data(spec)
        for name in ("etc", "root", "var"):
            script = script.replace(f"/{name}/", f"{self.root}/{name}/")
        for name in ("sed", "cat", "rm", "mkdir", "grep", "sync"):
            if not (self.root / "bin" / name).exists():
                (self.root / "bin" / name).symlink_to(shutil.which(name))
        subprocess.run(
            ["/bin/sh", "-c", script],
            check=True,
            env={"PATH": str(self.root / "bin")},
            timeout=30,
        )

    def read(self, name):
        return (self.root / name).read_text()

    def test_a_first_start_sets_name_password_and_keys(self):
        self.boot()

        assert self.read("etc/hostname") == "web-1\n"
        assert self.read("etc/shadow") == f"root:{HASH}:19000:0:::::\ndaemon:*:1:::::\n"
        assert (self.root / "etc/shadow").stat().st_mode & 0o777 == 0o640
        assert self.read("root/.ssh/authorized_keys") == SPEC.public_keys[0] + "\n"
        mode = (self.root / "root/.ssh/authorized_keys").stat().st_mode
        assert mode & 0o777 == 0o600

    def test_host_keys_of_the_image_are_not_kept(self):
        self.boot()

        assert not (self.root / "etc/dropbear/dropbear_rsa_host_key").exists()

    def test_a_later_start_leaves_what_the_user_changed(self):
        self.boot()
        (self.root / "etc/shadow").write_text("root:changed:19000:0:::::\n")
        (self.root / "etc/dropbear/dropbear_rsa_host_key").write_text("own")

        self.boot()

        assert "changed" in self.read("etc/shadow")
        assert self.read("etc/dropbear/dropbear_rsa_host_key") == "own"

    def test_another_server_from_this_disk_is_set_up_anew(self):
        self.boot()

        second = ("ssh-ed25519 BBBB bob", *SPEC.public_keys)
        self.boot(replace(SPEC, id=uuid4(), hostname="web-2", public_keys=second))

        assert self.read("etc/hostname") == "web-2\n"
        # As on other clouds, keys of the image stay: the panel says to look for them.
        keys = self.read("root/.ssh/authorized_keys").splitlines()
        assert keys == [SPEC.public_keys[0], "ssh-ed25519 BBBB bob"]

    def test_without_password_and_key_nobody_gets_in(self):
        self.boot(replace(SPEC, password_hash="", public_keys=()))

        assert self.read("etc/shadow").startswith("root:!:")
        assert not (self.root / "root/.ssh").exists()

    def test_the_archive_holds_the_script_alone(self):
        data = seed_archive(SPEC)

        assert len(data) % 512 == 0
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            (entry,) = archive.getmembers()
            assert (entry.name, entry.mode, entry.uid) == ("user-data", 0o600, 0)
            script = archive.extractfile(entry).read().decode()
        assert script == user_data(SPEC)

    def test_what_could_be_read_as_more_is_refused(self):
        for changes in [
            {"hostname": "web 1"},
            {"hostname": "web;reboot"},
            {"hostname": "-web"},
            {"hostname": ""},
            {"hostname": "w" * 64},
            {"password_hash": "plain"},
            {"password_hash": HASH + "\n"},
            {"public_keys": ("ssh-ed25519 AAAA a\nreboot",)},
            {"public_keys": ("no key",)},
        ]:
            with self.subTest(changes), pytest.raises(ComputeError):
                user_data(replace(SPEC, **changes))


class PasswordTests(unittest.TestCase):
    def setUp(self):
        if not shutil.which("openssl"):
            self.skipTest("needs openssl")
        self.compute = QemuCompute(QemuSettings(folder=Path("unused")))

    def test_the_hash_is_one_that_a_seed_takes(self):
        hashed = self.compute.hash_password("correct horse ümlaut $x")

        assert hashed.startswith("$6$")
        user_data(replace(SPEC, password_hash=hashed))

    def test_two_hashes_of_one_password_differ(self):
        assert self.compute.hash_password("x") != self.compute.hash_password("x")

    def test_a_second_line_would_be_lost(self):
        with pytest.raises(ValueError, match="one line"):
            self.compute.hash_password("a\nb")


class ConsoleTests(unittest.TestCase):
    def test_only_what_can_be_read_is_left(self):
        for data, text in [
            (b"plain\r\n", "plain\n"),
            (b"\x1b[1;31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07after", "after"),
            (b"\x1b]52;c;ZWNobw==\x1b\\after", "after"),
            (b"\x1bPq#0\x1b\\after", "after"),
            (b"\x1bc\x1b(Bafter", "after"),
            (b"10%\r50%\r100%\n", "100%\n"),
            (b"typo\x08\x08\x08ext", "text"),
            (b"\x08\x00\x07bell", "bell"),
            (b"bad \xff byte", "bad \ufffd byte"),
            ("caf\u00e9 \u0634 \u4e2d".encode(), "caf\u00e9 \u0634 \u4e2d"),
            ("\u202egnp.exe\u2069\x9b31m".encode(), "gnp.exe31m"),
            (b"tab\tstays", "tab\tstays"),
            (b"<script>", "<script>"),
            (b"", ""),
        ]:
            with self.subTest(data):
                assert console.clean(data) == text

    def test_the_end_starts_with_a_whole_line(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            assert console.read_end(log, 10) == b""
            log.write_bytes(b"first\nsecond\nthird\n")

            assert console.read_end(log, 100) == b"first\nsecond\nthird\n"
            assert console.read_end(log, 10) == b"third\n"
            assert console.read_end(log, 3) == b""

    def test_a_long_log_is_cut_while_it_is_written(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            console.trim(log)
            with log.open("ab", buffering=0) as writer:
                writer.write(b"x" * 900 + b"y" * 200)
                console.trim(log, 1100)
                assert log.stat().st_size == 1100

                console.trim(log, 1000)
                writer.write(b"z")

            assert log.read_bytes() == b"x" * 300 + b"y" * 200 + b"z"

    def test_no_guest_keeps_the_panel_busy_with_what_it_prints(self):
        size = 1 << 16
        for piece in (b"a", b"\r", b"a\r", b"a\x08", b"\x1b[1", b"\x1b]", b"\x1b["):
            for data in (piece * (size // len(piece)), piece + b"0" * size):
                with self.subTest(piece=piece):
                    begun = time.process_time()
                    console.clean(data)
                    assert time.process_time() - begun < 1


class CommandTests(unittest.TestCase):
    def command(self, accelerator="tcg", **files):
        return server_command(
            "/usr/bin/qemu",
            SPEC,
            OpenFiles(**({"monitor": 11, "disk": 12, "image": 13} | files)),
            seed=14,
            console=15,
            accelerator=accelerator,
            ssh="127.0.0.1:22001",
        )

    def values(self, command, option):
        return [value for name, value in itertools.pairwise(command) if name == option]

    def test_the_walls_stand(self):
        command = self.command()

        (sandbox,) = self.values(command, "-sandbox")
        assert sandbox.split(",") == [
            "on",
            "obsolete=deny",
            "elevateprivileges=deny",
            "spawn=deny",
            "resourcecontrol=deny",
        ]
        assert self.values(command, "-netdev") == [
            "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:22001-:22"
        ]
        assert {"-nodefaults", "-no-user-config"} <= set(command)

    def test_it_names_no_file_and_no_secret(self):
        text = " ".join(self.command()[1:])

        assert HASH not in text
        assert "AAAA" not in text
        assert "web-1" not in text
        assert "/" not in text.replace("/dev/fdset/", "")

    def test_disk_and_image_are_spelled_out(self):
        disk, seed = map(json.loads, self.values(self.command(), "-blockdev"))

        assert disk["backing"]["read-only"]
        assert seed["read-only"]
        assert sorted(self.values(self.command(), "-add-fd")) == [
            "fd=12,set=1",
            "fd=13,set=2",
            "fd=14,set=3",
            "fd=15,set=4",
        ]

    def test_a_detached_disk_has_no_backing_whatever_its_header_says(self):
        disk = json.loads(self.values(self.command(image=None), "-blockdev")[0])

        assert disk["backing"] is None

    def test_kvm_is_the_operators_choice_alone(self):
        assert self.values(self.command(), "-accel") == ["tcg,tb-size=64"]
        assert self.values(self.command("kvm"), "-accel") == ["kvm"]
        assert self.values(self.command("kvm"), "-cpu") == ["host"]

    def test_idle_there_is_no_machine(self):
        files = OpenFiles(monitor=11, disk=12, image=None)

        command = idle_command("/usr/bin/qemu", SERVER_ID, files)

        assert self.values(command, "-machine") == ["none"]
        assert "-netdev" not in command


class DiskTests(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def qcow2(self, *, backing=0, size=5 << 20):
        path = self.folder / "image.qcow2"
        path.write_bytes(struct.pack(">4sIQIIQ", b"QFI\xfb", 3, backing, 0, 16, size))
        return path

    def test_sizes_are_those_the_server_sees(self):
        raw = self.folder / "image.raw"
        raw.write_bytes(b"x" * 1000)

        assert disks.image_size(ImageFile(path=raw, format="raw")) == 1000
        qcow2 = ImageFile(path=self.qcow2(), format="qcow2")
        assert disks.image_size(qcow2) == 5 << 20

    def test_an_image_on_another_file_is_refused(self):
        image = ImageFile(path=self.qcow2(backing=112), format="qcow2")

        with pytest.raises(ComputeError, match="rests on another file"):
            disks.image_size(image)

    def test_a_damaged_file_is_said_to_be_damaged(self):
        (self.folder / "bad").write_bytes(b"QFI\xfb")

        with pytest.raises(ComputeError, match="damaged"):
            disks.read_header(self.folder / "bad")

    def test_a_missing_image_is_gone(self):
        for format in ("raw", "qcow2"):
            with self.subTest(format), pytest.raises(ImageGone):
                disks.image_size(ImageFile(path=self.folder / "none", format=format))

    def test_a_full_disk_is_noticed_before_the_work(self):
        disks.check_space(self.folder, 0)
        with pytest.raises(NoCapacity, match="too little disk space"):
            disks.check_space(self.folder, 1 << 60)

    def test_a_copy_that_fails_leaves_nothing(self):
        with pytest.raises(OSError, match="directory"):
            disks.copy_to(self.folder, self.folder / "new")

        assert list(self.folder.iterdir()) == []

    def test_what_nobody_can_write_to_any_more_is_handed_over_without_a_copy(self):
        draft, target = self.folder / "draft", self.folder / "new"
        draft.write_bytes(b"disk")
        written = draft.stat().st_ino

        disks.hand_over(draft, target)

        assert target.stat().st_ino == written
        assert target.stat().st_mode & 0o777 == 0o444
        assert not draft.exists()

    def test_what_a_process_has_still_open_is_copied_out_of_its_reach(self):
        draft, target = self.folder / "draft", self.folder / "new"
        draft.write_bytes(b"disk")
        with draft.open("r+b") as kept:
            disks.hand_over(draft, target)
            kept.write(b"evil")

        assert target.read_bytes() == b"disk"
        assert target.stat().st_mode & 0o777 == 0o444

    def test_so_is_what_is_to_go_to_another_file_system(self):
        draft, target = self.folder / "draft", self.folder / "new"
        draft.write_bytes(b"disk")
        rename = Path.rename

        def refuse(path, to):
            if path == draft:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return rename(path, to)

        with mock.patch.object(Path, "rename", refuse):
            disks.hand_over(draft, target)

        assert target.read_bytes() == b"disk"

    def test_a_folder_that_is_missing_is_no_other_file_system(self):
        draft = self.folder / "draft"
        draft.write_bytes(b"disk")
        with pytest.raises(FileNotFoundError):
            disks.hand_over(draft, self.folder / "missing" / "new")


class PortTests(unittest.TestCase):
    def setUp(self):
        self.held = self.enterContext(socket.socket())
        self.held.bind(("127.0.0.1", 0))
        self.held.listen()
        self.port = self.held.getsockname()[1]

    def choose(self, ports_range, *, last=0, taken=()):
        chosen = ports.candidates("127.0.0.1", ports_range, last=last, taken=set(taken))
        return next(chosen)

    def test_any_free_port_will_do(self):
        assert self.choose((0, 0)) not in (0, self.port)

    def test_the_last_port_comes_first(self):
        free = self.choose((0, 0))

        assert self.choose((0, 0), last=free) == free
        assert self.choose((free, free + 5), last=free) == free

    def test_a_port_that_somebody_holds_is_passed_over(self):
        assert self.choose((0, 0), last=self.port) != self.port
        with pytest.raises(NoCapacity, match="no free port"):
            self.choose((self.port, self.port))

    def test_a_port_of_a_server_that_is_off_stays_its_own(self):
        free = self.choose((0, 0))

        with pytest.raises(NoCapacity):
            self.choose((free, free), taken=[free])

    def test_a_last_port_outside_of_the_range_is_given_up(self):
        free = self.choose((0, 0))

        assert self.choose((free, free), last=self.port) == free


class BackendTests(unittest.TestCase):
    def test_the_local_region_follows_the_settings(self):
        chosen = {"max_servers": 3, "servers_per_account": 2, "ssh_ports": (0, 0)}
        with override_settings(COMPUTE=chosen, DATA_DIR=Path(os.devnull)):
            compute = compute_for("local")
            assert compute is compute_for("local")
            assert compute.unavailable_reason()

    def test_an_unknown_backend_is_named(self):
        with pytest.raises(ComputeError, match="“mars”"):
            compute_for("mars")
