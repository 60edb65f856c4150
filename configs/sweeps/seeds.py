"""seeds: one experiment again with other seeds.

Any sweep can be crossed with seeds: FILE.py:seeds=3.
"""


def get_points(h):
    return h.sweep("seed", (0, 1, 2))
