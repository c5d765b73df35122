"""Measure poolkit beside its peers: ``python -m benchmarks``, or ``make bench``.

One harness races contenders, ``bench_<what>.py`` says which and on what, and a budget divides the minutes among
their questions. Each has a table, a JSON file and a chart in ``benchmarks/results/``; ``report.rst`` there has all
goals and what was measured, what guides claim, and where a peer wins.
"""
