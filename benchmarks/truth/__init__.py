"""The truth suite: every sampler against reference posteriors, at equal gradient budgets.

    python -m benchmarks.truth [--targets a,b] [--samplers ismile,psmile] [--seeds 3] [--quick] [--refresh ismile]

Writes docs/truth.md, a table per target and whether the closing bars are met, and docs/truth.csv. References and
results are kept in .truth-cache/, so that the page can be written again after one sampler has been run again.
"""
