"""Compiled merging of regions, for `wsseg.cues.region_tree`."""

from __future__ import annotations

import numpy as np

from wsseg.kernels._jit import compiled


@compiled
def merge_regions(
    pairs: np.ndarray,
    borders: np.ndarray,
    areas: np.ndarray,
    colours: np.ndarray,
    weights: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the two neighbours that differ least, again and again, until one region is left.

    Two regions a and b differ by

        (w |mean colour of a - of b| + (1 - w) mean strength of their border) * f
        f = sqrt(m / (m + M)),    m = the smaller of their areas

    and a region made of others gets the highest difference that a merge below or at it had, so
    that heights never fall towards the root.

    Args:
        pairs: (e, 2) int64, neighbouring regions, each pair once.
        borders: (e, 2) float64, length of their border in pixel edges and sum of its strength.
        areas: (n,) float64 in pixels.
        colours: (n, 3) float64, mean colours.
        weights: w in [0, 1], and M >= 0 in pixels.

    Returns:
        (2n - 1,) int64 parents, -1 for the last region; and (2n - 1,) float64 heights, 0 for the
        n regions given.
    """
    n, num_edges = len(areas), len(pairs)
    num_nodes = 2 * n - 1
    parents = np.full(num_nodes, -1, np.int64)
    heights = np.zeros(num_nodes)
    size = np.zeros(num_nodes)
    size[:n] = areas
    sums = np.zeros((num_nodes, 3))
    for i in range(n):
        sums[i] = colours[i] * areas[i]
    ends = pairs.copy()
    border = borders.copy()
    is_alive = np.ones(num_edges, np.bool_)
    stamps = np.zeros(num_edges, np.int64)
    # Half-edges 2e and 2e + 1 of edge e hang in the lists of its two ends.
    first = np.full(num_nodes, -1, np.int64)
    last = np.full(num_nodes, -1, np.int64)
    following = np.full(2 * num_edges, -1, np.int64)
    for e in range(num_edges):
        for side in range(2):
            _append(2 * e + side, ends[e, side], first, last, following)
    keys = np.empty(max(4, 4 * num_edges))
    items = np.empty((max(4, 4 * num_edges), 2), np.int64)
    count = 0
    for e in range(num_edges):
        key = _difference(e, ends, border, size, sums, weights)
        count = _push(keys, items, count, key, e, 0)
    edge_to = np.full(num_nodes, -1, np.int64)
    node = n
    while count > 0 and node < num_nodes:
        key, e, stamp = keys[0], items[0, 0], items[0, 1]
        count = _pop(keys, items, count)
        if not is_alive[e] or stamps[e] != stamp:
            continue
        a, b = ends[e, 0], ends[e, 1]
        is_alive[e] = False
        parents[a] = parents[b] = node
        heights[node] = max(key, heights[a], heights[b])
        size[node] = size[a] + size[b]
        sums[node] = sums[a] + sums[b]
        _join(a, b, node, ends, border, is_alive, first, last, following, edge_to)
        half = first[node]
        while half >= 0:
            edge = half // 2
            edge_to[ends[edge, 0]] = edge_to[ends[edge, 1]] = -1
            if count == len(keys):
                keys, items = _grown(keys, items)
            stamps[edge] += 1
            key = _difference(edge, ends, border, size, sums, weights)
            count = _push(keys, items, count, key, edge, stamps[edge])
            half = following[half]
        node += 1
    return parents, heights


@compiled
def _append(
    half: int, node: int, first: np.ndarray, last: np.ndarray, following: np.ndarray
) -> None:
    following[half] = -1
    if first[node] < 0:
        first[node] = half
    else:
        following[last[node]] = half
    last[node] = half


@compiled
def _join(
    a: int,
    b: int,
    node: int,
    ends: np.ndarray,
    border: np.ndarray,
    is_alive: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    following: np.ndarray,
    edge_to: np.ndarray,
) -> None:
    """Hang the edges of a and b on the new node; edges to the same neighbour become one."""
    for old in (a, b):
        half = first[old]
        while half >= 0:
            after = following[half]
            edge = half // 2
            if is_alive[edge]:
                side = half % 2
                other = ends[edge, 1 - side]
                known = edge_to[other]
                if known >= 0:
                    border[known, 0] += border[edge, 0]
                    border[known, 1] += border[edge, 1]
                    is_alive[edge] = False
                else:
                    ends[edge, side] = node
                    edge_to[other] = edge
                    _append(half, node, first, last, following)
            half = after


@compiled
def _difference(
    edge: int,
    ends: np.ndarray,
    border: np.ndarray,
    size: np.ndarray,
    sums: np.ndarray,
    weights: tuple[float, float],
) -> float:
    a, b = ends[edge, 0], ends[edge, 1]
    squared = 0.0
    for channel in range(3):
        offset = sums[a, channel] / size[a] - sums[b, channel] / size[b]
        squared += offset * offset
    strength = border[edge, 1] / border[edge, 0]
    mixed = weights[0] * np.sqrt(squared) + (1 - weights[0]) * strength
    smaller = min(size[a], size[b])
    return mixed * np.sqrt(smaller / (smaller + weights[1]))


@compiled
def _push(
    keys: np.ndarray, items: np.ndarray, count: int, key: float, edge: int, stamp: int
) -> int:
    """Put an entry on the heap; equal keys come out in the order of their edges."""
    place = count
    while place > 0:
        above = (place - 1) // 2
        if keys[above] < key or (keys[above] == key and items[above, 0] <= edge):
            break
        keys[place] = keys[above]
        items[place] = items[above]
        place = above
    keys[place] = key
    items[place, 0] = edge
    items[place, 1] = stamp
    return count + 1


@compiled
def _pop(keys: np.ndarray, items: np.ndarray, count: int) -> int:
    """Remove the lowest entry of the heap."""
    count -= 1
    key, edge, stamp = keys[count], items[count, 0], items[count, 1]
    place = 0
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and (
            keys[below + 1] < keys[below]
            or (keys[below + 1] == keys[below] and items[below + 1, 0] < items[below, 0])
        ):
            below += 1
        if key < keys[below] or (key == keys[below] and edge <= items[below, 0]):
            break
        keys[place] = keys[below]
        items[place] = items[below]
        place = below
    keys[place] = key
    items[place, 0] = edge
    items[place, 1] = stamp
    return count


@compiled
def _grown(keys: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wider = np.empty(2 * len(keys))
    wider[: len(keys)] = keys
    more = np.empty((2 * len(items), 2), np.int64)
    more[: len(items)] = items
    return wider, more


@compiled
def survival(
    parents: np.ndarray, heights: np.ndarray, areas: np.ndarray, children: np.ndarray, same: float
) -> np.ndarray:
    """Measure how long each region stays about the same while the tree is climbed.

    Args:
        parents: (m,) int64, -1 for the root.
        heights: (m,) float64, never falling towards the root.
        areas: (m,) float64.
        children: (m, 2) int64, -1 for leaves.
        same: Share of the larger area above which two nested regions count as the same.

    Returns:
        (m,) float64 >= 0: from the height at which a region that is about the same was formed to
        the height at which it becomes part of a larger one; up to the root for the root itself.
    """
    found = np.zeros(len(parents))
    for node in range(len(parents)):
        above = node
        while parents[above] >= 0 and areas[node] >= same * areas[above]:
            above = parents[above]
        below = node
        while children[below, 0] >= 0:
            larger = children[below, 0]
            if areas[children[below, 1]] > areas[larger]:
                larger = children[below, 1]
            if areas[larger] < same * areas[node]:
                break
            below = larger
        found[node] = heights[above] - heights[below]
    return found
