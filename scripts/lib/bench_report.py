"""Prints tables of what scripts/bench.sh measured, and exits 1 where a text is missing or a list is not whole.

Reads the records, a JSON object a line, of which "section" says what it is. Figures are medians of the rounds. What is in
brackets is the ratio to the floor: of one connection to that of one thread, of more to that of 64 threads.
"""

import argparse
import json
import statistics
import sys

TEXT_BYTES = 100
# What the queue may take to be empty is decided where it is measured: null is "not".
FAULTS = ("missing_from_logs", "missing_from_messages", "twice_in_logs", "twice_in_messages")
# Processes are told by role: "facade-1" is one of "facade", "hazelcast-mq-2" one of "hazelcast-mq".
GROUPS = ("facade", "logging", "messages", "hazelcast-logging", "hazelcast-mq", "consul", "load", "floor")


def median(values):
    """Of those that are there."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratio(value, basis):
    return value / basis if value is not None and basis else None


def role(process):
    name, _, number = process.rpartition("-")
    return name if number.isdigit() else process


def largest_of_each(roles):
    """By role, the most of its processes, in MB."""
    most = {}
    for process, kb in roles.items():
        most[role(process)] = max(most.get(role(process), 0), kb / 1024)
    return most


class Report:
    """All figures, and whether they may be believed."""

    def __init__(self, records):
        self.records = records
        self.machine = self.of("machine")[0]
        self.floors = {threads: self.floor(threads) for threads in (1, 64)}
        self.broken = []

    def of(self, section, **wanted):
        return [record for record in self.records
                if record["section"] == section and all(record[key] == value for key, value in wanted.items())]

    def floor(self, threads):
        """The medians of the floor from so many threads; None where it was not measured."""
        runs = [run for run in self.of("floor") if run["figures"]["threads"] == threads]
        if not runs:
            return None
        figures = [run["figures"] for run in runs]
        for run in figures:
            if run["refused"]:
                print(f"the floor of {threads} threads had {run['refused']} offers refused: it drains too slowly")
        return {
            "per_second": median(run["per_second"] for run in figures),
            "p50_ms": median(run["p50_us"] / 1000 for run in figures),
            "p99_ms": median(run["p99_us"] / 1000 for run in figures),
            "max_ms": median(run["max_us"] / 1000 for run in figures),
            "cpu": self.cpu((run["cost"], run["figures"]["operations"]) for run in runs),
        }

    @staticmethod
    def cpu(costs):
        """By group, CPU seconds per 1,000 posts: medians of the runs."""
        runs = []
        for cost, posts in costs:
            groups = dict.fromkeys(GROUPS, 0.0)
            for process, seconds in cost["cpu_seconds"].items():
                if process != "machine":
                    groups[role(process)] = groups.get(role(process), 0.0) + seconds
            groups["all"] = sum(groups.values())
            # Interrupts that are nobody's, and whatever else the machine did.
            groups["others"] = max(0.0, cost["cpu_seconds"]["machine"] - groups["all"])
            runs.append({group: seconds * 1000 / posts if posts else None for group, seconds in groups.items()})
        return {group: median(run[group] for run in runs) for group in runs[0]}

    def posts(self, section, **wanted):
        """The medians of the runs of a load, with their ratios, and what went wrong in any of them."""
        runs = self.of(section, **wanted)
        windows = [next(window for window in run["load"]["windows"] if window["name"] == "measured") for run in runs]
        totals = [run["load"]["totals"] for run in runs]
        connections = runs[0]["connections"]
        floor = self.floors[1 if connections == 1 else 64] or {}
        figures = {key: median(window[key] for window in windows)
                   for key in ("per_second", "p50_ms", "p99_ms", "longest_ms")}
        figures["max_ms"] = figures.pop("longest_ms")
        row = {
            "connections": connections,
            "stored": runs[0]["stored"],
            **figures,
            "of_floor": {key: ratio(value, floor.get(key)) for key, value in figures.items()},
            "failed": sum(total["failed"] for total in totals),
            "acknowledged": sum(total["acknowledged"] for total in totals),
            "drained_ms": None if None in [run["drained_ms"] for run in runs] else max(run["drained_ms"] for run in runs),
            "cpu": self.cpu((run["cost"], window["acknowledged"]) for run, window in zip(runs, windows, strict=True)),
            "peak_mb": largest_of_each({name: max(run["peak_kb"][name] for run in runs) for name in runs[0]["peak_kb"]}),
        }
        row["cpu_of_floor"] = ratio(row["cpu"]["all"], floor.get("cpu", {}).get("all"))
        for total in totals:
            where = f"{section}, {connections} connections, {runs[0]['stored']} stored"
            if total["verify_failure"] is not None:
                self.broken.append(f"{where}: the lists could not be read: {total['verify_failure']}")
                continue
            self.broken += [f"{where}: {total[fault]} {fault.replace('_', ' ')}" for fault in FAULTS if total[fault]]
        return row

    def growth(self):
        sizes = sorted({run["stored"] for run in self.of("growth")})
        rows = [self.posts("growth", stored=stored) for stored in sizes]
        for row in rows:
            row["of_first"] = ratio(row["per_second"], rows[0]["per_second"])
        return rows

    def reads(self):
        rows = []
        for stored in sorted({run["stored"] for run in self.of("reads")}):
            runs = self.of("reads", stored=stored)
            reads = [read for run in runs for read in run["reads"]]
            # Two lists of texts that need no escapes, with their brackets and commas.
            expected = 2 * (stored * (TEXT_BYTES + 3) + 1) + 3
            wrong = [read["bytes"] for read in reads if read["bytes"] != expected]
            if wrong:
                self.broken.append(f"reads, {stored} stored: {wrong[0]} bytes came, {expected} were due")
            for run in runs:
                found = [page["messages"] for page in run["pages"]]
                due = [2 * min(1000, stored - first) for first in range(0, stored, 1000)][:len(found)]
                if not found or found != due:
                    self.broken.append(f"pages, {stored} stored: {found} messages came, {due} were due")
            pages = [page["seconds"] * 1000 for run in runs for page in run["pages"]]
            growth = [{name: run["peak_kb"][name] - run["resident_kb"][name] for name in run["peak_kb"]} for run in runs]
            rows.append({
                "stored": stored,
                "ms": median(read["seconds"] * 1000 for read in reads),
                "longest_ms": max(read["seconds"] * 1000 for read in reads),
                "first_byte_ms": median(read["first_byte_seconds"] * 1000 for read in reads),
                "page_ms": median(pages),
                "longest_page_ms": max(pages),
                "bytes": expected,
                "growth_mb": largest_of_each({name: max(run[name] for run in growth) for name in growth[0]}),
            })
        return rows

    def client(self):
        rows = []
        for operation in dict.fromkeys(run["figures"]["operation"] for run in self.of("client")):
            row = {"operation": operation}
            for client in ("java", "rust"):
                runs = [run["figures"] for run in self.of("client", client=client)
                        if run["figures"]["operation"] == operation]
                row[client] = {
                    "per_second": median(run["per_second"] for run in runs),
                    "cpu_us": median(ratio(run["cpu_seconds"] * 1e6, run["operations"]) for run in runs),
                    "p50_us": median(run["p50_us"] for run in runs),
                    "p99_us": median(run["p99_us"] for run in runs),
                    "refused": sum(run["refused"] for run in runs),
                }
            row["of_java"] = {key: ratio(row["rust"][key], row["java"][key]) for key in ("per_second", "cpu_us")}
            rows.append(row)
        return rows

    def footprint(self):
        runs = self.of("footprint")
        if not runs:
            return None
        idle = {name: median(run["idle_kb"][name] for run in runs) for name in runs[0]["idle_kb"]}
        ready = {}
        for start in (start for run in runs for start in run["ready"]):
            ready.setdefault(start["role"], []).append(start["ms"])
        return {
            "executable_mb": runs[0]["executable_bytes"] / 1e6,
            "ready_ms": {name: median(times) for name, times in ready.items()},
            "longest_ready_ms": {name: max(times) for name, times in ready.items()},
            "idle_mb": largest_of_each(idle),
        }

    def figures(self):
        connections = dict.fromkeys(run["connections"] for run in self.of("posts"))
        return {
            "floor": {threads: floor for threads, floor in self.floors.items() if floor},
            "footprint": self.footprint(),
            "posts": [self.posts("posts", connections=number) for number in connections],
            "growth": self.growth(),
            "reads": self.reads(),
            "client": self.client(),
        }


def targets(figures):
    """What is aimed at: in words, the figure, and whether it is reached. Only of what was measured."""
    posts = {row["connections"]: row for row in figures["posts"]}
    if {1, 64, 256} <= posts.keys():
        at_64 = posts[64]["of_floor"]["per_second"]
        yield "posts per second at 64 connections, of the floor: 1.0 at least", at_64, at_64 >= 1
        p50 = posts[1]["of_floor"]["p50_ms"]
        yield "p50 at one connection, of the floor of one thread: 2.0 at most", p50, p50 <= 2
        tail = ratio(posts[64]["p99_ms"], posts[64]["p50_ms"])
        yield "p99 at 64 connections, of its p50: 5 at most", tail, tail <= 5
        more = ratio(posts[256]["per_second"], posts[64]["per_second"])
        yield "posts per second at 256 connections, of those at 64: 1.0 at least", more, more >= 1
    for row in figures["posts"]:
        drained = row["drained_ms"]
        yield (f"the queue is empty within 2 s after {counted(row['connections'], 'connection')}, ms",
               drained, drained is not None and drained <= 2000)
    if len(figures["growth"]) > 1:
        rates = [row["per_second"] for row in figures["growth"]]
        least = ratio(min(rates), max(rates))
        yield "posts per second, the least of the most, whatever is stored: 0.8 at least", least, least >= 0.8
    for row in figures["reads"]:
        growth = max(row["growth_mb"].values())
        yield f"resident memory that reads of {row['stored']} messages add, MB: 64 at most", growth, growth < 64
        page = row["longest_page_ms"]
        yield f"the longest page of 1000 from {row['stored']} messages, ms: under 1000", page, page < 1000
    for row in figures["client"]:
        rate, cpu = row["of_java"]["per_second"], row["of_java"]["cpu_us"]
        yield f"{row['operation']} per second, of the Java client's: 1.0 at least", rate, rate >= 1
        yield f"CPU time of a {row['operation']}, of the Java client's: 1.0 at most", cpu, cpu <= 1
    if figures["footprint"]:
        footprint = figures["footprint"]
        yield "executable, MB: under 15", footprint["executable_mb"], footprint["executable_mb"] < 15
        for name, ms in footprint["ready_ms"].items():
            yield f"{name}, start to ready, ms: under 100", ms, ms < 100
        for name, mb in footprint["idle_mb"].items():
            yield f"{name}, resident when idle, MB: under 20", mb, mb < 20


# --- tables ---

def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def beside(value, digits, of_floor):
    """A figure and its ratio."""
    return number(value, digits) + (f" ({of_floor:.2f})" if of_floor is not None else "")


def counted(number_of, what):
    return f"{number_of} {what}" + ("" if number_of == 1 else "s")


def table(title, heads, rows):
    if not rows:
        return
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    print(f"\n{title}")
    for row in [heads, *rows]:
        first, *others = zip(row, widths, strict=True)
        print("  " + "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))


def print_posts(title, floors, rows, name):
    columns = (("per_second", 0), ("p50_ms", 2), ("p99_ms", 2), ("max_ms", 1))
    lines = [[f"floor, {counted(threads, 'thread')}", *(number(floor[key], digits) for key, digits in columns),
              "", "", number(floor["cpu"]["all"], 3)] for threads, floor in floors.items()]
    lines += [[name(row), *(beside(row[key], digits, row["of_floor"][key]) for key, digits in columns),
               row["failed"], number(row["drained_ms"]), beside(row["cpu"]["all"], 3, row["cpu_of_floor"])] for row in rows]
    table(title, ["", "PER SECOND", "P50 ms", "P99 ms", "MAX ms", "FAILED", "QUEUE EMPTY ms", "CPU s PER 1,000"], lines)


def print_cpu(floors, rows):
    groups = (*GROUPS, "all", "others")
    lines = [[f"floor, {counted(threads, 'thread')}", *(number(floor["cpu"].get(group), 3) for group in groups)]
             for threads, floor in floors.items()]
    lines += [[counted(row["connections"], "connection"), *(number(row["cpu"].get(group), 3) for group in groups)] for row in rows]
    table("CPU seconds per 1,000 posts", ["", *groups], lines)


def print_tables(machine, figures):
    print(f"{machine['cores']} cores of {machine['processor']}, {machine['memory_mb']:,} MB, {machine['kernel']}; "
          f"Java {machine['java']}, Hazelcast {machine['hazelcast']}, heap {machine['heap']} each, "
          f"Consul {machine['consul']}; {machine['commit']}")
    print(f"medians of {counted(machine['rounds'], 'round')} of {machine['seconds']} s; load of the machine at the start "
          f"{machine['load_at_start']:.2f}")
    floors, by_role = figures["floor"], ("facade", "logging", "messages")
    if figures["footprint"]:
        footprint = figures["footprint"]
        table(f"Footprint: executable {footprint['executable_mb']:.1f} MB",
              ["", "START TO READY ms", "LONGEST ms", "IDLE, RESIDENT MB"],
              [[name, number(footprint["ready_ms"][name]), number(footprint["longest_ready_ms"][name]),
                number(footprint["idle_mb"][name], 1)] for name in by_role])
    if figures["posts"]:
        print_posts("Posts, in brackets the ratio to the floor", floors, figures["posts"],
                    lambda row: counted(row["connections"], "connection"))
        print_cpu(floors, figures["posts"])
        table("Most resident memory under load and the reads after it, MB", ["", *by_role],
              [[counted(row["connections"], "connection"), *(number(row["peak_mb"][name], 1) for name in by_role)]
               for row in figures["posts"]])
    if figures["growth"]:
        print_posts("Posts at 64 connections with so many stored", floors, figures["growth"],
                    lambda row: f"{row['stored']:,} stored")
    table("GET /messages, and a page of 1,000",
          ["STORED", "ms", "LONGEST ms", "FIRST BYTE ms", "MB", "PAGE ms", "LONGEST ms",
           *(f"{name} +MB" for name in by_role)],
          [[f"{row['stored']:,}", number(row["ms"], 1), number(row["longest_ms"], 1), number(row["first_byte_ms"], 1),
            number(row["bytes"] / 1e6, 1), number(row["page_ms"], 1), number(row["longest_page_ms"], 1), *(number(row["growth_mb"][name], 1) for name in by_role)]
           for row in figures["reads"]])
    table("Clients, 64 threads and tasks; in brackets the ratio to the Java client",
          ["", "JAVA PER SECOND", "THIS", "JAVA CPU us", "THIS", "JAVA P50 us", "THIS", "JAVA P99 us", "THIS"],
          [[row["operation"],
            number(row["java"]["per_second"]), beside(row["rust"]["per_second"], 0, row["of_java"]["per_second"]),
            number(row["java"]["cpu_us"], 1), beside(row["rust"]["cpu_us"], 1, row["of_java"]["cpu_us"]),
            number(row["java"]["p50_us"]), number(row["rust"]["p50_us"]),
            number(row["java"]["p99_us"]), number(row["rust"]["p99_us"])] for row in figures["client"]])
    reached = list(targets(figures))
    table("Targets", ["", "", ""], [[what, number(value, 2), "reached" if held else "NOT reached"]
                                    for what, value, held in reached])
    return [{"target": what, "figure": value, "reached": held} for what, value, held in reached]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="a JSON object a line")
    parser.add_argument("--json", help="file to write all figures to")
    arguments = parser.parse_args()
    with open(arguments.records, encoding="utf-8") as file:
        report = Report([json.loads(line) for line in file])
    figures = report.figures()
    reached = print_tables(report.machine, figures)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"machine": report.machine, "figures": figures, "targets": reached, "broken": report.broken,
                       "records": report.records}, file, indent=1)
            file.write("\n")
    verified = sum(row["acknowledged"] for row in [*figures["posts"], *figures["growth"]])
    if verified:
        print(f"\n{verified:,} texts were acknowledged and looked for in both lists")
    for what in report.broken:
        print(f"BROKEN: {what}")
    sys.exit(1 if report.broken else 0)


main()
