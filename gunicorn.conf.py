"""Gunicorn reads this in the folder that it is started from."""

import socket
import struct

# Seconds for which a client may send, or take, nothing at all. Without them a few
# that stop in the midst of a request hold every thread for ever.
PATIENCE = 60


def when_ready(server):
    waits = struct.pack("ll", PATIENCE, 0)
    for listener in server.LISTENERS:
        # What is accepted inherits both.
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, waits)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, waits)
