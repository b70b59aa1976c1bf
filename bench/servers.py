"""Servers and their disks beside the bare programs that do the work underneath."""

import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.panel import Panel, wait_for_prompt
from bench.report import Figures, say, spread
from bench.visitor import REGION
from servers.compute.base import ImageFile
from servers.compute.disks import create_overlay

BASE_IMAGE = "Tiny Linux"
ROUNDS = 5
AT_ONCE = 4
MOST_RATIO, MOST_SECONDS = 1.10, 1.0
GIB, MIB = 1 << 30, 1 << 20
FILLED = "One GiB, filled"
SIZES = {"1 MiB": MIB, "1 GiB": GIB, "20 GiB": 20 * GIB}
OVERLAYS = 20
CONVERT = ("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2")
COMPRESS = ("-c", "-o", "compression_type=zstd")

type Times = dict[str, list[float]]


def run(panel: Panel, *, rounds: int | None) -> Figures:
    found = Figures(
        [
            "| what | panel, s | beside it, s | panel / beside it | target |",
            "|---|---:|---:|---:|---|",
        ]
    )
    count = rounds or ROUNDS
    _boots(panel, found, count)
    _images(panel, found, count)
    _overlays(panel, found)
    return found


def _compare(
    found: Figures, what: str, panel: list[float], beside: list[float], name: str
) -> None:
    """One line; the ratio is taken round by round."""
    ratios = [one / other for one, other in zip(panel, beside, strict=True)]
    found.lines.append(
        f"| {what} | {spread(panel)} | {name}: {spread(beside)} "
        f"| **{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}) "
        f"| {MOST_RATIO:.2f} |"
    )
    more = statistics.median(panel) - statistics.median(beside)
    may_take_a_second = "login prompt" in what and more <= MOST_SECONDS
    if statistics.median(ratios) > MOST_RATIO and not may_take_a_second:
        found.missed.append(f"{what}: {statistics.median(ratios):.2f} x")


# From the click to the login prompt


def _boots(panel: Panel, found: Figures, rounds: int) -> None:
    image = panel.base_image(BASE_IMAGE)
    # The first server of all is not measured, and lends its seed to the bare ones.
    server = panel.alice.order(image)
    wait_for_prompt(panel.folder(server) / "console.log")
    seed = panel.data_dir / "seed.tar"
    shutil.copy(panel.folder(server) / "seed.tar", seed)
    panel.delete_servers()
    times: Times = {}
    noted: list[float] = []
    for number in range(rounds):
        say(f"boots, round {number + 1} of {rounds}")
        for count in (1, AT_ONCE):
            bare = _bare_boots(panel.data_dir / "bare", panel.blob(image), seed, count)
            times.setdefault(f"bare {count}", []).append(bare)
            mine = _panel_boots(panel, image, count)
            times.setdefault(f"panel {count}", []).append(mine)
            if count == 1:
                noted.append(_until_noted(panel))
            panel.delete_servers()
    for count, what in [
        (1, "click to login prompt, 1 server"),
        (AT_ONCE, f"click to login prompt, the last of {AT_ONCE} at once"),
    ]:
        _compare(
            found, what, times[f"panel {count}"], times[f"bare {count}"], "bare QEMU"
        )
    found.lines.append(
        f"| from that prompt until the server's page says so | {spread(noted)} | | | |"
    )


def _panel_boots(panel: Panel, image: str, count: int) -> float:
    def boot(_: int) -> None:
        server = panel.alice.order(image)
        wait_for_prompt(panel.folder(server) / "console.log")

    return _all_at_once(boot, count)


def _until_noted(panel: Panel) -> float:
    begin = time.perf_counter()
    panel.wait("SELECT prompt_at IS NOT NULL FROM servers_server", True)
    return time.perf_counter() - begin


def _bare_boots(folder: Path, image: Path, seed: Path, count: int) -> float:
    """The disks are there before the clock starts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    machines: list[subprocess.Popen[bytes]] = []
    commands = [_bare_qemu(folder / str(n), image, seed) for n in range(count)]

    def boot(number: int) -> None:
        machines.append(subprocess.Popen(commands[number]))
        wait_for_prompt(folder / str(number) / "console.log")

    try:
        return _all_at_once(boot, count)
    finally:
        for machine in machines:
            machine.kill()
            machine.wait()


def _bare_qemu(folder: Path, image: Path, seed: Path) -> list[str]:
    """What one would type to boot the same disk with the same devices, at the priority
    that the panel gives its servers: it counts on a machine that has more to do.
    """
    folder.mkdir()
    disk = folder / "disk.qcow2"
    overlay = ("-f", "qcow2", "-b", str(image), "-F", "qcow2", str(disk), "1G")
    subprocess.run(["qemu-img", "create", "-q", *overlay], check=True)
    return [
        *("nice", "-n", "10"),
        *("qemu-system-x86_64", "-nodefaults", "-machine", "pc", "-display", "none"),
        *("-accel", "tcg,tb-size=64", "-cpu", "Nehalem", "-m", "128", "-vga", "std"),
        *("-drive", f"file={disk},if=virtio,format=qcow2"),
        *("-drive", f"file={seed},if=virtio,format=raw,readonly=on"),
        *("-serial", f"file:{folder / 'console.log'}"),
        *("-netdev", "user,id=net0,restrict=on"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
    ]


def _all_at_once(boot: Callable[[int], None], count: int) -> float:
    """Seconds until the last one is done."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(boot, range(count)))
    return time.perf_counter() - begin


# Create Image


def _images(panel: Panel, found: Figures, rounds: int) -> None:
    say("a disk of 1 GiB, filled")
    image = _filled_image(panel)
    server = panel.alice.order(image)
    wait_for_prompt(panel.folder(server) / "console.log")
    running: Times = {"panel": [], "beside": []}
    off: Times = {"panel": [], "beside": []}
    for number in range(rounds):
        say(f"Create Image, round {number + 1} of {rounds}")
        running["beside"].append(_convert(panel, panel.blob(image)))
        running["panel"].append(_create_image(panel, server))
    panel.alice.post(f"servers/{server}/power-off/")
    panel.wait("SELECT status FROM servers_server WHERE task = ''", "SHUTOFF")
    for number in range(rounds):
        say(f"Create Image of a server that is off, round {number + 1} of {rounds}")
        disk = panel.folder(server) / "disk.qcow2"
        off["beside"].append(_convert(panel, disk))
        off["panel"].append(_create_image(panel, server))
    panel.delete_servers()
    for what, times, of in [
        ("a running server's", running, "image"),
        ("a stopped server's", off, "disk"),
    ]:
        _compare(
            found,
            f"Create Image, {what} disk of 1 GiB",
            times["panel"],
            times["beside"],
            f"qemu-img convert of the {of}",
        )


def _filled_image(panel: Panel) -> str:
    """Tiny Linux, behind it half noise, half the lines of a log."""
    disk = panel.data_dir / "filled"
    tiny = panel.blob(panel.base_image(BASE_IMAGE))
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", tiny, disk], check=True
    )
    chance = random.Random(1)
    with disk.open("r+b") as stream:
        begin = stream.seek(0, 2)
        for _ in range((GIB - begin) // MIB // 2):
            stream.write(chance.randbytes(MIB))
        while (left := GIB - stream.tell()) > 0:
            stream.write(_log_lines(chance)[:left])
    ready = disk.with_suffix(".qcow2")
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, ready], check=True
    )
    disk.unlink()
    panel.manage("add_base_image", str(ready), "--name", FILLED, "--region", REGION)
    ready.unlink()
    return panel.base_image(FILLED)


def _log_lines(chance: random.Random) -> bytes:
    lines = [
        b"12:%02d:%02d web-%d GET /images/%016x/ 200 %d ms"
        % (n // 60 % 60, n % 60, n % 9, chance.getrandbits(64), chance.randrange(999))
        for n in range(20_000)
    ]
    return b"\n".join(lines)[:MIB]


def _create_image(panel: Panel, server: str) -> float:
    """From the click until the image is active."""
    begin = time.perf_counter()
    panel.alice.post(f"servers/{server}/create-image/", name="bench")
    query = "SELECT status FROM images_image WHERE origin = 'server'"
    panel.wait(query, "active")
    seconds = time.perf_counter() - begin
    image = panel.ask("SELECT id::text FROM images_image WHERE origin = 'server'")
    panel.alice.post(f"images/{image}/delete/")
    _wait_for_jobs(panel)
    return seconds


def _convert(panel: Panel, disk: Path) -> float:
    """What one would type to get the same file."""
    target = panel.data_dir / "converted.qcow2"
    begin = time.perf_counter()
    subprocess.run([*CONVERT, *COMPRESS, disk, target], check=True)
    seconds = time.perf_counter() - begin
    target.unlink()
    return seconds


def _wait_for_jobs(panel: Panel) -> None:
    query = (
        "SELECT count(*) FROM procrastinate_jobs"
        " WHERE queue_name = 'images' AND status IN ('todo', 'doing')"
    )
    panel.wait(query, 0)


# Overlays


def _overlays(panel: Panel, found: Figures) -> None:
    say("overlays")
    folder = panel.data_dir / "overlays"
    folder.mkdir()
    images = {name: _sparse(folder / name, size) for name, size in SIZES.items()}
    times: Times = {name: [] for name in images}
    for _ in range(OVERLAYS):
        for name, image in images.items():
            begin = time.perf_counter()
            create_overlay(folder / "disk.qcow2", image, 0)
            times[name].append(1000 * (time.perf_counter() - begin))
    first = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        found.lines.append(
            f"| overlay on an image of {name} | {spread(values, 1)} ms | "
            f"| {statistics.median(values) / first:.2f} of the smallest | flat |"
        )


def _sparse(path: Path, size: int) -> ImageFile:
    with path.open("wb") as stream:
        stream.truncate(size)
    return ImageFile(path=path, format="raw")
