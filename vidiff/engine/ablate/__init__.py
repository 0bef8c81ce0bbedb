"""Grids of runs: one YAML file, many ordinary run folders, one report.

    grid.py      the YAML file to cells, all problems together, nothing run
    folders.py   which folder a cell has, and how far it is
    queue.py     commands over devices; failures contained, interruption passed on
    results.py   what cells have measured: means, spreads, paired differences
    pictures.py  curves, errors by noise level, samples side by side
    report.py    report.md, table.csv, index.html

A later step matches the compute of cells (between grid.py and the queue) and evaluates them with metrics
(between the queue and results.py).
"""
