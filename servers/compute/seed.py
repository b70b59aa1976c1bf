"""What a new server is told about itself: host name, root password, SSH keys.

The contract with base images: the second disk is a plain tar archive that holds
`user-data`, a shell script. The image runs it as root at every start, before the
SSH server. The script does its work once for each server, so that a password which
the user has changed later stays, and again when another server boots the same disk.
"""

from __future__ import annotations

import io
import re
import shlex
import tarfile

from servers.compute.base import ComputeError, ServerSpec

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HASH = re.compile(r"\$6\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")
_KEY = re.compile(r"(ssh|sk|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\x00-\x1f\x7f]*)?")

_SCRIPT = """\
#!/bin/sh
# Written by the control panel. Runs at every start, works once for each server.
mark=/var/lib/controlpanel/{id}
[ -e "$mark" ] && exit 0
umask 022
echo {hostname} > /etc/hostname
hostname {hostname} 2>/dev/null
# Host keys that came with the image are known to whoever has the image.
rm -f /etc/dropbear/dropbear_*_host_key /etc/ssh/ssh_host_*
command -v ssh-keygen >/dev/null 2>&1 && ssh-keygen -A >/dev/null 2>&1
umask 077
{steps}mkdir -p "${{mark%/*}}" && : > "$mark"
sync
"""
_SHADOW = """\
sed 's|^root:[^:]*:|root:{hash}:|' /etc/shadow > /etc/shadow.new \\
  && cat /etc/shadow.new > /etc/shadow
rm -f /etc/shadow.new
"""
_KEYS_FOLDER = "mkdir -p /root/.ssh\n"
_KEY_LINE = """\
grep -qxF -e {key} /root/.ssh/authorized_keys 2>/dev/null \\
  || echo {key} >> /root/.ssh/authorized_keys
"""


def user_data(spec: ServerSpec) -> str:
    """The script. Nothing gets into it that could be read as more than it is."""
    if not _HOSTNAME.fullmatch(spec.hostname):
        raise ComputeError("The host name may hold only a-z, 0-9 and inner hyphens.")
    if spec.password_hash and not _HASH.fullmatch(spec.password_hash):
        raise ComputeError("The root password is not a SHA-512 hash.")
    steps = ""
    if spec.password_hash:
        steps += _SHADOW.format(hash=spec.password_hash)
    if spec.public_keys:
        steps += _KEYS_FOLDER
    for key in spec.public_keys:
        if not _KEY.fullmatch(key.strip()):
            raise ComputeError("An SSH key of the server is not a public key.")
        steps += _KEY_LINE.format(key=shlex.quote(key.strip()))
    return _SCRIPT.format(id=spec.id, hostname=spec.hostname, steps=steps)


def seed_archive(spec: ServerSpec) -> bytes:
    """The bytes of the server's second disk."""
    script = user_data(spec).encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("user-data")
        entry.size = len(script)
        entry.mode = 0o600
        archive.addfile(entry, io.BytesIO(script))
    return stream.getvalue()
