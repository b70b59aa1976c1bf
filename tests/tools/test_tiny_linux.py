import gzip
import lzma
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

import pytest

from tools import tiny_linux
from tools.tiny_linux import TinyLinuxError, base_image, build

PASSWORD = "correct horse"
SECONDS_TO_BOOT = 600


@pytest.mark.qemu
class TinyLinuxTests(unittest.TestCase):
    def setUp(self):
        if not shutil.which("qemu-system-x86_64"):
            self.skipTest("there is no QEMU here")
        try:
            self.image = base_image()
        except TinyLinuxError as error:
            self.skipTest(str(error))

    def test_a_server_of_it_lives_from_its_first_start_to_the_power_button(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="vm-"))
        machine = Machine(self.image, Path(folder))
        self.addCleanup(machine.end)
        self._check_sign_in_on_the_console(machine)
        assert machine.ssh("hostname; id -un").split() == ["heron", "root"]
        picture = machine.folder / "screen.ppm"
        machine.monitor(f"screendump {picture}")
        assert picture.read_bytes().startswith(b"P6")
        machine.monitor("system_powerdown")
        assert machine.process.wait(60) == 0

    def _check_sign_in_on_the_console(self, machine: "Machine") -> None:
        machine.wait_for("heron login: ")
        machine.type("root\n")
        machine.wait_for("Password: ")
        machine.type(f"{PASSWORD}\n")
        machine.wait_for("heron:~")
        machine.type("cat /etc/os-release; ls /run/server\n")
        machine.wait_for('PRETTY_NAME="Tiny Linux 1.0"')
        # What came with user-data is on the disk of the server alone.
        machine.wait_for("No such file or directory")


class BuildTests(unittest.TestCase):
    def test_a_machine_without_the_tools_is_told_which(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(shutil, "which", lambda *_, **__: None)
            with pytest.raises(TinyLinuxError, match="It needs apt-get, dpkg-deb"):
                build(Path(folder, "tiny.qcow2"))
            assert list(Path(folder).iterdir()) == []


class ModuleTests(unittest.TestCase):
    """Kernels of different releases compress their modules in different ways."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        modules = self.folder / "usr/lib/modules/6.12"
        modules.mkdir(parents=True)
        (modules / "modules.builtin").write_text(
            "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n"
        )
        self.modules = modules

    def add(self, name: str, data: bytes) -> None:
        (self.modules / name).write_bytes(data)

    def test_each_comes_after_what_it_needs_however_it_is_compressed(self):
        net = b"\0depends=failover,ext4\0softdep=pre: crc-fast post: x\0"
        evdev = self.folder / "evdev"
        evdev.write_bytes(b"evdev")
        self.add("virtio_net.ko.xz", lzma.compress(net))
        self.add("failover.ko", b"failover")
        self.add("crc-fast.ko", b"crc")
        self.add("virtio_blk.ko.gz", gzip.compress(b"\0depends=\0"))
        self.add("button.ko", b"button")
        if shutil.which("zstd"):
            run("zstd", "-q", evdev, "-o", self.modules / "evdev.ko.zst")
        else:
            self.add("evdev.ko", b"evdev")
        found = tiny_linux._modules_in_order(self.folder)
        assert set(found) == {
            *("virtio_blk", "virtio_net", "failover", "crc_fast", "button", "evdev")
        }
        names = list(found)
        assert names.index("failover") < names.index("virtio_net")
        assert names.index("crc_fast") < names.index("virtio_net")
        assert found["virtio_net"] == net
        assert found["evdev"] == b"evdev"

    def test_a_kernel_without_a_module_that_we_need_is_told(self):
        with pytest.raises(TinyLinuxError, match="no module virtio_blk"):
            tiny_linux._modules_in_order(self.folder)


class Machine:
    """A server as the panel starts them: an overlay of the image, and its own data."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self.seen = ""
        key = folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        hashed = run("openssl", "passwd", "-6", PASSWORD).strip()
        user_data = folder / "user-data"
        user_data.write_text(
            "echo heron >/etc/hostname\n"
            f"sed -i 's|^root:[^:]*:|root:{hashed}:|' /etc/shadow\n"
            f"echo '{key.with_suffix('.pub').read_text().strip()}'"
            " >/root/.ssh/authorized_keys\n"
        )
        data = folder / "data.tar"
        with tarfile.open(data, "w") as archive:
            archive.add(user_data, "user-data")
        disk = folder / "disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.ssh_port = free.getsockname()[1]
        self.console = (folder / "console.log").open("w+", errors="replace")
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-nodefaults", "-no-user-config"),
                *("-accel", "tcg,tb-size=64", "-cpu", "Nehalem", "-m", "128"),
                *("-display", "none", "-vga", "std"),
                *("-drive", f"file={disk},format=qcow2,if=virtio"),
                *("-drive", f"file={data},format=raw,if=virtio,read-only=on"),
                *("-netdev", f"user,id=net,restrict=on,hostfwd={self._forward()}"),
                *("-device", "virtio-net-pci,netdev=net,romfile="),
                *("-chardev", "stdio,id=console,signal=off", "-serial"),
                *("chardev:console", "-monitor"),
                f"unix:{folder / 'monitor'},server=on,wait=off",
            ],
            stdin=subprocess.PIPE,
            stdout=self.console,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.console.close()

    def wait_for(self, text: str) -> None:
        """Wait until the console shows it after what was waited for last."""
        log = Path(self.console.name)
        deadline = time.monotonic() + SECONDS_TO_BOOT
        while True:
            shown = re.sub(
                r"\x1b\[[0-9;?]*[a-zA-Z]", "", log.read_text(errors="replace")
            )
            before, found, _ = shown[len(self.seen) :].partition(text)
            if found:
                self.seen += before + found
                return
            assert self.process.poll() is None, f"the machine has ended:\n{shown}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{shown}"
            time.sleep(0.1)

    def type(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def ssh(self, command: str) -> str:
        return run(
            *("ssh", "-i", self.folder / "key", "-p", self.ssh_port),
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
            *("-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
            *("-o", "ConnectTimeout=60", "-F", "none", "root@127.0.0.1", command),
        )

    def monitor(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(30)
            monitor.connect(str(self.folder / "monitor"))
            self._read_prompt(monitor)
            monitor.sendall(f"{command}\n".encode())
            self._read_prompt(monitor)

    @staticmethod
    def _read_prompt(monitor: socket.socket) -> None:
        told = b""
        while not told.endswith(b"(qemu) "):
            told += monitor.recv(4096)

    def _forward(self) -> str:
        return f"tcp:127.0.0.1:{self.ssh_port}-:22"


def run(*command: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout
