"""What is measured of a device, each kind by itself."""

import contextlib
import re
import shutil
import signal
import subprocess
import time

from performance.process import Failed, Usage, pss

# A device keeps up with a rate where no call fails and fewer messages than this are sent again, per call.
MOST_SENT_AGAIN = 0.001
# Nor does the generator keep up where it begins calls later than this, in µs.
MOST_LATE = 100_000
# What is tried first and at most, in calls per second, and how often.
BEGIN = 4_000
HIGHEST = 60_000
MOST_TRIES = 14
# How close the rate that went and the one that did not have to come, as a part of the latter.
CLOSE = 0.05
# Time after which transactions have let go of answered calls, in seconds: 64 × T1 (RFC 6026 §8.1), Kamailio's wt_timer.
SETTLE = {"sipstamp": 34, "sipstamp-2": 34, "sipstamp-journal": 34, "routing": 8, "full": 8}
# Calls per second at which calls are begun that stay open: what each takes with ease.
OPENING = {"sipstamp": 4000, "full": 2500}


def at_rate(device, rate, seconds, drain=5):
    """CPU and delays at a rate."""
    before = Usage(device.process)
    report = device.generator.calls(rate * seconds, rate, drain=drain)
    usage = Usage(device.process).since(before, report["started"])
    return {"rate": rate, **usage, **report}


def warm_up(device):
    device.generator.calls(300, 500)


def settle(device, rate):
    """Makes calls until as many transactions end as begin: before that a device takes memory for each of them."""
    seconds = SETTLE.get(device.name, 0)
    if seconds:
        device.generator.calls(rate * seconds, rate)


def keeps_up(report):
    is_late = report["lateness"]["p99"] >= MOST_LATE
    return not is_late and report["failed"] == 0 and report["retransmitted"] < MOST_SENT_AGAIN * report["started"]


def maximum(bench, name, seconds, begin=None):
    """The highest rate that a device keeps up with, each try on a new process; and what it uses near there."""
    tries, good, bad = [], None, None
    rate, step = (begin, 1.1) if begin else (BEGIN, 1.5)
    while len(tries) < MOST_TRIES:
        tried = one_try(bench, name, rate, seconds)
        tries.append(tried)
        if not tried["is_kept_up"] and bad is None:
            # What bounds the search should not be a moment in which others had the processors.
            tried = one_try(bench, name, rate, seconds)
            tries.append(tried)
        if tried["is_kept_up"]:
            good = tried
        else:
            bad = rate
        if bad is None:
            if rate >= HIGHEST:
                break
            rate = min(round(rate * step), HIGHEST)
        elif good is None:
            rate = round(rate / step)
        elif bad - good["rate"] <= bad * CLOSE:
            break
        else:
            rate = round((good["rate"] + bad) / 2)
    found = good or {"rate": 0, "cpu_us": None}
    return {"rate": found["rate"], "cpu_us": found["cpu_us"], "is_generators": is_generators(tries), "tries": tries}


def overload(bench, name, seconds, times):
    """What comes of calls when so many times more of them are offered than the device keeps up with."""
    sustained = maximum(bench, name, 2)
    with bench.start(name) as device:
        warm_up(device)
        calm = at_rate(device, max(1, sustained["rate"] // 4), 2)
        offered = sustained["rate"] * times
        # An INVITE that is not read comes again until 64 times T1 are over.
        report = at_rate(device, offered, seconds, drain=33)
        # Whatever refused calls left behind is over.
        time.sleep(1)
        after = at_rate(device, max(1, sustained["rate"] // 4), 2)
    return {"sustained": sustained["rate"], "offered": offered, "calm": calm, "overloaded": report, "after": after}


def one_try(bench, name, rate, seconds):
    with bench.start(name) as device:
        warm_up(device)
        device.generator.calls(rate / 4, rate / 2, drain=2)
        tried = at_rate(device, rate, seconds, drain=2)
    return {"is_kept_up": keeps_up(tried), **tried}


def is_generators(tries):
    """Whether the generator was what did not keep up in the end."""
    failed = [tried for tried in tries if not tried["is_kept_up"]]
    return not failed or min(failed, key=lambda tried: tried["rate"])["lateness"]["p99"] >= MOST_LATE


def hold(device, count, state):
    """Opens calls that stay in a state."""
    report = device.generator.calls(count, OPENING[device.name], hold=state, drain=10)
    if report["held"] < count:
        raise Failed(f"of {count} calls that were to stay {state}, {report['held']} do")


def check_open(device, count):
    """What was measured was measured with these calls open, if they still are."""
    found = device.open_calls()
    if found < count:
        raise Failed(f"of {count} calls that were to stay open, {found} are left")


def memory(bench, name, state, counts):
    """Bytes per open call, with each number of them, as soon as it is measured."""
    with bench.start(name, many=True) as device:
        warm_up(device)
        empty = pss(device.process)
        held = 0
        for count in counts:
            hold(device, count - held, state)
            held = count
            if state == "answered":
                time.sleep(SETTLE[name])
            used = pss(device.process)
            yield {"state": state, "open": count, "bytes": used - empty, "bytes_per_call": (used - empty) / count}


def peak(bench, name, state, count):
    """Memory of the process without calls, with very many of them, and when these have ended and nothing of them is left."""
    with bench.start(name, many=True) as device:
        warm_up(device)
        empty = pss(device.process)
        hold(device, count, state)
        used = pss(device.process)
        report = device.generator.release(count, OPENING[name], drain=10)
        if report["completed"] < count:
            raise Failed(f"of {count} calls that were {state}, {report['completed']} have ended as they should")
        # The transactions that have ended them come to what the calls took.
        most = max(used, pss(device.process))
        time.sleep(SETTLE[name])
        after = pss(device.process)
    return {"state": state, "open": count, "empty": empty, "used": used, "peak": most, "after": after}


def idle(device, seconds):
    """What a device takes while nothing happens, in cores."""
    before = Usage(device.process)
    time.sleep(seconds)
    return Usage(device.process).since(before, 1)["cores"]


# Counts the instructions that programs run in user mode.
PERF = ["perf", "stat", "-x", ";", "-e", "instructions:u"]


def counted(text):
    """What perf stat has counted; nothing where the processor does not count."""
    counts = [line.split(";")[0] for line in text.splitlines() if "instructions" in line]
    return counts if all(count.isdigit() for count in counts) else []


def instructions_by_perf(bench, name, rate, seconds):
    """User instructions per call as the processor counts them; `None` where it does not."""
    if not shutil.which("perf"):
        return None
    if not counted(subprocess.run([*PERF, "true"], capture_output=True, text=True).stderr):
        return None
    with bench.start(name) as device:
        warm_up(device)
        settle(device, rate)
        pids = ",".join(map(str, device.process.tree()))
        perf = subprocess.Popen([*PERF, "-p", pids], stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            time.sleep(0.3)
            if perf.poll() is not None:
                return None
            report = device.generator.calls(rate * seconds, rate)
            perf.send_signal(signal.SIGINT)
            text = perf.communicate(timeout=10)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                perf.kill()
            perf.wait()
    counts = counted(text)
    if not counts:
        return None
    return sum(map(int, counts)) / report["started"]


def instructions_by_callgrind(bench, name, calls, rate):
    """User instructions per call under valgrind: a run with calls less one without."""
    if not shutil.which("valgrind"):
        return None
    busy, idle = (callgrind(bench, name, count, rate, calls / rate) for count in (calls, 0))
    return (busy - idle) / calls


def control(device, command):
    for pid in device.process.tree():
        subprocess.run(["callgrind_control", command, str(pid)], check=True, stdout=subprocess.DEVNULL, timeout=60)


def callgrind(bench, name, calls, rate, seconds):
    out = bench.profiles / f"{name}-{calls}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    prefix = ["valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={out}/callgrind.out.%p"]
    with bench.start(name, prefix=prefix) as device:
        # What is done once is done, and not counted: a start measures clocks for as long as that takes.
        device.generator.calls(50, 50, drain=20)
        if calls:
            settle(device, rate)
        control(device, "--zero")
        if calls:
            device.generator.calls(calls, rate, drain=20)
        else:
            time.sleep(seconds)
        # Nor is what the end does with the calls that are there.
        control(device, "--dump")
    totals = 0
    for path in out.glob("*.1"):
        found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(errors="replace"), re.MULTILINE)
        totals += int(found.group(1)) if found else 0
    if not totals:
        raise Failed(f"callgrind wrote nothing about {name}")
    return totals

