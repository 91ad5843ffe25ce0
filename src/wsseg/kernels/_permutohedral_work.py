"""The memory of one filtering on a permutohedral lattice, and its passes shared by threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wsseg.kernels import _permutohedral_passes as passes
from wsseg.kernels._jit import Team
from wsseg.kernels._rows import lanes_for

if TYPE_CHECKING:
    from wsseg.kernels.permutohedral import Lattice

# Below so many values per axis, waking a second thread costs more than it saves.
_SMALL_BLUR = 1 << 18


class LatticeWork:
    """The memory of one filtering: values of the vertices and local rows of a lattice.

    Args:
        lattice: The lattice.
        num_labels: Labels per row, >= 1.
    """

    def __init__(self, lattice: Lattice, num_labels: int) -> None:
        self.lattice = lattice
        self.lanes = lanes_for(num_labels)
        width = len(self.lanes)
        self.stride = -(-num_labels // width) * width
        local_rows = lattice.num_rows
        # Written by the splat; cleared there, band by band.
        self.local = np.empty(local_rows * self.stride, np.float32)
        # Written by the last blur, read by the slice.
        self.messages = np.empty(local_rows * self.stride, np.float32)
        rows = lattice.num_vertices + 1
        self.source = np.empty(rows * self.stride, np.float32)
        self.target = np.empty(rows * self.stride, np.float32)
        # The last row is the zero that missing neighbours point to.
        self.source[-self.stride :] = 0
        self.target[-self.stride :] = 0

    @property
    def side(self) -> tuple[Any, ...]:
        """What kernels over pixels need: ``(index, weights, messages, local)``."""
        return self.lattice.index, self.lattice.weights, self.messages, self.local

    @property
    def num_steps(self) -> int:
        """Passes from splat to slice: merge, d blurs, and the last blur with the way back."""
        return self.lattice.dims + 2

    def step_size(self, step: int) -> int:
        """Count the rows that a pass writes."""
        is_last = step == self.num_steps - 1
        return self.lattice.num_rows if is_last else self.lattice.num_vertices

    def run_step(self, step: int, factor: float, start: int, stop: int) -> None:
        """Run pass ``step`` on rows start..stop; the passes of a step may run at the same time."""
        lattice, lanes, stride = self.lattice, self.lanes, self.stride
        # The two buffers change places after each blur.
        source, target = (self.source, self.target)[:: 1 if step % 2 else -1]
        if step == 0:
            order, first_row = lattice.rows_by_vertex, lattice.first_row
            passes.merge_rows(lanes, self.local, order, first_row, self.source, stride, start, stop)
        elif step < self.num_steps - 1:
            neighbours = lattice.neighbours[step - 1]
            passes.blur_rows(lanes, source, target, neighbours, stride, start, stop)
        else:
            sources, scale = lattice.row_sources, np.float32(factor)
            passes.hand_back_rows(lanes, source, self.messages, sources, scale, stride, start, stop)

    def run_all(self, factor: float) -> None:
        """Run all passes in this thread."""
        for step in range(self.num_steps):
            self.run_step(step, factor, 0, self.step_size(step))


def blur_all(works: Sequence[LatticeWork], factors: Sequence[float], team: Team) -> None:
    """Blur what was splat and make it ready to be sliced, in several lattices at once.

    Args:
        works: Memory of each lattice, splat.
        factors: What to multiply the result of each lattice with.
        team: The threads.
    """
    size = max(work.lattice.num_vertices * work.stride for work in works)
    if team.threads == 1 or size < _SMALL_BLUR:
        team.run(LatticeWork.run_all, list(zip(works, factors, strict=True)))
        return
    for step in range(max(work.num_steps for work in works)):
        tasks = [
            (work, step, factor, start, stop)
            for work, factor in zip(works, factors, strict=True)
            if step < work.num_steps
            for start, stop in team.ranges(work.step_size(step))
        ]
        team.run(LatticeWork.run_step, tasks)
