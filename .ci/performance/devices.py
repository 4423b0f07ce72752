"""The devices under test: how each is configured, started, and what it does to messages."""

import copy
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

from performance import kamailio
from performance.process import GRACE, PATIENCE, Broken, Failed, Process

DEVICE, DIALER, SERVER = "127.0.0.11", "127.0.0.21", "127.0.0.31"
# Below the ports that the system hands out.
PORTS = range(21_000, 30_000, 2)

TITLES = {
    "relay": "raw relay",
    "sipstamp": "sipstamp, full job",
    "sipstamp-2": "sipstamp, 2 workers",
    "sipstamp-journal": "sipstamp, with journal",
    "stateless": "Kamailio, stateless",
    "routing": "Kamailio, tm + rr only",
    "full": "Kamailio, full job",
}
PROFILES = {
    "relay": "relay",
    "sipstamp": "stamping",
    "sipstamp-2": "stamping",
    "sipstamp-journal": "stamping",
    "stateless": "stateless",
    "routing": "routing",
    "full": "stamping",
}

SIPSTAMP = """\
workers = {workers}
[listen]
udp = ["{device}"]
tcp = ["{device}"]
[dialer]
sources = ["{dialer_host}"]
[[telephony.servers]]
uri = "sip:{server}{parameter}"
[events]
file = "{folder}/events.jsonl"
{journal}[admin]
listen = "{admin}"
"""
# What a run with very many open calls needs beyond the defaults: calls that ring on, and no limit in the way.
SIPSTAMP_OPEN = """\
[timeouts]
no_answer = "180s"
[limits]
calls = 400000
"""


class Bench:
    """Binaries, addresses and the folder of one run."""

    def __init__(self, folder, profiles, sipstamp, load, tcp, nice=0):
        self.folder = pathlib.Path(folder)
        # Where callgrind's files stay.
        self.profiles = profiles
        self.sipstamp = sipstamp
        self.load = load
        self.tcp = tcp
        # For devices and the generator alike.
        self.nice = ["nice", "-n", nice] if nice else []
        self.take_addresses()

    def take_addresses(self):
        port, self.reservation = free_port()
        self.device, self.dialer, self.server = (f"{host}:{port}" for host in (DEVICE, DIALER, SERVER))
        self.admin = f"{DEVICE}:{port + 1}"

    def beside(self, label):
        """The same with a folder and addresses of its own, for a device that runs at the same time as others."""
        other = copy.copy(self)
        other.folder = self.folder / label
        other.folder.mkdir(exist_ok=True)
        other.take_addresses()
        return other

    def start(self, name, many=False, prefix=()):
        """The process of a device. `many`: it will have very many open calls. `prefix`: what it is run under."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for stale in folder.glob("events.jsonl"):
            stale.unlink()
        command = [*self.nice, *prefix, *self.command(name, folder, many)]
        # Under valgrind the end takes its time too.
        return Device(self, name, Process(command, folder / "log", grace=60 if prefix else GRACE))

    def command(self, name, folder, many):
        if name == "relay":
            return [self.load, "relay", "--listen", self.device, *self.ends()]
        if name.startswith("sipstamp"):
            return [self.sipstamp, "run", "--config", self.sipstamp_configuration(name, folder, many)]
        config = folder / "kamailio.cfg"
        config.write_text(kamailio.configuration(name, self.device, self.server, self.tcp))
        return kamailio.command(config, folder, megabytes=4096 if many else 2048)

    def sipstamp_configuration(self, name, folder, many):
        config = folder / "sipstamp.toml"
        text = SIPSTAMP.format(
            workers=2 if name == "sipstamp-2" else 1,
            journal=f'journal = "{folder}/journal"\n' if name == "sipstamp-journal" else "",
            device=self.device,
            dialer_host=DIALER,
            server=self.server,
            parameter=";transport=tcp" if self.tcp else "",
            folder=folder,
            admin=self.admin,
        )
        config.write_text(text + (SIPSTAMP_OPEN if many else ""))
        return config

    def takes(self, name):
        """Whether this version of sipstamp takes the configuration."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = self.sipstamp_configuration(name, folder, False)
        done = subprocess.run([self.sipstamp, "check", "--config", config], capture_output=True)
        return done.returncode == 0

    def ends(self):
        return ["--dialer", self.dialer, "--server", self.server, *(["--tcp"] if self.tcp else [])]


class Device:
    """A device that runs, with the generator around it."""

    def __init__(self, bench, name, process):
        self.bench = bench
        self.name = name
        self.process = process
        self.generator = None

    def __enter__(self):
        self.process.__enter__()
        try:
            self.process.wait_until_listening(self.bench.device, self.bench.tcp)
            if self.name.startswith("sipstamp"):
                self.wait_until_ready()
            self.generator = Generator(self.bench, self.name)
            self.generator.__enter__()
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.generator.stop()
        finally:
            self.process.stop()

    def wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.process.fail_if_ended()
            try:
                with urllib.request.urlopen(f"http://{self.bench.admin}/readyz", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise Failed(f"sipstamp does not become ready:\n{self.process.tail()}")

    def open_calls(self):
        """As sipstamp counts them."""
        with urllib.request.urlopen(f"http://{self.bench.admin}/v1/status", timeout=10) as status:
            return json.load(status)["counts"]["active"]


class Generator(Process):
    """The load generator: it takes steps by its standard input and answers each with a report."""

    def __init__(self, bench, name, ring=20, talk=20):
        command = [*bench.nice, bench.load, "calls", "--device", bench.device, *bench.ends(), "--profile", PROFILES[name]]
        command += ["--ring", ring, "--talk", talk]
        self.device = name
        super().__init__(
            command, bench.folder / name / "generator.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def calls(self, calls, rate, hold="no", drain=5):
        """Makes calls, `rate` in a second, and waits for them, at most `drain` seconds after the last has begun."""
        return self.step(f"calls={round(calls)} rate={rate} hold={hold} drain={drain}")

    def release(self, calls, rate, drain=5):
        """Ends calls that are held, the longest held first, and waits for them likewise."""
        return self.step(f"release={calls} rate={rate} drain={drain}")

    def step(self, line):
        try:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.child.wait(GRACE)
            raise Failed(f"the load generator ended:\n{self.tail()}")
        report = json.loads(line)
        if report["faults"]:
            raise Broken(f"{TITLES[self.device]} breaks checks, {report['faults']}. The first, {report['example']}")
        return report


def free_port():
    """A port that nobody has, nor the next one, and a socket that keeps other runs away while no device holds it."""
    for port in PORTS:
        if all(is_free(host, number) for host in (DEVICE, DIALER, SERVER) for number in (port, port + 1)):
            reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            reservation.bind((SERVER, port + 1))
            return port, reservation
    raise Failed("no free ports")


def is_free(host, port):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            except OSError:
                return False
    return True


def kamailio_version():
    if not shutil.which("kamailio"):
        return None
    text = subprocess.run(["kamailio", "-v"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    return text.split("\n")[0].removeprefix("version: ")
