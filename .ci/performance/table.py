"""The table of a run, with medians, spread, ratios and goals."""

import statistics

from performance.devices import TITLES

# Of issue's table: parts of the relay's CPU, multiples of Kamailio's rate, bytes, multiples of the CPU with
# one call open, and parts of the relay's delay.
GOAL_RELAY = 1.5
GOAL_MAXIMUM = 3
GOAL_RINGING = 2_500
GOAL_ANSWERED = 1_000
GOAL_GROWTH = 1.2
GOAL_INSTRUCTIONS = 80_000
GOAL_DELAY_P50 = 45 / 23
GOAL_DELAY_P99 = 130 / 82


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def spread(values, form="{:.0f}"):
    """Median and range."""
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    text = form.format(median(values))
    if len(values) > 1:
        text += f" ({form.format(min(values))}–{form.format(max(values))})"
    return text


def ratio(value, base, form="{:.2f}"):
    return form.format(value / base) if value is not None and base else "–"


def table(head, rows):
    """As Markdown, in columns of equal width."""
    rows = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def show(result):
    parts = []
    for name, part in [("runs", costs), ("maximum", maxima), ("memory", memories), ("peak", peaks), ("workers", workers), ("growth", growths), ("overload", overloads), ("instructions", instructions)]:
        if result.get(name):
            parts.append(part(result))
    return "\n\n".join(parts)


def costs(result):
    """CPU, context switches and delays at each rate."""
    parts = []
    for rate in sorted({run["rate"] for run in result["runs"]}):
        runs = {}
        for run in result["runs"]:
            if run["rate"] == rate:
                runs.setdefault(run["device"], []).append(run)
        relay = runs.get("relay", [])
        relay_cpu = median([run["cpu_us"] for run in relay])
        rows = []
        for device, of in runs.items():
            cpu = [run["cpu_us"] for run in of]
            p50, p99 = ([run["invite_delay"][part] for run in of] for part in ("p50", "p99"))
            rows.append([
                TITLES[device],
                spread(cpu),
                ratio(median(cpu), relay_cpu),
                f"≤ {GOAL_RELAY}" if device.startswith("sipstamp") else "",
                spread([run["switches"] for run in of], "{:.1f}"),
                spread(p50),
                spread(p99),
                spread([run["answer_delay"]["p50"] for run in of]),
                spread([run["answer_delay"]["p99"] for run in of]),
                sum(run["failed"] for run in of),
                sum(run["retransmitted"] for run in of),
                spread([run["generator_us_per_call"] for run in of]),
            ])
        head = [
            f"{rate} calls/s", "µs CPU per call", "× relay", "goal", "switches", "INVITE p50 µs", "p99",
            "200 p50 µs", "p99", "failed", "sent again", "generator µs",
        ]
        text = table(head, rows)
        ours = runs.get("sipstamp")
        if relay and ours:
            delays = []
            for part, goal in (("p50", GOAL_DELAY_P50), ("p99", GOAL_DELAY_P99)):
                base, own = (median([run["invite_delay"][part] for run in of]) for of in (relay, ours))
                delays.append(f"{part} {ratio(own, base)} × relay's (goal ≤ {goal:.2f})")
            text += f"\n\nsipstamp's delay of the INVITE: {', '.join(delays)}"
        parts.append(text)
    return "\n\n".join(parts)


def maxima(result):
    by_device = {}
    for found in result["maximum"]:
        by_device.setdefault(found["device"], []).append(found)
    full = median([found["rate"] for found in by_device.get("full", [])])
    rows = []
    for device, of in by_device.items():
        rates = [found["rate"] for found in of]
        mark = "≥ " if any(found.get("is_generators") for found in of) else ""
        goal = f"≥ {GOAL_MAXIMUM}" if device == "sipstamp" else ""
        cpu = spread([found["cpu_us"] for found in of])
        rows.append([TITLES[device], mark + spread(rates), ratio(median(rates), full), goal, cpu])
    return table(["maximum", "calls/s", "× Kamailio full", "goal", "µs CPU per call there"], rows)


def workers(result):
    rows, base = [], {}
    for device in dict.fromkeys(found["device"] for found in result["workers"]):
        of = [found for found in result["workers"] if found["device"] == device]
        cpu = [found["cpu_us"] for found in of]
        rates = [found["maximum"]["rate"] for found in of]
        base = base or {"cpu": median(cpu), "rate": median(rates)}
        rows.append([
            TITLES[device],
            spread(cpu),
            ratio(median(cpu), base["cpu"]),
            spread(rates),
            ratio(median(rates), base["rate"]),
        ])
    head = ["workers", f"µs CPU per call at {result['workers'][0]['rate']}", "× one worker's (goal ≤ 1.15)"]
    return table([*head, "maximum, calls/s", "× one worker's (goal > 1)"], rows)


def memories(result):
    rows = []
    for device in dict.fromkeys(found["device"] for found in result["memory"]):
        for state, goal in (("ringing", GOAL_RINGING), ("answered", GOAL_ANSWERED)):
            of = [found for found in result["memory"] if found["device"] == device and found["state"] == state]
            if not of:
                continue
            figures = [f"{found['bytes_per_call']:.0f} at {found['open']}" for found in of]
            first, last = of[0], of[-1]
            more = last["open"] - first["open"]
            each = f"{(last['bytes'] - first['bytes']) / more:.0f}" if more else "–"
            rows.append([TITLES[device], state, ", ".join(figures), f"≤ {goal}" if device == "sipstamp" else "", each])
    return table(["memory", "open calls", "bytes (PSS) per call", "goal", "each call beyond the first number"], rows)


def peaks(result):
    rows = []
    for found in result["peak"]:
        used, peak, stays = (found[at] - found["empty"] for at in ("used", "peak", "after"))
        rows.append([
            TITLES[found["device"]],
            f"{found['open']} {found['state']}",
            f"{found['empty']:,}",
            f"{used:+,}",
            f"{peak:+,}",
            f"{stays:+,}",
            f"{1 - stays / peak:.0%}",
        ])
    head = ["memory after a peak", "calls at once", "bytes (PSS) without", "with all of them", "when the last ends", "that stay", "given back"]
    return table(head, rows)


def overloads(result):
    rows = []
    for found in result["overload"]:
        for when in ("calm", "overloaded", "after"):
            of = found[when]
            lost = of["timed_out"] + of["unfinished"]
            delay = of["invite_delay"]
            rows.append([
                TITLES[found["device"]], when, f"{of['rate']}", f"{of['started']:,}", f"{of['completed']:,}",
                f"{of['refused']:,}", lost, f"{delay['p50']:.0f}", f"{delay['p99']:.0f}", f"{delay['max']:.0f}",
            ])
    head = ["overload", "", "calls/s offered", "calls", "completed", "refused (503)", "lost", "INVITE p50 µs", "p99", "max"]
    return table(head, rows)


def growths(result):
    rows, base = [], None
    for found in result["growth"]:
        cpu = [run["cpu_us"] for run in found["runs"]]
        goal = "" if base is None else f"≤ {GOAL_GROWTH}"
        base = base or median(cpu)
        rows.append([
            found["open"],
            spread(cpu),
            ratio(median(cpu), base),
            goal,
            spread([run["invite_delay"]["p50"] for run in found["runs"]]),
            # Of few calls it is the pages of the process.
            f"{found['bytes_per_call']:.0f}" if found["open"] >= 10_000 else "–",
        ])
    head = ["sipstamp with other calls open", "µs CPU per call", "× with one", "goal", "INVITE p50 µs", "bytes (PSS) per open call"]
    text = table(head, rows)
    last = result["growth"][-1]
    if "idle_cores" in last:
        text += f"\n\nIdle with {last['open']} calls open: {last['idle_cores']:.3%} of a core (goal < 1 %)"
    return text


def instructions(result):
    rows = []
    for found in result["instructions"]:
        goal = f"≤ {GOAL_INSTRUCTIONS}" if found["device"] == "sipstamp" else ""
        rows.append([TITLES[found["device"]], f"{found['per_call']:.0f}", goal, found["by"]])
    return table(["user instructions", "per call", "goal", "counted by"], rows)
