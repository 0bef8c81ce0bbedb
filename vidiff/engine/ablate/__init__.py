"""Grids of runs: one YAML file, many ordinary run folders, one report.

    grid.py      axes, arms, the baseline of an arm          reading.py  the YAML file to them, all problems together
    cells.py     a complete, checked configuration each      folders.py  the folder of a cell, and how far it is
    queue.py     commands over devices; failures contained   results.py  means, spreads, paired differences
    pictures.py  plots and samples side by side              tables.py, remarks.py, paper.py, report.py  the page

A later step matches the compute of cells (between cells.py and the queue) and evaluates them with metrics
(between the queue and results.py).
"""
