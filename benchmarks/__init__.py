"""Measure poolkit beside its peers: ``python -m benchmarks``, or ``make bench``.

One harness races contenders, ``bench_<what>.py`` says which and on what, and one report shows the
answers: a table, a JSON file and a chart for each question, in ``benchmarks/results/``.
"""
