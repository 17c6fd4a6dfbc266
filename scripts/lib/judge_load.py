"""Prints what the load generator says of each kill, and exits 1 where a post failed that must not.

usage: judge_load.py LOAD.json

Each window is named by the container that was killed in it. Posts through a facade may fail in the window of that facade,
facade-service-N for the N-th one, and nowhere else.
"""

import json
import sys


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        load = json.load(file)
    wrong = False
    print(f"   {'KILLED':<22}{'ACKNOWLEDGED':>13}{'FAILED':>8}{'LONGEST ms':>12}")
    for window in load["windows"]:
        others = [facade for number, facade in enumerate(window["facades"], 1)
                  if window["name"] != f"facade-service-{number}"]
        failed = sum(facade["failed"] for facade in others)
        wrong = wrong or failed > 0
        name = "-" if window["name"] == "start" else window["name"]
        longest = max((facade["longest_ms"] or 0 for facade in others), default=0)
        acknowledged = sum(facade["acknowledged"] for facade in others)
        print(f"   {name:<22}{acknowledged:>13}{failed:>8}{longest:>12.0f}")
    totals = load["totals"]
    print(f"   {totals['acknowledged']} acknowledged, {totals['per_second']:.0f} per second; missing from the logs "
          f"{totals['missing_from_logs']}, from the messages {totals['missing_from_messages']}, twice "
          f"{totals['twice_in_logs']} and {totals['twice_in_messages']}")
    if wrong:
        for facade in load["facades"]:
            print(f"   {facade['url']}: {facade['reasons']}")
    sys.exit(1 if wrong else 0)


main()
