import pytest

from servers.keys import KeyRefused, read_public_key
from tests.servers.factories import ED25519, key_line

RSA_2048 = (1 << 2047).to_bytes(257)
GOOD = [
    ED25519,
    key_line("ecdsa-sha2-nistp256", b"nistp256", b"\4" + bytes(64)),
    key_line("ecdsa-sha2-nistp384", b"nistp384", b"\4" + bytes(96)),
    key_line("ecdsa-sha2-nistp521", b"nistp521", b"\4" + bytes(132)),
    key_line("ssh-rsa", b"\1\0\1", RSA_2048),
]
BAD = {
    "": "single line",
    "hello": "begins with",
    f'command="sh" {ED25519}': "Options",
    f"{ED25519}\n{ED25519}": "single line",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "private key",
    ED25519[:40]: "damaged",
    "ssh-ed25519 !!!": "damaged",
    "ssh-ed25519": "damaged",
    ED25519.replace("ssh-ed25519", "ssh-rsa", 1): "another type",
    key_line("ssh-ed25519", bytes(31)): "numbers",
    key_line("ssh-rsa", b"\1\0\1", (1 << 1023).to_bytes(129)): "1024 bits",
    key_line("ssh-rsa", b"\0", RSA_2048): "numbers",
    key_line("ecdsa-sha2-nistp256", b"nistp384", b"\4" + bytes(64)): "numbers",
    key_line("ssh-ed25519", bytes(32), b"more"): "numbers",
    ED25519 + " \x1b[31m": "single line",
}


@pytest.mark.parametrize("line", GOOD)
def test_a_sound_key_is_taken_as_it_is(line):
    assert read_public_key(f"  {line}\n").line == line


@pytest.mark.parametrize(("text", "sentence"), BAD.items())
def test_what_is_no_key_is_refused_and_told_why(text, sentence):
    with pytest.raises(KeyRefused, match=sentence):
        read_public_key(text)


def test_the_fingerprint_is_the_one_that_ssh_shows():
    # From ssh-keygen -lf.
    key = read_public_key(
        "ssh-ed25519 "
        "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    )

    assert key.fingerprint == "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
