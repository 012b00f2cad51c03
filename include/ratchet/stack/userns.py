"""Run a command under another user id without adding a user: ``python -m ratchet.stack.userns CMD ...``.

PostgreSQL refuses to run as root. In a user namespace of its own our id is shown as 1000; outside it stays ours, so
that files keep their owner and a home of mode 700 stays readable. The command replaces this process (same pid). See
user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
REFUSED_EXIT = 78


def main() -> None:
    """Enter the namespace, then become the command; exit 78 when the kernel refuses."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        reason = os.strerror(ctypes.get_errno())
        sys.stderr.write(
            f"ratchet: PostgreSQL does not run as root, and a user namespace for it is refused here ({reason}). "
            "Run as another user, or set RATCHET_DATABASE_URL to a PostgreSQL server of yours.\n"
        )
        sys.exit(REFUSED_EXIT)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {user} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {group} 1")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    main()
