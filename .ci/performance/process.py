"""Processes of a run: started, looked at by the kernel's own accounting, ended by their ids."""

import atexit
import contextlib
import os
import pathlib
import signal
import subprocess
import time

# How long a process may take to listen, in seconds.
PATIENCE = 60
# And to end when it is asked to: a device with open calls would wait for them.
GRACE = 2
PROC = pathlib.Path("/proc")


# What has been started and not been ended yet.
RUNNING = set()


@atexit.register
def end_all():
    for process in list(RUNNING):
        process.kill(process.tree())


class Failed(Exception):
    """A run that cannot go on; the text is for whoever started it."""


class Broken(Failed):
    """A device altered, lost or misrouted what it should have passed on."""


class Process:
    """A process and its children. It ends with the `with` block, whatever happens."""

    def __init__(self, command, log, grace=GRACE, **options):
        self.command = [str(word) for word in command]
        self.log = pathlib.Path(log)
        self.grace = grace
        self.options = options
        self.child = None

    def __enter__(self):
        with open(self.log, "ab") as log:
            # In a session of its own: a Ctrl-C is for the harness, which then ends what it started.
            self.child = subprocess.Popen(
                self.command, stderr=log, start_new_session=True, **{"stdout": log, **self.options}
            )
        RUNNING.add(self)
        return self

    def __exit__(self, *_):
        self.stop()

    def tree(self):
        """Its id and those of its children."""
        found, waiting = [], [self.child.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in tasks(pid):
                with contextlib.suppress(OSError):
                    waiting += [int(child) for child in (task / "children").read_text().split()]
        return found

    def stop(self):
        if self.child is None:
            return
        pids = self.tree()
        try:
            if self.child.poll() is None:
                self.child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.child.wait(self.grace)
        finally:
            # Also where a Ctrl-C came while it was waited for.
            self.kill(pids)
            RUNNING.discard(self)

    def kill(self, pids):
        # Its session is its own, and so are the processes in it.
        for pid in pids:
            if pid != self.child.pid and session_of(pid) == self.child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def fail_if_ended(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.command[0]} ended with {self.child.returncode}:\n{self.tail()}")

    def tail(self):
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def wait_until_listening(self, address, tcp):
        wanted = in_hex(address)
        table = PROC / "net" / ("tcp" if tcp else "udp")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.fail_if_ended()
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
            if any(row[1] == wanted and (not tcp or row[3] == "0A") for row in rows):
                return
            time.sleep(0.02)
        raise Failed(f"{self.command[0]} does not listen on {address}:\n{self.tail()}")


class Usage:
    """What processes have used so far."""

    def __init__(self, process):
        self.nanos = self.switches = 0
        self.at = time.monotonic()
        for task in [task for pid in process.tree() for task in tasks(pid)]:
            with contextlib.suppress(OSError):
                self.nanos += run_time(task)
                self.switches += switches(task)

    def since(self, earlier, calls):
        """Per call."""
        micros = (self.nanos - earlier.nanos) / 1000
        return {
            "cpu_us": micros / calls,
            "switches": (self.switches - earlier.switches) / calls,
            "cores": micros / 1e6 / (self.at - earlier.at),
        }


def tasks(pid):
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def run_time(task):
    """User and kernel time of a thread, in ns."""
    try:
        return int((task / "schedstat").read_text().split()[0])
    except OSError:
        # Behind the name, which may hold anything: utime and stime are the 14th and 15th field.
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def switches(task):
    lines = (task / "status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def pss(process):
    """Memory in bytes, what is shared divided among those who share it."""
    total = 0
    for pid in process.tree():
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def session_of(pid):
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def in_hex(address):
    """As the kernel writes it in its tables."""
    host, port = address.split(":")
    return "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + f":{int(port):04X}"
