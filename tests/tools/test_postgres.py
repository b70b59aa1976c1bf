import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tools.postgres import Postgres, PostgresError, find_programs

ROOT = Path(__file__).parents[2]


class PostgresTests(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pg-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def server(self) -> Postgres:
        server = Postgres(self.folder, {"fsync": "off"})
        self.addCleanup(server.stop)
        return server

    def other_owner(self) -> subprocess.Popen[str]:
        """Another process that owns a server in our folder, and is ready."""
        owner = subprocess.Popen(
            [sys.executable, "-m", "tools.postgres", self.folder],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert owner.stdout
        self.addCleanup(owner.stdout.close)
        self.addCleanup(owner.wait)
        self.addCleanup(owner.kill)
        assert owner.stdout.readline().startswith("DATABASE_URL=")
        return owner

    def server_pid(self) -> int:
        (file,) = self.folder.glob("data-*/postmaster.pid")
        return int(file.read_text().split()[0])

    def test_it_answers_between_start_and_stop_alone(self):
        server = self.server().start()
        assert ask(server, "SHOW fsync") == "off"
        assert ask(server, "SHOW listen_addresses") == ""
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            ask(server, "SELECT 1")

    def test_its_data_outlives_a_stop(self):
        with self.server() as server:
            server.create_database("panel")
            server.create_database("panel")
        with self.server() as server:
            assert ask(server, "SELECT current_database()", "panel") == "panel"

    def test_it_starts_again_after_its_server_was_killed(self):
        server = self.server().start()
        ask(server, "CREATE TABLE kept AS SELECT 1; SELECT 1")
        assert server.process
        server.process.kill()
        server.process.wait()
        assert not server.is_running
        assert ask(server.start(), "SELECT count(*) FROM kept") == 1

    def test_its_server_ends_when_the_owner_is_killed(self):
        owner = self.other_owner()
        server_pid = self.server_pid()
        owner.kill()
        wait_until(lambda: has_ended(server_pid))
        assert self.server().start().is_owned

    def test_a_second_process_joins_and_does_not_end_it(self):
        self.other_owner()
        joined = self.server().start()
        assert not joined.is_owned
        assert not joined.is_running
        joined.stop()
        assert ask(joined, "SELECT 1") == 1

    def test_a_joiner_becomes_the_owner_when_the_owner_has_gone(self):
        owner = self.other_owner()
        joined = self.server().start()
        owner.send_signal(signal.SIGINT)
        assert owner.wait(30) == 0
        assert joined.start().is_owned
        assert ask(joined, "SELECT 1") == 1

    def test_a_command_gets_its_address(self):
        done = subprocess.run(
            [sys.executable, "-m", "tools.postgres", self.folder, "printenv"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "DATABASE_URL=postgresql://app@/controlpanel?host=" in done.stdout

    def test_a_deep_folder_gets_its_sockets_elsewhere(self):
        self.folder /= "deep" * 30
        with self.server() as server:
            assert self.folder not in server.sockets.parents
            assert ask(server, "SELECT 1") == 1
        server.sockets.rmdir()

    def test_initdb_cut_short_is_made_anew(self):
        (self.folder / "data-new").mkdir()
        (self.folder / "data-new" / "PG_VERSION").write_text("18")
        assert ask(self.server().start(), "SELECT 1") == 1

    def test_an_impossible_setting_is_told_from_the_log(self):
        server = Postgres(self.folder, {"fsync": "perhaps"})
        with pytest.raises(PostgresError, match="fsync"):
            server.start()
        assert not server.is_owned

    def test_it_refuses_a_socket_folder_that_others_can_enter(self):
        (self.folder / "s").mkdir(mode=0o755)
        with pytest.raises(PostgresError, match="not a private folder"):
            self.server().start()

    def test_it_refuses_to_start_from_a_thread(self):
        failures = []

        def start():
            try:
                self.server().start()
            except PostgresError as error:
                failures.append(str(error))

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        assert "main thread" in failures[0]


class FindProgramsTests(unittest.TestCase):
    def test_the_environment_has_the_first_word(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PG_BIN", "/opt/postgres")
            assert find_programs() == Path("/opt/postgres")


def ask(server: Postgres, query: str, database: str = "postgres") -> object:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        cursor = connection.execute(query)
        while cursor.nextset():
            pass
        (row,) = cursor.fetchall()
        return row[0]


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has reaped yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
