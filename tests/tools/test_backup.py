"""A panel is backed up, lost, and restored elsewhere: by real PostgreSQL and QEMU."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext, redirect_stderr
from errno import EIO
from io import StringIO
from pathlib import Path
from unittest import mock
from uuid import uuid4

import psycopg
import pytest
from django.conf import settings
from django.db import connection
from django.test import TransactionTestCase, override_settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from accounts.permissions import Role
from images.base_images import add_base_image
from images.models import Image
from images.stores import store_for
from servers import tasks
from servers.compute import disks, process
from servers.compute.backends import compute_for
from servers.compute.base import ImageFile
from servers.compute.folder import ServerFolder
from tests.factories import AccountFactory, UserFactory
from tests.servers.compute import guest
from tests.servers.compute.region import needs_qemu, wait_until
from tests.servers.factories import FlavorFactory, ServerFactory
from tools import backup
from tools.postgres import find_programs

PROJECT = Path(__file__).parents[2]


class BackupTestCase(TransactionTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.folder.chmod(0o711)
        self.addCleanup(shutil.rmtree, self.folder)
        self.data, self.fresh = self.folder / "data", self.folder / "fresh"
        self.enterContext(
            override_settings(
                DATA_DIR=self.data, IMAGES=settings.IMAGES | {"min_free_bytes": 0}
            )
        )
        self.enterContext(mock.patch.dict(os.environ, PG_BIN=str(find_programs())))
        self.said = self.enterContext(redirect_stderr(StringIO()))
        self.address = connection.get_connection_params()
        self.url = self.database(self.address["dbname"])
        self.new_name = f"{self.address['dbname']}_restored"
        self.new_url = self.database(self.new_name)

    def database(self, name):
        words = ("user", "password", "host", "port")
        known = {word: self.address[word] for word in words if word in self.address}
        return make_conninfo(dbname=name, **known)

    def create_database(self):
        name = sql.Identifier(self.new_name)
        with psycopg.connect(self.url, autocommit=True) as there:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name)
            there.execute(drop)
            there.execute(sql.SQL("CREATE DATABASE {}").format(name))

        def clean_up():
            with psycopg.connect(self.url, autocommit=True) as there:
                there.execute(drop)

        self.addCleanup(clean_up)

    def save(self):
        return backup.save(self.url, self.data, self.folder / "backups").backup

    def restore(self, saved):
        self.create_database()
        return backup.restore(self.new_url, self.fresh, saved)

    def add_image(self, greeting):
        disk = self.folder / "disk"
        region = AccountFactory.create().home_region
        guest.write_image(disk, greeting=greeting)
        content = bytearray(disk.read_bytes())
        # One partition, as the store wants to see one.
        content[446:462] = struct.pack("<B3xB3xII", 0x80, 0x83, 1, 2047)
        disk.unlink()
        disk.write_bytes(content)
        [image] = add_base_image(
            disk, str(greeting), [region], os="", description="", min_ram_mb=0,
            min_disk_gb=0,
        )  # fmt: skip
        disk.unlink()
        return image

    def blobs(self, data):
        paths = (data / "images" / "blobs").glob("??/*")
        return {path.name: path.read_bytes() for path in paths}


@needs_qemu
class FilesTests(BackupTestCase):
    def test_a_second_backup_copies_only_what_is_new(self):
        self.add_image(b"one")
        first = self.save()
        (self.folder / "backups" / "blobs").chmod(0o700)
        before = {
            path: path.stat().st_mtime_ns
            for path in (self.folder / "backups" / "blobs").glob("??/*")
        }
        self.add_image(b"two")
        with mock.patch("tools.backup.time.strftime", return_value="later"):
            second = self.save()
        after = list((self.folder / "backups" / "blobs").glob("??/*"))
        assert (len(before), len(after)) == (1, 2)
        assert all(path.stat().st_mtime_ns == then for path, then in before.items())
        # The first is as it was: it knows nothing of the second image.
        self.restore(first)
        assert len(self.blobs(self.fresh)) == 1
        shutil.rmtree(self.fresh)
        self.restore(second)
        assert self.blobs(self.fresh) == self.blobs(self.data)

    def test_all_that_the_database_names_is_there_whatever_goes_on(self):
        first = self.add_image(b"one")
        copy, copied = backup._copy_blobs, []

        def meanwhile(source, target, missing):
            """The second comes before the dump, the first goes after it."""
            if len(copied) == 2:
                assert list((self.folder / "backups").glob("*.new/database"))
                store_for("local").path(first.blob.digest).unlink()
            copied.append(copy(source, target, missing))
            if len(copied) == 2:
                self.add_image(b"two")
            return copied[-1]

        with mock.patch("tools.backup._copy_blobs", meanwhile):
            saved = self.save()
        self.restore(saved)
        assert copied == [1, 0, 1]
        assert len(self.blobs(self.fresh)) == 2
        assert "not in the backup" not in self.said.getvalue()

    def test_a_file_that_is_lost_is_named(self):
        image = self.add_image(b"one")
        store_for("local").path(image.blob.digest).unlink()
        self.restore(self.save())
        assert f"not in the backup: the image file {image.blob.digest}" in (
            self.said.getvalue()
        )

    def test_what_comes_before_the_dump_and_goes_in_it_is_there(self):
        self.add_image(b"one")
        copy, run, second = backup._copy_blobs, backup._run, []

        def meanwhile(*given):
            count = copy(*given)
            second[:] = second or [self.add_image(b"two")]
            return count

        def dump(*given):
            run(*given)
            store_for("local").path(second[0].blob.digest).unlink()

        with (
            mock.patch("tools.backup._copy_blobs", meanwhile),
            mock.patch("tools.backup._run", dump),
        ):
            saved = self.save()
        self.restore(saved)
        assert len(self.blobs(self.fresh)) == 2

    def test_a_damaged_file_is_named_and_copied_once_it_is_mended(self):
        path = store_for("local").path(self.add_image(b"one").blob.digest)
        self.add_image(b"two")
        sound = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(sound[:-1] + b"x")
        said = self.run_backup("save", self.folder / "backups")
        assert said.returncode == 1
        assert f"image file {path.stem}: its data is damaged" in said.stderr
        self.restore(Path(said.stdout.strip()))
        assert len(self.blobs(self.fresh)) == 1
        path.write_bytes(sound)
        shutil.rmtree(self.fresh)
        with mock.patch("tools.backup.time.strftime", return_value="later"):
            self.restore(self.save())
        assert len(self.blobs(self.fresh)) == 2

    def test_one_that_cannot_be_read_keeps_nothing_else_from_being_saved(self):
        image = self.add_image(b"one")
        self.add_image(b"two")
        with self.bad_sector(image.blob.digest):
            saved = backup.save(self.url, self.data, self.folder / "backups")
        assert saved.missing == {image.blob.digest}
        assert (saved.backup / "database").is_file()
        assert "cannot be read (I/O error)" in self.said.getvalue()

    def test_one_that_cannot_even_be_opened_is_named(self):
        digest = "ab" * 32
        path = self.data / "images" / "blobs" / "ab" / f"{digest}.raw"
        folder = ServerFolder(self.data / "servers", uuid4())
        for link in (path, folder.disk):
            link.parent.mkdir(parents=True)
            link.symlink_to(link)
        saved = backup.save(self.url, self.data, self.folder / "backups")
        assert saved.missing == {digest, str(folder.id)}
        assert (saved.backup / "database").is_file()

    def test_one_that_was_killed_is_in_nobody_s_way(self):
        path = store_for("local").path(self.add_image(b"one").blob.digest)
        draft = self.folder / "backups" / "blobs" / path.stem[:2] / f"{path.name}.new"
        draft.parent.mkdir(parents=True)
        draft.touch(0o444)
        self.restore(self.save())
        assert set(self.blobs(self.fresh)) == {path.name}

    def test_two_do_not_write_to_one_folder(self):
        self.save()
        with (
            backup._alone(self.folder / "backups"),
            pytest.raises(backup.BackupError, match="Another backup"),
        ):
            self.save()

    def test_a_disk_that_is_damaged_is_left_out_and_named(self):
        server = ServerFactory.create(account=AccountFactory.create(), active=True)
        saved = self.save()
        folder = saved / "servers" / str(server.pk)
        folder.mkdir(parents=True)
        disk = folder / "disk.qcow2"
        for data in (b"QFI", b"QFI\xfb" + b"\xff" * 100):
            with self.subTest(data):
                disk.write_bytes(data)
                assert str(server.pk) in self.restore(saved)
                assert f"disk of the server {server.pk}: its data is damaged" in (
                    self.said.getvalue()
                )
                assert list((self.fresh / "servers").iterdir()) == []

    def test_a_disk_that_cannot_be_read_is_named_and_all_else_saved(self):
        server_id = uuid4()
        folder = self.data / "servers" / str(server_id)
        folder.mkdir(parents=True)
        for name in ("disk.qcow2", "state.json"):
            (folder / name).touch(0o600)
        with self.bad_sector("disk.qcow2"):
            saved = backup.save(self.url, self.data, self.folder / "backups")
        assert saved.missing == {str(server_id)}
        assert f"the disk of the server {server_id}" in self.said.getvalue()
        assert list((saved.backup / "servers").iterdir()) == []

    def test_one_that_is_being_worked_on_has_another_chance(self):
        server_id = uuid4()
        folder = ServerFolder(self.data / "servers", server_id)
        folder.path.mkdir(parents=True)
        folder.disk.touch(0o600)
        save_server = backup._save_server
        in_the_way = [True, False, True, True]

        def save(server, target):
            is_busy = in_the_way.pop(0)
            with folder.locked(patience=0) if is_busy else nullcontext():
                save_server(server, target)

        with (
            mock.patch("tools.backup._save_server", save),
            mock.patch("tools.backup._PATIENCE", 0),
        ):
            for missing in (set(), {str(server_id)}):
                shutil.rmtree(self.folder / "backups", ignore_errors=True)
                saved = backup.save(self.url, self.data, self.folder / "backups")
                assert saved.missing == missing
                copied = saved.backup / "servers" / str(server_id) / "disk.qcow2"
                assert copied.exists() is not bool(missing)
        assert f"disk of the server {server_id}: Something else" in self.said.getvalue()

    def test_a_damaged_backup_leaves_nothing_half_restored(self):
        path = store_for("local").path(self.add_image(b"one").blob.digest)
        saved = self.save()
        [copy] = (self.folder / "backups" / "blobs").glob("??/*")
        with self.bad_sector(copy.name):
            assert self.restore(saved) == {path.stem}
        assert f"image file {path.stem}: it cannot be read" in self.said.getvalue()
        assert self.blobs(self.fresh) == {}

    @contextmanager
    def bad_sector(self, name):
        read = backup._read

        def read_badly(stream):
            if name in stream.name:
                stream = mock.Mock()
                stream.read.side_effect = OSError(EIO, "I/O error")
            return read(stream)

        with mock.patch("tools.backup._read", read_badly):
            yield

    def test_a_backup_that_was_cut_short_has_no_name(self):
        failing = mock.patch("tools.backup._copy_blobs", side_effect=OSError("broken"))
        with failing, pytest.raises(OSError, match="broken"):
            self.save()
        [left] = (self.folder / "backups").iterdir()
        assert left.name.endswith(".new")
        assert (self.folder / "backups").stat().st_mode & 0o777 == 0o700

    def test_nothing_is_overwritten(self):
        saved = self.save()
        with pytest.raises(backup.BackupError, match="database is not empty"):
            backup.restore(self.url, self.fresh, saved)
        self.add_image(b"one")
        with pytest.raises(backup.BackupError, match="images is not empty"):
            backup.restore(self.new_url, self.data, saved)
        with pytest.raises(backup.BackupError, match="no backup"):
            backup.restore(self.new_url, self.fresh, self.folder)

    def test_what_is_missing_or_fails_is_named(self):
        with (
            mock.patch.dict(os.environ, PG_BIN="/nowhere"),
            pytest.raises(backup.BackupError, match="pg_dump is not installed"),
        ):
            self.save()
        with pytest.raises(backup.BackupError, match="pg_dump has failed"):
            backup.save(self.new_url, self.data, self.folder / "elsewhere")

    def test_it_is_used_from_the_command_line(self):
        said = self.run_backup("save", self.folder / "backups")
        saved = Path(said.stdout.strip())
        assert (saved / "database").is_file()
        assert said.returncode == 0
        refused = self.run_backup("restore", self.folder)
        assert refused.returncode == 1
        assert "is no backup" in refused.stderr
        unset = self.run_backup("restore", self.folder, DATA_DIR=None)
        assert "Set DATA_DIR" in unset.stderr

    def run_backup(self, *arguments, **changes):
        environment = os.environ | {
            "DATABASE_URL": self.url,
            "DATA_DIR": str(self.data),
        }
        for name in changes:
            del environment[name]
        return subprocess.run(
            [sys.executable, "-m", "tools.backup", *map(str, arguments)],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.mark.qemu
@needs_qemu
class RestoredPanelTests(BackupTestCase):
    """Not only are the rows there again: the server boots from its own disk."""

    def setUp(self):
        super().setUp()
        self.addCleanup(self.destroy_all, self.data)
        self.addCleanup(self.destroy_all, self.fresh)
        self.beta = AccountFactory.create(name="Beta")
        self.bob = UserFactory.create(roles=[(self.beta, Role.USER_ADMIN)])
        image = self.add_image(guest.GREETING)
        self.stopped = self.build(image, "stopped")
        self.stopped.power_off(by=self.bob)
        tasks.power_off(server_id=str(self.stopped.pk))
        self.running = self.build(image, "running")

    def destroy_all(self, data):
        with override_settings(DATA_DIR=data):
            compute = compute_for("local")
            for server_id in compute.server_ids():
                compute.destroy(server_id)

    def build(self, image, name):
        server = ServerFactory.create(
            account=self.beta,
            by=self.bob,
            name=name,
            image=image,
            flavor=FlavorFactory.create(id=name, ram_mb=32, disk_gb=1),
        )
        tasks.build(server_id=str(server.pk))
        server.refresh_from_db()
        assert server.status == "ACTIVE", server.reason
        self.wait_for_greeting(self.data, server, 1)
        return server

    def wait_for_greeting(self, data, server, times):
        console = data / "servers" / str(server.pk) / "console.log"
        wait_until(
            lambda: (
                console.exists() and console.read_bytes().count(guest.GREETING) >= times
            ),
            f"{times} greetings",
        )

    def disk(self, data):
        return data / "servers" / str(self.stopped.pk) / "disk.qcow2"

    def test_a_panel_comes_back_on_another_machine(self):
        saved = self.save()
        assert f"left out, since it runs: the disk of the server {self.running.pk}" in (
            self.said.getvalue()
        )
        disk = self.disk(self.data).read_bytes()
        blobs = self.blobs(self.data)
        self.restore(saved)
        assert self.counts(self.new_url) == self.counts(self.url)
        assert Image.objects.count() == 1
        assert self.blobs(self.fresh) == blobs
        assert self.disk(self.fresh).read_bytes() == disk
        # The old machine is gone, with all that lay on it.
        self.destroy_all(self.data)
        shutil.rmtree(self.data)

        self.manage("migrate", "--check")
        found = json.loads(self.manage("reconcile", "--json", status=1))
        assert {each["subject"] for each in found} == {str(self.running.pk)}
        with self.worker():
            self.wait_for_status(self.running, "ERROR")
            self.tell("power_on")
            self.wait_for_status(self.stopped, "ACTIVE")
            self.wait_for_greeting(self.fresh, self.stopped, 1)
        # An upgrade starts the worker anew, and leaves the servers alone.
        before = self.process()
        assert before
        with self.worker():
            self.tell("reboot")
            self.wait_for_greeting(self.fresh, self.stopped, 2)
            assert self.process() == before
            self.tell("power_off")
            self.wait_for_status(self.stopped, "SHUTOFF")
        assert self.process() is None

    def test_a_disk_that_is_newer_than_the_database_is_left_out(self):
        save_server = backup._save_server
        other = self.add_image(b"other")

        def rebuilt_before(server, target):
            if server.id == self.stopped.pk:
                disk = self.disk(self.data)
                path = store_for("local").path(other.blob.digest)
                disks.create_overlay(disk, ImageFile(path=path, format="raw"), 1)
            save_server(server, target)

        with mock.patch("tools.backup._save_server", rebuilt_before):
            saved = self.save()
        # This one is newer as a whole.
        shutil.copytree(
            saved / "servers" / str(self.stopped.pk), saved / "servers" / str(uuid4())
        )
        self.restore(saved)
        assert f"{self.stopped.pk}: it was rebuilt after the database" in (
            self.said.getvalue()
        )
        assert list((self.fresh / "servers").iterdir()) == []

    def process(self):
        return process.find(self.disk(self.fresh).parent / "pid", self.stopped.pk)

    def counts(self, url):
        with psycopg.connect(url) as there:
            tables = there.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            return {
                name: there.execute(
                    sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
                ).fetchone()
                for (name,) in tables
            }

    @property
    def environment(self):
        return os.environ | {
            "DATABASE_URL": self.new_url,
            "DATA_DIR": str(self.fresh),
            "MIN_FREE_MIB": "0",
        }

    def manage(self, *arguments, status=0):
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def tell(self, verb):
        """As Bob does it by his page, in the panel that was restored."""
        script = (
            "from accounts.models import User; from servers.models import Server;"
            f"by = User.objects.get(pk={self.bob.pk});"
            f"Server.objects.get(name='stopped').{verb}(by=by)"
        )
        self.manage("shell", "--no-imports", "-c", script)

    @contextmanager
    def worker(self):
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "worker", "--grace", "5"],
            cwd=PROJECT,
            env=self.environment,
        )
        try:
            yield
        finally:
            worker.terminate()
            worker.wait(60)

    def wait_for_status(self, server, status):
        query = "SELECT status, task FROM servers_server WHERE id = %s"
        with psycopg.connect(self.new_url, autocommit=True) as there:

            def is_so():
                return there.execute(query, [server.pk]).fetchone() == (status, "")

            wait_until(is_so, f"{server} {status}")
