"""Build Tiny Linux, the base image of the demo, from the packages of this Debian.

    python -m tools.tiny_linux OUT.qcow2

A disk that boots by itself: boot code, GRUB in the gap before the first partition, one
ext4 partition with a kernel, busybox and an SSH server. It takes ordinary writes to
files and `mke2fs -d`, which fills a file system from a folder: no root, no mount. The
same packages give the same bytes.

A server of it shows a login prompt on the serial console and on the screen, powers off
at the press of its button, and runs at each start the shell script `user-data` from a
plain tar on its second disk (host name, password hash, SSH keys).
"""

import argparse
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64")
PACKAGES = ("busybox-static", "grub-pc-bin")
# Taken with all that they depend on: we run the one and ship the other.
PROGRAMS = ("grub-common", "dropbear-bin")
# button and evdev carry the press of the power button to acpid.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "button", "evdev")
LOADER = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"

TITLE = "Tiny Linux 1.0"
SIZE = 64 << 20
SECTOR = 512
FIRST_SECTOR = 2048  # of the partition, at 1 MiB; GRUB lies in the gap before it
EPOCH = 1_700_000_000  # the one time in the image, so that a rebuild is the same
IDENTITY = uuid.uuid5(uuid.NAMESPACE_DNS, "tiny-linux.invalid")
INODES = 2048

KERNEL_OPTIONS = (
    "console=tty0 console=ttyS0,115200 quiet loglevel=4 panic=5 net.ifnames=0 "
    # What makes it start sooner in an emulated machine.
    "mitigations=off tsc=reliable no_timer_check nowatchdog nokaslr "
    "random.trust_cpu=on"
)
GRUB_START = """\
set root=(hd0,msdos1)
set prefix=(hd0,msdos1)/boot/grub
configfile /boot/grub/grub.cfg
"""
GRUB_MENU = f"""\
linux /boot/vmlinuz {KERNEL_OPTIONS}
initrd /boot/initrd
boot
"""

# What the kernel runs first, out of memory: it loads the drivers and finds the disk.
EARLY_INIT = """\
#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in @MODULES@; do $b insmod "/modules/$module.ko"; done
tries=0
while [ ! -b /dev/vda1 ] && [ $tries -lt 200 ]; do
    $b usleep 50000
    tries=$((tries + 1))
done
$b mount -t ext4 -o ro /dev/vda1 /root || exec $b sh
$b umount /proc /sys
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
"""

START_SCRIPT = """\
#!/bin/sh
# Run by init once at each start.
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -o remount,rw /

ifconfig lo 127.0.0.1 up
if [ -d /sys/class/net/eth0 ]; then
    ifconfig eth0 up
    udhcpc -i eth0 -n -q -t 5 -s /etc/udhcpc.sh >/dev/null 2>&1 &
fi

# The second disk is a plain tar with what is this server's own.
if [ -b /dev/vdb ]; then
    mkdir -m 700 /run/server
    tar -xf /dev/vdb -C /run/server user-data 2>/dev/null
    if [ -f /run/server/user-data ]; then
        sh /run/server/user-data
    fi
    rm -rf /run/server
fi
hostname "$(cat /etc/hostname)"

echo "started after $(cut -d ' ' -f 1 /proc/uptime) s" >>/var/log/starts
dropbear -R
acpid
"""

ADDRESS_SCRIPT = """\
#!/bin/sh
# Run by udhcpc with the answer of the DHCP server in its environment.
case $1 in
bound | renew)
    ifconfig "$interface" "$ip" netmask "$subnet"
    [ -n "$router" ] && route add default gw "${router%% *}"
    ;;
esac
exit 0
"""

INITTAB = """\
::sysinit:/etc/start
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
tty1::respawn:/sbin/getty 38400 tty1
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
"""

FILES = {
    "boot/grub/grub.cfg": GRUB_MENU,
    "etc/group": "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n",
    "etc/hostname": "tiny\n",
    "etc/inittab": INITTAB,
    "etc/issue": f"{TITLE} \\n \\l\n\n",
    "etc/os-release": (
        f'NAME="Tiny Linux"\nID=tiny\nVERSION_ID=1.0\nPRETTY_NAME="{TITLE}"\n'
    ),
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/:/bin/false\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
    "etc/profile": "export PS1='\\h:\\w\\$ '\n",
    "etc/shells": "/bin/sh\n",
}
SCRIPTS = {
    "etc/acpi/PWRF/00000080": "#!/bin/sh\npoweroff\n",
    "etc/start": START_SCRIPT,
    "etc/udhcpc.sh": ADDRESS_SCRIPT,
}
# Nobody can sign in until user-data has set a password or a key.
SECRETS = {
    "etc/shadow": (
        "root:!:19000:0:99999:7:::\n"
        "daemon:*:19000:0:99999:7:::\n"
        "nobody:*:19000:0:99999:7:::\n"
    ),
}


class TinyLinuxError(RuntimeError):
    """Why the image cannot be built here, in a sentence."""


def base_image(cache: Path = Path("var/cache")) -> Path:
    """The image from the cache, built when this recipe has not been built before."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    image = cache.resolve() / f"tiny-linux-{recipe}.qcow2"
    if not image.exists():
        build(image)
    return image


def build(out: Path) -> None:
    _check_machine()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="tiny-") as folder:
        packages, system = Path(folder, "packages"), Path(folder, "system")
        root, disk = Path(folder, "root"), Path(folder, "disk")
        for made in (packages, system, root):
            made.mkdir(mode=0o755)
        _download(packages)
        _unpack(packages, system)
        _fill_root(system, root)
        _make_disk(system, root, disk)
        finished = Path(folder, "image")
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c",
             "-o", "compression_type=zstd", disk, finished)  # fmt: skip
        finished.chmod(0o444)
        finished.rename(out)


def _check_machine() -> None:
    needed = ["apt-get", "dpkg-deb", "mke2fs", "debugfs", "qemu-img"]
    if os.geteuid() != 0:
        needed.append("fakeroot")
    path = _environment()["PATH"]
    missing = [name for name in needed if not shutil.which(name, path=path)]
    if missing:
        raise TinyLinuxError(f"It needs {', '.join(missing)}.")
    if _run("dpkg", "--print-architecture").strip() != "amd64":
        raise TinyLinuxError("It is made of packages for amd64, which this is not.")


# Packages


def _download(folder: Path) -> None:
    try:
        _download_by([], folder)
    except TinyLinuxError:
        # No package lists, or old ones: fetch our own, which needs no root.
        state = folder.parent / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True)
        own = ["-o", f"Dir::State::Lists={state / 'lists'}",
               "-o", f"Dir::Cache={state / 'cache'}"]  # fmt: skip
        _run("apt-get", *own, "-o", "APT::Sandbox::User=root", "-qq", "update")
        _download_by(own, folder)


def _download_by(options: list[str], folder: Path) -> None:
    wanted = {
        *PACKAGES,
        *_with_dependencies(PROGRAMS, options),
        *_kernel_packages(options),
    }
    # Root's apt-get would download as another user, who cannot enter the folder.
    _run("apt-get", *options, "-o", "APT::Sandbox::User=root", "-qq", "download",
         *sorted(wanted), cwd=folder)  # fmt: skip


def _kernel_packages(options: list[str]) -> list[str]:
    for name in KERNELS:
        try:
            found = _with_dependencies([name], options)
        except TinyLinuxError:
            continue  # the other distribution's name
        packages = [
            package
            for package in found
            if re.match(r"linux-(image|modules)(-unsigned)?-\d", package)
        ]
        if packages:
            return packages
    raise TinyLinuxError("apt knows no kernel package.")


def _with_dependencies(packages: Iterable[str], options: list[str]) -> list[str]:
    told = _run(
        "apt-cache", *options, "depends", "--recurse", "--important", *packages
    ).splitlines()
    # A dependency is indented, and a name that several packages provide is in <>.
    return [line for line in told if re.match(r"[a-z0-9]", line) and ":" not in line]


def _unpack(packages: Path, system: Path) -> None:
    # Newer packages have everything below usr, older ones not yet.
    for name in ("bin", "sbin", "lib", "lib64"):
        (system / "usr" / name).mkdir(parents=True)
        (system / name).symlink_to(f"usr/{name}")
    for package in sorted(packages.glob("*.deb")):
        archive = packages / "archive.tar"
        with archive.open("wb") as file:
            subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=file
            )
        _run("tar", "--extract", "--keep-directory-symlink", "--no-same-owner",
             f"--file={archive}", f"--directory={system}")  # fmt: skip


# The root file system


def _fill_root(system: Path, root: Path) -> None:
    for name in ("dev", "proc", "sys", "run", "home", "var/log", "etc/dropbear"):
        (root / name).mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "root/.ssh").mkdir(parents=True)
    for private in ("root", "root/.ssh"):
        (root / private).chmod(0o700)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for files, mode in ((FILES, 0o644), (SCRIPTS, 0o755), (SECRETS, 0o600)):
        for name, text in files.items():
            _write(root / name, text, mode)
    _add_programs(system, root)
    kernel = _only(system / "boot", "vmlinuz-*")
    _copy(kernel, root / "boot/vmlinuz", 0o644)
    (root / "boot/initrd").write_bytes(_early_system(system))
    for path in (root, *root.rglob("*")):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def _add_programs(system: Path, root: Path) -> None:
    busybox = system / "usr/bin/busybox"
    _copy(busybox, root / "usr/bin/busybox", 0o755)
    for path in _run(busybox, "--list-full").split():
        link = root / "usr" / path.removeprefix("usr/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/usr/bin/busybox")
    for name in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        _copy(system / name, root / name, 0o755)
        for library in _libraries(system, system / name):
            _copy(library, root / "usr/lib/x86_64-linux-gnu" / library.name, 0o755)
    _copy(system / LOADER, root / "usr/lib64" / Path(LOADER).name, 0o755)
    for licence in sorted(system.glob("usr/share/doc/*/copyright")):
        _copy(licence, root / licence.relative_to(system), 0o644)


def _libraries(system: Path, program: Path) -> Iterator[Path]:
    """Ask the loader of the unpacked packages what the program would load."""
    told = _run(*_loader(system), "--list", program)
    for name, path in re.findall(r"^\s*(\S+) => (\S+) ", told, re.MULTILINE):
        if not Path(path).is_relative_to(system):
            raise TinyLinuxError(f"No package brought {name} for {program.name}.")
        yield Path(path)


def _loader(system: Path) -> list[object]:
    """How to run a program of the packages with their own libraries."""
    folder = system / "usr/lib/x86_64-linux-gnu"
    return [system / LOADER, "--inhibit-cache", "--library-path", folder]


def _early_system(system: Path) -> bytes:
    modules = _modules_in_order(system)
    archive = Cpio()
    for name in ("bin", "dev", "proc", "sys", "modules", "root"):
        archive.add(name, 0o40755)
    archive.add("dev/console", 0o20600, device=(5, 1))
    archive.add("bin/busybox", 0o100755, (system / "usr/bin/busybox").read_bytes())
    archive.add("bin/sh", 0o120777, b"busybox")
    for name, data in modules.items():
        archive.add(f"modules/{name}.ko", 0o100644, data)
    init = EARLY_INIT.replace("@MODULES@", " ".join(modules))
    archive.add("init", 0o100755, init.encode())
    return archive.finish()


def _modules_in_order(system: Path) -> dict[str, bytes]:
    """The modules we need, each after those that it needs itself.

    Packages bring no modules.dep, which is made at installation: each module says in
    its .modinfo section what it depends on.
    """
    folder = _only(system / "usr/lib/modules", "*")
    loadable = {
        path.name.partition(".ko")[0].replace("-", "_"): path
        for path in folder.rglob("*.ko*")
    }
    built_in = {
        Path(line).stem.replace("-", "_")
        for line in (folder / "modules.builtin").read_text().splitlines()
    }
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in order or name in built_in or name not in loadable:
            return
        data = _decompressed(loadable[name])
        for needed in _needed_modules(data):
            visit(needed)
        order[name] = data

    for name in MODULES:
        if name not in loadable and name not in built_in:
            raise TinyLinuxError(f"The kernel's packages bring no module {name}.")
        visit(name)
    return order


def _needed_modules(module: bytes) -> Iterator[str]:
    for field in re.findall(rb"\0depends=([^\0]*)\0", module):
        yield from filter(None, field.decode().replace("-", "_").split(","))
    for field in re.findall(rb"\0softdep=pre: ([^\0]*)\0", module):
        yield from field.decode().partition("post:")[0].replace("-", "_").split()


def _decompressed(module: Path) -> bytes:
    data = module.read_bytes()
    match module.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            if not shutil.which("zstd"):
                raise TinyLinuxError("It needs zstd, for the kernel's modules.")
            return subprocess.run(
                ["zstd", "-dc", module], check=True, capture_output=True
            ).stdout
    return data


class Cpio:
    """An archive in the format that the kernel takes as its first file system."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0

    def add(
        self,
        name: str,
        mode: int,
        data: bytes = b"",
        device: tuple[int, int] = (0, 0),
    ) -> None:
        self._inode += 1
        ended = name.encode() + b"\0"
        owner = modified = check = 0
        fields = (
            *(self._inode, mode, owner, owner, 1, modified, len(data)),
            *(0, 0, *device, len(ended), check),
        )
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + ended, data):
            self._out.write(part)
            self._out.write(bytes(-self._out.tell() % 4))

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return self._out.getvalue()


# The disk


def _make_disk(system: Path, root: Path, disk: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(SIZE)
    sectors = SIZE // SECTOR - FIRST_SECTOR
    # The journal stays: a copy of a running server's disk needs it to become whole.
    make_file_system = [
        *("mke2fs", "-q", "-t", "ext4", "-d", root, "-L", "root", "-U", IDENTITY),
        *("-O", "^metadata_csum,^64bit,^huge_file", "-m", 0, "-N", INODES),
        *("-E", f"offset={FIRST_SECTOR * SECTOR},root_owner=0:0,hash_seed={IDENTITY}"),
        *(disk, sectors * SECTOR // 1024),
    ]
    if os.geteuid() != 0:  # files shall be root's inside, whoever has them here
        make_file_system.insert(0, "fakeroot")
    _run(*make_file_system)
    _set_change_times(disk, root)
    core = _grub_core(system)
    if len(core) > (FIRST_SECTOR - 1) * SECTOR:
        raise TinyLinuxError("GRUB does not fit before the partition.")
    with disk.open("r+b") as file:
        file.write(_boot_sector(system, sectors))
        file.write(core)  # where the boot sector looks for it


def _set_change_times(disk: Path, root: Path) -> None:
    """Set what mke2fs takes from its source and nobody can set there."""
    made = 1 + sum(1 for _ in root.rglob("*"))
    inodes = [2, *range(11, 11 + made)]  # the root, and after the reserved ones
    commands = "".join(f"sif <{inode}> ctime @{EPOCH}\n" for inode in inodes)
    script = disk.with_name("commands")
    _write(script, commands, 0o644)
    _run("debugfs", "-w", "-f", script, f"{disk}?offset={FIRST_SECTOR * SECTOR}")


def _grub_core(system: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        start, core = Path(folder, "start.cfg"), Path(folder, "core.img")
        _write(start, GRUB_START, 0o644)
        _run(
            *_loader(system),
            *(system / "usr/bin/grub-mkimage", "-O", "i386-pc", "-o", core),
            *("-d", system / "usr/lib/grub/i386-pc", "-c", start),
            *("-p", "(hd0,msdos1)/boot/grub"),
            *("biosdisk", "part_msdos", "ext2", "linux", "configfile", "normal"),
        )
        return core.read_bytes()


def _boot_sector(system: Path, sectors: int) -> bytes:
    code = (system / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
    far = b"\xfe\xff\xff"  # the old cylinder, head and sector: see the numbers instead
    partition = struct.pack(
        "<B3sB3sII", 0x80, far, 0x83, far, FIRST_SECTOR, sectors
    )  # active, Linux
    identity = IDENTITY.bytes[:4] + bytes(2)
    return code + identity + partition + bytes(3 * len(partition)) + b"\x55\xaa"


# Small things


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise TinyLinuxError(f"Expected one {pattern} in {folder}, found {len(found)}.")
    return found[0]


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _copy(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _run(*command: object, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    with _told_as_sentence(words[0]):
        return subprocess.run(
            words,
            check=True,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        ).stdout


@contextmanager
def _told_as_sentence(program: str) -> Iterator[None]:
    name = Path(program).name
    try:
        yield
    except FileNotFoundError as error:
        raise TinyLinuxError(f"It needs {name}.") from error
    except subprocess.CalledProcessError as error:
        lines: Iterable[str] = (error.stderr or error.stdout or "").splitlines()
        last_words = " ".join([line.strip() for line in lines if line.strip()][-3:])
        raise TinyLinuxError(f"{name} failed: {last_words}") from error


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_linux")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        build(arguments.out)
    except TinyLinuxError as error:
        print(f"Tiny Linux cannot be built here. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
