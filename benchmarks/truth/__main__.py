"""The command: runs what is missing in the cache, then writes the page."""

import argparse
import time
from pathlib import Path

import jax
from benchmarks.truth import cache, page
from benchmarks.truth.bars import verdicts
from benchmarks.truth.samplers import NAMES
from benchmarks.truth.suite import TARGETS, row, rows_of, shortened

QUICK_TARGETS, QUICK_SAMPLERS = "linear,breast_cancer", "psmile_naive,mclmc,ismile"


def _chosen(text: str | None, known, what: str) -> list[str]:
    names = text.split(",") if text else list(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SystemExit(f"unknown {what} {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description="The truth suite.")
    parser.add_argument("--targets", help="a list with commas; all of them if not given")
    parser.add_argument("--samplers", help="likewise")
    parser.add_argument("--seeds", type=int, default=99, help="at most so many runs; each target has its own number")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps of two targets, to see it work")
    parser.add_argument("--refresh", default="", help="samplers to run again, a list with commas")
    parser.add_argument("--cached", action="store_true", help="run no sampler: the page of what is in the cache")
    parser.add_argument(
        "--keep", action="store_true", help="with --cached: rows that are missing are kept, and marked, from the page"
    )
    parser.add_argument("--out", type=Path, help="folder of the page; docs for the whole suite, else the cache")
    arguments = parser.parse_args()
    if arguments.keep and not arguments.cached:
        parser.error("--keep goes with --cached: without, rows that are missing are run")
    targets = _chosen(arguments.targets or (QUICK_TARGETS if arguments.quick else None), TARGETS, "target")
    samplers = _chosen(arguments.samplers or (QUICK_SAMPLERS if arguments.quick else None), NAMES, "sampler")
    refresh = set(_chosen(arguments.refresh, NAMES, "sampler")) if arguments.refresh else set()
    whole = not arguments.quick and set(targets) == set(TARGETS) and set(samplers) == set(NAMES)
    out = arguments.out or (Path("docs") if whole else cache.FOLDER)

    begin = time.perf_counter()
    kept = page.earlier_rows(out) if arguments.cached and arguments.keep else {}
    results, described = [], []
    for name in targets:
        target = TARGETS[name]()
        if arguments.quick:
            target = shortened(target)
        reference = target.reference(target)
        described.append((target, reference))
        for sampler in rows_of(target, samplers):
            again = sampler.split()[0].rstrip(",") in refresh
            found = row(
                target, reference, sampler,
                seeds=arguments.seeds, refresh=again, quick=arguments.quick, cached=arguments.cached,
            )  # fmt: skip
            if found is not None:
                print(page.line(found), flush=True)
            found = found or kept.get((name, sampler))
            if found is not None:
                results.append(found)
        if not arguments.cached:
            # Compiled programs of a target are of no more use.
            jax.clear_caches()
    bars = verdicts(results)
    page.write(out, described, results, bars)
    print(page.bars_table(bars))
    print(f"{out / 'truth.md'} and {out / 'truth.csv'} written; {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
