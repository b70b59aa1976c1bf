from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from images.stores import (
    BlobGone,
    Refused,
    StoreError,
    StoreFull,
    TooLarge,
    Unavailable,
    local,
    store_for,
)
from images.stores.local import LocalStore
from tests.images.stores import corpus
from tests.images.stores.case import GIB, StoreCase, needs_qemu
from tests.places import places

MIB = 1 << 20
PROJECT = Path(__file__).parents[3]


def send(store, *parts, limit=GIB, after=None):
    """Upload the parts; an exception among them is raised in its place."""
    with store.receive(uuid4(), limit=limit) as receiver:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            receiver.write(part)
        receiver.finish()
        if after:
            raise after


@needs_qemu
class ReceiveTests(StoreCase):
    def test_the_digest_and_size_are_those_of_the_bytes_sent(self):
        chunks = [os.urandom(size) for size in (1, 70_000, 0, 4096)]
        with self.store.receive(uuid4(), limit=MIB) as receiver:
            for chunk in chunks:
                receiver.write(chunk)
            assert receiver.size == 74_097
            received = receiver.finish()
        digest = hashlib.sha256(b"".join(chunks)).hexdigest()
        assert received == (digest, 74_097)

    def test_one_byte_too_many_is_refused_and_nothing_is_left(self):
        with pytest.raises(TooLarge, match="at most 1 MiB"):
            send(self.store, bytes(MIB), b"x", limit=MIB)
        assert self.left_over() == []

    def test_the_stores_own_limit_counts_when_it_is_lower(self):
        store = self.store_with(max_upload_bytes=10)
        with pytest.raises(TooLarge):
            send(store, bytes(11), limit=MIB)

    def test_a_cut_connection_leaves_nothing(self):
        with pytest.raises(ConnectionResetError):
            send(self.store, bytes(1000), ConnectionResetError())
        assert self.left_over() == []

    def test_an_upload_that_is_not_finished_leaves_nothing(self):
        with self.store.receive(uuid4(), limit=MIB) as receiver:
            receiver.write(bytes(1000))
        assert self.left_over() == []

    def test_a_failure_after_the_last_byte_leaves_nothing(self):
        with pytest.raises(RuntimeError):
            send(self.store, bytes(1000), after=RuntimeError())
        assert self.left_over() == []

    def test_some_space_always_stays_free(self):
        store = self.store_with(min_free_bytes=1 << 60)
        assert store.free_bytes() == 0
        with pytest.raises(StoreFull):
            send(store, b"x")
        assert self.left_over() == []

    def test_a_write_that_the_system_refuses_leaves_nothing(self):
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, usual)
        with pytest.raises(StoreFull, match="no room"):
            send(self.store, bytes(200_000))
        assert self.left_over() == []

    def test_two_uploads_under_one_id_do_not_mix(self):
        upload_id = uuid4()
        with self.store.receive(upload_id, limit=MIB) as first:
            first.write(b"first")
            with (
                pytest.raises(StoreError, match="already"),
                self.store.receive(upload_id, limit=MIB),
            ):
                pass
            first.finish()
        assert (self.uploads / f"{upload_id}.data").read_bytes() == b"first"

    def test_what_is_being_sent_is_not_discarded(self):
        upload_id = uuid4()
        with self.store.receive(upload_id, limit=MIB) as receiver:
            receiver.write(b"all ")
            self.store.discard(upload_id)
            receiver.write(b"of it")
            receiver.finish()
        assert (self.uploads / f"{upload_id}.data").read_bytes() == b"all of it"

    def test_nothing_takes_the_place_of_what_is_being_checked(self):
        image = corpus.raw_mbr(self.folder / "image")
        upload_id = self.upload(image)
        other = image.read_bytes() + b"other"

        def meanwhile(path, progress=None, sums_of=local._sums_of):
            """By way of the panel; and past it, as somebody who may write there."""
            found = sums_of(path, progress)
            with self.store.receive(upload_id, limit=GIB) as receiver:
                receiver.write(other)
                with pytest.raises(StoreError, match="still being checked"):
                    receiver.finish()
            path.unlink()
            path.write_bytes(other)
            return found

        with (
            patch.object(local, "_sums_of", meanwhile),
            pytest.raises(BlobGone, match="no longer there"),
        ):
            self.store.admit(upload_id)
        assert list(self.store.files()) == []
        stored = self.store.admit(upload_id)
        assert self.store.path(stored.digest).read_bytes() == other

    def test_what_was_finished_since_it_was_opened_is_not_cut(self):
        upload_id = uuid4()
        first = self.store.receive(upload_id, limit=GIB)
        flock = fcntl.flock

        def finish_first(descriptor, how):
            with patch.object(fcntl, "flock", flock):
                first.finish()
            flock(descriptor, how)

        with first:
            first.write(b"all of it")
            second = self.store.receive(upload_id, limit=GIB)
            with (
                patch.object(fcntl, "flock", finish_first),
                pytest.raises(StoreError, match="being uploaded already"),
                second,
            ):
                pytest.fail("the second writes")
        assert (self.uploads / f"{upload_id}.data").read_bytes() == b"all of it"

    def test_what_was_removed_while_it_came_is_said_to_be_gone(self):
        upload_id = uuid4()
        with self.store.receive(upload_id, limit=MIB) as receiver:
            receiver.write(b"all of it")
            (self.uploads / f"{upload_id}.part").unlink()
            with pytest.raises(BlobGone, match="removed"):
                receiver.finish()
        assert self.left_over() == []

    def test_what_a_killed_process_left_can_be_swept_or_sent_again(self):
        upload_id = uuid4()
        (self.uploads / f"{upload_id}.part").write_bytes(bytes(50))
        (self.uploads / "lost+found").touch()
        [upload] = self.store.uploads()
        assert upload.upload_id == upload_id
        assert datetime.now(UTC) - upload.changed_at < timedelta(minutes=1)
        with self.store.receive(upload_id, limit=MIB) as receiver:
            receiver.write(b"again")
            assert receiver.finish().size == 5
        assert (self.uploads / f"{upload_id}.data").read_bytes() == b"again"
        for kind in ("part", "work", "claim"):
            (self.uploads / f"{upload_id}.{kind}").touch()
        self.store.discard(upload_id)
        self.store.discard(upload_id)
        assert list(self.store.uploads()) == []

    def setUp(self) -> None:
        super().setUp()
        self.store.free_bytes()  # makes the folder


@needs_qemu
class FullDiskTests(StoreCase):
    """On a real disk of 12 MiB, where we may mount one."""

    def setUp(self) -> None:
        super().setUp()
        root = self.folder / "store"
        root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(root)]
        if os.geteuid() or subprocess.run(mount, check=False).returncode:
            self.skipTest("mounting a small disk needs root")
        self.addCleanup(subprocess.check_call, ["umount", str(root)])

    def test_an_upload_larger_than_the_disk_leaves_nothing(self):
        with pytest.raises(StoreFull):
            send(self.store, *[bytes(MIB)] * 13)
        assert self.left_over() == []

    def test_a_disk_that_fills_up_behind_our_back_leaves_nothing(self):
        with (
            patch("images.stores.local.LocalStore.free_bytes", return_value=GIB),
            pytest.raises(StoreFull),
        ):
            send(self.store, bytes(13 * MIB))
        assert self.left_over() == []

    def test_a_disk_that_is_read_only_is_named_and_the_work_done_later(self):
        kept = self.upload(corpus.converted(self.folder / "kept", "qcow2"))
        stored = self.store.admit(kept)
        self.store.discard(kept)
        waiting = self.upload(corpus.converted(self.folder / "waiting", "vdi"))
        root = str(self.folder / "store")
        subprocess.check_call(["mount", "-o", "remount,ro", root])
        for deed in (
            partial(self.store.admit, waiting),
            partial(self.store.discard, waiting),
            partial(self.store.delete, stored.digest, in_use=lambda: False),
        ):
            with pytest.raises(Unavailable, match="cannot be written to"):
                deed()

        subprocess.check_call(["mount", "-o", "remount,rw", root])
        assert self.store.delete(stored.digest, in_use=lambda: False)
        self.store.admit(waiting)
        self.store.discard(waiting)

    def test_a_disk_that_turns_read_only_meanwhile_locks_nothing(self):
        upload_id = uuid4()
        broken = OSError(errno.EROFS, "Read-only file system")
        with (
            patch.object(os, "write", side_effect=broken),
            patch.object(Path, "unlink", side_effect=broken),
            pytest.raises(Unavailable),
            self.store.receive(upload_id, limit=GIB) as receiver,
        ):
            receiver.write(b"x")
        with self.store.receive(upload_id, limit=GIB) as again:
            again.write(b"all of it")
            again.finish()

    def test_a_disk_that_fills_up_at_the_last_step_is_full(self):
        full = OSError(errno.ENOSPC, "No space left on device")
        with (
            patch.object(Path, "replace", side_effect=full),
            self.store.receive(uuid4(), limit=GIB) as receiver,
            pytest.raises(StoreFull),
        ):
            receiver.finish()

    def test_a_conversion_without_room_leaves_the_upload_for_later(self):
        upload_id = self.upload(corpus.converted(self.folder / "image", "vdi"))
        filler = self.folder / "store" / "filler"
        filler.write_bytes(bytes(self.store.free_bytes() - 300_000))
        with pytest.raises(StoreFull):
            self.store.admit(upload_id)
        assert self.left_over() == [f"{upload_id}.data"]
        filler.unlink()
        assert self.store.admit(upload_id).disk_format == "qcow2"


@needs_qemu
class AdmitTests(StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = corpus.raw_mbr(self.folder / "image")

    def test_a_blob_is_read_only_under_its_digest(self):
        upload_id = self.upload(self.image)
        stored = self.store.admit(upload_id)
        self.store.discard(upload_id)
        path = self.store.path(stored.digest)
        root = self.folder / "store"
        wanted = root / "blobs" / stored.digest[:2] / f"{stored.digest}.raw"
        assert path == wanted
        assert path.stat().st_mode & 0o777 == 0o444
        assert path.parent.stat().st_mode & 0o777 == 0o755
        assert self.uploads.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_nlink == 1
        assert self.left_over() == []
        assert [file.digest for file in self.store.files()] == [stored.digest]

    def test_admitting_again_gives_the_same(self):
        for form in ("raw", "qcow2", "vmdk"):
            with self.subTest(form):
                upload_id = self.upload(corpus.converted(self.image, form))
                assert self.store.admit(upload_id) == self.store.admit(upload_id)

    def test_the_same_bytes_twice_are_one_blob(self):
        uploads = [self.upload(self.image) for _ in range(2)]
        assert len({self.store.admit(each) for each in uploads}) == 1
        assert len(list(self.store.files())) == 1

    def test_an_upload_that_is_gone_is_said_to_be_gone(self):
        for verb in (self.store.inspect, self.store.admit):
            with pytest.raises(BlobGone, match="no longer there"):
                verb(uuid4())

    def test_a_conversion_without_room_leaves_no_rest(self):
        upload_id = self.upload(corpus.converted(self.folder / "image", "vhdx"))
        with pytest.raises(StoreFull):
            self.store_with(min_free_bytes=1 << 60).admit(upload_id)
        assert self.left_over() == [f"{upload_id}.data"]
        self.store.admit(upload_id)

    def test_a_local_file_is_imported_and_stays_where_it_is(self):
        upload_id = uuid4()
        stored = self.store.import_file(self.image, upload_id=upload_id)
        assert self.store.import_file(self.image, upload_id=upload_id) == stored
        self.store.discard(upload_id)
        self.image.write_bytes(b"changed")
        assert self.store.verify(stored.digest)

    def take_over(self):
        """As whoever made the file does it: its own name goes last."""
        upload_id = uuid4()
        stored = self.store.take_over(self.image, upload_id=upload_id)
        assert self.store.take_over(self.image, upload_id=upload_id) == stored
        self.store.discard(upload_id)
        assert self.store.verify(stored.digest)
        return stored

    def test_a_file_that_is_taken_over_is_not_copied(self):
        self.image = corpus.converted(self.image, "qcow2")
        written = self.image.stat().st_ino
        stored = self.take_over()
        assert not self.store.delete(stored.digest, in_use=lambda: False)
        self.image.unlink()
        blob = self.store.path(stored.digest).stat()
        assert (blob.st_ino, blob.st_nlink, blob.st_mode & 0o777) == (written, 1, 0o444)
        assert self.left_over() == []

    def test_one_on_another_file_system_is_copied(self):
        for reason in (errno.EXDEV, errno.EPERM):
            with self.subTest(reason=reason), self.no_link(reason):
                self.take_over()
        with self.no_link(errno.EIO), pytest.raises(OSError, match="Errno 5"):
            self.take_over()

    def no_link(self, reason):
        return patch.object(LocalStore, "_link_in", side_effect=OSError(reason, ""))

    def test_one_that_is_damaged_or_too_large_is_refused_like_any_other(self):
        self.image = corpus.converted(self.image, "qcow2")
        with pytest.raises(TooLarge, match="at most 0 MiB"):
            self.store_with(max_upload_bytes=10).take_over(
                self.image, upload_id=uuid4()
            )
        os.truncate(self.image, self.image.stat().st_size // 2)
        upload_id = uuid4()
        with pytest.raises(Refused, match="damaged"):
            self.store.take_over(self.image, upload_id=upload_id)
        self.store.discard(upload_id)
        assert self.left_over() == []
        assert list(self.store.files()) == []

    def test_a_worker_killed_at_any_line_can_begin_again(self):
        self.image = corpus.converted(self.folder / "image", "vdi", size=3 * MIB)
        lines = self.work()
        assert lines > 20
        for line in places(lines):
            with self.subTest(line=line):
                self.work(line)

    def test_so_can_one_that_takes_a_file_over(self):
        self.image = corpus.converted(self.image, "qcow2")
        lines = self.work(takes_over=True)
        assert lines > 20
        for line in places(lines):
            with self.subTest(line=line):
                self.work(line, takes_over=True)

    def work(self, line=0, *, takes_over=False):
        """Kill it before this line, admit again, and return how many lines ran."""
        upload_id = uuid4() if takes_over else self.upload(self.image)
        source = str(self.image) if takes_over else ""
        arguments = [*map(str, (self.folder, upload_id, line)), source]
        worker = subprocess.run(
            [sys.executable, "-c", KILLED_AT_LINE, *arguments],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            check=False,
        )
        assert worker.returncode == (-signal.SIGKILL if line else 0)
        if takes_over:
            stored = self.store.take_over(self.image, upload_id=upload_id)
        else:
            stored = self.store.admit(upload_id)
        self.store.discard(upload_id)
        assert self.store.verify(stored.digest)
        assert self.left_over() == []
        assert [file.digest for file in self.store.files()] == [stored.digest]
        self.store.path(stored.digest).unlink()
        return int(worker.stdout or 0)


# Counts the lines that run in the store's own file, and dies before the given one.
KILLED_AT_LINE = """
import os, signal, sys
from pathlib import Path
from uuid import UUID
from images.stores.local import LocalStore
VERBS = {"admit", "take_over", "_link_in", "_read", "_convert", "_keep"}
folder, upload_id, last = Path(sys.argv[1]), UUID(sys.argv[2]), int(sys.argv[3])
source = sys.argv[4]
seen = 0
def trace(frame, event, argument):
    global seen
    if frame.f_code.co_name not in VERBS:
        return None
    if event == "line":
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
store = LocalStore(folder / "store", 1 << 30, 1 << 36, 0)
sys.settrace(trace)
if source:
    store.take_over(Path(source), upload_id=upload_id)
else:
    store.admit(upload_id)
sys.settrace(None)
print(seen)
"""


@needs_qemu
class DeleteTests(StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = corpus.raw_mbr(self.folder / "image", 3 * MIB)
        self.upload_id = self.upload(self.image)
        self.digest = self.store.admit(self.upload_id).digest

    def test_a_blob_goes_when_nothing_refers_to_it(self):
        self.store.discard(self.upload_id)
        assert self.store.delete(self.digest, in_use=lambda: False)
        assert list(self.store.files()) == []
        assert self.store.delete(self.digest, in_use=lambda: False)
        assert not self.store.verify(self.digest)
        for verb in (self.store.open, self.store.path):
            with pytest.raises(BlobGone):
                verb(self.digest)

    def test_a_blob_in_use_stays(self):
        self.store.discard(self.upload_id)
        assert not self.store.delete(self.digest, in_use=lambda: True)
        assert self.store.verify(self.digest)

    def test_a_blob_stays_until_its_row_had_time_to_be_committed(self):
        assert not self.store.delete(self.digest, in_use=lambda: False)
        second = self.upload(self.image)
        self.store.admit(second)
        self.store.discard(self.upload_id)
        assert not self.store.delete(self.digest, in_use=lambda: False)
        self.store.discard(second)
        assert self.store.delete(self.digest, in_use=lambda: False)

    def test_a_changed_byte_is_found(self):
        assert self.store.verify(self.digest)
        path = self.store.path(self.digest)
        path.chmod(0o644)
        corpus.patched(path, 12345, b"!")
        assert not self.store.verify(self.digest)

    def test_a_blob_that_is_damaged_is_mended_by_the_same_data(self):
        path = self.store.path(self.digest)
        path.chmod(0o644)
        corpus.patched(path, 12345, b"!")
        self.store.discard(self.upload_id)
        again = self.upload(corpus.raw_mbr(self.folder / "image", 3 * MIB))
        assert self.store.admit(again).digest == self.digest
        assert self.store.verify(self.digest)
        self.store.discard(again)
        assert self.left_over() == []

    def test_the_same_data_may_come_while_its_blob_goes(self):
        self.store.discard(self.upload_id)
        again = self.upload(corpus.raw_mbr(self.folder / "image", 3 * MIB))
        blob = self.store.path(self.digest)

        def gone(path, progress=None, sums_of=local._sums_of):
            if path == blob:
                path.unlink()
            return sums_of(path, progress)

        with patch.object(local, "_sums_of", gone):
            assert self.store.admit(again).digest == self.digest
        assert self.store.verify(self.digest)

    def test_two_that_bring_the_same_data_at_once_share_one_file(self):
        image = corpus.raw_mbr(self.folder / "other", 2 * MIB)
        first, second = self.upload(image), self.upload(image)
        verify, admitted = LocalStore.verify, []

        def look_while_the_first_is_admitted(store, digest):
            is_sound = verify(store, digest)
            if not admitted:
                admitted.append(digest)
                store.admit(first)
            return is_sound

        with patch.object(LocalStore, "verify", look_while_the_first_is_admitted):
            digest = self.store.admit(second).digest
        self.store.discard(second)
        # The first is not discarded so far, so its claim is on the file.
        assert not self.store.delete(digest, in_use=lambda: False)
        self.store.discard(first)
        assert self.store.delete(digest, in_use=lambda: False)

    def test_only_what_is_broken_is_called_damaged(self):
        with patch("images.stores.local._sums_of") as sums:
            sums.side_effect = OSError(errno.EIO, "Input/output error")
            assert not self.store.verify(self.digest)
            sums.side_effect = OSError(errno.EMFILE, "Too many open files")
            with pytest.raises(Unavailable, match="cannot be read"):
                self.store.verify(self.digest)

    def test_a_file_of_which_the_disk_tells_nothing_is_not_gone(self):
        with self.broken_inode(self.digest):
            for verb in (self.store.path, self.store.open):
                with pytest.raises(Unavailable, match="cannot be read"):
                    verb(self.digest)
            assert not self.store.verify(self.digest)
            assert list(self.store.files()) == []
        with self.broken_inode(str(self.upload_id)):
            assert list(self.store.uploads()) == []
        assert len(list(self.store.files())) == len(list(self.store.uploads())) == 1

    @contextmanager
    def broken_inode(self, name):
        stat = Path.stat

        def stat_badly(path, **options):
            if name in path.name:
                raise OSError(errno.EIO, "Input/output error")
            return stat(path, **options)

        with patch.object(Path, "stat", stat_badly):
            yield

    def test_names_that_are_no_digests_find_nothing(self):
        for name in ("", "../../etc/passwd", self.digest.upper(), self.digest + "\n"):
            with self.subTest(name), pytest.raises(BlobGone):
                self.store.path(name)

    def test_nobody_admits_the_same_bytes_while_a_blob_is_being_deleted(self):
        self.store.discard(self.upload_id)
        second = self.upload(self.image)
        admitting = threading.Thread(target=self.store.admit, args=[second])

        def in_use():
            admitting.start()
            admitting.join(1)
            return False

        self.store.delete(self.digest, in_use=in_use)
        admitting.join()
        assert self.store.verify(self.digest)

    def test_two_workers_do_not_admit_one_upload_at_once(self):
        with ThreadPoolExecutor(3) as pool:
            stored = pool.map(self.store.admit, [self.upload_id] * 3)
            assert len(set(stored)) == 1
        self.store.discard(self.upload_id)
        assert self.left_over() == []

    def test_admitting_and_deleting_at_once_never_loses_a_row_its_blob(self):
        # The rows of the database, as a set of those that refer to the blob.
        rows, guard = set(), threading.Lock()
        self.store.discard(self.upload_id)

        def live(number):
            upload_id = self.upload(self.image)
            self.store.admit(upload_id)
            with guard:
                rows.add(number)
            self.store.discard(upload_id)
            for _ in range(200):
                assert self.store.path(self.digest).exists()
            with guard:
                rows.remove(number)
            self.store.delete(self.digest, in_use=lambda: bool(rows))

        with ThreadPoolExecutor(4) as pool:
            for job in [pool.submit(live, number) for number in range(32)]:
                job.result()
        assert list(self.store.files()) == []


class AvailabilityTests(StoreCase):
    def test_without_qemu_uploads_are_refused_with_the_packages_name(self):
        with patch.dict(os.environ, PATH=str(self.folder)):
            reason = self.store.unavailable_reason()
            with pytest.raises(Unavailable) as refusal:
                self.store.receive(uuid4(), limit=MIB)
        assert "qemu-img is not installed (package qemu-utils)" in reason
        assert str(refusal.value) == reason

    @needs_qemu
    def test_qemu_may_go_between_upload_and_check(self):
        upload_id = self.upload(corpus.raw_mbr(self.folder / "image"))
        with patch.dict(os.environ, PATH=str(self.folder)):
            for verb in (self.store.inspect, self.store.admit):
                with pytest.raises(Unavailable):
                    verb(upload_id)

    @needs_qemu
    def test_a_folder_that_cannot_be_made_is_told(self):
        (self.folder / "store").write_text("in the way")
        assert "cannot be written to" in self.store.unavailable_reason()

    @needs_qemu
    def test_all_is_well_with_qemu(self):
        assert self.store.unavailable_reason() == ""

    def test_the_settings_make_the_local_store(self):
        limits = {"max_upload_bytes": 1, "max_virtual_bytes": 2, "min_free_bytes": 0}
        with override_settings(DATA_DIR=self.folder, IMAGES=limits):
            store = store_for("local")
            assert store.free_bytes() <= shutil.disk_usage(self.folder).free
        assert (self.folder / "images" / "uploads").is_dir()

    def test_an_unknown_backend_is_a_fault_of_the_operator(self):
        with pytest.raises(ImproperlyConfigured, match="'swift'"):
            store_for("swift")
