"""Prints what the load generator says of each kill, and exits 1 where a promise was broken.

Without --scenario: a table of the windows; a post must not fail. With it: one line, held against what the other options say.

Each window is named by what was killed in it. Posts through a facade may fail, and take long, in the window of that facade,
facade-N or facade-service-N for the N-th one, and nowhere else. "start" is before all kills, "after" when all is whole again.
"""

import argparse
import json
import re
import sys

FACADE = re.compile(r"facade-(?:service-)?(\d+)")
COLUMNS = [("SCENARIO", -16), ("POSTED", 8), ("ACKNOWLEDGED", 13), ("FAILED", 7), ("LONGEST ms", 11),
           ("MISSING: LOGS", 14), ("MESSAGES", 9), ("TWICE", 6)]


class Load:
    """What the load generator printed, without what a killed facade may do."""

    def __init__(self, report):
        self.windows = report["windows"]
        self.facades = report["facades"]
        self.totals = report["totals"]

    @staticmethod
    def judged(window):
        """The posts of a window, by facade, but for those through the one that was killed in it."""
        killed = FACADE.fullmatch(window["name"])
        return [facade for number, facade in enumerate(window["facades"], 1)
                if not killed or number != int(killed.group(1))]

    def sum(self, what, names=None):
        """Of all windows, or those that have one of these names."""
        return sum(facade[what] for window in self.windows if names is None or window["name"] in names
                   for facade in self.judged(window))

    def longest(self):
        """How many ms the longest answer took, and in which window that was."""
        return max(((facade["longest_ms"] or 0, window["name"]) for window in self.windows
                    for facade in self.judged(window)), default=(0, "none"))

    def reasons(self):
        """Of posts that failed, also of those through a killed facade: the load tells them apart by facade only."""
        return [reason for facade in self.facades for reason in facade["reasons"]]


def print_windows(load):
    """The table. Returns whether no post failed."""
    print(f"   {'KILLED':<22}{'ACKNOWLEDGED':>13}{'FAILED':>8}{'LONGEST ms':>12}")
    for window in load.windows:
        facades = load.judged(window)
        name = "-" if window["name"] == "start" else window["name"]
        longest = max((facade["longest_ms"] or 0 for facade in facades), default=0)
        print(f"   {name:<22}{sum(facade['acknowledged'] for facade in facades):>13}"
              f"{sum(facade['failed'] for facade in facades):>8}{longest:>12.0f}")
    totals = load.totals
    print(f"   {totals['acknowledged']} acknowledged, {totals['per_second']:.0f} per second; missing from the logs "
          f"{totals.get('missing_from_logs', '?')}, from the messages {totals.get('missing_from_messages', '?')}, twice "
          f"{totals.get('twice_in_logs', '?')} and {totals.get('twice_in_messages', '?')}")
    if load.sum("failed") == 0:
        return True
    for facade in load.facades:
        print(f"   {facade['url']}: {facade['reasons']}")
    return False


def broken_by_posts(load, promise):
    """What the answers broke."""
    if promise.failures == "none":
        if load.sum("failed") > 0:
            yield f"{load.sum('failed')} posts failed: {in_words(load.reasons())}"
    else:
        steady = load.sum("failed", {"start", "after"})
        if steady > 0:
            yield f"{steady} posts failed while it should serve: {in_words(load.reasons())}"
        others = [reason for reason in load.reasons() if not reason["reason"].startswith("status 503")]
        if others:
            yield f"posts failed otherwise than by 503: {in_words(others)}"
    longest, window = load.longest()
    if longest > promise.longest_ms:
        yield f"an answer took {longest:.0f} ms, in the window {window}, more than {promise.longest_ms:g}"


def broken_by_lists(totals):
    """What the lists lack."""
    if totals["verify_failure"] is not None:
        yield f"the lists could not be read: {totals['verify_failure']}"
        return
    for what in ("missing_from_logs", "missing_from_messages", "twice_in_logs", "twice_in_messages"):
        if totals[what] > 0:
            yield f"{totals[what]} {what.replace('_', ' ')} after {totals['verify_seconds']:.0f} s"


def broken_by_health(promise):
    """What GET /health broke: lines of URL, status (000 where there was no answer) and seconds."""
    if promise.health is None:
        return
    with open(promise.health, encoding="utf-8") as file:
        answers = [line.split() for line in file]
    late = [answer for answer in answers if answer[1] == "000" or float(answer[2]) > 1]
    if not answers:
        yield "/health was never asked"
    if late:
        longest = max(float(answer[2]) for answer in late)
        yield f"{len(late)} of {len(answers)} times /health did not answer within 1 s, the longest took {longest:.1f} s"


def uncounted(load, promise):
    """Why the run shows too little."""
    for window, when in (("start", "before"), ("after", "after")):
        acknowledged = load.sum("acknowledged", {window})
        if acknowledged < promise.least:
            yield f"{acknowledged} acknowledged {when} the event, {promise.least} are needed"
    if load.totals["per_second"] < promise.least_per_second:
        yield f"{load.totals['per_second']:.0f} acknowledged a second, {promise.least_per_second} are needed"


def in_words(reasons):
    return ", ".join(f"{reason['count']} × {reason['reason']}" for reason in reasons) or "for no reason that is known"


def line(values):
    return "".join(f"{value:<{-width}}" if width < 0 else f"{value:>{width}}"
                   for value, (_, width) in zip(values, COLUMNS, strict=True))


def print_scenario(load, promise):
    """The line. Returns whether the promise was held."""
    totals = load.totals
    twice = totals.get("twice_in_logs", 0) + totals.get("twice_in_messages", 0)
    broken = [*broken_by_posts(load, promise), *broken_by_lists(totals), *broken_by_health(promise), *promise.broken]
    too_little = [*uncounted(load, promise)]
    verdict = "; ".join((["BROKEN: " + "; ".join(broken)] if broken else [])
                        + (["does not count: " + "; ".join(too_little)] if too_little else [])) or "held"
    print(line([promise.scenario, totals["posted"], totals["acknowledged"], load.sum("failed"), f"{load.longest()[0]:.0f}",
                totals.get("missing_from_logs", "?"), totals.get("missing_from_messages", "?"), twice]) + "  " + verdict,
          flush=True)
    return not broken and not too_little


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", help="what examples/load --json printed; - for the heading of the lines")
    parser.add_argument("--scenario", help="its name; one line instead of the table")
    parser.add_argument("--failures", choices=["none", "503"], default="none",
                        help="which failures are allowed, but in the windows start and after")
    parser.add_argument("--longest-ms", type=float, default=2000, help="how long an answer may take")
    parser.add_argument("--least", type=int, default=0, help="acknowledged posts in start, and in after, for a run to count")
    parser.add_argument("--least-per-second", type=float, default=0, help="the same over the whole run")
    parser.add_argument("--health", help="file of the answers of GET /health")
    parser.add_argument("--broken", action="append", default=[], help="what was seen to be broken already; may be repeated")
    return parser.parse_args()


def main():
    promise = arguments()
    if promise.load == "-":
        print(line([name for name, _ in COLUMNS]) + "  VERDICT", flush=True)
        return
    with open(promise.load, encoding="utf-8") as file:
        load = Load(json.load(file))
    held = print_scenario(load, promise) if promise.scenario else print_windows(load)
    sys.exit(0 if held else 1)


main()
