"""Takes the samples: every server of a work is up, and round by round each is measured once, in an
order that turns, so that whatever else the machine does falls on all alike."""

import statistics
import sys

from process import BenchError

TRIES = 2  # the variants of a peer, this often each, before one is chosen


def say(text):
    print(text, file=sys.stderr, flush=True)


class Rounds:
    def __init__(self, context, servers, rounds, choose=True):
        self.context = context
        self.servers = servers
        self.rounds = rounds
        self.choose = choose
        self.best = {}  # (server, kind of work): variant

    def run(self, work):
        """{server: {"samples": [...], "median": ..., "variant": ...} or {"why": text}}"""
        setup = work.setup(self.context.images)
        results, running = {}, []
        try:
            for server in self.servers:
                results[server.name] = found = {"samples": []}
                why = server.can(setup)
                if why:
                    found["why"] = why
                    continue
                try:
                    found["variant"] = self.variant_for(server, work, setup)
                    self.begin(server, work, setup, found["variant"])
                    running.append(server)
                except (BenchError, OSError) as error:
                    found["why"] = str(error)
                    say(f"  {server.name}: {error}")
            self.take(work, running, results)
        finally:
            for server in running:
                server.stop()
        for name, found in results.items():
            if found["samples"]:
                values = [sample["value"] for sample in found["samples"]]
                found["median"] = statistics.median(values)
        return results

    def begin(self, server, work, setup, variant):
        server.start(setup, variant)
        if work.prepare:
            try:
                work.prepare(self.context, server)
            except (BenchError, OSError):
                server.stop()
                raise

    def variant_for(self, server, work, setup):
        key = server.name, work.kind
        if key not in self.best:
            self.best[key] = server.variants[0]
            if self.choose and len(server.variants) > 1:
                self.best[key] = self.try_variants(server, work, setup)
        return self.best[key]

    def try_variants(self, server, work, setup):
        tried = {}
        for variant in server.variants:
            try:
                self.begin(server, work, setup, variant)
                try:
                    values = [work.sample(self.context, server)["value"] for _ in range(TRIES)]
                finally:
                    server.stop()
                tried[variant] = min(values) if work.less_is_better else max(values)
            except (BenchError, OSError) as error:
                say(f"  {server.name} {variant}: {error}")
        if not tried:
            raise BenchError("runs in no variant")
        pick = min if work.less_is_better else max
        return pick(tried, key=tried.get)

    def take(self, work, running, results):
        if work.reference:
            results["no server"] = {"samples": []}
        for number in range(self.rounds):
            turn = number % len(running) if running else 0
            for server in running[turn:] + running[:turn]:
                self.one(results[server.name], lambda: work.sample(self.context, server))
            if work.reference:
                self.one(results["no server"], lambda: work.reference(self.context))

    def one(self, found, sample):
        try:
            found["samples"].append(sample())
        except (BenchError, OSError) as error:
            found["why"] = str(error)
            say(f"  {error}")
